"""Logs in by every SASL mechanism there is, with an initial response and without, and in IMAP saves a message each time, in
POP3 reads one. Before each comes an attempt with a wrong secret.

Usage: sasl.py imap|pop3 HOST PORT USER PASSWORD TOKEN [SOURCE]
Prints a line for each: the mechanism, and whether with an initial response. From SOURCE, an address, those that show their
secret are to be refused; they have no line.
"""

import base64
import hashlib
import hmac
import os
import socket
import sys

protocol, host, port, user, password, token = sys.argv[1:7]
source = (sys.argv[7], 0) if len(sys.argv) > 7 else None


def plain(secret):
    yield f"\0{user}\0{secret}".encode()


def login(secret):
    yield user.encode()
    yield secret.encode()


def cram_md5(secret):
    challenge = yield None
    yield f"{user} {hmac.new(secret.encode(), challenge, 'md5').hexdigest()}".encode()


def scram(digest):
    def talk(secret):
        nonce = base64.b64encode(os.urandom(18)).decode()
        bare = f"n={user},r={nonce}"
        first = yield f"n,,{bare}".encode()
        told = dict(part.split("=", 1) for part in first.decode().split(","))
        assert told["r"].startswith(nonce)
        final = f"c=biws,r={told['r']}"
        salted = hashlib.pbkdf2_hmac(digest, secret.encode(), base64.b64decode(told["s"]), int(told["i"]))
        auth = f"{bare},{first.decode()},{final}".encode()
        key = hmac.digest(salted, b"Client Key", digest)
        signature = hmac.digest(hashlib.new(digest, key).digest(), auth, digest)
        proof = bytes(a ^ b for a, b in zip(key, signature))
        last = yield f"{final},p={base64.b64encode(proof).decode()}".encode()
        if last is not None:
            server = hmac.digest(hmac.digest(salted, b"Server Key", digest), auth, digest)
            assert last == b"v=" + base64.b64encode(server), last
            yield b""

    return talk


def xoauth2(secret):
    yield f"user={user}\1auth=Bearer {secret}\1\1".encode()
    yield b""


def oauthbearer(secret):
    yield f"n,a={user},\1host={host}\1port={port}\1auth=Bearer {secret}\1\1".encode()
    yield b"\1"


# name, dialogue, its secret, whether the client speaks first
MECHANISMS = [
    ("PLAIN", plain, password, True),
    ("LOGIN", login, password, False),
    ("CRAM-MD5", cram_md5, password, False),
    ("SCRAM-SHA-1", scram("sha1"), password, True),
    ("SCRAM-SHA-256", scram("sha256"), password, True),
    ("XOAUTH2", xoauth2, token, True),
    ("OAUTHBEARER", oauthbearer, token, True),
]


class Session:
    def __init__(self):
        self.socket = socket.create_connection((host, int(port)), timeout=60, source_address=source)
        self.file = self.socket.makefile("rb")
        self.greeting = self.line()

    def line(self):
        line = self.file.readline()
        assert line.endswith(b"\r\n"), line
        return line[:-2]

    def say(self, line):
        self.socket.sendall(line.encode() + b"\r\n")

    def command(self, line):
        """Gives the last line of the answer."""
        self.say(f"x {line}" if protocol == "imap" else line)
        while True:
            answer = self.line()
            if protocol == "pop3" or answer.startswith(b"x "):
                return answer

    def authenticate(self, name, dialogue, secret, initial):
        talk = dialogue(secret)
        waiting = next(talk)
        verb = "x AUTHENTICATE" if protocol == "imap" else "AUTH"
        first = ""
        if initial:
            first, waiting = " " + base64.b64encode(waiting).decode(), None
        self.say(f"{verb} {name}{first}")
        while True:
            answer = self.line()
            if answer.startswith(b"* "):
                continue
            if not answer.startswith(b"+ "):
                return answer.startswith((b"x OK", b"+OK"))
            if waiting is None:
                waiting = talk.send(base64.b64decode(answer[2:]))
            self.say(base64.b64encode(waiting).decode())
            waiting = None


SHOWING = ("PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER")

number = 0
for name, dialogue, secret, speaks_first in MECHANISMS:
    for initial in (False, True) if speaks_first else (False,):
        session = Session()
        for right in (False, True):
            said = secret if right else "wrong-" + secret
            taken = session.authenticate(name, dialogue, said, initial)
            withheld = source and name in SHOWING
            assert taken == (right and not withheld), (name, initial, right)
        if withheld:
            session.command("LOGOUT" if protocol == "imap" else "QUIT")
            continue
        number += 1
        if protocol == "imap":
            message = f"Subject: {name} {initial}\r\n\r\nbody\r\n"
            answer = session.command(f"APPEND INBOX {{{len(message)}+}}\r\n{message}")
            assert answer.startswith(b"x OK"), answer
        else:
            assert session.command(f"RETR {number}").startswith(b"+OK")
            while session.line() != b".":
                pass
        session.command("LOGOUT" if protocol == "imap" else "QUIT")
        print(name, initial)

"""What the IMAP scripts share: how they connect, what they write down, and the mail that they save.

Usage of each: SCRIPT HOST PORT USER PASSWORD none|starttls|implicit CA DIR

A transcript goes to standard output. It leaves out what differs from one account to the next that is treated the same (names,
UIDVALIDITY, random identifiers, times), and the capabilities that a proxy takes out, as the README says.
Into DIR each message is written that the server took or showed whole, named by its digest: those the proxy must have copied,
and no others. An empty one is none, and what is shown in other words than it was saved in has been copied when it was saved.
"""

import hashlib
import pathlib
import re
import ssl
import sys

host, port, user, password, tls, ca, passed = sys.argv[1:8]
port = int(port)
passed = pathlib.Path(passed)
context = ssl.create_default_context(cafile=ca) if tls != "none" else None

_REMOVED = re.compile(
    rb" (COMPRESS=\S+?|AUTH=\S+?-PLUS|AUTH=(EXTERNAL|GSSAPI|GSS-SPNEGO|NTLM|DIGEST-MD5)|UNAUTHENTICATE|LOGIN-REFERRALS"
    rb"|MAILBOX-REFERRALS|STARTTLS)(?=[ \]\r])"
)
_OWN = [
    (re.escape(password.encode()), b"PASSWORD"),
    # account, times, and numbers made of them
    (re.escape(user.encode()), b"USER"),
    (re.escape(user.split("@")[0].encode()), b"USER"),
    (rb"(?i)(UIDVALIDITY |APPENDUID |COPYUID |UIDNEXT-VALIDITY )\d+", rb"\1V"),
    (rb"([ \d]\d-[A-Z][a-z]{2}-20[2-9]\d) \d\d:\d\d:\d\d [-+]\d{4}", b"NOW"),
    (rb"\d+\.\d{3,6} secs?", b"T secs"),
    (rb"\((\d+\.\d{3} \+ )+T secs\)", b"(T secs)"),
    # STARTTLS is the proxy's own
    (rb"(OK Begin TLS negotiation now)\.?", rb"\1"),
    # identifiers that are random
    (rb"SESSIONID=<[^>]*>", b"SESSIONID"),
    (rb"MAILBOXID \([^)]*\)", b"MAILBOXID"),
    (rb"^\+ PD[A-Za-z0-9+/=]+", b"+ CHALLENGE"),
]


_unended = set()


def normal(line):
    """A line of the server's without what is this account's alone."""
    line = _REMOVED.sub(b"", line)
    for own, said in _OWN:
        line = re.sub(own, said, line)
    return line


def say(*words):
    print(*words)


def note(message):
    """The server took it or showed it whole."""
    # Courier ends the last line of what it shows
    if message and message.removesuffix(b"\r\n") not in _unended:
        (passed / hashlib.sha256(message).hexdigest()).write_bytes(message)
        if not message.endswith(b"\n"):
            _unended.add(message)


def shown(data):
    """Bytes, short."""
    if len(data) <= 120:
        return ascii(data)
    return f"{len(data)} bytes {hashlib.sha256(data).hexdigest()}"


def mail(serial, subject="a message", body="", header=""):
    return (
        f"From: Anna <anna@mailtee.test>\r\nTo: Ben <ben@mailtee.test>\r\nSubject: {subject}\r\n"
        f"Date: Mon, 0{1 + serial % 9} Jun 2015 10:00:00 +0000\r\nMessage-ID: <{serial}@clients.mailtee.test>\r\n{header}"
        f"\r\nThis is number {serial}.\r\n{body}"
    ).encode()


def varied():
    """Message after message with its flags and date."""
    yield mail(1), r"(\Seen)", '"01-Jan-2012 12:00:00 +0100"'
    yield mail(2, "re: a message", header="In-Reply-To: <1@clients.mailtee.test>\r\nReferences: <1@clients.mailtee.test>\r\n"), None, None
    yield mail(3, "8-bit", "Grüße, привет, 会議\r\n", "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"), r"(\Flagged \Draft)", '" 2-Feb-2013 00:00:01 -0500"'
    yield mail(4, "=?utf-8?q?gr=C3=BC=C3=9Fe?=", "x" * 990 + "\r\n"), r"(\Answered $Forwarded work)", None
    yield mail(5, "in parts", _PARTS, 'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="=_a"\r\n'), None, '"29-Feb-2012 23:59:59 +0000"'
    yield b"\r\nno header at all\r\n", None, '"14-Mar-2014 03:04:05 +0000"'
    yield b"Subject: a header alone\r\n\r\n", None, '"15-Mar-2014 03:04:05 +0000"'
    yield mail(6, "looks like IMAP", "* 1 FETCH (BODY[] {5}\r\na1 OK done\r\n+ go {7}\r\nDONE\r\n)\r\n{3}\r\n"), None, None
    yield mail(7, "dots and blank lines", ".\r\n..\r\n\r\n \r\n\r\n"), r"(\Deleted)", None
    yield mail(8, "without a last line end")[:-2], None, None


def large(serial, size):
    line = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ab\r\n"
    head = mail(serial, "large")
    return head + line * ((size - len(head)) // len(line))


_PARTS = (
    "--=_a\r\nContent-Type: text/plain\r\n\r\nthe text\r\n"
    "--=_a\r\nContent-Type: application/octet-stream; name=a.bin\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v\r\n" * 30
    + "--=_a\r\nContent-Type: message/rfc822\r\n\r\nSubject: within\r\nFrom: <c@mailtee.test>\r\n\r\nwithin\r\n--=_a--\r\n"
)

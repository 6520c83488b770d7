"""COMPRESS=DEFLATE (RFC 4978): says a whole session deflated, and prints what it hears.

Usage: imap_compress.py HOST PORT USER PASSWORD
"""

import re
import socket
import sys
import zlib

host, port, user, password = sys.argv[1:]
connection = socket.create_connection((host, int(port)), 20)
deflate = inflate = None
heard = b""


def more():
    global heard
    read = connection.recv(65536)
    if not read:
        sys.exit("the server is gone")
    heard += inflate.decompress(read) if inflate else read


def say(text):
    if deflate:
        text = deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH)
    connection.sendall(text)


def hear(end):
    """All up to the line that begins so."""
    global heard
    while not (found := re.search(rb"(?m)^" + end + rb".*\r\n", heard)):
        more()
    answer, heard = heard[: found.end()], heard[found.end() :]
    answer = answer.replace(user.encode(), b"USER")
    answer = re.sub(rb"\([0-9. +]+ secs?\)|(APPENDUID|UIDVALIDITY|MAILBOXID) [^] ]+|SESSIONID=<[^>]*>", b"#", answer)
    print(answer.decode())


hear(rb"\* OK")
say(f"a LOGIN {user} {password}\r\n".encode())
hear(b"a ")
say(b"b COMPRESS DEFLATE\r\n")
hear(b"b ")
deflate = zlib.compressobj(wbits=-15)
inflate = zlib.decompressobj(wbits=-15)
message = b"Subject: deflated\r\n\r\n" + b"a STARTTLS\r\nb LOGIN x y\r\n" * 2000
say(b"c CREATE deflated\r\n")
hear(b"c ")
say(b"d APPEND deflated {%d}\r\n" % len(message))
hear(rb"\+")
say(message + b"\r\n")
hear(b"d ")
say(b"e SELECT deflated\r\n")
hear(b"e ")
say(b"f FETCH 1 BODY.PEEK[]\r\n")
hear(b"f ")
say(b"g COMPRESS DEFLATE\r\n")
hear(b"g ")
say(b"h LOGOUT\r\n")
hear(b"h ")

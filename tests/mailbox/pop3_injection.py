"""A client whose STLS somebody in the middle has added to: what was said in clear must not be heard within TLS.

Usage: pop3_injection.py HOST PORT CA
"""

import socket
import ssl
import sys

host, port, ca = sys.argv[1:4]
plain = socket.create_connection((host, int(port)), timeout=30)
assert plain.recv(1000).startswith(b"+OK")
plain.sendall(b"STLS\r\nUSER injected\r\nNOOP\r\n")
reply = plain.recv(1000)
assert reply.startswith(b"+OK") and reply.count(b"\r\n") == 1, reply
tls = ssl.create_default_context(cafile=ca).wrap_socket(plain, server_hostname="localhost")
tls.sendall(b"CAPA\r\n")
answer = b""
while not answer.endswith(b"\r\n.\r\n"):
    more = tls.recv(4096)
    assert more, answer
    answer += more
assert b"STLS" not in answer and b"\r\nUIDL\r\n" in answer, answer
# The server has not heard of it either: what it answers next is for this.
tls.sendall(b"QUIT\r\n")
rest = b""
while more := tls.recv(4096):
    rest += more
assert rest.startswith(b"+OK") and rest.count(b"\r\n") == 1, rest
print("nothing was injected")

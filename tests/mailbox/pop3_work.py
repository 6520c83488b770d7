"""A whole session with poplib, and what came of it on standard output.

Usage: pop3_work.py HOST PORT USER PASSWORD [stls|implicit CA]

Reads all, looks at the head of each, deletes two and takes that back, deletes the first and the last for good.
What differs from one account to the next that holds the same (unique ids) is only counted.
"""

import hashlib
import poplib
import ssl
import sys
import time

host, port, user, password = sys.argv[1:5]
tls, ca = (sys.argv[5:7] + [None, None])[:2]
context = ssl.create_default_context(cafile=ca) if ca else None


def connect():
    if tls == "implicit":
        client = poplib.POP3_SSL(host, int(port), timeout=60, context=context)
    else:
        client = poplib.POP3(host, int(port), timeout=60)
    if tls == "stls":
        assert "STLS" in client.capa(), "STLS is offered"
        client.stls(context)
    if tls:
        assert "STLS" not in client.capa(), "STLS is offered no longer"
    return client


def shown(lines):
    return hashlib.sha256(b"".join(line + b"\r\n" for line in lines)).hexdigest()


client = connect()
try:
    client.user(user)
    client.pass_("wrong")
    print("let in without the password")
except poplib.error_proto:
    print("refused")
client.close()

client = connect()
client.user(user)
client.pass_(password)
count, size = client.stat()
print("stat", count, size)
print("list", [line.decode() for line in client.list()[1]])
uidls = [line.split()[1] for line in client.uidl()[1]]
print("uidl", len(uidls), len(set(uidls)))
for number in range(1, count + 1):
    assert client.uidl(number).split()[2] == uidls[number - 1]
    lines = client.retr(number)[1]
    print("retr", number, client.list(number).split()[2].decode(), shown(lines))
    print("top", number, shown(client.top(number, 2)[1]))
for line in ("RETR 100000", "RETR", "XNONE", "LIST 0", "CAPA"):
    try:
        if line == "CAPA":
            print("capa", sorted(client.capa()))
        else:
            client._shortcmd(line)
            print("taken", line)
    except poplib.error_proto as error:
        print(line, str(error)[2:6])
client.noop()
client.dele(2)
client.dele(3)
client.rset()
client.dele(1)
client.dele(count)
print("stat", *client.stat())
client.quit()

# Courier removes them behind its answer to QUIT
end = time.monotonic() + 20
while True:
    client = connect()
    client.user(user)
    client.pass_(password)
    left = client.stat()[0]
    if left == count - 2 or time.monotonic() > end:
        break
    client.quit()
    time.sleep(0.02)
print("left", left, len(client.list()[1]))
client.quit()

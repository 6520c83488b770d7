"""A milter that takes in everything and says yes: what showing mail to any milter costs. Usage: yes_milter.py HOST:PORT | PATH"""
import os, selectors, socket, struct, sys

# Version 6, no action, no reply but to the end of a message: every SMFIP_NR_* bit of mfdef.h, less what the peer does not offer.
NO_REPLIES = 0x80 | 0x1000 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000 | 0x40000 | 0x80000
CONTINUE = b"\0\0\0\1c"
where = sys.argv[1]
if ":" in where:
    host, port = where.rsplit(":", 1)
    listener = socket.create_server((host, int(port)), backlog=512)
else:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(where)
    os.chmod(where, 0o666)
    listener.listen(512)
poll, waiting = selectors.DefaultSelector(), {}
poll.register(listener, selectors.EVENT_READ)


def end(peer):
    poll.unregister(peer)
    del waiting[peer]
    peer.close()


def read(peer):
    came = peer.recv(1 << 18)
    if not came:
        return end(peer)
    data, at = waiting[peer] + came, 0
    while len(data) - at >= 5:
        length = int.from_bytes(data[at:at + 4], "big")
        if len(data) - at < 4 + length:
            break
        kind = data[at + 4:at + 5]
        if kind == b"O":
            offered = int.from_bytes(data[at + 13:at + 17], "big")
            peer.sendall(struct.pack(">IcIII", 13, b"O", 6, 0, offered & NO_REPLIES))
        elif kind == b"E":
            peer.sendall(CONTINUE)
        elif kind == b"Q":
            return end(peer)
        at += 4 + length
    waiting[peer] = data[at:]


while True:
    for key, _ in poll.select():
        if key.fileobj is listener:
            peer = listener.accept()[0]
            waiting[peer] = b""
            poll.register(peer, selectors.EVENT_READ)
        else:
            try:
                read(key.fileobj)
            except ConnectionError:
                end(key.fileobj)

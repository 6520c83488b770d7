#!/usr/bin/env python3
"""bulk.py serve PORT | send HOST PORT SECONDS - one TCP stream as fast as it goes; send prints the bytes a second that arrived."""
import socket, sys, time

if sys.argv[1] == "serve":
    listener = socket.create_server(("", int(sys.argv[2])))
    stream, _ = listener.accept()
    got = 0
    while piece := stream.recv(1 << 16):
        got += len(piece)
    stream.sendall(str(got).encode())
else:
    host, port, seconds = sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    stream = socket.create_connection((host, port), 10)
    begin, piece = time.time(), b"\0" * 65536
    while time.time() - begin < seconds:
        stream.sendall(piece)
    stream.shutdown(socket.SHUT_WR)
    print(int(stream.recv(64)) / (time.time() - begin))

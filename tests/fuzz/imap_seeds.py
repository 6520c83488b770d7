"""Seeds of the IMAP targets out of the cases: both sides as they speak, each turn behind the byte that names its side.

Usage: imap_seeds.py CASES SEEDS
"""

import pathlib
import re
import sys

cases, seeds = map(pathlib.Path, sys.argv[1:])
ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t"}


def said(line):
    line = re.sub(rb"\\\{(\d+) ([^}]*)\}", lambda m: min(int(m[1]), 200) * m[2], line)
    ends = b"" if re.search(rb"(?<!\\)(\\\\)*\\$", line) else b"\r\n"
    escape = lambda m: bytes([int(m[2], 16)]) if m[2] else ESCAPES.get(m[1], m[1])
    return re.sub(rb"\\(x([0-9a-fA-F]{2})|.)", escape, line.removesuffix(b"\\") if not ends else line) + ends


seeds.mkdir(parents=True, exist_ok=True)
for case in cases.glob("*.case"):
    out = b"\x07"
    for line in case.read_bytes().split(b"\n"):
        if line[:3] in (b"C: ", b"S: "):
            out += (b"\xfe" if line[:1] == b"C" else b"\xff") + said(line[3:])
    (seeds / case.stem).write_bytes(out)

"""Seeds out of what is written down: the inputs that are kept, and for IMAP the cases.

Usage: seeds.py TARGET SEEDS

An input that is kept (tests/fuzz/kept/TARGET/NAME) failed once. Its lines, in the notation of tests/cases/imap:
  # what it is
  step N       a byte of this value: how it is cut
  C: S:        said by client or server, as the target tells them apart
  B:           bytes
  copied TEXT  what comes of it, or "copied nothing": only the test of the inputs reads that
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent
ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t"}
IMAP_SIDES = {b"C: ": b"\xfe", b"S: ": b"\xff"}


def said(line, most):
    line = re.sub(rb"\\\{(\d+) ([^}]*)\}", lambda m: min(int(m[1]), most) * m[2], line)
    ends = b"" if re.search(rb"(?<!\\)(\\\\)*\\$", line) else b"\r\n"
    escape = lambda m: bytes([int(m[2], 16)]) if m[2] else ESCAPES.get(m[1], m[1])
    return re.sub(rb"\\(x([0-9a-fA-F]{2})|.)", escape, line.removesuffix(b"\\") if not ends else line) + ends


def of_case(text):
    out = b"\x07"
    for line in text.split(b"\n"):
        if line[:3] in IMAP_SIDES:
            out += IMAP_SIDES[line[:3]] + said(line[3:], 200)
    return out


def of_kept(target, text):
    out, side = b"", b"S: "
    for line in text.split(b"\n"):
        kind = line[:3]
        if line.startswith(b"step "):
            out += bytes([int(line[5:])])
        elif kind in IMAP_SIDES:
            if target == "imap_watcher":
                out += IMAP_SIDES[kind]
            elif kind != side:
                out += b"\xff"
            side = kind
        if kind in (b"C: ", b"S: ", b"B: "):
            out += said(line[3:], 1 << 20)
    return out


def write():
    target, seeds = sys.argv[1], pathlib.Path(sys.argv[2])
    seeds.mkdir(parents=True, exist_ok=True)
    for kept in (ROOT / "kept" / target).glob("*"):
        (seeds / f"kept-{kept.name}").write_bytes(of_kept(target, kept.read_bytes()))
    if target.startswith("imap_"):
        for case in (ROOT.parent / "cases/imap").glob("*.case"):
            (seeds / case.stem).write_bytes(of_case(case.read_bytes()))


write()

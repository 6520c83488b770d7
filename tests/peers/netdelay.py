#!/usr/bin/env python3
"""netdelay.py - a point-to-point IP link with delay, bandwidth, queue and loss between two network namespaces.

Used by netem.sh where the kernel has no sch_netem. It owns a TUN device in each namespace and carries packets
between them in user space, so TCP sees a real round-trip time and a real bottleneck queue.
Usage: netdelay.py --ns-a NAME --ns-b NAME [--dev tee0] [--delay-ms 50] [--mbit 50] [--queue-ms 200] [--loss 0.0] [--mtu 1500] [--seed 1]
  --delay-ms one way; --mbit 0 = unlimited; --queue-ms: drop-tail queue in time at line rate
SIGUSR1: link down (drop everything); SIGUSR2: up again. Addresses are set by the caller.
"""
import argparse, collections, ctypes, fcntl, os, random, select, signal, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET, TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x40000000, 0x400454CA, 1, 0x1000


def tun_in(ns, dev):
    fd = os.open(f"/run/netns/{ns}", os.O_RDONLY)
    if libc.setns(fd, CLONE_NEWNET):
        sys.exit(f"setns {ns}: {os.strerror(ctypes.get_errno())}")
    os.close(fd)
    t = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(t, TUNSETIFF, struct.pack("16sH22x", dev.encode(), IFF_TUN | IFF_NO_PI))
    return t


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ns-a", required=True); p.add_argument("--ns-b", required=True); p.add_argument("--dev", default="tee0")
    p.add_argument("--delay-ms", type=float, default=50); p.add_argument("--mbit", type=float, default=50); p.add_argument("--queue-ms", type=float, default=200)
    p.add_argument("--loss", type=float, default=0); p.add_argument("--mtu", type=int, default=1500); p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    fds = [tun_in(a.ns_a, a.dev), tun_in(a.ns_b, a.dev)]
    print("ready", flush=True)
    rnd, delay, per_byte, qmax = random.Random(a.seed), a.delay_ms / 1e3, (8 / (a.mbit * 1e6) if a.mbit else 0.0), a.queue_ms / 1e3
    q = [collections.deque(), collections.deque()]; free = [0.0, 0.0]; up = [True]; stat = collections.Counter()
    signal.signal(signal.SIGUSR1, lambda *_: up.__setitem__(0, False)); signal.signal(signal.SIGUSR2, lambda *_: up.__setitem__(0, True))
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    mono = time.monotonic
    while not stop:
        now = mono(); nxt = None
        for i in (0, 1):
            d, out = q[i], fds[1 - i]
            while d and d[0][0] <= now:
                try:
                    os.write(out, d.popleft()[1])
                except BlockingIOError:
                    stat["tx_drop"] += 1
                except OSError:
                    stat["tx_err"] += 1  # device down
            if d and (nxt is None or d[0][0] < nxt):
                nxt = d[0][0]
        r, _, _ = select.select(fds, [], [], 1.0 if nxt is None else max(0.0, nxt - mono()))
        for i in (0, 1):
            if fds[i] not in r:
                continue
            for _ in range(64):
                try:
                    pkt = os.read(fds[i], 65536)
                except BlockingIOError:
                    break
                except OSError:
                    break
                now = mono(); stat["pkts"] += 1
                if not up[0] or (a.loss and rnd.random() < a.loss):
                    stat["lost"] += 1; continue
                if free[i] < now:
                    free[i] = now
                elif free[i] - now > qmax:
                    stat["queue_drop"] += 1; continue
                free[i] += len(pkt) * per_byte
                q[i].append((free[i] + delay, pkt))
    print(dict(stat), flush=True)

if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""smtp.py - mailtee on the mail path, against its peers in the same run. Started by benches/run.

Usage: smtp.py --bin mailtee --work DIR --out FILE [--quick] [--only CASE,...]
Cases: rates postfix milter latency link large idle. Each prints what it measured; FILE gets one line of JSON a figure:
{"figure", "value", "unit", "against", "ratio", "aim", "met"}. Rounds go from peer to peer, so that a busy machine hits all.
"""
import argparse, os, shutil, socket, subprocess, sys, time
from rig import HERE, MIB, Figures, Group, Link, Mailtee, Peer, Process, Sink, answers, config, frontend, median, quiet, run, target, vault_section

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--bin", required=True)
p.add_argument("--work", required=True)
p.add_argument("--out", required=True)
p.add_argument("--quick", action="store_true")
p.add_argument("--only", default="rates,postfix,milter,latency,link,large,idle")
p.add_argument("--size", type=int, default=10240)
p.add_argument("--port", type=int, default=24000)
a = p.parse_args()
TOP, B = os.path.abspath(a.work), a.port
W = TOP
RUNS = 1 if a.quick else 3
QUIET = 2 if a.quick else 60
SESSIONS = 50
local = lambda n: f"127.0.0.1:{B + n}"
figure = Figures(a.out)


def source(port, count, sessions=SESSIONS, keep=False, size=a.size):
    """smtp-source; seconds until it had its last reply."""
    begin = time.time()
    run(["smtp-source", "-s", sessions, "-m", count, "-l", size, "-f", "src@bench.test", "-t", "dst@bench.test"]
        + (["-d"] if keep else []) + [local(port)], "source")
    return time.time() - begin


def measure(ways, count):
    """Each way in turn, RUNS times after a warm-up: {way: [{accepted, delivered, cpu and what came of it later per group}]}."""
    rows = {name: [] for name in ways}
    quiet(QUIET)
    for r in range(RUNS + 1):
        for name, (port, sinks, keep) in ways.items():
            n = count[name] if r else max(count[name] // 10, 200)
            groups = {g: Group.of(g).cpu() for g in Group.all}
            had = [s.count() for s in sinks]
            begin = time.time()
            accepted = source(port, n, keep=keep)
            while any(s.count() - h < n for s, h in zip(sinks, had)):
                if time.time() - begin > 300:
                    raise RuntimeError(f"{name}: the next hop has {[s.count() - h for s, h in zip(sinks, had)]} of {n}")
                time.sleep(0.01)
            delivered = time.time() - begin
            cpu = {g: (Group.of(g).cpu() - c) / n * 1e6 for g, c in groups.items()}
            quiet(QUIET)
            later = {g: (Group.of(g).cpu() - c) / n * 1e6 - cpu[g] for g, c in groups.items()}
            if r:
                rows[name].append(dict(accepted=n / accepted, delivered=n / delivered, cpu=cpu, later=later))
    for name, runs in rows.items():
        cpu = {g: median([r["cpu"].get(g, 0) for r in runs]) for g in Group.all if g != "control"}
        print(f"  {name:28s} accepted {median([r['accepted'] for r in runs]):7,.0f}/s, delivered "
              f"{median([r['delivered'] for r in runs]):7,.0f}/s; CPU us/message: "
              + ", ".join(f"{g} {v:.0f}" for g, v in cpu.items() if v >= 5), flush=True)
    return lambda name, key: median([r[key] for r in rows[name]]), rows


def daemon(name, listen, upstream, rest, admin):
    return Mailtee(a.bin, f"{W}/{name}", name, config(f"{W}/{name}", local(admin), frontend(local(listen), local(upstream)) + rest))


def vault(name, port):
    listen = local(port)
    return Mailtee(a.bin, f"{W}/{name}", name, config(f"{W}/{name}", local(port + 1), vault_section(listen)), verb=("vault", "serve"),
                   ready=lambda: answers(listen))


def rates():
    """smtp-source -> X -> smtp-sink, 50 sessions, a connection a message."""
    sink = Sink(W, "sink", B + 1)
    postfix = Peer(W, "postfix", "postfix", "postfix", "plain", SMTP_PORT=B + 2, NEXT_HOP=local(1), TLS=0)
    store = vault("vault", 10)
    tee = daemon("mailtee", 3, 1, target(f"{W}/vault", local(10)), 4)
    # the capture alone: its target is never there
    alone = daemon("capture", 5, 1, '[[target]]\nname = "none"\ntype = "jmap"\nurl = "https://127.0.0.1:1/"\n', 6)
    tcp = Peer(W, "haproxy", "haproxy", "haproxy", FORWARD=f"{B + 7}=127.0.0.1:{B + 1}")
    n = 4000 if a.quick else 20000
    ways = {"direct": (1, [sink], False), "direct, kept": (1, [sink], True), "haproxy": (7, [sink], False),
            "postfix": (2, [sink], False), "mailtee": (3, [sink], False),
            "mailtee, kept": (3, [sink], True), "capture": (5, [sink], False)}
    try:
        of, rows = measure(ways, {w: n if w != "postfix" else n // 5 for w in ways})
        mine = of("mailtee", "accepted")
        figure("messages a second, 50 sessions", mine, "/s", "Postfix plain relay", of("postfix", "accepted"), "at least 5 x",
               mine >= 5 * of("postfix", "accepted"))
        figure("messages a second, 50 sessions", mine, "/s", "direct", of("direct", "accepted"), "at least 0.6 x",
               mine >= 0.6 * of("direct", "accepted"))
        figure("messages a second, 50 sessions", mine, "/s", "haproxy as a mere TCP forwarder", of("haproxy", "accepted"))
        figure("messages a second, connections kept", of("mailtee, kept", "accepted"), "/s", "direct", of("direct, kept", "accepted"))
        cpu = median([r["cpu"]["capture"] for r in rows["capture"]])
        forwarder = median([r["cpu"]["haproxy"] for r in rows["haproxy"]])
        figure("CPU a message, capture", cpu, "us", "haproxy as a mere TCP forwarder", forwarder, aim="at most 200 us", met=cpu <= 200)
        whole = [r["cpu"]["mailtee"] + r["cpu"]["vault"] for r in rows["mailtee"]]
        figure("CPU a message, capture, forwarding and vault", median(whole), "us")
        # The seconds of all processors, less what source and sink take of each message.
        ends = median([r["cpu"]["source"] + r["cpu"]["sink"] for r in rows["mailtee"]])
        for aim, base, name in ((5, "postfix", "5 x Postfix"), (0.6, "direct", "0.6 x direct")):
            left = os.cpu_count() * 1e6 / (aim * of(base, "accepted")) - ends
            figure(f"CPU a message that {name} leaves to all of it", left, "us", "what all of it takes", median(whole))
        search = [r["later"]["mailtee"] + r["later"]["vault"] for r in rows["mailtee"]]
        figure("CPU a message, what waits until mail ebbs: the vault's search", median(search), "us")
        tee.settled()
        begin, before = time.time(), tee.metric("captured_messages_total")
        taken = source(3, n)
        tee.settled()
        both = time.time() - begin
        figure("messages a second into the vault", n / both, "/s", "captured a second", n / taken, "keeps up: at least 0.9 x", both * 0.9 <= taken)
        assert tee.metric("captured_messages_total") - before == n
    finally:
        for it in (tee, alone, store, tcp, postfix, sink):
            it.stop()


def postfix():
    """Inside a real Postfix: mailtee against haproxy as a filter that does nothing, and against always_bcc."""
    sink, copies = Sink(W, "sink", B + 1), Sink(W, "copies", B + 2)
    store = vault("vault", 10)
    n = 1000 if a.quick else 4000
    made, ways, count = [sink, copies, store], {}, {}
    try:
        for at, (mode, limit) in enumerate((("content_filter", 100), ("proxy_filter", 250))):
            for who, base in (("haproxy", 20 + 20 * at), ("mailtee", 30 + 20 * at)):
                name = f"{mode}, {who}"
                made.insert(0, Peer(W, "postfix", f"postfix-{mode}-{who}", "postfix", mode, SMTP_PORT=B + base, REINJECT_PORT=B + base + 1,
                                    NEXT_HOP=local(1), FILTER=local(base + 2), FILTER_CONCURRENCY=limit, TLS=0))
                if who == "haproxy":
                    made.insert(0, Peer(W, "haproxy", f"haproxy-{mode}", "haproxy", FORWARD=f"{B + base + 2}=127.0.0.1:{B + base + 1}"))
                else:
                    made.insert(0, daemon(f"tee-{mode}", base + 2, base + 1, target(f"{W}/vault", local(10)), base + 3))
                ways[name], count[name] = (base, [sink], False), n
        made.insert(0, Peer(W, "postfix", "postfix-bcc", "postfix", "always_bcc", SMTP_PORT=B + 70, NEXT_HOP=local(1), BCC_HOP=local(2), TLS=0))
        ways["always_bcc"], count["always_bcc"] = (70, [sink, copies], False), n
        of, rows = measure(ways, count)
        cpu = lambda way, *groups: median([sum(r["cpu"].get(g, 0) for g in groups) for r in rows[way]])
        for mode in ("content_filter", "proxy_filter"):
            mine, theirs = of(f"{mode}, mailtee", "delivered"), of(f"{mode}, haproxy", "delivered")
            figure(f"delivered a second, {mode}", mine, "/s", "haproxy as the filter", theirs, "at least 1 x", mine >= theirs)
            figure(f"CPU a message, {mode}, capture, forwarding and vault", cpu(f"{mode}, mailtee", f"tee-{mode}", "vault"), "us",
                   "haproxy as the filter", cpu(f"{mode}, haproxy", "haproxy"))
        mine, theirs = of("proxy_filter, mailtee", "delivered"), of("always_bcc", "delivered")
        figure("delivered a second, proxy_filter", mine, "/s", "always_bcc", theirs, "more than 1 x", mine > theirs)
    finally:
        for it in made:
            it.stop()


def milter():
    """Inside a real Postfix, as its milter: against Postfix without one, with one that only says yes, and with OpenDKIM."""
    sink = Sink(W, "sink", B + 1)
    store = vault("vault", 10)
    made, ways = [sink, store], {}
    n = 1000 if a.quick else 4000
    try:
        # it verifies, and finds nothing signed
        keys = f"{W}/no-keys"
        open(keys, "w").close()
        made.insert(0, Peer(W, "opendkim", "opendkim", "opendkim", PORT=B + 22, MODE="verify", KEYS=keys))
        listen = "".join(f'[[frontend]]\nname = "{name}"\nprotocol = "milter"\nlisten = "{address}"\n'
                         for name, address in (("inet", local(32)), ("unix", f"unix:{W}/milter")))
        made.insert(0, Mailtee(a.bin, f"{W}/tee", "tee", config(f"{W}/tee", local(33), listen + target(f"{W}/vault", local(10)))))
        for name, address in (("yes", local(62)), ("yes-unix", f"{W}/yes")):
            made.insert(0, Process(W, name, "yes", ["python3", f"{HERE}/yes_milter.py", address], lambda: answers(address)))
        for who, base, mode, at in (("none", 40, "plain", ""), ("inet", 30, "milter", local(32)), ("unix", 50, "milter", f"unix:{W}/milter"),
                                    ("yes", 60, "milter", local(62)), ("yes-unix", 70, "milter", f"unix:{W}/yes"),
                                    ("opendkim", 20, "milter", local(22))):
            made.insert(0, Peer(W, "postfix", f"postfix-{who}", "postfix", mode, SMTP_PORT=B + base, NEXT_HOP=local(1), FILTER=at, TLS=0))
            ways[who] = (base, [sink], False)
        of, _ = measure(ways, {way: n for way in ways})
        figure = Figures(a.out, "milter")
        without = of("none", "delivered")
        for way, bare, name in (("inet", "yes", "milter over TCP"), ("unix", "yes-unix", "milter on a unix socket")):
            mine, yes = of(way, "delivered"), of(bare, "delivered")
            figure(f"delivered a second, {name}", mine, "/s", "Postfix without a milter", without, "at least 0.85 x", mine >= 0.85 * without)
            figure(f"delivered a second, {name} that only says yes", yes, "/s", "Postfix without a milter", without)
        figure("delivered a second, milter over TCP", of("inet", "delivered"), "/s", "OpenDKIM as the milter", of("opendkim", "delivered"))
    finally:
        for it in made:
            it.stop()


class Session:
    """A plain SMTP client on one connection."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.s = socket.create_connection((host, int(port)), 60)
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.f = self.s.makefile("rb")
        self.reply()
        self.say("EHLO bench.test")

    def reply(self):
        while True:
            line = self.f.readline()
            if not line or line[3:4] != b"-":
                if line[:1] not in b"23" or not line:
                    raise RuntimeError(f"heard {line!r}")
                return line

    def say(self, line):
        self.s.sendall(line.encode() + b"\r\n")
        return self.reply()

    def begin(self):
        for line in ("MAIL FROM:<src@bench.test>", "RCPT TO:<dst@bench.test>", "DATA"):
            self.say(line)


def latency():
    """One session: from the end of data to the reply, with and without mailtee; and a plain sync on the same disk."""
    sink = Sink(W, "sink", B + 1)
    store = vault("vault", 10)
    tee = daemon("mailtee", 3, 1, target(f"{W}/vault", local(10)), 4)
    body = b"Subject: latency\r\n\r\n" + (b"x" * 70 + b"\r\n") * (a.size // 72)

    def sync():
        with open(f"{W}/sync", "wb", buffering=0) as f:
            times = []
            for _ in range(n):
                begin = time.perf_counter()
                f.write(b"\0" * a.size)
                os.fdatasync(f.fileno())
                times.append(time.perf_counter() - begin)
        return median(times) * 1e3

    def through(port):
        session, times = Session(local(port)), []
        for i in range(n):
            session.begin()
            session.s.sendall(b"X-Serial: %d\r\n" % i + body)
            begin = time.perf_counter()
            session.s.sendall(b".\r\n")
            session.reply()
            times.append(time.perf_counter() - begin)
        return median(times) * 1e3

    n = 300 if a.quick else 2000
    try:
        runs = []
        for _ in range(RUNS):
            quiet(QUIET)
            runs.append((through(1), through(3), sync()))
        added, synced = median([r[1] - r[0] for r in runs]), median([r[2] for r in runs])
        figure("added latency at one session, median", added, "ms", "one append with fdatasync", synced, "at most one sync + 1 ms", added <= synced + 1)
    finally:
        for it in (tee, store, sink):
            it.stop()


def link():
    """The vault across 100 ms and 50 Mbit/s: content bytes confirmed a second, of what the link carries."""
    seconds, made, background = (10 if a.quick else 30), [], []
    net = Link(W, f"mtb{B}", delay_ms=50, mbit=50)
    try:
        background.append(subprocess.Popen([*net.inside("server"), "python3", f"{HERE}/bulk.py", "serve", str(B)]))
        time.sleep(1)
        carried = float(run([*net.inside("client"), "python3", f"{HERE}/bulk.py", "send", net.server, B, seconds], "control"))
        listen = f"{net.server}:{B + 10}"
        made.append(Mailtee(a.bin, f"{W}/vault", "vault", config(f"{W}/vault", local(11), vault_section(listen, [net.server])),
                            verb=("vault", "serve"), prefix=net.inside("server"), ready=lambda: net.answers(listen)))
        background.append(subprocess.Popen(Group.of("sink").command([*net.inside("client"), "smtp-sink", "-u", "nobody", local(1), 1024])))
        rest = frontend(local(3), local(1)) + target(f"{W}/vault", listen)
        tee = Mailtee(a.bin, f"{W}/mailtee", "mailtee", config(f"{W}/mailtee", local(4), rest), prefix=net.inside("client"),
                      ready=lambda: net.get(f"http://{local(4)}/readyz") is not None)
        made.insert(0, tee)
        confirmed = lambda: tee.metric("forwarded_bytes_total", net.get(f"http://{local(4)}/metrics"))
        run([*net.inside("client"), "smtp-source", "-s", 20, "-m", int(carried * seconds * 2 / a.size), "-l", a.size, local(3)], "source")
        first, begin = confirmed(), time.time()
        time.sleep(seconds)
        rate = (confirmed() - first) / (time.time() - begin)
        figure("into a vault 100 ms away", rate / MIB, "MiB/s", "one TCP stream on the link", carried / MIB, "at least 0.7 x", rate >= 0.7 * carried)
    finally:
        for it in made:
            it.stop()
        for process in background:
            process.terminate()
            process.wait()
        net.stop()


def large():
    """One message of 1 GiB: the daemon's peak memory, through and into the vault."""
    sink = Sink(W, "sink", B + 1)
    store = vault("vault", 10)
    tee = daemon("mailtee", 3, 1, target(f"{W}/vault", local(10)), 4)
    size = (256 if a.quick else 1024) * MIB
    try:
        session = Session(local(3))
        session.begin()
        session.s.settimeout(600)
        piece = (b"0123456789" * 7 + b"\r\n") * 14563
        begin, sent = time.time(), 0
        session.s.sendall(b"Subject: large\r\n\r\n")
        while sent < size:
            session.s.sendall(piece)
            sent += len(piece)
        session.s.sendall(b".\r\n")
        session.reply()
        rate = sent / MIB / (time.time() - begin)
        through = tee.memory("VmHWM")
        tee.settled()
        peak = tee.memory("VmHWM")
        figure(f"a message of {size // MIB} MiB, speed", rate, "MiB/s")
        figure(f"a message of {size // MIB} MiB, peak memory", max(through, peak) / MIB, "MiB", aim="under 100 MiB", met=peak < 100 * MIB)
    finally:
        for it in (tee, store, sink):
            it.stop()


def idle():
    """1,000 sessions that have said EHLO and wait."""
    sink = Sink(W, "sink", B + 1, "-m 2000")
    tee = daemon("mailtee", 3, 1, '[[target]]\nname = "none"\ntype = "jmap"\nurl = "https://127.0.0.1:1/"\n', 4)
    try:
        warm = [Session(local(3)) for _ in range(50)]
        for session in warm:
            session.say("QUIT")
        before = tee.memory("VmRSS")
        sessions = [Session(local(3)) for _ in range(1000)]
        time.sleep(2)
        each = (tee.memory("VmRSS") - before) / len(sessions) / 1024
        figure("an idle session's memory", each, "KiB", aim="under 20 KiB", met=each < 20)
        del sessions
    finally:
        tee.stop()
        sink.stop()


shutil.rmtree(TOP, ignore_errors=True)
failed = []
for case in a.only.split(","):
    # Nothing is removed before the end: ext4 without a journal passes over the inodes of what was removed just before, one
    # by one, at each file that it makes.
    W = f"{TOP}/{case}"
    os.makedirs(W)
    print(f"{case}: {globals()[case].__doc__}", flush=True)
    try:
        globals()[case]()
    except Exception as error:
        failed.append(case)
        print(f"  {case} FAILED: {error}", flush=True)
Group.remove_all()
shutil.rmtree(TOP, ignore_errors=True)
sys.exit(bool(failed))

#!/usr/bin/env python3
"""imap.py - mailtee before a Dovecot, beside nginx's mail proxy and haproxy in the same run. Started by benches/run.

Usage: imap.py --bin mailtee --work DIR --out FILE [--quick] [--only CASE,...]
Cases: fetch each noop idle. Rounds go from way to way, the first of them warms up; FILE gets one line of JSON a figure.
"""
import argparse, base64, hashlib, os, random, re, shutil, socket, ssl, sys, time
from rig import Awake, Figures, Group, Mailtee, Peer, config, median, quiet

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--bin", required=True)
p.add_argument("--work", required=True)
p.add_argument("--out", required=True)
p.add_argument("--quick", action="store_true")
p.add_argument("--only", default="fetch,each,noop,idle")
p.add_argument("--port", type=int, default=25000)
a = p.parse_args()
W, B = os.path.abspath(a.work), a.port
RUNS = 1 if a.quick else 5
QUIET = 2 if a.quick else 60
MESSAGES, EACH, BLOCKS, NOOPS, SESSIONS = (300, 100, 2, 300, 100) if a.quick else (5000, 250, 24, 3000, 1000)
USERS = 10
ITEMS = "(FLAGS INTERNALDATE BODY.PEEK[])"
# It is never there: what is captured stays in the journal. With SKIP nothing goes to it: the journal's segments are used again.
NOWHERE = '[[target]]\nname = "none"\ntype = "jmap"\nurl = "https://127.0.0.1:1/"\n'
SKIP = '[[target.criterion]]\naction = "skip"\n'
local = lambda n: f"127.0.0.1:{B + n}"
figure = Figures(a.out, "imap")


class Way:
    """Where a client connects, and the control group of what stands there."""

    def __init__(self, port, peer=None, ca=None):
        self.port, self.peer, self.ca = port, peer, ca

    def cpu(self):
        return Group.of(self.peer.group).cpu() if self.peer else 0

    def memory(self):
        """Bytes resident in all processes of the way."""
        with open(f"{Group.of(self.peer.group).dir}/cgroup.procs") as f:
            pids = f.read().split()
        found = [re.search(r"Rss:\s+(\d+)", open(f"/proc/{pid}/smaps_rollup").read()) for pid in pids]
        return sum(int(rss[1]) for rss in found) * 1024


class Client:
    """A plain IMAP client on one connection, logged in and with INBOX selected."""

    buffer = memoryview(bytearray(1 << 18))

    def __init__(self, way, user="alice@mailtee.test", password="alice"):
        self.s = socket.create_connection(("127.0.0.1", way.port), 60)
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if way.ca:
            self.s = ssl.create_default_context(cafile=way.ca).wrap_socket(self.s, server_hostname="localhost")
        self.until(re.compile(rb"\r\n$"))
        self.say(f'LOGIN "{user}" "{password}"')
        self.say("SELECT INBOX")

    def until(self, end):
        """Reads until the last bytes match; how many bytes there were."""
        count, tail = 0, b""
        while not end.search(tail):
            n = self.s.recv_into(self.buffer)
            if not n:
                raise RuntimeError(f"closed after {tail!r}")
            count += n
            tail = (tail + bytes(self.buffer[max(0, n - 600):n]))[-600:]
        if re.search(rb"(?:^|\r\n)t (?:NO|BAD)", tail):
            raise RuntimeError(f"heard {tail!r}")
        return count

    ANSWER = re.compile(rb"(?:^|\r\n)t (?:OK|NO|BAD)[^\r]*\r\n$")

    def say(self, line):
        self.s.sendall(f"t {line}\r\n".encode())
        return self.until(self.ANSWER)

    def idle(self):
        self.s.sendall(b"t IDLE\r\n")
        self.until(re.compile(rb"\+[^\r]*\r\n$"))

    def close(self):
        self.s.close()


def message(number):
    """Text or an attachment, 20 kB on average as mailboxes have it, the same bytes for the same number."""
    r = random.Random(number)
    size = int(min(5e6, max(300, r.lognormvariate(0, 1.2) / 2.054 * 20000)))
    header = (f"Received: from mta{number % 9}.example.net (192.0.2.{number % 250})\n\tby mx.mailtee.test; Thu, 1 Jan 2026 00:00:00 +0000\n"
              f"From: a@example.net\nTo: alice@mailtee.test\nSubject: number {number}\nMessage-ID: <{number}.{r.getrandbits(64):x}@example.net>\n")
    if r.random() < 0.5:
        text = base64.encodebytes(r.randbytes(size * 3 // 4)).decode()
        return f"{header}Content-Type: application/pdf\nContent-Transfer-Encoding: base64\n\n{text}".encode()
    words = "the of and to invoice meeting contract delivery quarter budget review draft attachment schedule".split()
    text = "".join(" ".join(r.choices(words, k=10)) + "\n" for _ in range(size // 70 + 1))
    return f"{header}\n{text}".encode()


def seed(dovecot):
    """alice's INBOX, as a Maildir."""
    cur = f"{dovecot.dir}/mail/alice@mailtee.test/maildir/cur"
    os.makedirs(cur)
    for number in range(MESSAGES):
        content = message(number)
        wire = len(content) + content.count(b"\n")
        with open(f"{cur}/{1767225600 + number}.M{number}P1.bench,S={len(content)},W={wire}:2,S", "wb") as f:
            f.write(content)
    for at, names, files in os.walk(f"{dovecot.dir}/mail"):
        for name in ["."] + names + files:
            os.chown(os.path.join(at, name), 5000, 5000)


def tee(name, at, tls=None, more="", target=NOWHERE):
    """mailtee before the Dovecot at B; `tls`: the directory of a certificate."""
    if tls:
        more += f'tls = "implicit"\ncertificate = "{tls}/fullchain.pem"\nkey = "{tls}/key.pem"\n'
    front = f'[[frontend]]\nname = "bench"\nprotocol = "imap"\nlisten = "{local(at)}"\nupstream = "{local(43)}"\nsessions_max = 4000\n{more}'
    return Mailtee(a.bin, f"{W}/{name}", name, config(f"{W}/{name}", local(at + 1), front + target))


def nginx(name, at):
    """Its plain port is `at + 1`, the one with TLS `at + 2`."""
    return Peer(W, "nginx-mail", name, name, IMAP_BACKEND=local(43), AUTH_PORT=B + at, IMAP_PORT=B + at + 1, IMAPS_PORT=B + at + 2,
                POP3_PORT=B + at + 3, SMTP_PORT=B + at + 4)


def haproxy(at):
    return Peer(W, "haproxy", "haproxy", "haproxy", FORWARD=f"{B + at}=127.0.0.1:{B + 43}")


def stop(peers):
    for peer in peers:
        peer.stop()


def floors():
    """What the same messages cost whoever names them by their SHA-256, as every second store does, and whoever has them on the disk, 64
    with a sync: microseconds of CPU a MB of each."""
    contents = [message(number).replace(b"\n", b"\r\n") for number in range(MESSAGES)]
    size, hashed, written = sum(map(len, contents)) / 1e6, [], []
    for _ in range(RUNS + 1):
        took = 0
        for content in contents:
            # The first time takes it into the processor's cache, where it lies when it has just come.
            hashlib.sha256(content).digest()
            begin = time.process_time()
            hashlib.sha256(content).digest()
            took += time.process_time() - begin
        hashed.append(took / size * 1e6)
        with open(f"{W}/written", "ab") as f:
            begin, at = time.process_time(), 0
            for first in range(0, MESSAGES, 64):
                at += os.pwritev(f.fileno(), contents[first:first + 64], at)
                os.fdatasync(f.fileno())
            written.append((time.process_time() - begin) / size * 1e6)
    return min(hashed), median(written[1:])


def fetch(dovecot):
    """A mailbox of 5,000 messages, all with one FETCH."""
    made = []
    try:
        made.append(web := nginx("nginx", 60))
        made.append(tcp := haproxy(70))
        made.append(plain := tee("mailtee", 80))
        made.append(secure := tee("mailtee-tls", 83, f"{dovecot.dir}/tls"))
        made.append(new := tee("mailtee-new", 86, more="known_messages_max = 2\n", target=NOWHERE + SKIP))
        made.append(grows := tee("mailtee-grows", 100, more="known_messages_max = 2\n"))
        ways = {"direct": Way(B + 43), "nginx": Way(B + 61, web), "haproxy": Way(B + 70, tcp), "mailtee": Way(B + 80, plain),
                "nginx, TLS": Way(B + 62, web, f"{web.dir}/tls/ca.pem"), "mailtee, TLS": Way(B + 83, secure, f"{dovecot.dir}/tls/ca.pem"),
                "mailtee, all new": Way(B + 86, new), "mailtee, journal grows": Way(B + 100, grows)}
        rows = {name: [] for name in ways}
        for round_ in range(RUNS + 1):
            for name, way in ways.items():
                quiet(QUIET)
                client = Client(way)
                cpu, begin = way.cpu(), time.perf_counter()
                size = client.say(f"UID FETCH 1:* {ITEMS}") / 1e6
                speed = size / (time.perf_counter() - begin)
                if way.peer in (new, grows):
                    way.peer.written()
                row = dict(speed=speed, cpu=(way.cpu() - cpu) / size * 1e6)
                client.close()
                if round_:
                    rows[name].append(row)
        of = lambda name, key: median([row[key] for row in rows[name]])
        for name in ways:
            print(f"  {name:22s} {of(name, 'speed'):6.0f} MB/s, CPU {of(name, 'cpu'):6.0f} us/MB ({size:.0f} MB)", flush=True)
        known, tls = of("mailtee", "speed"), of("mailtee, TLS", "speed")
        figure("one FETCH of all", known, "MB/s", "nginx", of("nginx", "speed"), "at least 0.95 x", known >= 0.95 * of("nginx", "speed"))
        figure("one FETCH of all", known, "MB/s", "haproxy", of("haproxy", "speed"))
        figure("one FETCH of all", known, "MB/s", "direct", of("direct", "speed"))
        figure("one FETCH of all, TLS", tls, "MB/s", "nginx with TLS", of("nginx, TLS", "speed"), "at least 1 x", tls >= of("nginx, TLS", "speed"))
        forwarder, cpu, cpu_new = of("haproxy", "cpu"), of("mailtee", "cpu"), of("mailtee, all new", "cpu")
        figure("CPU a MB, all known", cpu, "us", "haproxy", forwarder, "at most 1.3 x", cpu <= 1.3 * forwarder)
        figure("CPU a MB, all new, into the journal", cpu_new, "us", "haproxy", forwarder, "at most 4 x", cpu_new <= 4 * forwarder)
        figure("CPU a MB, all new, into a journal that grows", of("mailtee, journal grows", "cpu"), "us", "haproxy", forwarder)
        hashed, written = floors()
        figure("CPU a MB, haproxy, a SHA-256 and an append with one fdatasync for 64", forwarder + hashed + written, "us", "haproxy", forwarder)
    finally:
        stop(made)


def each(dovecot):
    """Its first messages one by one, without UID: short turns, way by way, for the machine is not the same from one second to the next."""
    made = []
    try:
        made.append(web := nginx("nginx", 60))
        made.append(tcp := haproxy(70))
        made.append(plain := tee("mailtee", 80))
        ways = {"direct": Way(B + 43), "haproxy": Way(B + 70, tcp), "mailtee": Way(B + 80, plain)}
        clients = {name: Client(way) for name, way in ways.items()}

        def rate(client, count):
            begin = time.perf_counter()
            for number in range(count):
                client.say(f"FETCH {number + 1} {ITEMS}")
            return count / (time.perf_counter() - begin)

        def rates():
            rows = {name: [] for name in ways}
            for block in range(BLOCKS + 1):
                for name, client in clients.items():
                    it = rate(client, EACH)
                    if block:
                        rows[name].append(it)
            print("  " + ", ".join(f"{name} {median(row):,.0f}/s" for name, row in rows.items()), flush=True)
            return {name: median(row) for name, row in rows.items()}

        # So that all of them are known.
        rate(clients["mailtee"], EACH)
        plain.written()
        quiet(QUIET)
        of = rates()
        quiet(QUIET)
        with Awake():
            awake = rates()
        figure("one FETCH at a time", of["mailtee"], "/s", "haproxy", of["haproxy"], "at least 0.9 x", of["mailtee"] >= 0.9 * of["haproxy"])
        figure("one FETCH at a time", of["mailtee"], "/s", "nginx", rate(Client(Way(B + 61, web)), EACH // 5))
        figure("one FETCH at a time, where processors do not halt", awake["mailtee"], "/s", "haproxy", awake["haproxy"])
    finally:
        stop(made)


def noop(dovecot):
    """One session: from NOOP to its reply."""
    made = []
    try:
        made.append(web := nginx("nginx", 60))
        made.append(tcp := haproxy(70))
        made.append(plain := tee("mailtee", 80))
        ways = {"direct": Way(B + 43), "nginx": Way(B + 61, web), "haproxy": Way(B + 70, tcp), "mailtee": Way(B + 80, plain)}
        clients = {name: Client(way) for name, way in ways.items()}

        def added():
            """Median microseconds more than directly, by way."""
            times = {name: [] for name in ways}
            for round_ in range(RUNS + 1):
                for name, client in clients.items():
                    took = []
                    for _ in range(NOOPS):
                        begin = time.perf_counter()
                        client.say("NOOP")
                        took.append(time.perf_counter() - begin)
                    if round_:
                        times[name].append(median(took) * 1e6)
            print("  " + ", ".join(f"{name} {median(t):.0f} us" for name, t in times.items()), flush=True)
            return {name: median([t - d for t, d in zip(times[name], times["direct"])]) for name in ways}

        quiet(QUIET)
        with Awake():
            awake = added()
        quiet(QUIET)
        halting = added()
        figure("added latency of a NOOP, median", awake["mailtee"], "us", "haproxy", awake["haproxy"], "under 60 us", awake["mailtee"] < 60)
        figure("added latency of a NOOP, where processors halt", halting["mailtee"], "us", "haproxy", halting["haproxy"])
    finally:
        stop(made)


def idle(dovecot):
    """1,000 sessions of ten users in IDLE, each way with processes of its own."""
    ca = f"{dovecot.dir}/tls"
    kinds = {"nginx": (lambda: nginx("nginx-idle", 60), 61, None), "haproxy": (lambda: haproxy(70), 70, None),
             "mailtee": (lambda: tee("mailtee-idle", 80), 80, None),
             "nginx, TLS": (lambda: nginx("nginx-idle-tls", 60), 62, "nginx-idle-tls/tls"),
             "mailtee, TLS": (lambda: tee("mailtee-idle-tls", 83, ca), 83, "dovecot/tls")}
    each = {}
    for name, (start, at, tls) in kinds.items():
        peer = start()
        try:
            way = Way(B + at, peer, tls and f"{W}/{tls}/ca.pem")
            user = lambda n: (f"user{n % USERS + 1:04}@mailtee.test", f"pass{n % USERS + 1:04}")
            for client in [Client(way, *user(n)) for n in range(50)]:
                client.close()
            time.sleep(1)
            before, clients = way.memory(), []
            for n in range(SESSIONS):
                clients.append(Client(way, *user(n)))
                clients[-1].idle()
            time.sleep(2)
            each[name] = (way.memory() - before) / SESSIONS / 1000
            for client in clients:
                client.close()
        finally:
            peer.stop()
    print("  " + ", ".join(f"{name} {kb:.1f} kB" for name, kb in each.items()), flush=True)
    figure("a session's memory in IDLE", each["mailtee"], "kB", "nginx", each["nginx"], "at most 1 x", each["mailtee"] <= each["nginx"])
    figure("a session's memory in IDLE", each["mailtee"], "kB", "haproxy", each["haproxy"])
    figure("a session's memory in IDLE, TLS", each["mailtee, TLS"], "kB", "nginx with TLS", each["nginx, TLS"], "at most 1.5 x",
           each["mailtee, TLS"] <= 1.5 * each["nginx, TLS"])


shutil.rmtree(W, ignore_errors=True)
os.makedirs(W)
failed = []
dovecot = Peer(W, "dovecot", "dovecot", "dovecot", PORT_BASE=B, USERS=USERS)
try:
    seed(dovecot)
    for case in a.only.split(","):
        print(f"imap, {case}: {globals()[case].__doc__}", flush=True)
        try:
            globals()[case](dovecot)
        except Exception as error:
            failed.append(case)
            print(f"  {case} FAILED: {error!r}", flush=True)
finally:
    dovecot.stop()
Group.remove_all()
shutil.rmtree(W, ignore_errors=True)
sys.exit(bool(failed))

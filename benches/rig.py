"""What the benchmarks beside mail servers are made of: peers and daemons in control groups of their own, a look at who used the processor.

Linux and root. CPU time is a control group's (version 1 cpuacct, or version 2), so that forks and short lives count.
"""
import json, os, re, shutil, socket, statistics, subprocess, time, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PEERS = f"{ROOT}/tests/peers"
V1 = "/sys/fs/cgroup/cpuacct"
MIB = 1 << 20


class Group:
    """A control group: what runs in it, and its CPU time in seconds."""

    all = {}

    def __init__(self, name):
        base = V1 if os.path.isdir(V1) else "/sys/fs/cgroup"
        self.dir = f"{base}/mailtee-bench-{os.getpid()}-{name}"
        os.makedirs(self.dir, exist_ok=True)

    @classmethod
    def of(cls, name):
        if name not in cls.all:
            cls.all[name] = cls(name)
        return cls.all[name]

    def cpu(self):
        try:
            with open(f"{self.dir}/cpuacct.usage") as f:
                return int(f.read()) / 1e9
        except FileNotFoundError:
            with open(f"{self.dir}/cpu.stat") as f:
                return int(re.search(r"usage_usec (\d+)", f.read())[1]) / 1e6

    def command(self, argv):
        return ["sh", "-c", f'echo $$ > {self.dir}/cgroup.procs; exec "$@"', "sh", *map(str, argv)]

    @classmethod
    def remove_all(cls):
        for group in cls.all.values():
            for _ in range(50):
                try:
                    os.rmdir(group.dir)
                    break
                except OSError:
                    time.sleep(0.1)


class Figures:
    """Where figures go: to a file, a line of JSON each, and to the terminal. `table`: the one of the README's that they belong to."""

    def __init__(self, path, table=None):
        self.out, self.table = open(path, "a"), table

    def __call__(self, name, value, unit, against=None, base=None, aim=None, met=None):
        ratio = value / base if base else None
        row = dict(figure=name, value=round(value, 3), unit=unit, against=against, base=base and round(base, 3),
                   ratio=ratio and round(ratio, 3), aim=aim, met=met, table=self.table)
        self.out.write(json.dumps(row) + "\n")
        self.out.flush()
        verdict = {True: "met", False: "MISSED", None: ""}[met]
        print(f"  {name}: {value:,.4g} {unit}" + (f" = {ratio:.2f} x {against} ({base:,.4g})" if ratio else "")
              + (f"; aim: {aim}: {verdict}" if aim else ""), flush=True)


def run(argv, group, env=None):
    done = subprocess.run(Group.of(group).command(argv), env={**os.environ, **{k: str(v) for k, v in (env or {}).items()}},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{argv}: status {done.returncode}\n{done.stdout}")
    return done.stdout


class Peer:
    """A script of tests/peers in a directory below `work`."""

    def __init__(self, work, script, name, group, mode=None, **env):
        self.script, self.dir, self.group = f"{PEERS}/{script}.sh", f"{work}/{name}", group
        run([self.script, "start", self.dir] + ([mode] if mode else []), group, env)

    def stop(self):
        run([self.script, "stop", self.dir], "control")


class Sink(Peer):
    def __init__(self, work, name, port, arguments=""):
        super().__init__(work, "sink", name, "sink", PORT=port, SINK_ARGS=arguments)

    def count(self):
        """smtp-sink keeps a running counter in its output; only its end is read, for the reader has its share of the processors too."""
        try:
            with open(f"{self.dir}/log/sink.out", "rb") as f:
                f.seek(max(0, os.fstat(f.fileno()).st_size - 40))
                return int(re.findall(rb"\d+", f.read())[-1])
        except (OSError, IndexError):
            return 0


def await_ready(process, ready, log):
    end = time.time() + 60
    while not ready():
        if process.poll() is not None or time.time() > end:
            raise RuntimeError(f"not ready: {log}\n{open(log).read()[-3000:]}")
        time.sleep(0.02)


class Process:
    """A program of the benchmarks' own, in a control group; returns once it is ready."""

    def __init__(self, work, name, group, argv, ready):
        self.log = open(f"{work}/{name}.log", "w")
        self.process = subprocess.Popen(Group.of(group).command(argv), stdout=self.log, stderr=self.log)
        await_ready(self.process, ready, f"{work}/{name}.log")

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


class Awake:
    """Within it no processor halts: a process on each spins, of the class that gives way to all others. What a virtual machine takes to
    wake up a halted one is then in no figure."""

    # Ends with its parent.
    SPIN = ("import os, sys\nos.sched_setaffinity(0, [int(sys.argv[1])])\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"
            "parent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(1000000): pass")

    def __enter__(self):
        self.spinning = [subprocess.Popen(["python3", "-c", self.SPIN, str(cpu)]) for cpu in os.sched_getaffinity(0)]

    def __exit__(self, *_):
        for process in self.spinning:
            process.kill()
            process.wait()


class Mailtee:
    """The daemon, or the vault alone; `prefix` puts it into a network namespace."""

    def __init__(self, binary, directory, group, config, verb=("run",), prefix=(), ready=None):
        self.dir, self.group = directory, group
        os.makedirs(directory, exist_ok=True)
        with open(f"{directory}/mailtee.toml", "w") as f:
            f.write(config)
        self.log = open(f"{directory}/log", "w")
        argv = [*prefix, binary, *verb, "--config", f"{directory}/mailtee.toml"]
        self.process = subprocess.Popen(Group.of(group).command(argv), stdout=self.log, stderr=self.log)
        await_ready(self.process, ready or self.is_ready, f"{directory}/log")

    admin = None

    def is_ready(self):
        self.admin = self.admin or re.search(r'\[admin\]\nlisten = "(.*)"', open(f"{self.dir}/mailtee.toml").read())[1]
        try:
            return self.get("/readyz") is not None
        except OSError:
            return False

    def get(self, path):
        return urllib.request.urlopen(f"http://{self.admin}{path}", timeout=10).read().decode()

    def metric(self, name, text=None):
        """The sum over a metric's series."""
        text = text or self.get("/metrics")
        found = re.findall(rf"^mailtee_{name}(?:\{{.*\}})? (\S+)$", text, re.M)
        return sum(map(float, found))

    def settled(self):
        """Waits until nothing waits for a target."""
        while self.metric("waiting_messages") > 0:
            if self.process.poll() is not None:
                raise RuntimeError("mailtee ended")
            time.sleep(0.05)

    def written(self):
        """Waits until no more captures come."""
        before = None
        while before != (before := self.metric("captured_messages_total")):
            time.sleep(0.1)

    def memory(self, field):
        """A field of /proc/PID/status in bytes: VmHWM is the peak, VmRSS now."""
        with open(f"/proc/{self.process.pid}/status") as f:
            return int(re.search(rf"{field}:\s+(\d+)", f.read())[1]) * 1024

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Link:
    """Two network namespaces joined by a slow link."""

    server = "10.99.0.2"

    def __init__(self, work, name, delay_ms, mbit):
        self.script, self.dir = f"{PEERS}/netem.sh", f"{work}/link"
        run([self.script, "start", self.dir], "control", {"NAME": name, "DELAY_MS": delay_ms, "MBIT": mbit, "SERVER_IP": self.server})

    def inside(self, end):
        return ("bash", self.script, "exec", self.dir, end)

    def get(self, url):
        """Asked at the client's end; None where nobody answers."""
        done = subprocess.run([*self.inside("client"), "curl", "-sf", "-m", "10", url], stdout=subprocess.PIPE, text=True)
        return None if done.returncode else done.stdout

    def answers(self, address):
        host, port = address.rsplit(":", 1)
        return subprocess.run([*self.inside("server"), "bash", "-c", f"exec 3<>/dev/tcp/{host}/{port}"], stderr=subprocess.DEVNULL).returncode == 0

    def stop(self):
        subprocess.run([self.script, "stop", self.dir], stdout=subprocess.DEVNULL)


def config(directory, admin, rest):
    return f'data_dir = "{directory}/data"\n[log]\nlevel = "warn"\n[admin]\nlisten = "{admin}"\n[journal]\nfree_bytes_min = "64 MiB"\n{rest}'


def frontend(listen, upstream):
    return f'[[frontend]]\nname = "bench"\nprotocol = "smtp"\nrole = "filter"\nlisten = "{listen}"\nupstream = "{upstream}"\n'


def vault_section(listen, names=()):
    extra = f"names = {list(names)!r}\n".replace("'", '"') if names else ""
    return f'[vault]\nlisten = "{listen}"\n{extra}'


def target(vault_dir, listen):
    data = f"{vault_dir}/data/vault"
    return (f'[[target]]\nname = "vault"\ntype = "jmap"\nurl = "https://{listen}/.well-known/jmap"\n'
            f'token_file = "{data}/tokens/target.token"\nca_file = "{data}/tls/certificate.pem"\n')


def answers(address):
    if address.startswith("/"):
        return os.path.exists(address)
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 1).close()
        return True
    except OSError:
        return False


def quiet(limit):
    """Waits until the machine has been idle for 1.5 seconds, at most `limit`; true where it came. What is put off until mail ebbs, as the
    vault's search, begins within that time."""
    def busy():
        v = list(map(int, open("/proc/stat").readline().split()[1:8]))
        return (v[0] + v[1] + v[2] + v[5] + v[6]) / os.sysconf("SC_CLK_TCK")
    end, idle = time.time() + limit, 0
    while idle < 3:
        before = busy()
        time.sleep(0.5)
        idle = idle + 1 if (busy() - before) / 0.5 < 0.2 else 0
        if idle < 3 and time.time() > end:
            return False
    return True


def median(values):
    return statistics.median(values) if values else float("nan")

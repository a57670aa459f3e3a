#!/usr/bin/env python3
"""What profilers cost whole programs: sonde and its peers on the same servers, in the same run, in turns.

    B=build/release tests/bench/servers.py [--what own,nginx,redis,cpu] [--peers all|none|NAME,...] [--pairs 4] [--seconds 2]
                                           [--minutes 12]

Every profiled run stands next to a run without any profiler; the figures are ratios of the two: median [p10 .. p90] of the
pairs. A pair during which other programs used more than FOREIGN_MAX CPUs is thrown away and tried again, twice as often as
wanted at most; when too few were clean, the least disturbed count, the row says so and judges nothing. Servers are started anew for every
run: a tracepoint or a socket's timestamps that one process asks for slow down all others, too. Nothing here fails on a time.
"""
import argparse
import contextlib
import dataclasses
import math
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import tap

HOSTS = tap.BUILD / "tests/bench/hosts"
MIX = pathlib.Path(__file__).resolve().parent / "hosts/mix.lua"
PROFILER_LIB = "/usr/lib/x86_64-linux-gnu/libprofiler.so.0"
FOREIGN_MAX = 0.12  # CPUs
WARM_SECONDS = 0.5


# ---- Programs to be profiled ----

@dataclasses.dataclass
class Load:
    """What a load program said: units of work (requests), units per second, 99th percentile in seconds."""
    units: int
    rate: float
    p99: float = math.nan


def wrk(port, path, connections, seconds, script=None):
    # It knows whole seconds only: ended early, it reports all the same.
    command = ["wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds) + 1}s", "--latency"]
    command += ["-s", str(script)] if script else []
    with subprocess.Popen([*command, f"http://127.0.0.1:{port}{path}"], stdout=subprocess.PIPE, text=True) as load:
        with contextlib.suppress(subprocess.TimeoutExpired):
            load.wait(seconds)
        load.send_signal(2)
        out = load.communicate(timeout=60)[0]
    if "Non-2xx" in out or "Socket errors" in out:
        raise RuntimeError("requests failed: " + out)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", out)
    return Load(int(re.search(r"(\d+) requests in", out)[1]), float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]),
                float(p99[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1}[p99[2]])


class Own:
    name, http = "own", True
    title = "A saturated C server, a thread per connection: CPU, contended and uncontended locks, timers, waits for a helper"
    targets = {"throughput": 0.98}

    def start(self, home, env):
        self.port = tap.free_port()
        process = tap.start(HOSTS / "server", self.port, env=env)
        return process, process.pid

    def ready(self):
        return tap.http(f"http://127.0.0.1:{self.port}/fast")[0] == 200

    def load(self, seconds):
        return wrk(self.port, "/", 48, seconds, MIX)


class Nginx:
    name, http = "nginx", True
    title = "nginx, one worker, a file of 1 KiB over 16 keep-alive connections"
    targets = {"throughput": 0.95, "cpu": 1.05}

    def start(self, home, env):
        self.port = tap.free_port()
        (home / "file").write_text("x" * 1024)
        (home / "nginx.conf").write_text(f"""
            daemon off; master_process off; pid {home}/pid; error_log {home}/error.log crit;
            events {{ worker_connections 256; }}
            http {{ access_log off; keepalive_requests 100000000;
                    client_body_temp_path {home}; proxy_temp_path {home}; fastcgi_temp_path {home};
                    uwsgi_temp_path {home}; scgi_temp_path {home};
                    server {{ listen 127.0.0.1:{self.port}; root {home}; }} }}""")
        process = tap.start("nginx", "-e", home / "error.log", "-c", home / "nginx.conf", "-p", home, env=env)
        return process, process.pid

    def ready(self):
        return tap.http(f"http://127.0.0.1:{self.port}/file")[0] == 200

    def load(self, seconds):
        return wrk(self.port, "/file", 16, seconds)


class Redis:
    name, http = "redis", False
    title = "Redis, GET, 32 connections, no pipelining"
    targets = {"throughput": 0.98}
    rate = 50000.0  # the last one seen: redis-benchmark takes a number of requests, not a time

    def start(self, home, env):
        self.port = tap.free_port()
        process = tap.start("redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                            "--dir", home, env=env)
        return process, process.pid

    def ready(self):
        with tap.socket.create_connection(("127.0.0.1", self.port), 1):
            return True

    def load(self, seconds):
        units = max(1000, int(Redis.rate * seconds))
        out = subprocess.run(["redis-benchmark", "-p", str(self.port), "-t", "get", "-n", str(units), "-c", "32", "-d", "64",
                              "--csv"], capture_output=True, text=True, check=True, timeout=120).stdout
        fields = [f.strip('"') for f in out.splitlines()[-1].split(",")]
        Redis.rate = float(fields[1])
        return Load(units, Redis.rate, float(fields[6]) / 1e3)


class Cpu:
    name, http = "cpu", False
    title = "A program that only computes, 30 frames deep, one thread"
    targets = {"throughput": 0.995}

    def start(self, home, env):
        merged = dict(os.environ) | env
        self.process = subprocess.Popen([HOSTS / "spin"], env=merged, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.output = lambda: "?"
        return self.process, self.process.pid

    def ready(self):
        return True

    def load(self, seconds):
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        units, wall, _ = (int(f) for f in self.process.stdout.readline().split("\t"))
        return Load(units, units / wall * 1e9)


PROGRAMS = {p.name: p for p in (Own, Nginx, Redis, Cpu)}


# ---- Profilers ----

@dataclasses.dataclass
class Profiler:
    """@env: for the program's start; @attach: a command on its process. {pid} and {out} are filled in."""
    name: str
    tells: str
    env: dict = dataclasses.field(default_factory=dict)
    attach: list = dataclasses.field(default_factory=list)
    settle: float = 0.0  # seconds until the attached one works
    sonde: bool = False
    only: tuple = ()  # programs it has something to say about; empty: all
    missing: object = lambda: None  # why it cannot run here


def missing_program(name):
    return lambda: None if shutil.which(name) else f"no {name} (.ci/deps bench)"


def missing_probe(name, *command):
    """Why @command does not work, the last line of what it says."""
    def probe():
        if not shutil.which(name):
            return f"no {name} (.ci/deps bench)"
        try:
            done = subprocess.run([name, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
        except subprocess.TimeoutExpired:
            return f"{name} does not end"
        return None if done.returncode == 0 else " ".join(done.stdout.split())[-120:] or f"status {done.returncode}"
    return probe


def missing_file(path, how):
    return lambda: None if path and os.path.exists(path) else how


def gperftools(hz):
    return {"LD_PRELOAD": PROFILER_LIB, "CPUPROFILE": "{out}/profile", "CPUPROFILE_FREQUENCY": str(hz)}


def perf(*how):
    return ["perf", "record", "-q", *how, "-p", "{pid}", "-o", "{out}/perf.data"]


OFF_CPU = """tracepoint:sched:sched_switch {
    if (args->prev_state != 0 && pid == {pid}) { @at[tid] = nsecs; @where[tid] = ustack; }
    if (@at[args->next_pid]) {
        @off[@where[args->next_pid]] = sum(nsecs - @at[args->next_pid]);
        delete(@at[args->next_pid]); delete(@where[args->next_pid]); } }"""
FUTEX = """tracepoint:syscalls:sys_enter_futex /pid == {pid}/ { @at[tid] = nsecs; }
tracepoint:syscalls:sys_exit_futex /pid == {pid} && @at[tid]/ { @waits[ustack] = sum(nsecs - @at[tid]); delete(@at[tid]); }"""
PERF = missing_probe("perf", "record", "-q", "-g", "-F", "99", "-o", "/dev/null", "true")
SWITCH = missing_probe("perf", "record", "-q", "-g", "-e", "sched:sched_switch", "-o", "/dev/null", "true")
BPF = missing_probe("bpftrace", "-e", "tracepoint:sched:sched_switch { @ = count(); } interval:ms:10 { exit(); }")
GPERFTOOLS = missing_file(PROFILER_LIB, "no libprofiler (.ci/deps bench)")
ALL_STATES = "cpu, run queue, io, lock, sleep, queue per request and route"

PROFILERS = [
    Profiler("aa", "nothing: the noise"),
    Profiler("sonde 99 Hz", ALL_STATES, sonde=True, env={"SONDE_HZ": "99"}),
    Profiler("sonde 1000 Hz", ALL_STATES, sonde=True, env={"SONDE_HZ": "1000"}),
    Profiler("gperftools 99 Hz", "CPU by stack", gperftools(99), missing=GPERFTOOLS),
    Profiler("gperftools 1000 Hz", "CPU by stack", gperftools(1000), missing=GPERFTOOLS),
    Profiler("perf record -g 99 Hz", "CPU by stack", attach=perf("-g", "-F", "99"), settle=0.7, missing=PERF),
    Profiler("perf record -g 1000 Hz", "CPU by stack", attach=perf("-g", "-F", "1000"), settle=0.7, missing=PERF),
    Profiler("perf sched_switch -g", "off-CPU by stack, root", attach=perf("-g", "-e", "sched:sched_switch"), settle=0.7,
             missing=SWITCH),
    Profiler("bpf off-CPU", "off-CPU by stack, root", attach=["bpftrace", "-q", "-o", "{out}/off", "-e", OFF_CPU], settle=2.5,
             missing=BPF),
    Profiler("bpf futex", "contended locks by stack, root", attach=["bpftrace", "-q", "-o", "{out}/futex", "-e", FUTEX],
             settle=2.5, only=("own",), missing=BPF),
    Profiler("mutrace", "every lock", {"LD_PRELOAD": os.environ.get("MUTRACE", "")}, only=("own",),
             missing=missing_file(os.environ.get("MUTRACE"), "no Debian 12 package; MUTRACE=/path/libmutrace.so runs it")),
]


# ---- One run ----

def cpu_seconds(pid):
    """CPU time of a process and its ended threads, in ns resolution."""
    with contextlib.suppress(OSError):
        return time.clock_gettime((~pid << 3) | 2)
    return 0.0


def machine_seconds():
    f = [int(x) for x in open("/proc/stat").readline().split()[1:]]
    return (f[0] + f[1] + f[2] + f[5] + f[6] + f[7]) / os.sysconf("SC_CLK_TCK")


def size(directory):
    return sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(directory) for f in files)


@dataclasses.dataclass
class Run:
    rate: float
    p99: float
    cpu: float  # seconds of the program per unit
    tool: float  # CPUs of the profiler's own processes
    foreign: float  # CPUs of everybody else
    bytes: float  # per second, left on the disk
    note: str = ""


def fill(text, values):
    for name, value in values.items():
        text = str(text).replace("{" + name + "}", str(value))
    return text


def run(program, profiler, seconds, collector):
    """One loaded run under @profiler, or None for plain."""
    host, home = program(), tap.scratch()
    out, attached, service = home / "out", None, f"bench-{time.monotonic_ns()}"
    out.mkdir()
    os.chmod(home, 0o755)
    os.chmod(out, 0o777)
    env, where = {}, {"out": out}
    if profiler:
        env = {k: fill(v, where) for k, v in profiler.env.items()}
    if profiler and profiler.sonde:
        env.update(LD_PRELOAD=str(tap.AGENT), SONDE_COLLECTOR=collector.address, SONDE_SERVICE=service)
    process, pid = host.start(home, env)
    try:
        tap.wait_for(lambda: process.poll() is not None or host.ready(), f"{program.name} under {profiler}", every=0.02)
        if process.poll() is not None:
            raise RuntimeError("the program ended: " + process.output()[-200:])
        units = host.load(WARM_SECONDS).units
        if profiler and profiler.attach:
            attached = tap.start(*(fill(a, where | {"pid": pid}) for a in profiler.attach))
            time.sleep(profiler.settle)
            if attached.poll() is not None:
                raise RuntimeError("it ended: " + attached.output()[-200:])
        tools = [collector.process.pid] if profiler and profiler.sonde else [attached.pid] if attached else []
        data = collector.data if profiler and profiler.sonde else out

        def clocks():
            load = resource.getrusage(resource.RUSAGE_CHILDREN)
            return (time.monotonic(), machine_seconds(), cpu_seconds(pid), sum(map(cpu_seconds, tools)),
                    load.ru_utime + load.ru_stime, size(data))

        before = clocks()
        load = host.load(seconds)
        wall, machine, cpu, tool, children, size_ = (b - a for a, b in zip(before, clocks()))
        note = seen(collector, service, units + load.units, host.http) if profiler and profiler.sonde else ""
        if attached:
            tap.stop(attached, 2, 20)
            size_ = size(out)
        elif profiler and not profiler.sonde:
            tap.stop(process)
            size_ = size(out)
        return Run(load.rate, load.p99, cpu / load.units, tool / wall, max(0, machine - cpu - tool - children) / wall,
                   size_ / wall, note)
    finally:
        if attached:
            tap.stop(attached)
        tap.stop(process)
        shutil.rmtree(home, ignore_errors=True)


def seen(collector, service, units, http):
    """What our own collector knows of the run: a profiler that saw nothing is cheap, too."""
    def process():
        return next(p for p in collector.get("processes", **{"from": "-1m"})["processes"] if p["service"] == service)

    def requests():
        return sum(r["count"] for r in collector.routes(service=service).values())

    time.sleep(1.2)  # a window is a second
    if not http:
        return f"{tap.wait_for(lambda: process()['samples'], 'samples of ' + service)} samples"
    with contextlib.suppress(AssertionError):
        tap.wait_for(lambda: requests() >= units, "all requests", 5)
    return f"{100 * requests() / units:.1f} % of requests seen"


# ---- Pairs and tables ----

def quantile(values, q):
    values = sorted(values)
    return values[int(q * (len(values) - 1) + 0.5)]


def spread(values):
    values = [v for v in values if not math.isnan(v)]
    if not values:
        return f"{'-':^22}"
    return f"{quantile(values, 0.5):.3f} [{quantile(values, 0.1):.3f} .. {quantile(values, 0.9):.3f}]"


def groups(todo, turn):
    """Runs in order: every profiler right before or right after a plain run."""
    todo = todo if turn % 2 else list(reversed(todo))
    return [[todo[i], None, *todo[i + 1:i + 2]] for i in range(0, len(todo), 2)]


def measure(program, profilers, pairs, seconds, collector, until):
    """{name: (pairs clean first, error)}; no new turn begins after @until but the first"""
    wanted = {p.name: pairs * (2 if p.sonde or p.name == "aa" else 1) for p in profilers}
    got = {p.name: [] for p in profilers}
    errors = {p.name: [] for p in profilers}
    for turn in range(4 * pairs):
        if turn and time.monotonic() > until:
            break
        todo = []
        for p in profilers:
            clean = sum(is_clean(pair) for pair in got[p.name])
            if len(errors[p.name]) < 2 and clean < wanted[p.name] and len(got[p.name]) < 2 * wanted[p.name]:
                todo.append(p)
        for group in groups(todo, turn):
            runs = []
            for p in group:
                try:
                    profiler = p if p and p.name != "aa" else None
                    runs.append(run(program, profiler, seconds, collector))
                except (AssertionError, KeyError, OSError, RuntimeError, StopIteration, subprocess.SubprocessError) as error:
                    if p:  # a profiler that dies, or under which requests fail, is a result
                        errors[p.name].append(" ".join(f"{type(error).__name__}: {error}".split())[:160])
                    runs.append(None)
            for p, r in zip(group, runs):
                if p and r and runs[1]:
                    got[p.name].append((runs[1], r))
    return {p.name: (sorted(got[p.name], key=dirt)[:wanted[p.name]], errors[p.name]) for p in profilers}


def dirt(pair):
    return max(r.foreign for r in pair)


def is_clean(pair):
    return dirt(pair) <= FOREIGN_MAX


def verdict(program, pairs):
    """How the medians of our row at 99 Hz stand to what issue 3 asks for."""
    if not all(map(is_clean, pairs)):
        return "not judged"
    texts = []
    for what, limit in program.targets.items():
        value = quantile(ratios(pairs)[what], 0.5)
        good = value >= limit if what == "throughput" else value <= limit
        texts.append(f"{what} {'>=' if what == 'throughput' else '<='} {limit}: {'ok' if good else 'MISSED'}")
    return ", ".join(texts)


def ratios(pairs):
    return {"throughput": [b.rate / a.rate for a, b in pairs], "cpu": [b.cpu / a.cpu for a, b in pairs],
            "p99": [b.p99 / a.p99 for a, b in pairs]}


def row(program, profiler, pairs, errors):
    dirty = sum(not is_clean(p) for p in pairs)
    remarks = [profiler.tells, pairs[-1][1].note,
               f"{dirty} pairs while others used up to {dirt(pairs[-1]):.2f} CPUs" if dirty else "",
               verdict(program, pairs) if profiler.name == "sonde 99 Hz" else "",
               f"{len(errors)} runs failed: {errors[0]}" if errors else ""]
    cells = "  ".join(spread(ratios(pairs)[k]) for k in ("throughput", "cpu", "p99"))
    tool = quantile([r.tool for _, r in pairs], 0.5)
    data = sum(r.bytes for _, r in pairs) / len(pairs)  # a store grows in jumps
    return f"{profiler.name:<23} {cells}  {tool:>6.3f} {data / 1e3:>8.1f} {len(pairs):>5}  " + "; ".join(r for r in remarks if r)


def table(program, names, pairs, seconds, collector, until):
    print(f"\n{program.title}")
    able, unable = [], []
    for p in PROFILERS:
        if p.only and program.name not in p.only:
            continue
        reason = p.missing() if names is None or p.name.split()[0] in names or p.sonde or p.name == "aa" else "not asked for"
        (unable if reason else able).append((p, reason))
    results = measure(program, [p for p, _ in able], pairs, seconds, collector, until)
    plain = [a for found, _ in results.values() for a, _ in found]
    if plain:
        print(f"without a profiler: {quantile([r.rate for r in plain], 0.5):,.0f} a second, "
              f"{quantile([r.cpu for r in plain], 0.5) * 1e6:.2f} µs of CPU each")
    print(f"\n{'':<23} {'throughput':<22}  {'CPU per request':<22}  {'p99':<22}  {'CPUs':>6} {'kB/s':>8} {'pairs':>5}  tells")
    for p, _ in able:
        found, errors = results[p.name]
        print(row(program, p, found, errors) if found else f"{p.name:<23} not run: {errors[0] if errors else 'no time'}", flush=True)
    for p, reason in unable:
        print(f"{p.name:<23} not run: {reason}")


def main(argv=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--what", default=",".join(PROGRAMS), help="programs: " + ", ".join(PROGRAMS))
    options.add_argument("--peers", default="all", help="all, none, or first words of names: gperftools,perf,bpf,mutrace")
    options.add_argument("--pairs", type=int, default=4, help="of each peer; ours and the noise get twice as many")
    options.add_argument("--seconds", type=float, default=2, help="of load per run")
    options.add_argument("--minutes", type=float, default=12, help="of all together: then fewer pairs must do")
    o = options.parse_args(argv)
    start = time.monotonic()
    names = None if o.peers == "all" else [] if o.peers == "none" else o.peers.split(",")
    print(f"$ tests/bench/servers.py {' '.join(argv if argv is not None else sys.argv[1:])}\n"
          f"ratios to the same program without a profiler, median [p10 .. p90] of the pairs; {o.seconds:g} s a run, "
          f"{os.cpu_count()} CPUs, Linux {os.uname().release}\n"
          f"CPUs: of the profiler's own processes; kB/s: what it left on the disk")
    collector = tap.Collector()
    what = o.what.split(",")
    for i, name in enumerate(what, 1):
        table(PROGRAMS[name], names, o.pairs, o.seconds, collector, start + 60 * o.minutes * i / len(what))
    tap.stop_all()


if __name__ == "__main__":
    main()

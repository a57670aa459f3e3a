#!/usr/bin/python3
"""The collector as a program: what it takes from agents, what it keeps through kill -9 and full disks, what it answers."""
import collections
import contextlib
import gzip
import http.client
import json
import math
import os
import re
import signal
import socket
import sqlite3
import statistics
import struct
import subprocess
import threading
import time
import urllib.parse
import urllib.request

import agentsim
import tap
from tap import test, wait_for

SECOND = agentsim.SECOND
_shared = []


def shared():
    """One collector with three minutes of two services in it, for the tests that only ask; started anew when a test ended it."""
    if not _shared:
        data = tap.scratch() / "data"
        collector = tap.Collector(data=data)
        end = time.time_ns() // SECOND * SECOND
        shop = agentsim.Agent("shop").history(collector.address, 180, end)
        other = agentsim.Agent("billing", pid=5000, seed=2, routes={"GET /users/{id}": agentsim.ROUTES["GET /users/{id}"]})
        other.history(collector.address, 20, end)
        shop.close()
        other.close()
        _shared.append((data, end, shop, other))
        return collector, *_shared[0]
    return tap.Collector(data=_shared[0][0]), *_shared[0]


def span(end, seconds=180):
    """from= and to= that hold exactly the windows of a history that ended at @end."""
    return {"from": f"{end // SECOND - seconds}.5", "to": f"{end // SECOND}.5"}


def get(collector, path, headers=None, method="GET"):
    """(status, headers, body); path may hold anything."""
    request = urllib.request.Request(collector.url + path, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def raw(collector, data):
    """Send bytes to the agents' port; what comes back until the collector closes."""
    with socket.create_connection(("127.0.0.1", collector.agent_port), 5) as s:
        s.settimeout(15)
        s.sendall(data)
        with contextlib.suppress(OSError):
            s.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while more := s.recv(65536):
                answer += more
        return answer


def serve(*arguments):
    """`sonde serve` that is expected to end by itself: (status, output)."""
    done = subprocess.run([tap.SONDE, "serve", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=20, check=False)
    return done.returncode, done.stdout.decode()


# ---- The command ----

@test
def serve_prints_one_line_and_stops_quickly():
    collector = tap.Collector()
    assert collector.process.output().splitlines() == [
        f"sonde: http://127.0.0.1:{collector.http_port}  agents: {collector.address}  data: {collector.data}"]
    for how in (signal.SIGTERM, signal.SIGINT):
        watcher = socket.create_connection(("127.0.0.1", collector.http_port))
        watcher.sendall(b"GET /api/v1/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        watcher.recv(100)
        started = time.monotonic()
        assert tap.stop(collector.process, how) == 0
        assert time.monotonic() - started < 2, "slow to stop"
        watcher.close()
        collector.start()


@test
def serve_says_in_one_line_why_it_cannot_start():
    collector = tap.Collector()
    other = tap.scratch()
    free = f"127.0.0.1:{tap.free_port()}"
    file = other / "file"
    file.write_text("x")
    newer = tap.scratch()
    with contextlib.closing(sqlite3.connect(newer / "sonde.db")) as db:
        db.execute("PRAGMA user_version=99")
    broken = tap.scratch()
    (broken / "sonde.db").write_bytes(b"not a database" * 1000)
    cases = [
        (("--http", f"127.0.0.1:{collector.http_port}", "--listen", f"tcp:{free}", "--data", other / "a"), 1, "in use"),
        (("--http", free, "--listen", collector.address, "--data", other / "a"), 1, "in use"),
        (("--http", free, "--listen", f"tcp:127.0.0.1:{tap.free_port()}", "--data", collector.data), 1, "in use by another"),
        (("--http", free, "--listen", f"unix:{other}/s", "--data", file), 1, "--data"),
        (("--http", free, "--listen", f"unix:{other}/s", "--data", newer), 1, "newer version"),
        (("--http", free, "--listen", f"unix:{other}/s", "--data", broken), 1, "cannot read the store"),
        (("--http", "0.0.0.0:7070", "--listen", f"unix:{other}/s", "--data", other / "a"), 1, "token"),
        (("--http", free, "--listen", "tcp:0.0.0.0:7071", "--data", other / "a"), 1, "token"),
        (("--http", free, "--listen", "nonsense", "--data", other / "a"), 1, "no address"),
        (("--http", "nonsense", "--data", other / "a"), 2, "no address"),
    ]
    for arguments, status, words in cases:
        got, output = serve(*arguments)
        assert got == status and words in output and len(output.splitlines()) == 1, (arguments, got, output)
    for arguments in (("--nonsense",), ("argument",), ("--max-bytes", "many")):
        got, output = serve(*arguments)
        assert got == 2, (arguments, got, output)
    done = subprocess.run([tap.SONDE, "nonsense"], capture_output=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    for option in ("--help", "--version"):
        assert subprocess.run([tap.SONDE, "serve", option], capture_output=True, check=False).returncode == 0
        assert subprocess.run([tap.SONDE, option], capture_output=True, check=False).returncode == 0


@test
def serve_says_which_port_it_got():
    process = tap.start(tap.SONDE, "serve", "--http", "127.0.0.1:0", "--listen", "tcp:127.0.0.1:0", "--data", tap.scratch() / "a")
    wait_for(lambda: "sonde: http" in process.output(), "the collector to start")
    found = re.fullmatch(r"sonde: (http://127\.0\.0\.1:[1-9]\d*)  agents: (tcp:127\.0\.0\.1:[1-9]\d*)  data: .*\n", process.output())
    assert found, process.output()
    assert tap.http(found[1] + "/api/v1/processes")[0] == 200
    assert agentsim.Agent().greet(found[2]) == 0


@test
def serve_replaces_a_stale_socket_and_respects_a_live_one():
    where = tap.scratch()
    path = where / "agents.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()  # the file stays, and nobody answers
    arguments = ("--http", f"127.0.0.1:{tap.free_port()}", "--listen", f"unix:{path}", "--data", where / "a")
    process = tap.start(tap.SONDE, "serve", *arguments)
    wait_for(lambda: "sonde: http" in process.output(), "the collector to start")
    assert os.stat(path).st_mode & 0o077 == 0, "others may connect"
    agent = agentsim.Agent()
    assert agent.greet(f"unix:{path}") == 0
    status, output = serve("--http", f"127.0.0.1:{tap.free_port()}", "--listen", f"unix:{path}", "--data", where / "b")
    assert status == 1 and "in use" in output, output
    assert tap.stop(process) == 0
    assert not path.exists(), "the socket stays behind"


@test
def serve_uses_a_private_directory_for_its_socket():
    where = tap.scratch()
    runtime = tap.scratch()
    env = {"XDG_RUNTIME_DIR": str(runtime)}
    process = tap.start(tap.SONDE, "serve", "--http", f"127.0.0.1:{tap.free_port()}", "--data", where / "a", env=env)
    # The standard TCP port may be taken on this machine: then the line says so, and that is all there is to see.
    wait_for(lambda: process.output(), "the collector to say something")
    if "7071" in process.output() and "in use" in process.output():
        return
    assert f"unix:{runtime}/sonde.sock" in process.output(), process.output()
    assert (runtime / "sonde.sock").exists()


# ---- Agents ----

@test
def ingest_welcomes_stores_and_acknowledges():
    collector = tap.Collector()
    agent = agentsim.Agent()
    assert agent.greet(collector.address) == 0
    for _ in range(3):
        agent.send(agent.window(time.time_ns()))
    assert [agent.acknowledged() for _ in range(3)] == [1, 2, 3]
    process, = collector.get("processes")["processes"]
    assert (process["state"], process["pid"], process["service"]) == ("live", 4711, "shop")
    routes = collector.routes()
    for name, truth in agent.truth.items():
        assert routes[name]["count"] == truth.count, name
    agent.send(agent.window(time.time_ns(), last=True))
    agent.acknowledged()
    agent.close()
    wait_for(lambda: collector.get("processes")["processes"][0]["state"] == "ended", "the good-bye to be seen")


@test
def ingest_takes_messages_in_pieces():
    collector = tap.Collector()
    agent = agentsim.Agent()
    agent.connect(collector.address)
    stream = agent.hello() + agent.dictionary() + agent.window(time.time_ns())
    for at in range(0, len(stream), 97):
        agent.send(stream[at:at + 97])
        if at % 970 == 0:
            time.sleep(0.001)
    assert agent.receive()[0] == "welcome"
    assert agent.acknowledged() == 1


@test
def ingest_does_not_count_a_window_twice():
    collector = tap.Collector()
    agent = agentsim.Agent()
    agent.greet(collector.address)
    windows = [agent.window(time.time_ns()) for _ in range(5)]
    agent.send(b"".join(windows))
    while agent.acknowledged() < 5:
        pass
    agent.send(windows[2])
    assert agent.acknowledged() == 3
    agent.close()
    assert agent.greet(collector.address) == 5
    agent.send(b"".join(windows))
    assert [agent.acknowledged() for _ in range(5)] == [1, 2, 3, 4, 5]
    for name, route in collector.routes().items():
        assert route["count"] == agent.truth[name].count


@test
def ingest_counts_windows_that_are_missing():
    collector = tap.Collector()
    agent = agentsim.Agent()
    agent.greet(collector.address)
    agent.send(agent.window(time.time_ns()))
    agent.seq, agent.lost = 4, 3
    agent.send(agent.window(time.time_ns()))
    while agent.acknowledged() < 5:
        pass
    assert collector.get("processes")["processes"][0]["lost_windows"] == 3


@test
def ingest_gives_an_instance_to_its_newest_connection():
    collector = tap.Collector()
    agent = agentsim.Agent()
    agent.greet(collector.address)
    old = agent.socket
    agent.send(agent.window(time.time_ns()))
    agent.acknowledged()
    assert agent.greet(collector.address) == 1
    assert old.recv(1) == b"", "the old connection is still open"
    assert collector.get("processes")["processes"][0]["state"] == "live"


@test
def ingest_closes_bad_connections_and_only_those():
    collector = tap.Collector()
    good = agentsim.Agent()
    good.greet(collector.address)
    agent = agentsim.Agent(pid=1, seed=9)
    hello, names, window = agent.hello(), agent.dictionary(), agent.window(time.time_ns())
    greeting = hello + names
    F, M, frame = agentsim.field, agentsim.message, agentsim.frame
    columns = lambda *lists: b"".join(agentsim.field_packed(n, list(c)) for n, c in enumerate(lists, 1))
    row = lambda **change: columns(*[[change.get(n, 1)] for n in ("route", "state", "latency", "stack", "thread", "obj", "count", "ns")])
    make = lambda rows=b"", *more: frame("window", M((1, 1), (4, SECOND), (5, 2 * SECOND), (6, rows)) + b"".join(more))
    bad = {
        "garbage": os.urandom(4096),
        "text": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 40,
        "zeros": bytes(4096),
        "too long": struct.pack("<I", (16 << 20) + 1) + b"x" * 100,
        "longest": struct.pack("<I", 0xFFFFFFFF),
        "window first": window,
        "protocol": agentsim.Agent(pid=2).hello(protocol=2),
        "no service": frame("hello", F(1, 1) + agentsim.varint(17) + b"\1" * 8),
        "second hello": greeting + hello,
        "welcome": greeting + frame("welcome", b""),
        "ack": greeting + frame("ack", b""),
        "not utf-8": greeting + frame("dict", M((4, [F(1, 9) + F(2, b"\xff\xfe")]))),
        "unequal columns": greeting + make(columns([1, 1], [1], [1], [1], [1], [0], [1], [1])),
        "unknown route": greeting + make(row(obj=0, route=77)),
        "unknown stack": greeting + make(row(obj=0, stack=1 << 30)),
        "unknown object": greeting + make(row(obj=1)),
        "state": greeting + make(row(obj=0, state=8)),
        "latency": greeting + make(row(obj=0, latency=88)),
        "huge id": greeting + frame("dict", M((4, [F(1, 0xFFFFFFFF) + F(2, "x")]))),
        "stack without frame": greeting + frame("dict", M((3, columns([1000], [0], [55], [1])))),
        "sequence 0": greeting + frame("window", F(4, 1) + F(5, 2)),
        "ledger": greeting + make(b"", M((7, [M((1, 1), (2, 1), (4, [1] * 8), (5, 9))]))),
        "a bomb of empty messages": greeting + frame("window", b"\x3a\x00" * 4_000_000),
    }
    for name, data in bad.items():
        before = metrics(collector)["sonde_collector_protocol_errors_total", ()]
        raw(collector, data)
        wait_for(lambda: metrics(collector)["sonde_collector_protocol_errors_total", ()] == before + 1, f"'{name}' to be refused")
    # Half a message and then the end is an end, not an error; the same bytes whole are fine.
    for cut in (1, 3, 5, len(hello) - 1, len(greeting) - 1, len(greeting) + 40):
        raw(collector, (greeting + window)[:cut])
    answer = raw(collector, greeting + window)
    assert answer.endswith(agentsim.frame("ack", b"\x08\x01")), answer
    good.send(good.window(time.time_ns()))
    assert good.acknowledged() == 1
    log = collector.process.output().splitlines()
    assert len(log) <= 3 + len(bad) and any("it sent" in line for line in log), log
    assert collector.process.poll() is None


@test
def ingest_bounds_its_connections():
    collector = tap.Collector()
    held = []
    try:
        for _ in range(1030):
            s = socket.create_connection(("127.0.0.1", collector.agent_port), 5)
            held.append(s)
        wait_for(lambda: metrics(collector)["sonde_collector_connections_refused_total", ()] >= 6, "the cap to be seen", 30)
        assert metrics(collector)["sonde_collector_connections", ()] <= 1024
    finally:
        for s in held:
            s.close()
    wait_for(lambda: metrics(collector)["sonde_collector_connections", ()] == 0, "the connections to be gone")
    assert agentsim.Agent().greet(collector.address) == 0


@test
def ingest_waits_ten_seconds_for_a_hello():
    collector = tap.Collector()
    agent = agentsim.Agent()
    agent.greet(collector.address)
    with socket.create_connection(("127.0.0.1", collector.agent_port), 5) as s:
        s.settimeout(20)
        s.sendall(b"\x10")
        started = time.monotonic()
        assert s.recv(1) == b"" and 8 < time.monotonic() - started < 15
    agent.send(agent.window(time.time_ns()))  # who has said Hello may be silent
    assert agent.acknowledged() == 1


@test
def kill_9_loses_and_doubles_nothing():
    collector = tap.Collector()
    agent = agentsim.Agent(routes={"GET /fib/{n}": agentsim.ROUTES["GET /fib/{n}"]})
    spool, acknowledged, stop = collections.deque(), [0], threading.Event()
    problems = []

    def stream():
        """As the agent does: what is not acknowledged is sent again, oldest first."""
        while not (stop.is_set() and not spool and acknowledged[0] == agent.seq):
            try:
                stored = agent.greet(collector.address)
                if stored < acknowledged[0]:
                    problems.append(f"stored {stored} after acknowledging {acknowledged[0]}")
                while spool and spool[0][0] <= stored:
                    spool.popleft()
                waiting = list(spool)
                while True:
                    for _, data in waiting:
                        agent.send(data)
                    while spool:
                        acknowledged[0] = agent.acknowledged()
                        while spool and spool[0][0] <= acknowledged[0]:
                            spool.popleft()
                    if stop.is_set():
                        return
                    for _ in range(3):
                        data = agent.window(time.time_ns())
                        spool.append((agent.seq, data))
                    waiting = list(spool)
            except OSError:
                time.sleep(0.01)
            finally:
                agent.close()

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        for round_ in range(12):
            before = acknowledged[0]
            wait_for(lambda: acknowledged[0] > before + 5, "windows to be acknowledged")
            time.sleep(0.013 * round_)
            tap.stop(collector.process, signal.SIGKILL)
            collector.start()
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive() and not problems, problems
    assert agent.seq > 60, agent.seq
    route = collector.routes()["GET /fib/{n}"]
    truth = agent.truth["GET /fib/{n}"]
    assert route["count"] == truth.count, (route["count"], truth.count)
    histogram = collector.get("latency", route="GET /fib/{n}", **{"from": "-1h"})
    assert (histogram["count"], histogram["sum"], histogram["max"]) == (truth.count, truth.sum_ns, truth.max_ns)
    assert collector.get("processes")["processes"][0]["lost_windows"] == 0
    tap.stop(collector.process, signal.SIGKILL)
    with contextlib.closing(sqlite3.connect(collector.data / "sonde.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*), count(DISTINCT seq), max(seq) FROM window").fetchone() == (agent.seq,) * 3


@test
def a_full_disk_stops_nothing_but_the_acknowledgements():
    where = tap.scratch()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", where], capture_output=True, check=False)
    if mounted.returncode:
        print("# not run: needs the right to mount a small file system")
        return
    try:
        collector = tap.Collector(data=where / "data")
        agent = agentsim.Agent()
        agent.greet(collector.address)
        agent.socket.settimeout(3)
        stored = 0
        try:
            while stored < 3000:
                agent.send(agent.window(time.time_ns()))
                stored = agent.acknowledged()
        except TimeoutError:
            pass
        assert 0 < stored < 3000, stored
        assert "disk" in collector.process.output() and "full" in collector.process.output(), collector.process.output()
        assert http_ok(collector, "/api/v1/routes")  # it keeps serving
        assert metrics(collector)["sonde_collector_windows_total", ()] == stored
        assert subprocess.run(["mount", "-o", "remount,size=64m", where], check=False).returncode == 0
        agent.socket.settimeout(10)
        assert agent.acknowledged() == agent.seq  # the one that waited
        assert metrics(collector)["sonde_requests_total", (("route", "GET /fib/{n}"), ("service", "shop"))] == \
            agent.truth["GET /fib/{n}"].count
        tap.stop(collector.process)
    finally:
        tap.stop_all()
        subprocess.run(["umount", where], check=False)


@test
def the_oldest_windows_go_first():
    data = tap.scratch() / "data"
    port, http_port = tap.free_port(), tap.free_port()
    process = tap.start(tap.SONDE, "serve", "--http", f"127.0.0.1:{http_port}", "--listen", f"tcp:127.0.0.1:{port}", "--data", data,
                        "--max-bytes", "1M")
    wait_for(lambda: "sonde: http" in process.output(), "the collector to start")
    agent = agentsim.Agent()
    agent.history(f"tcp:127.0.0.1:{port}", 800)
    first = lambda: sqlite3.connect(f"file:{data}/sonde.db?mode=ro", uri=True).execute("SELECT min(seq), max(seq) FROM window").fetchone()
    wait_for(lambda: first()[0] > 1, "old windows to be dropped")
    assert first()[1] == 800
    agent.close()
    assert agent.greet(f"tcp:127.0.0.1:{port}") == 800  # and are not asked for again


# ---- Answers ----

def http_ok(collector, path):
    status, headers, body = get(collector, path)
    assert status == 200, (path, status, body[:300])
    assert headers["Content-Type"].startswith("application/json"), headers["Content-Type"]
    return json.loads(body)


def query(path, **parameters):
    return "/api/v1/" + path + "?" + urllib.parse.urlencode(parameters)


@test
def routes_add_up_to_what_agents_said():
    collector, _, end, shop, other = shared()
    answer = collector.get("routes", service="shop", **span(end))
    assert [r["route"] for r in answer["routes"]] == sorted(shop.truth, key=lambda name: -shop.truth[name].sum_ns)
    for route in answer["routes"]:
        truth = shop.truth[route["route"]]
        assert (route["count"], route["errors"]) == (truth.count, truth.errors)
        assert route["latency"]["mean"] == truth.sum_ns // truth.count
        assert sum(route["ledger"].values()) == route["latency"]["mean"]
        assert tuple(route["ledger"]) == agentsim.STATES
        for state, ns in zip(agentsim.STATES, truth.ledger):
            assert abs(route["ledger"][state] - ns / truth.count) <= 8, (route["route"], state)
        ordered = sorted(truth.latencies)
        for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
            exact = ordered[math.ceil(q * truth.count) - 1]
            assert abs(route["latency"][name] - exact) <= 0.012 * exact, (name, route["latency"][name], exact)
        assert route["latency"]["max"] == truth.max_ns
        assert abs(route["rate"] - truth.count / 180) < 0.002
        assert sum(route["statuses"].values()) == truth.count and route["statuses"].get("503", 0) == truth.errors
        assert route["in_flight"] == 0  # the process is gone
    assert answer["background"]["cpu"] == shop.background[agentsim.CPU]
    assert answer["background"]["io"] == shop.background[agentsim.IO]
    both = collector.get("routes", route="GET /users/{id}", **span(end))["routes"]
    assert {r["service"]: r["count"] for r in both} == {
        "shop": shop.truth["GET /users/{id}"].count, "billing": other.truth["GET /users/{id}"].count}
    part = collector.get("routes", service="billing", **span(end, 10))["routes"]
    assert 0 < part[0]["count"] < other.truth["GET /users/{id}"].count


@test
def processes_show_who_reported_and_at_what_cost():
    collector, _, end, shop, _ = shared()
    by_service = {p["service"]: p for p in collector.get("processes", **span(end))["processes"]}
    assert set(by_service) == {"shop", "billing"}
    p = by_service["shop"]
    assert p["id"] == f"{shop.instance:016x}" and p["state"] == "lost" and p["threads"] == 3 and p["hz"] == 99
    assert p["overhead"]["agent_cpu_ns"] == 180 * 2_000_000 and p["overhead"]["memory_bytes"] == 1_800_000
    assert p["overhead"]["cores"] == 0.0023  # 2 ms of the thread and 0.3 ms of the handler in each second
    assert 0 < p["overhead"]["cpu_share"] < 0.05 and p["samples"] == 180 * 60
    assert {d["cause"]: d["count"] for d in p["drops"]} == {"ring full": 1, "stack table full": 0}
    assert {e["how"]: e["count"] for e in p["stack_ends"]} == {"complete": 180 * 58, "truncated": 180 * 2}
    assert collector.get("processes", process=p["id"], **span(end))["processes"][0]["pid"] == 4711
    assert collector.get("processes", process="0" * 15 + "1", **span(end))["processes"] == []


@test
def latency_is_the_histogram_in_whole_and_in_steps():
    collector, _, end, shop, _ = shared()
    name, truth = "POST /checkout", shop.truth["POST /checkout"]
    answer = collector.get("latency", service="shop", route=name, step=10, **span(end))
    counts = collections.Counter(agentsim.hist_index(ns) for ns in truth.latencies)
    assert {b["index"]: b["count"] for b in answer["buckets"]} == counts
    assert (answer["route"], answer["what"], answer["scale"]) == (name, "latency", 5)
    assert (answer["count"], answer["sum"], answer["max"]) == (truth.count, truth.sum_ns, truth.max_ns)
    for bucket in answer["buckets"]:
        assert bucket["lower"] < bucket["upper"] and abs(bucket["upper"] - 2 ** ((bucket["index"] + 1) / 32)) <= 1
    assert len(answer["times"]) == 18 and answer["times"][1] - answer["times"][0] == 10
    summed = collections.Counter()
    for t, index, count in answer["heat"]:
        assert 0 <= t < 18
        summed[index] += count
    assert summed == counts
    sleep = collector.get("latency", service="shop", route=name, what="sleep", **span(end))
    assert sleep["sum"] == truth.ledger[agentsim.SLEEP] and sleep["count"] == truth.count and sleep["max"] > 0
    every = collector.get("latency", service="shop", **span(end))
    assert every["route"] is None and every["count"] == sum(t.count for t in shop.truth.values())


def check_tree(flame):
    nodes, functions = flame["nodes"], flame["functions"]
    size = len(nodes["function"])
    assert nodes["function"][0] == 0 and nodes["depth"][0] == 0 and functions["name"][0] == "all"
    for column in ("name", "module", "file", "line", "inlined"):
        assert len(functions[column]) == len(functions["name"])
    for before, depth in zip(nodes["depth"], nodes["depth"][1:]):
        assert 1 <= depth <= before + 1
    for state, values in nodes["self"].items():
        assert len(values) == size and sum(values) == flame["total"][state], state
    totals, stack, children = [0] * size, [], [[] for _ in range(size)]
    for i in range(size):
        del stack[nodes["depth"][i]:]
        if stack:
            children[stack[-1]].append(i)
        stack.append(i)
        for parent in stack:
            totals[parent] += sum(values[i] for values in nodes["self"].values())
    for siblings in children:
        assert [totals[i] for i in siblings] == sorted((totals[i] for i in siblings), reverse=True)


def self_by_name(flame, state):
    result = collections.Counter()
    for function, ns in zip(flame["nodes"]["function"], flame["nodes"]["self"][state]):
        result[flame["functions"]["name"][function]] += ns
    return result


@test
def flame_adds_up_to_the_ledger():
    collector, _, end, shop, _ = shared()
    for name, truth in shop.truth.items():
        flame = collector.get("flame", service="shop", route=name, **span(end))
        check_tree(flame)
        assert flame["requests"] == truth.count
        assert [flame["total"][s] for s in agentsim.STATES] == truth.ledger
        assert self_by_name(flame, "queue") == {"all": 0, "[queue]": truth.ledger[0]} | dict.fromkeys(
            set(self_by_name(flame, "queue")) - {"all", "[queue]"}, 0)
    fib = collector.get("flame", service="shop", route="GET /fib/{n}", **span(end))
    cpu = self_by_name(fib, "cpu")
    assert cpu["fib"] > 0.8 * fib["total"]["cpu"], cpu
    i = fib["functions"]["name"].index("handle_fib")
    assert (fib["functions"]["file"][i], fib["functions"]["line"][i]) == ("shop/fib.c", 40)
    every = collector.get("flame", service="shop", **span(end))
    check_tree(every)
    assert every["total"]["cpu"] == sum(t.ledger[agentsim.CPU] for t in shop.truth.values())
    assert "logger_thread" not in every["functions"]["name"]


@test
def flame_has_one_node_per_function_unless_asked_for_lines():
    collector, now = tap.Collector(), time.time_ns()
    agent = agentsim.Agent()
    agent.greet(collector.address)
    # main, then fib called from line 3 and from line 4 of it, one of them as a leaf.
    agent.send(agentsim.frame("dict", agentsim.message(
        (2, [agentsim.message((1, i), (2, name), (3, "f.c"), (4, line)) for i, name, line in ((100, "fib", 3), (101, "fib", 4))]),
        (3, b"".join(agentsim.field_packed(n, column) for n, column in
                     enumerate(([1000, 1001, 1002], [1, 1, 1000], [0, 0, 0], [100, 101, 101]), 1))))))
    columns = [[0] * 3, [agentsim.CPU] * 3, [0] * 3, [1000, 1001, 1002], [1] * 3, [0] * 3, [1] * 3, [10, 40, 5]]
    agent.send(agentsim.frame("window", agentsim.message((1, 1), (4, now - SECOND), (5, now)) + agentsim.field(
        6, b"".join(agentsim.field_packed(n, column) for n, column in enumerate(columns, 1)))))
    agent.acknowledged()

    def nodes(**how):
        flame = collector.get("flame", route="", to="now", **how)
        check_tree(flame)
        functions = flame["functions"]
        return [(depth, functions["name"][f], functions["line"][f], ns) for f, depth, ns in
                zip(flame["nodes"]["function"], flame["nodes"]["depth"], flame["nodes"]["self"]["cpu"])]

    main = ("main", agentsim.FUNCTIONS["main"][1], 0)
    assert nodes() == nodes(format="columns") == [(0, "all", 0, 0), (1, *main), (2, "fib", 4, 50), (3, "fib", 4, 5)]
    assert nodes(format="lines") == [(0, "all", 0, 0), (1, *main), (2, "fib", 4, 40), (2, "fib", 3, 10), (3, "fib", 4, 5)]


@test
def flame_can_be_narrowed():
    collector, _, end, shop, _ = shared()
    only = collector.get("flame", service="shop", state="io,lock", **span(end))
    check_tree(only)
    assert set(only["total"]) == set(only["nodes"]["self"]) == {"io", "lock"}
    outside = collector.get("flame", service="shop", route="", **span(end))
    check_tree(outside)
    assert outside["total"]["cpu"] == shop.background[agentsim.CPU] and outside["total"]["queue"] == 0
    assert "logger_thread" in outside["functions"]["name"]
    thread = collector.get("flame", service="shop", thread="worker-1", **span(end))
    check_tree(thread)
    total = sum(shop.sampled.values())
    assert 0 < sum(thread["total"].values()) < 0.6 * total
    slow = collector.get("flame", service="shop", route="POST /checkout", latency_min=64 << 20, **span(end))
    check_tree(slow)
    truth = shop.truth["POST /checkout"]
    edge = 2 ** (agentsim.coarse(64 << 20) / 2)  # whole coarse buckets
    assert slow["requests"] == sum(ns > edge for ns in truth.latencies) > 0
    assert sum(slow["total"].values()) == sum(ns for ns in truth.latencies if ns > edge)
    nested = collector.get("flame", service="shop", format="json", **span(end))["flame"]

    def check(node):
        assert set(node) <= {"name", "value", "children"}
        assert sum(map(check, node.get("children", []))) <= node["value"]
        return node["value"]

    assert check(nested) == sum(t.sum_ns for t in shop.truth.values())


@test
def profile_is_an_attachment_in_each_format():
    collector, _, end, shop, _ = shared()
    wanted = {"service": "shop", "route": "GET /fib/{n}", **span(end)}
    kinds = {"pprof": ".pb.gz", "folded": ".folded", "html": ".html"}
    for name in kinds:
        status, headers, body = get(collector, query("profile", format=name, **wanted))
        assert status == 200, (name, body[:200])
        found = re.fullmatch(r'attachment; filename="(sonde-shop-get-fib-n\.[a-z.]+)"', headers["Content-Disposition"])
        assert found, headers["Content-Disposition"]
        if name == "pprof":
            assert b"fib" in gzip.decompress(body)
        if name == "folded":
            total = sum(int(line.rpartition(b" ")[2]) for line in body.splitlines())
            truth = shop.truth["GET /fib/{n}"]
            assert abs(total - truth.sum_ns / 1000) < len(body.splitlines()) + 1, (total, truth.sum_ns)
        if name == "html":
            assert headers["Content-Type"].startswith("text/html")


BAD = [
    ("processes?nonsense=1", "nonsense"), ("processes?from=yesterday", "from"), ("processes?from=-5", "from"),
    ("processes?from=-5x", "from"), ("processes?from=", "from"), ("processes?from=1e9", "from"), ("processes?from=99999999999999999999", "from"),
    ("processes?from=-99999999999999d", "from"), ("processes?from=20&to=10", "from"), ("processes?to=abc", "to"), ("processes?from=1&from=2", "twice"),
    ("processes?process=xyz", "process"), ("processes?process=A1B2C3D4E5F60718", "process"), ("routes?what=cpu", "what"), ("routes?service=%ff", "UTF-8"),
    ("routes?service=a%00b", "UTF-8"), ("latency?what=nonsense", "what"), ("latency?step=0", "step"), ("latency?step=-1", "step"),
    ("latency?step=0.1&from=-1d", "step"), ("flame?state=cpu,nonsense", "state"), ("flame?state=", "state"), ("flame?latency_min=1.5", "latency_min"),
    ("flame?latency_min=-1", "latency_min"), ("flame?latency_max=99999999999999999999", "latency_max"), ("flame?latency_min=9&latency_max=8", "latency_min"),
    ("flame?format=xml", "format"), ("profile", "format"), ("profile?format=xml", "format"), ("live?route=x", "route"), ("live?nonsense=1", "nonsense"),
    ("routes?" + "&".join(f"a{i}=1" for i in range(20)), "parameters"),
]


@test
def bad_parameters_are_said_to_be_bad():
    collector, *_ = shared()
    for path, words in BAD:
        status, headers, body = get(collector, "/api/v1/" + path)
        assert status == 400, (path, status, body[:200])
        assert headers["Content-Type"] == "application/json"
        assert words in json.loads(body)["error"], (path, body)
    status, _, body = get(collector, "/metrics?x=1")
    assert status == 400 and "x" in json.loads(body)["error"]


@test
def good_parameters_are_understood():
    collector, _, end, *_ = shared()
    for path in ("processes", "routes", "latency", "flame"):
        for parameters in ({"from": "-30s"}, {"from": "-5m", "to": "now"}, {"from": "-2h", "to": "-1h"}, {"from": "-1d"}, {"from": "-1.5m"},
                           {"from": "0", "to": "1.25"}, {"from": "5", "to": "5"}, {"service": "no such"}, {"route": "no such"}, {"route": ""},
                           {"process": "0123456789abcdef"}, {"service": "ä \"<&", "route": "'\\"}, span(end)):
            answer = http_ok(collector, query(path, **parameters))
            if path != "processes" and "to" in parameters and parameters["to"] == "1.25":
                assert (answer["from"], answer["to"]) == (0, 1.25)


@test
def http_answers_only_what_it_should():
    collector, *_ = shared()
    status, headers, body = get(collector, "/nonsense")
    assert status == 404 and "error" in json.loads(body)
    assert get(collector, "/api/v1/")[0] == 404 and get(collector, "/report-template")[0] == 404
    assert get(collector, "/../../etc/passwd")[0] == 404 and get(collector, "/api/v1/routes/")[0] == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, headers, body = get(collector, "/api/v1/routes", method=method)
        assert status == 405 and headers["Allow"] == "GET, HEAD", (method, status)
    status, headers, body = get(collector, "/api/v1/processes", method="HEAD")
    assert status == 200 and body == b"" and int(headers["Content-Length"]) > 0
    for host in ("evil.example", "127.0.0.1.evil.example:80", "10.0.0.1", "[::2]:1", "localhost.evil", ""):
        assert get(collector, "/api/v1/routes", {"Host": host})[0] == 403, host
    for host in ("localhost", f"localhost:{collector.http_port}", "127.0.0.1", "127.0.0.5:1", "[::1]:7070"):
        assert get(collector, "/api/v1/routes", {"Host": host})[0] == 200, host
    for path in ("/", "/api/v1/routes", "/metrics", "/nonsense"):
        _, headers, _ = get(collector, path)
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store" and "Access-Control-Allow-Origin" not in headers
    status, headers, body = get(collector, "/")
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    status, headers, packed = get(collector, "/", {"Accept-Encoding": "br, gzip"})
    assert headers["Content-Encoding"] == "gzip" and gzip.decompress(packed) == body
    _, headers, packed = get(collector, "/api/v1/flame", {"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip" and json.loads(gzip.decompress(packed))["total"]
    for no in ("gzip;q=0", "identity", "br"):
        assert get(collector, "/api/v1/flame", {"Accept-Encoding": no})[1]["Content-Encoding"] is None


@test
def http_survives_garbage():
    collector, *_ = shared()
    for data in (os.urandom(2000), b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100000, b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
                 b"GET /%zz%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n" * 1000, b"GET /api/v1/routes HTTP/1.0\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", collector.http_port), 5) as s, contextlib.suppress(OSError):
            s.settimeout(5)
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            while s.recv(65536):
                pass
    assert get(collector, "/api/v1/routes")[0] == 200


def heavy_history(collector, windows, rows):
    """Many rows, of which every window has the same: what the longest questions are made of. Returns the agent."""
    agent, now = agentsim.Agent(), time.time_ns()
    agent.greet(collector.address)
    stacks = len(agent.stacks)
    columns = [[1] * rows, [agentsim.CPU] * rows, [i % 80 for i in range(rows)], [i % (stacks + 1) for i in range(rows)], [2] * rows,
               [0] * rows, [1] * rows, [10_000_000] * rows]
    packed = agentsim.field(6, b"".join(agentsim.field_packed(n, column) for n, column in enumerate(columns, 1)))
    for seq in range(1, windows + 1):
        agent.send(agentsim.frame("window", agentsim.message((1, seq), (4, now - SECOND), (5, now - 1)) + packed))
        agent.acknowledged()
    return agent


@test
def marks_of_programs_and_agents_are_listed():
    collector, now = tap.Collector(), time.time_ns()
    agent, other = agentsim.Agent(), agentsim.Agent("billing", pid=5000, seed=2)
    for one, name in ((agent, "deploy <v2>"), (other, "SONDE_HZ=many: not a number")):
        one.greet(collector.address)
        one.send(agentsim.frame("event", agentsim.message((1, now if one is agent else now - SECOND), (2, name))))
        one.send(one.window(now))
        one.acknowledged()
    marks = [{"time": now // 1_000_000 / 1000, "service": "shop", "process": f"{agent.instance:016x}", "name": "deploy <v2>"},
             {"time": (now - SECOND) // 1_000_000 / 1000, "service": "billing", "process": f"{other.instance:016x}",
              "name": "SONDE_HZ=many: not a number"}]
    assert collector.get("routes")["marks"] == marks, collector.get("routes")["marks"]
    assert collector.get("routes", service="shop")["marks"] == marks[:1]
    assert collector.get("routes", process=f"{other.instance:016x}")["marks"] == marks[1:]
    assert collector.get("routes", process="00000000000000ff")["marks"] == []
    assert collector.get("routes", to="-1m")["marks"] == []
    samples = metrics(collector)
    assert samples["sonde_collector_marks_total", ()] == 2 and samples["sonde_collector_symbols_refused_total", ()] == 0
    tap.stop(collector.process, signal.SIGKILL)
    collector.start()
    assert collector.get("routes")["marks"] == marks, "marks survive"


@test
def long_questions_hold_up_nobody():
    collector = tap.Collector()
    heavy_history(collector, 200, 100_000)
    kept = http.client.HTTPConnection("127.0.0.1", collector.http_port, timeout=20)  # opened before, as a page's
    kept.request("GET", "/api/v1/processes")
    kept.getresponse().read()
    stream = urllib.request.urlopen(collector.url + "/api/v1/live", timeout=20)
    took, longest, end = [], 0, time.monotonic() + 4

    def ask_for_graphs():
        while (started := time.monotonic()) < end:
            assert get(collector, "/api/v1/flame")[0] == 200
            took.append(time.monotonic() - started)

    askers = [threading.Thread(target=ask_for_graphs) for _ in range(6)]
    for asker in askers:
        asker.start()
    time.sleep(0.1)
    while any(asker.is_alive() for asker in askers):
        started = time.monotonic()
        kept.request("GET", "/api/v1/processes")
        assert kept.getresponse().read()
        assert get(collector, "/api/v1/processes")[0] == 200
        longest = max(longest, time.monotonic() - started)
        started = time.monotonic()
        while not stream.readline().startswith(b"data: "):
            pass
        longest = max(longest, time.monotonic() - started - 1)
    usual = statistics.median(took)
    print(f"# {len(took)} graphs of {usual:.2f} s; beside them at most {longest:.2f} s")
    assert longest < usual / 2, (longest, took)


@test
def reports_asked_for_at_once_wait_for_each_other():
    """More than are made at a time; each of them asks for call trees itself."""
    collector, *_ = shared()
    answers = []
    askers = [threading.Thread(target=lambda: answers.append(get(collector, "/api/v1/profile?format=html")[0])) for _ in range(9)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(60)
    assert answers == [200] * 9, answers


# ---- Live ----

def open_live(collector, parameters=""):
    s = socket.create_connection(("127.0.0.1", collector.http_port), 5)
    s.sendall(f"GET /api/v1/live{parameters} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return s


@test
def live_ticks_once_a_second():
    collector = tap.Collector()
    agent = agentsim.Agent()
    agent.history(collector.address, 3)
    ticks, times = [], []
    with urllib.request.urlopen(collector.url + "/api/v1/live?service=shop", timeout=10) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        while len(ticks) < 4:
            line = stream.readline().decode().strip()
            if line.startswith("data: "):
                ticks.append(json.loads(line[6:]))
                times.append(time.monotonic())
            else:
                assert line in ("", "event: tick"), line
    assert 2.5 < times[-1] - times[0] < 4.5, times
    assert ticks[0]["processes"][0]["state"] == "live" and ticks[0]["routes"]
    assert set(ticks[0]) == {"time", "processes", "routes", "background", "marks"}
    with urllib.request.urlopen(collector.url + "/api/v1/live?service=nobody", timeout=10) as stream:
        assert stream.readline() == b"event: tick\n"
        assert json.loads(stream.readline()[6:])["routes"] == []


@test
def live_drops_who_does_not_read_and_blocks_nobody():
    collector = tap.Collector()
    # Many routes make a tick large, so that the sockets of those who do not read fill up.
    routes = {f"GET /{i}/" + "x" * 400: {"rate": 1, "error": 0, "mean": {agentsim.CPU: 1000}, "stacks": {}} for i in range(700)}
    agent = agentsim.Agent(routes=routes)
    agent.greet(collector.address)
    silent = [open_live(collector) for _ in range(8)]
    for s in silent:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader = urllib.request.urlopen(collector.url + "/api/v1/live", timeout=10)
    end, longest, ticks = time.monotonic() + 20, 0, 0
    dropped = lambda: metrics(collector)["sonde_collector_live_clients", ()] == 1
    while time.monotonic() < end:
        agent.send(agent.window(time.time_ns()))
        agent.acknowledged()
        started = time.monotonic()
        while not reader.readline().startswith(b"data: "):
            pass
        ticks += 1
        assert get(collector, "/api/v1/processes")[0] == 200
        longest = max(longest, time.monotonic() - started)
        if ticks > 12 and dropped():
            break
    assert dropped(), "silent clients are still there"
    assert longest < 3, longest
    for s in silent:
        s.close()


@test
def live_bounds_its_clients():
    collector = tap.Collector()
    clients = [open_live(collector) for _ in range(64)]
    wait_for(lambda: metrics(collector)["sonde_collector_live_clients", ()] == 64, "64 clients")
    status, _, body = get(collector, "/api/v1/live")
    assert status == 503 and "error" in json.loads(body)
    assert get(collector, "/api/v1/routes")[0] == 200
    for s in clients:
        s.close()
    wait_for(lambda: metrics(collector)["sonde_collector_live_clients", ()] == 0, "the clients to be gone", 20)


# ---- Metrics ----

LINE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')


def metrics(collector):
    """Every sample of /metrics: {(name, sorted labels): value}, checked by the rules of the text format."""
    status, headers, body = get(collector, "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples, types, current = {}, {}, None
    assert body.endswith(b"\n")
    for line in body.decode().splitlines():
        if line.startswith("# HELP "):
            continue
        if line.startswith("# TYPE "):
            _, _, current, kind = line.split(" ")
            assert current not in types and kind in ("counter", "gauge", "histogram"), line
            types[current] = kind
            continue
        found = LINE.fullmatch(line)
        assert found, line
        name, labels = found[1], found[2] or ""
        parsed = LABEL.findall(labels)
        assert "".join(f'{k}="{v}",' for k, v in parsed).rstrip(",") == labels.rstrip(","), line
        base = name
        if types[current] == "histogram":
            base = re.sub("_(bucket|sum|count)$", "", name)
        assert base == current, line
        key = name, tuple(sorted(parsed))
        assert key not in samples, f"twice: {line}"
        samples[key] = float(found[3])
    return samples


@test
def metrics_are_exact_and_well_formed():
    collector, _, _, shop, other = shared()
    samples = metrics(collector)
    for agent, service in ((shop, "shop"), (other, "billing")):
        for name, truth in agent.truth.items():
            labels = (("route", name), ("service", service))
            assert samples["sonde_requests_total", labels] == truth.count
            assert samples["sonde_errors_total", labels] == truth.errors
            assert samples["sonde_latency_seconds_count", labels] == truth.count
            assert abs(samples["sonde_latency_seconds_sum", labels] - truth.sum_ns / 1e9) < 1e-6
            assert samples["sonde_in_flight", labels] == 0
            edges = sorted((math.inf if dict(k[1])["le"] == "+Inf" else float(dict(k[1])["le"]), v) for k, v in samples.items()
                           if k[0] == "sonde_latency_seconds_bucket" and dict(k[1])["route"] == name and dict(k[1])["service"] == service)
            assert len(edges) == 17 and edges[-1] == (math.inf, truth.count)
            for edge, count in edges:  # exact: no request is on the wrong side of an edge
                assert count == sum(ns <= edge * 1e9 for ns in truth.latencies), (name, edge)
            for state, ns in zip(agentsim.STATES, truth.ledger):
                got = samples["sonde_state_seconds_total", (("route", name), ("service", service), ("state", state))]
                assert abs(got - ns / 1e9) < 1e-6
    process = (("process", f"{shop.instance:016x}"), ("service", "shop"))
    assert samples["sonde_lost_windows_total", process] == 0
    assert abs(samples["sonde_agent_cpu_seconds_total", process] - 180 * 0.0023) < 1e-9
    assert samples["sonde_drops_total", (("cause", "ring full"),)] == 1


@test
def metrics_only_grow():
    collector = tap.Collector()
    agent = agentsim.Agent("a \"quoted\\ service")
    agent.greet(collector.address)
    before = {}
    for _ in range(4):
        agent.send(agent.window(time.time_ns()))
        agent.acknowledged()
        now = metrics(collector)
        for key, value in before.items():
            if key[0].endswith(("_total", "_bucket", "_count", "_sum")):
                assert now[key] >= value, key
        before = now
    labels = (("route", "GET /fib/{n}"), ("service", 'a \\"quoted\\\\ service'))
    assert before["sonde_requests_total", labels] == agent.truth["GET /fib/{n}"].count
    assert before["sonde_in_flight", labels] >= 0


if __name__ == "__main__":
    tap.run()

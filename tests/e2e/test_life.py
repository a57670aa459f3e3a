"""The host never notices: programs of all shapes behave under the agent as without, and their requests are counted."""
import os
import pathlib
import re
import signal
import time

import load
import tap
from tap import environment, listening, outcome, preloaded, under_agent

PYTHON = "/usr/bin/python3"
SUBJECT = pathlib.Path(__file__).with_name("subject.py")
WORKER = tap.BUILD / "examples/embed/worker"


def same(*command, **more):
    """Run without and with the agent: nothing may differ."""
    without, under = outcome(command), outcome(command, preloaded(**more))
    assert without == under, f"{command}: {without} became {under}"
    return without


def drive(port, requests=240, path="/hello/7"):
    """Requests over several kept connections and some fresh ones; how many were answered."""
    each = requests // 6
    clients = [load.Client([path] * each, (0.0, 0.01)) for _ in range(4)]
    clients += [load.Client([path] * each, (0.0, 0.01), fresh=True) for _ in range(2)]
    result = load.run(port, clients)
    assert not result.failures, result.failures[:5]
    return sum(result.sent.values())


def settle(process):
    """
    Wait until the threads that served requests are gone. A client has its answer before the server's thread is back from
    send(): a process that ends in between, without waiting for that thread, ends with a request in progress, which no
    one counts. Seen in 2 of 60 runs.
    """
    def threads(pid):
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return max([len(os.listdir(f"/proc/{pid}/task"))] + [threads(child) for child in children])
    tap.wait_for(lambda: threads(process.pid) <= 2, "only the main thread and the agent's to be left")


def count(collector, service, route="GET /hello/{n}"):
    return collector.routes(service=service).get(route, {"count": 0})["count"]


def counted(collector, service, sent, route="GET /hello/{n}"):
    tap.wait_for(lambda: count(collector, service, route) >= sent, f"{sent} requests of {service}")
    time.sleep(1.5)  # one more would come with the next window
    assert count(collector, service, route) == sent, (count(collector, service, route), sent)


@tap.test
def without_a_collector_real_programs_do_the_same():
    scratch = tap.scratch()
    (scratch / "words").write_text("".join(f"word {n * 7919 % 1000}\n" for n in range(20000)))
    for command in [
        ["ls", "-la", "/usr/lib"],
        ["sort", "-u", "--parallel=2", scratch / "words"],
        ["grep", "-c", "word 9", scratch / "words"],
        ["sh", "-c", f"cat {scratch}/words | sort | uniq -c | sort -rn | head -3; exit 5"],
        ["bash", "-c", "for i in $(seq 30); do (exit $i) & done; wait; echo done >&2; exit 7"],
        ["awk", "BEGIN {for (i = 0; i < 100000; i++) s += i; print s; exit 9}"],
        [PYTHON, "-c", "import ssl, sqlite3, json; print(json.dumps({'a': 1})); raise SystemExit(4)"],
        [PYTHON, "-c", "import asyncio\nasync def f(): await asyncio.sleep(0.05); return 3\nprint(asyncio.run(f()))"],
        [PYTHON, "-c", "import multiprocessing as m\nif __name__ == '__main__':\n with m.Pool(3) as p: print(p.map(abs, range(-50, 0)))"],
        ["tar", "-C", scratch, "-cf", "-", "--mtime=@0", "words"],
        ["curl", "-sS", "--max-time", "5", f"http://127.0.0.1:{tap.free_port()}/"],
        ["ls", "/does/not/exist"],
        ["env", "-i", "/bin/echo", "an empty environment"],
    ]:
        same(*command)


@tap.test
def sonde_run_says_once_that_no_collector_answers():
    address = f"tcp:127.0.0.1:{tap.free_port()}"
    status, out, err = outcome([tap.SONDE, "run", "--collector", address, "--", "sh", "-c", "echo out; echo err >&2; exit 6"])
    assert (status, out) == (6, b"out\n"), (status, out, err)
    lines = err.decode().splitlines()
    assert len(lines) == 2 and address in lines[0] and lines[1] == "err", lines


@tap.test
def exit_statuses_and_deaths_pass_through():
    collector = tap.Collector()
    for script, status in ("exit 0", 0), ("exit 37", 37), ("kill -9 $$", -9), ("kill -SEGV $$", -11), ("kill -TERM $$", -15):
        got = outcome(under_agent(collector, "exit", "sh", "-c", script))
        assert got == (status, b"", b""), (script, got)
    for command, status in (["/no/such/program"], 127), (["/etc/passwd"], 126):
        assert outcome(under_agent(collector, "exit", *command))[0] == status, command


@tap.test
def signals_pass_through():
    collector = tap.Collector()
    send = [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPROF, signal.SIGRTMIN + 10, signal.SIGTERM]
    process = tap.start(*under_agent(collector, "signals", PYTHON, SUBJECT, "signals"))
    tap.wait_for(lambda: "ready" in process.output(), "the subject")
    for n, number in enumerate(send):
        process.send_signal(number)
        tap.wait_for(lambda n=n: len(process.output().splitlines()) == n + 2 or process.poll() is not None, f"signal {number}")
    assert process.wait(10) == 3, process.output()
    assert process.output().split() == ["ready"] + [str(int(number)) for number in send], process.output()


@tap.test
def disabled_the_agent_does_nothing():
    collector = tap.Collector()
    env = environment(LD_PRELOAD=str(tap.AGENT), SONDE_COLLECTOR=collector.address, SONDE_SERVICE="off")
    code = [PYTHON, "-c", "import os, time; time.sleep(2); print(len(os.listdir('/proc/self/task')))"]
    assert outcome(code, {**env, "SONDE_DISABLE": "1"}) == (0, b"1\n", b"")
    assert not [p for p in collector.get("processes")["processes"] if p["service"] == "off"]
    assert outcome(code, env)[0] == 0  # the same without the switch shows that the test can fail
    assert [p for p in collector.get("processes")["processes"] if p["service"] == "off"]


@tap.test
def threads_that_come_and_go_leave_nothing():
    assert same(PYTHON, SUBJECT, "churn")[1] == b"descriptors stay\nmemory stays\n"


@tap.test
def a_profiling_timer_of_the_program_works_on():
    assert same(PYTHON, SUBJECT, "profiled", SONDE_HZ="1000")[1] == b"ticks come\n"


@tap.test
def blocking_calls_are_not_interrupted():
    assert same(PYTHON, SUBJECT, "undisturbed", SONDE_HZ="1000", SONDE_LOOK_HZ="1000")[1] == b"undisturbed\n"


@tap.test
def children_of_fork_and_vfork_end_as_told():
    assert same(PYTHON, SUBJECT, "children")[1] == b"children ended as told\n"


@tap.test
def a_prefork_server_is_counted_over_its_processes():
    collector, port = tap.Collector(), tap.free_port()
    server = tap.start(*under_agent(collector, "prefork", PYTHON, SUBJECT, "prefork", port))
    tap.wait_for(lambda: listening(port), "the server")
    sent = drive(port)
    settle(server)
    assert tap.stop(server) == 0, server.output()
    counted(collector, "prefork", sent)
    processes = [p for p in collector.get("processes")["processes"] if p["service"] == "prefork"]
    assert len({p["pid"] for p in processes}) == 4, processes


@tap.test
def an_exec_begins_a_new_instance_and_loses_nothing():
    collector, port = tap.Collector(), tap.free_port()
    server = tap.start(*under_agent(collector, "reexec", PYTHON, SUBJECT, "reexec", port))
    tap.wait_for(lambda: listening(port), "the server")
    sent = drive(port)
    settle(server)
    server.send_signal(signal.SIGHUP)
    tap.wait_for(lambda: len([p for p in collector.get("processes")["processes"] if p["service"] == "reexec"]) == 2,
                 "the second instance")
    tap.wait_for(lambda: listening(port), "the server again")
    sent += drive(port)
    settle(server)
    assert tap.stop(server) == 0, server.output()
    counted(collector, "reexec", sent)


@tap.test
def a_daemon_that_closes_every_descriptor_is_still_heard():
    collector, port, pid_file = tap.Collector(), tap.free_port(), tap.scratch() / "pid"
    assert outcome(under_agent(collector, "daemon", PYTHON, SUBJECT, "daemon", port, pid_file))[0] == 0
    pid = int(tap.wait_for(lambda: pid_file.read_text(), "the daemon"))
    try:
        tap.wait_for(lambda: listening(port), "the server")
        sent = drive(port)
        counted(collector, "daemon", sent)
    finally:
        os.kill(pid, signal.SIGTERM)
    tap.wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the daemon to end")


@tap.test
def a_server_that_drops_its_privileges_is_still_heard():
    if os.geteuid() != 0:
        print("# not root: nothing to drop")
        return
    collector, port = tap.Collector(), tap.free_port()
    server = tap.start(*under_agent(collector, "dropped", PYTHON, SUBJECT, "dropped", port))
    tap.wait_for(lambda: listening(port), "the server")
    sent = drive(port)
    settle(server)
    assert tap.stop(server) == 0, server.output()
    counted(collector, "dropped", sent)


@tap.test
def what_a_script_starts_is_under_the_agent():
    collector, port, script = tap.Collector(), tap.free_port(), tap.scratch() / "start.sh"
    script.write_text(f"#!/bin/sh\necho starting\n{PYTHON} {SUBJECT} plain {port} &\ntrap 'kill $!' TERM\nwait $!\nwait $!\n")
    script.chmod(0o755)
    server = tap.start(*under_agent(collector, "script", script))
    tap.wait_for(lambda: listening(port), "the server")
    sent = drive(port)
    settle(server)
    tap.stop(server)
    assert server.output() == "starting\n", server.output()
    counted(collector, "script", sent)


@tap.test
def pythons_own_http_server_is_counted():
    collector, port, files = tap.Collector(), tap.free_port(), tap.scratch()
    (files / "page.txt").write_text("x" * 5000)
    server = tap.start(*under_agent(collector, "files", PYTHON, "-m", "http.server", "--bind", "127.0.0.1",
                                    "--directory", files, port))
    tap.wait_for(lambda: listening(port), "the server")
    sent = drive(port, 120, "/page.txt")
    counted(collector, "files", sent, "GET /page.txt")
    tap.stop(server, signal.SIGINT)


# A socket with a timeout is non-blocking below, and waits in poll(): as CPython, libpq and curl do.
TIMEOUT_UPSTREAM = """
import http.server, socket, sys, threading, time
peer = socket.create_server(("127.0.0.1", 0))
def answer_late():
    while True:
        connection, _ = peer.accept()
        while connection.recv(100):
            time.sleep(0.03)
            connection.sendall(b"late")
threading.Thread(target=answer_late, daemon=True).start()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        with socket.create_connection(peer.getsockname(), timeout=5) as upstream:
            upstream.sendall(b"ask")
            body = upstream.recv(100)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@tap.test
def a_peer_waited_for_with_poll_is_io():
    collector, port = tap.Collector(), tap.free_port()
    server = tap.start(*under_agent(collector, "upstream", PYTHON, "-c", TIMEOUT_UPSTREAM, port))
    tap.wait_for(lambda: listening(port), "the server")
    sent = drive(port, 40, "/late")
    counted(collector, "upstream", sent, "GET /late")
    ledger = collector.routes(service="upstream")["GET /late"]["ledger"]
    assert ledger["io"] >= 29_000_000 and ledger["io"] >= 0.95 * sum(ledger.values()), ledger
    tap.stop(server, signal.SIGINT)


@tap.test
def jobs_of_the_api_become_requests():
    collector = tap.Collector()
    alone = outcome([WORKER, "200"])
    assert alone == (0, b"200 jobs done\n", b""), alone
    assert outcome(under_agent(collector, "jobs", WORKER, "200")) == alone
    counted(collector, "jobs", 200, "JOB resize")
    job = collector.routes(service="jobs")["JOB resize"]
    assert job["errors"] == 20, job
    assert 2_000_000 <= job["ledger"]["sleep"] <= 3_000_000, job
    assert job["ledger"]["cpu"] > 50_000, job
    assert sum(job["ledger"].values()) == job["latency"]["mean"], job
    marks = [m["name"] for m in collector.get("routes", service="jobs", **{"from": "-1h"})["marks"]]
    assert "jobs begin" in marks, marks
    assert any(re.fullmatch(r"JOB resize took [\d.]+ ms, failed: kind=example", name) for name in marks), marks
    assert any(re.fullmatch(r"JOB resize took [\d.]+ ms: kind=example", name) for name in marks), marks


@tap.test
def redis_serves_as_ever():
    collector, port = tap.Collector(), tap.free_port()
    server = tap.start(*under_agent(collector, "redis", "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", ""))
    tap.wait_for(lambda: listening(port), "redis")
    with load.socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for n in range(1000):
            client.sendall(f"SET k{n} v{n}\r\nGET k{n}\r\n".encode())
            answer = b""
            while not answer.endswith(f"v{n}\r\n".encode()):
                answer += client.recv(4096)
            assert answer == f"+OK\r\n${len(str(n)) + 1}\r\nv{n}\r\n".encode(), answer
    assert tap.stop(server) == 0, server.output()
    assert any(p["service"] == "redis" for p in collector.get("processes")["processes"])


if __name__ == "__main__":
    tap.run()

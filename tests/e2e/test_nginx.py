"""nginx as Debian ships it, unmodified, serving files and proxying, under the agent."""
import contextlib
import os
import random
import re
import signal
import socket
import time

import load
import tap

NGINX = "/usr/sbin/nginx"
FILES = {"/file.bin": 200_000, "/small.txt": 100, "/empty": 0, "/docs/7/page.html": 3000}

CONFIG = """
daemon {daemon};
pid {dir}/nginx.pid;
worker_processes 1;
error_log {dir}/error.log info;
{user}
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 100000;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    upstream kept {{ server 127.0.0.1:{upstream}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{port};
        root {dir}/files;
        location /api/ {{ proxy_pass http://127.0.0.1:{upstream}/; }}
        location /kept/ {{ proxy_pass http://kept/; proxy_http_version 1.1; proxy_set_header Connection ""; }}
        location /dead/ {{ proxy_pass http://127.0.0.1:{dead}/; }}
    }}
}}
"""


class Nginx:
    """Its directory, its upstream (the demo, without the agent), and itself, under the agent when a collector is given."""

    def __init__(self, collector=None, daemon="off"):
        self.dir, self.port, upstream = tap.scratch(), tap.free_port(), tap.free_port()
        self.dir.chmod(0o755)
        content = random.Random(1)
        for name, size in FILES.items():
            path = self.dir / "files" / name[1:]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.randbytes(size))
            os.utime(path, (1_700_000_000, 1_700_000_000))
        (self.dir / "nginx.conf").write_text(CONFIG.format(
            daemon=daemon, dir=self.dir, port=self.port, upstream=upstream, dead=tap.free_port(),
            user="user www-data;" if os.geteuid() == 0 else ""))
        self.upstream = tap.start(tap.DEMO, "--listen", f"127.0.0.1:{upstream}", "--workers", 16)
        tap.wait_for(lambda: "http://" in self.upstream.output(), "the upstream")
        agent = [tap.SONDE, "run", "--service", "nginx", "--collector", collector.address, "--"] if collector else []
        self.process = tap.start(*agent, NGINX, "-e", self.dir / "error.log", "-p", self.dir, "-c", self.dir / "nginx.conf")
        tap.wait_for(lambda: (self.dir / "nginx.pid").read_text(), "nginx's pid file")
        self.pid = int((self.dir / "nginx.pid").read_text())
        tap.wait_for(lambda: socket.create_connection(("127.0.0.1", self.port), timeout=1).close() is None, "nginx")

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGQUIT)
        tap.wait_for(lambda: self.process.poll() is not None and not os.path.exists(f"/proc/{self.pid}"), "nginx to end")
        assert self.process.returncode == 0, self.process.output()
        assert self.process.output() == "", self.process.output()
        wrong = [line for line in self.errors() if "/dead/" not in line and "/nothing" not in line]
        assert not wrong, wrong[:5]

    def errors(self):
        return re.findall(r"^.*\[(?:warn|error|crit|alert|emerg)\].*$", (self.dir / "error.log").read_text(), re.M)


def exchange(port, request):
    """Raw bytes out, raw bytes back until the server closes; the parts that differ by themselves are blanked."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(request)
        answer = b""
        while data := client.recv(1 << 16):
            answer += data
    return re.sub(rb"\r\n(Date|ETag): [^\r]*", rb"\r\n\1: -", answer)


def get(path, *fields, method="GET"):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *fields, "", ""]).encode()


CLOSE = "Connection: close"
CONVERSATIONS = {
    **{path: get(path, CLOSE) for path in [*FILES, "/nothing", "/api/fast", "/api/error", "/api/file", "/kept/file", "/dead/x"]},
    "kept alive": get("/small.txt") + get("/file.bin", CLOSE),
    "pipelined": get("/small.txt") * 20 + get("/api/fast") + get("/file.bin") + get("/small.txt", CLOSE),
    "head": get("/file.bin", method="HEAD") + get("/small.txt", CLOSE),
    "range": get("/file.bin", "Range: bytes=1000-1999") + get("/file.bin", "Range: bytes=-5,10-20", CLOSE),
    "not modified": get("/file.bin", "If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT") + get("/small.txt", CLOSE),
    "post": get("/api/fast", "Content-Length: 5", method="POST") + b"hello" + get("/small.txt", CLOSE),
    "chunked post": get("/api/fast", "Transfer-Encoding: chunked", method="POST") + b"5\r\nhello\r\n0\r\n\r\n" +
                    get("/small.txt", CLOSE),
    "expect": get("/api/fast", "Content-Length: 5", "Expect: 100-continue", CLOSE, method="POST") + b"hello",
    "nonsense": b"\x16\x03\x01\x02\x00 this is not HTTP\r\n\r\n",
    "old": b"GET /small.txt HTTP/1.0\r\n\r\n",
}


def conversations(port):
    return {name: exchange(port, request) for name, request in CONVERSATIONS.items()}


def load_clients(rounds):
    client = load.Client
    return [client(["/file.bin", "/small.txt"] * rounds) for _ in range(2)] + \
           [client(["/api/sleep/20"] * (rounds // 2)), client(["/kept/sleep/20"] * (rounds // 2)),
            client(["/docs/7/page.html"] * rounds, fresh=True), client(["/api/file"] * rounds),
            client(["/nothing"] * 20)]


def expect(path):
    return 404 if path == "/nothing" else 200


def drive(nginx, collector, reload):
    """2,000 requests, a reload of the configuration in the middle; then the collector's routes."""
    sent = load.collections.Counter()
    for again in (False, True):
        if again and reload:
            workers = children(nginx.pid)
            os.kill(nginx.pid, signal.SIGHUP)
            tap.wait_for(lambda: children(nginx.pid) and not children(nginx.pid) & workers, "the new worker")
        result = load.run(nginx.port, load_clients(142), expect=expect)
        assert not result.failures, result.failures[:5]
        sent += result.sent
    nginx.stop()
    expected = {"GET /file.bin": sent["/file.bin"], "GET /small.txt": sent["/small.txt"],
                "GET /api/sleep/{n}": sent["/api/sleep/20"], "GET /kept/sleep/{n}": sent["/kept/sleep/20"],
                "GET /docs/{n}/page.html": sent["/docs/7/page.html"], "GET /api/file": sent["/api/file"],
                "(unmatched 404)": sent["/nothing"]}
    assert sum(expected.values()) > 2000, expected
    tap.wait_for(lambda: sum(r["count"] for r in collector.routes().values()) >= sum(expected.values()), "every request")
    time.sleep(1.5)
    routes = collector.routes()
    for name, route in sorted(routes.items()):
        ledger = {state: round(ns / 1000, 1) for state, ns in route["ledger"].items() if ns}
        print(f"# {name}: {route['count']} requests of {route['latency']['mean'] / 1000:.1f} µs: {ledger}")
    return expected, routes


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as listed:
        return set(listed.read().split())


def check_routes(expected, routes):
    assert {name: route["count"] for name, route in routes.items()} == expected
    for name, route in routes.items():
        ledger, latency = route["ledger"], route["latency"]["mean"]
        assert sum(ledger.values()) == latency, (name, route)
        assert ledger["other"] <= max(0.02 * latency, 20_000), (name, route)
        assert route["errors"] == 0, (name, route)
        # nginx waits for descriptors and for nothing else: what it sleeps until its next timer is waiting for them, too
        assert ledger["sleep"] + ledger["lock"] <= max(0.02 * latency, 50_000), (name, route)
    for name in "GET /api/sleep/{n}", "GET /kept/sleep/{n}":
        assert routes[name]["ledger"]["io"] >= 0.9 * 20_000_000 and routes[name]["latency"]["mean"] >= 20_000_000, routes[name]
    assert routes["GET /small.txt"]["ledger"]["io"] < 5_000_000, routes["GET /small.txt"]


@tap.test
def bytes_are_the_same_with_and_without_the_agent():
    without = Nginx()
    plain = conversations(without.port)
    without.stop()
    under = Nginx(tap.Collector())
    watched = conversations(under.port)
    under.stop()
    for name, answer in plain.items():
        assert answer, name
        assert watched[name] == answer, f"{name}: {len(answer)} bytes became {len(watched[name])}: {watched[name][:300]!r}"
    assert len(plain["/file.bin"]) > FILES["/file.bin"] and b"502 Bad Gateway" in plain["/dead/x"]


@tap.test
def files_and_upstreams_are_counted_and_timed():
    collector = tap.Collector()
    nginx = Nginx(collector)
    check_routes(*drive(nginx, collector, reload=True))


@tap.test
def as_a_daemon_nginx_is_counted_and_timed():
    collector = tap.Collector()
    nginx = Nginx(collector, daemon="on")
    try:
        assert nginx.process.wait(10) == 0 and nginx.pid != nginx.process.pid
        check_routes(*drive(nginx, collector, reload=False))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(nginx.pid, signal.SIGTERM)


if __name__ == "__main__":
    tap.run()

#!/usr/bin/env python3
"""What the agent costs a whole server: nginx (1 KiB file, keep-alive, one worker, h2load) and Redis (GET, redis-benchmark),
with and without it in turn, as ratios pair by pair. Prints medians and the spread; nothing here can fail on noise.

    B=build/release /usr/bin/python3 tests/bench/overhead.py [pairs]
"""
import os
import pathlib
import re
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import tap

REQUESTS = 150_000
TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def under(collector, command):
    return [str(tap.SONDE), "run", "--collector", collector.address, "--", *command] if collector else command


def nginx(collector):
    """(requests a second, CPU µs per request)"""
    home = tap.scratch()
    (home / "file.txt").write_text("x" * 1024)
    port = tap.free_port()
    (home / "nginx.conf").write_text(f"""
        worker_processes 1; daemon off; pid {home}/pid; error_log {home}/error.log;
        events {{ worker_connections 256; }}
        http {{ access_log off; keepalive_requests 100000000;
                client_body_temp_path {home}; proxy_temp_path {home}; fastcgi_temp_path {home};
                uwsgi_temp_path {home}; scgi_temp_path {home};
                server {{ listen 127.0.0.1:{port}; root {home}; }} }}""")
    os.chmod(home, 0o755)
    server = tap.start(*under(collector, ["nginx", "-c", home / "nginx.conf", "-p", home]))
    tap.wait_for(lambda: tap.http(f"http://127.0.0.1:{port}/file.txt")[0] == 200, "nginx")
    worker = int(subprocess.run(["pgrep", "-P", str(server.pid)], capture_output=True, text=True, check=True).stdout.split()[-1])
    before = cpu_seconds(worker)
    out = subprocess.run(["h2load", "--h1", "-n", str(REQUESTS), "-c", "16", "-t", "1",
                          f"http://127.0.0.1:{port}/file.txt"], capture_output=True, text=True, check=True).stdout
    used = cpu_seconds(worker) - before
    tap.stop(server)
    assert f"{REQUESTS} succeeded" in out, out
    return float(re.search(r"([\d.]+) req/s", out).group(1)), used / REQUESTS * 1e6


def redis(collector):
    port = tap.free_port()
    server = tap.start(*under(collector, ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]))
    tap.wait_for(lambda: tap.socket.create_connection(("127.0.0.1", port), 1), "redis")
    before = cpu_seconds(server.pid)
    out = subprocess.run(["redis-benchmark", "-p", str(port), "-n", str(REQUESTS), "-c", "32", "-t", "get", "--csv"],
                         capture_output=True, text=True, check=True, timeout=120).stdout
    used = cpu_seconds(server.pid) - before
    tap.stop(server)
    return float(out.splitlines()[-1].split(",")[1].strip('"')), used / REQUESTS * 1e6


def compare(name, run, pairs):
    collector = tap.Collector()
    rows = []
    for turn in range(pairs):
        order = [None, collector] if turn % 2 else [collector, None]
        got = {bool(c): run(c) for c in order}
        rows.append((got[True][0] / got[False][0], got[True][1] / got[False][1], got[False], got[True]))
    tap.stop_all()
    speed, cpu = sorted(r[0] for r in rows), sorted(r[1] for r in rows)
    plain = statistics.median(r[2][0] for r in rows), statistics.median(r[2][1] for r in rows)
    agent = statistics.median(r[3][1] for r in rows)
    print(f"{name:<8} throughput {statistics.median(speed):.3f} [{speed[0]:.3f} .. {speed[-1]:.3f}] of {plain[0]:,.0f}/s   "
          f"CPU per request {statistics.median(cpu):.3f} [{cpu[0]:.3f} .. {cpu[-1]:.3f}]: {plain[1]:.2f} -> {agent:.2f} µs",
          flush=True)


def main():
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print(f"with the agent / without it, median [least .. most] of {pairs} pairs, {os.cpu_count()} CPUs")
    compare("nginx", nginx, pairs)
    compare("redis", redis, pairs)


if __name__ == "__main__":
    main()

"""What `make demo` runs: it prints what it promised, writes both files, and leaves nothing behind, however it ends."""
import gzip
import os
import pty
import re
import select
import signal
import socket
import subprocess
import time
import uuid

import tap

SCRIPT, OUT = tap.ROOT / "examples/demo/run.sh", tap.ROOT / "build/demo"
ROUTES = ["GET /fast", "GET /fib/{n}", "GET /sleep/{n}", "GET /fibo_sleep/{n}", "GET /lock", "GET /hog", "GET /io",
          "GET /file", "GET /error"]


def environment(mark, **more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SONDE_", "DEMO_"))}
    return {**clean, "B": str(tap.BUILD), "DEMO_TEST_MARK": mark, **more}


def left(mark):
    """Processes that carry the mark in their environment: what this run started and did not stop."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as env, open(f"/proc/{pid}/cmdline", "rb") as command:
                if mark.encode() in env.read():
                    found.append((pid, command.read().replace(b"\0", b" ").decode()))
        except OSError:
            pass
    return found


def clear():
    for name in "profile.pb.gz", "report.html":
        (OUT / name).unlink(missing_ok=True)


def check(output):
    """What every good end looks like."""
    live, _, end = output.partition("In the end:")
    assert re.search(r"Dashboard: +http://127\.0\.0\.1:\d+/", live), output
    assert live.index("Dashboard") < live.index("GET /"), output
    for route in ROUTES:
        assert route in end, (route, output)
        assert re.search(re.escape(route) + r" takes .*%.*\.", end), ("a sentence about " + route, end)
    assert re.search(r"GET /lock takes .*waiting for a lock", end), end
    profile, report = OUT / "profile.pb.gz", OUT / "report.html"
    assert str(profile.relative_to(tap.ROOT)) in end and str(report.relative_to(tap.ROOT)) in end and "pprof" in end, end
    unpacked = gzip.decompress(profile.read_bytes())
    assert b"fib" in unpacked and b"GET /lock" in unpacked
    page = report.read_text()
    assert page.lstrip().lower().startswith("<!doctype html") and "</html>" in page.lower()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page), "the report asks the network"


@tap.test
def it_ends_by_itself_after_demo_seconds():
    clear()
    mark = uuid.uuid4().hex
    start = time.monotonic()
    done = subprocess.run([SCRIPT], env=environment(mark, DEMO_SECONDS="6"), stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=90, check=False)
    took = time.monotonic() - start
    print("\n".join("# " + line for line in done.stdout.splitlines()[-40:]))
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    assert 6 <= took < 60, took
    assert "\033" not in done.stdout, "colours or cursor moves without a terminal"
    assert done.stdout.count("GET /fast") >= 5, "a table once a second"
    check(done.stdout)
    assert not left(mark), left(mark)


@tap.test
def an_interrupt_ends_it_well():
    clear()
    mark = uuid.uuid4().hex
    demo = tap.start(SCRIPT, env=environment(mark, DEMO_SECONDS="0", DEMO_MODE="loop"))
    tap.wait_for(lambda: "GET /sleep/{n}" in demo.output() or demo.poll() is not None, "the first table", 30)
    time.sleep(4)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 0, demo.output()
    check(demo.output())
    assert not left(mark), left(mark)


@tap.test
def ctrl_c_in_a_terminal_ends_it_well_under_make():
    clear()
    mark = uuid.uuid4().hex
    makefile = tap.scratch() / "Makefile"
    makefile.write_text(f"demo:\n\t@{SCRIPT}\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("make", ["make", "-f", str(makefile), "demo"], environment(mark, DEMO_SECONDS="0", TERM="xterm"))
    output, sent, end = b"", None, time.monotonic() + 90
    try:
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    output += os.read(terminal, 65536)
                except OSError:  # the other side is closed
                    break
            if sent is None and output.count(b"GET /fast") >= 3:
                os.write(terminal, b"\x03")
                sent = time.monotonic()
    finally:
        os.close(terminal)
        if sent is None or time.monotonic() >= end:
            os.kill(pid, signal.SIGTERM)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    text = output.decode().replace("\r\n", "\n")
    assert sent, text
    assert status == 0, (status, text)
    assert "\033[" in text, "in a terminal the table stays in its place"
    assert "In the end:" in text and "report.html" in text and "Interrupt" not in text, text
    assert not left(mark), left(mark)


@tap.test
def busy_ports_are_said_and_gone_around():
    mark = uuid.uuid4().hex
    held = []
    for port in 7070, 8080:
        busy = socket.socket()
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            busy.bind(("127.0.0.1", port))
            busy.listen()
        except OSError:
            pass  # somebody else holds it: as good
        held.append(busy)
    done = subprocess.run([SCRIPT], env=environment(mark, DEMO_SECONDS="1"), stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=90, check=False)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    assert "Port 7070 is busy, using " in done.stderr and "Port 8080 is busy, using " in done.stderr, done.stderr
    assert not left(mark), left(mark)


@tap.test
def a_broken_build_is_said_and_leaves_nothing():
    mark, broken = uuid.uuid4().hex, tap.scratch()
    (broken / "sonde").write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
    (broken / "sonde").chmod(0o755)
    done = subprocess.run([SCRIPT], env=environment(mark, DEMO_SECONDS="5", B=str(broken)), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "no such thing" in done.stderr, (done.returncode, done.stderr)
    assert not left(mark), left(mark)


if __name__ == "__main__":
    tap.run()

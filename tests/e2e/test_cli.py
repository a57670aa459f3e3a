#!/usr/bin/python3
"""The commands of `sonde` beside serve, run as a person would: what they print, where, and how they exit."""
import gzip
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time

import tap
from tap import AGENT, SONDE, test

COMMANDS = ("run", "top", "export", "diff", "doctor")
SIM = tap.ROOT / "tests/e2e/agentsim.py"


def sonde(*arguments, env=None, seconds=60, **options):
    """Run to the end: CompletedProcess with text. The caller's own SONDE_ and LD_PRELOAD settings stay out."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SONDE_") and k not in ("LD_PRELOAD", "NO_COLOR")}
    clean["XDG_RUNTIME_DIR"] = "/nonexistent"  # so that nobody's Unix socket is found
    clean.update(env or {})
    return subprocess.run([str(SONDE), *map(str, arguments)], env=clean, timeout=seconds, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", **options)


def nowhere():
    """An address where nobody listens, as long as it is held."""
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    return s, f"127.0.0.1:{s.getsockname()[1]}"


def expect(result, status, err="", out=""):
    for got, part in ((result.stderr, err), (result.stdout, out)):
        assert part in got, f"{part!r} is not in {got!r}"
    assert result.returncode == status, f"exit {result.returncode}, not {status}: {result.stderr!r}"
    return result


def value(text, name):
    """NAME's value in the output of `env`."""
    return next((line[len(name) + 1:] for line in text.splitlines() if line.startswith(name + "=")), None)


_shared = None


def collector():
    """One collector with two minutes of a pretended agent, for all tests that only read. Not stopped between tests."""
    global _shared
    if _shared is None:
        _shared = tap.Collector()
        tap._started.remove(_shared.process)
        done = subprocess.run([sys.executable, str(SIM), _shared.address, "--seconds", "120"], timeout=60,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        _shared.http = _shared.url.removeprefix("http://")
        # Absolute times, so that two questions get the same answer.
        now = time.time()
        _shared.span = ("--from", f"{now - 200:.3f}", "--to", f"{now + 1:.3f}")
    assert _shared.process.poll() is None, _shared.process.output()
    return _shared


# ---- All of them ----

@test
def every_command_has_help_and_version():
    for command in COMMANDS:
        result = expect(sonde(command, "--help"), 0, out=f"Usage: sonde {command}")
        assert result.stderr == ""
        expect(sonde(command, "--version"), 0, out="sonde ")


@test
def a_usage_error_exits_2_and_says_what_is_wrong():
    for arguments, err in (
        (("run",), "no program given"),
        (("run", "--collector", "nonsense", "true"), "is no address"),
        (("run", "--nonsense", "true"), "unrecognized option"),
        (("top", "--interval", "0"), "write seconds"),
        (("top", "--from", "yesterday"), "is no time"),
        (("top", "extra"), "what is 'extra'"),
        (("top", "--state", "cpu"), "unrecognized option"),
        (("export",), "no file given"),
        (("export", "-o", "x"), "no format given"),
        (("export", "-o", "x", "-f", "jpeg"), "the formats are"),
        (("export", "-o", "x.html", "--state", "cpu,warp"), "the states are"),
        (("export", "-o", "x.html", "--latency-min", "2 fortnights"), "is no duration"),
        (("export", "-o", "x.html", "--latency-min", "2s", "--latency-max", "1s"), "above"),
        (("diff", "one"), "two profiles"),
        (("diff", "a", "b", "c"), "only two"),
        (("diff", "a", "b", "--from", "-5m"), "live"),
        (("diff", "live:5..x", "b"), "live:FROM..TO"),
        (("diff", "a", "b", "--limit", "-1"), "is no number"),
        (("doctor", "me"), "is no process id"),
        (("doctor", "1", "2"), "one process"),
    ):
        expect(sonde(*arguments), 2, err=err)


@test
def without_a_collector_each_says_how_to_start_one():
    held, address = nowhere()
    with held:
        for arguments in (("top", "--once"), ("top",), ("export", "-o", "/dev/null", "-f", "html"), ("diff", "live", "live")):
            result = expect(sonde(*arguments, "--http", address), 1,
                            err=f"sonde {arguments[0]}: no collector answers at {address}; start one with `sonde serve`")
            assert result.stderr.count("\n") == 1 and result.stdout == "", result


@test
def something_that_is_no_collector_is_told_from_one():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "127.0.0.1:%d" % server.getsockname()[1]
        process = tap.start(SONDE, "top", "--once", "--http", address)
        peer, _ = server.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            assert process.wait(20) == 1
        assert "is no collector" in process.output(), process.output()


# ---- run ----

def run(*arguments, env=None, **options):
    held, address = nowhere()
    with held:
        return sonde("run", "--agent", AGENT, "--collector", "tcp:" + address, *arguments, env=env, **options)


@test
def run_passes_the_exit_status_on():
    assert run("--", "sh", "-c", "exit 0").returncode == 0
    assert run("--", "sh", "-c", "exit 7").returncode == 7
    assert run("sh", "-c", "exit 9").returncode == 9, "the -- is optional"


@test
def run_becomes_the_program_so_signals_reach_it():
    held, address = nowhere()
    with held:
        process = tap.start(SONDE, "run", "--agent", AGENT, "--collector", "tcp:" + address, "--", "sleep", "60")
        tap.wait_for(lambda: open(f"/proc/{process.pid}/comm").read() == "sleep\n", "sleep to take our pid")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM


@test
def run_loads_the_agent_into_the_program():
    result = run("--", "cat", "/proc/self/maps")
    assert "/libsonde.so" in result.stdout, result


@test
def run_keeps_what_is_preloaded_already_in_front():
    assert value(run("env").stdout, "LD_PRELOAD") == str(AGENT)
    for already in ("libm.so.6", "libm.so.6 libdl.so.2", f"libm.so.6:{AGENT}"):
        # A sonde built with ASan would refuse to start behind another preload.
        result = run("env", env={"LD_PRELOAD": already, "ASAN_OPTIONS": "verify_asan_link_order=0"})
        want = already if str(AGENT) in already else f"{already}:{AGENT}"
        assert value(result.stdout, "LD_PRELOAD") == want, result.stdout


@test
def run_names_the_service():
    assert value(run("--", "/usr/bin/env").stdout, "SONDE_SERVICE") == "env"
    assert value(run("--service", "shop", "env").stdout, "SONDE_SERVICE") == "shop"
    assert value(run("env", env={"SONDE_SERVICE": "bank"}).stdout, "SONDE_SERVICE") == "bank"


@test
def run_says_once_when_no_collector_answers_and_runs():
    held, address = nowhere()
    with held:
        result = expect(sonde("run", "--agent", AGENT, "env", env={"SONDE_COLLECTOR": "tcp:" + address}), 0)
    assert result.stderr == (f"sonde run: no collector answers at tcp:{address}; running all the same, "
                             "start one with `sonde serve`\n"), result.stderr
    assert value(result.stdout, "SONDE_COLLECTOR") == "tcp:" + address


@test
def run_says_nothing_when_the_collector_answers():
    result = expect(sonde("run", "--agent", AGENT, "--collector", collector().address, "true"), 0)
    assert result.stderr == "", result.stderr


@test
def run_finds_the_unix_socket_and_makes_its_path_absolute():
    directory = tap.scratch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / "sonde.sock"))
        server.listen()
        result = sonde("run", "--agent", AGENT, "env", env={"XDG_RUNTIME_DIR": str(directory)})
        assert value(result.stdout, "SONDE_COLLECTOR") == f"unix:{directory}/sonde.sock", result
        assert result.stderr == "", result.stderr
        result = sonde("run", "--agent", AGENT, "--collector", "unix:sonde.sock", "env", cwd=directory)
        assert value(result.stdout, "SONDE_COLLECTOR") == f"unix:{directory}/sonde.sock", result


@test
def run_leaves_the_programs_options_alone():
    assert run("echo", "--service", "x", "--help").stdout == "--service x --help\n"


@test
def run_without_an_agent_exits_1():
    result = expect(sonde("run", "--agent", "/nonexistent/libsonde.so", "true"), 1, err="no agent at /nonexistent/libsonde.so")
    assert "--agent PATH" in result.stderr
    expect(sonde("run", "true", env={"SONDE_AGENT": "/nonexistent/x.so"}), 1, err="no agent at /nonexistent/x.so")


@test
def run_refuses_an_agent_path_that_preload_cannot_carry():
    directory = tap.scratch() / "a b"
    directory.mkdir()
    (directory / "libsonde.so").write_bytes(b"x")
    expect(sonde("run", "--agent", directory / "libsonde.so", "true"), 1, err="LD_PRELOAD cannot carry")


@test
def run_exits_127_or_126_like_a_shell():
    expect(run("no-such-program-here"), 127, err="no-such-program-here: no such program")
    expect(run("/etc/passwd"), 126, err="Permission denied")


@test
def run_warns_of_a_static_program_and_runs_it():
    directory = tap.scratch()
    (directory / "s.c").write_text("int main(void) { return 5; }\n")
    subprocess.run(["cc", "-static", "-o", directory / "s", directory / "s.c"], check=True)
    expect(run(directory / "s"), 5, err="linked statically")


# ---- top ----

@test
def top_once_prints_the_collectors_numbers():
    c = collector()
    result = expect(sonde("top", "--once", "--http", c.http, *c.span), 0)
    answer = {r["route"]: r for r in c.get("routes", **{"from": c.span[1], "to": c.span[3]})["routes"]}
    assert len(answer) >= 3 and "\033" not in result.stdout
    lines = result.stdout.splitlines()
    for name, route in answer.items():
        line = next(line for line in lines if line.startswith(name))
        count, errors = line[len(name):].split()[0], line[len(name):].split()[2]
        assert count == f"{route['count']:,}" and errors == f"{route['errors']:,}", (line, route)
    names = [line.split("  ")[0].strip() for line in lines]
    order = [n for n in names if n in answer]
    assert order == list(answer), "sorted as the collector does"


@test
def top_explains_each_route_in_a_sentence():
    c = collector()
    result = expect(sonde("top", "--once", "--explain", "--http", c.http, *c.span), 0)
    for route in c.routes(**{"from": c.span[1], "to": c.span[3]}).values():
        share = max(route["ledger"].values()) / route["latency"]["mean"]
        sentence = re.search(re.escape(route["route"]) + r" takes \S+ [mµn]?s on average: (\d+) % \w.*\.", result.stdout)
        assert sentence and abs(int(sentence[1]) - 100 * share) <= 1, (route, result.stdout)


@test
def top_selects_and_passes_the_collectors_complaint_on():
    c = collector()
    result = expect(sonde("top", "--once", "--http", c.http, "--route", "GET /fib/{n}", *c.span), 0, out="GET /fib/{n}")
    assert "/checkout" not in result.stdout
    expect(sonde("top", "--once", "--http", c.http, "--route", "GET /nowhere", *c.span), 0, out="no request in this time")
    expect(sonde("top", "--once", "--http", c.http, "--from", "200", "--to", "100"), 1, err="the collector says: ")


@test
def top_plain_appends_tables_until_it_is_stopped():
    c = collector()
    process = tap.start(SONDE, "top", "--plain", "--interval", "0.2", "--http", c.http, "--from", "-10m")
    tap.wait_for(lambda: process.output().count("\nROUTE") >= 3, "three tables")
    assert tap.stop(process, signal.SIGINT) == 0, process.output()
    assert "\033" not in process.output()


class Terminal:
    """A command in a pseudo terminal of 24 rows and 100 columns."""

    def __init__(self, *command, env=None):
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(self.master, (24, 100))
        self.slave, self.seen = slave, b""
        self.before = termios.tcgetattr(slave)
        merged = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
        merged.update(env or {})
        self.process = subprocess.Popen([str(c) for c in command], stdin=slave, stdout=slave, stderr=slave, env=merged,
                                        start_new_session=True)
        self.process.output = lambda: self.seen.decode(errors="replace")
        self.process.log = "/nonexistent"
        tap._started.append(self.process)

    def read(self, until, seconds=15):
        end = time.monotonic() + seconds
        while until not in self.seen:
            assert time.monotonic() < end, f"waited for {until!r}, saw {self.seen[-2000:]!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65536)
        return self.seen

    def frame(self):
        """The lines of the next whole frame. What was read so far may end anywhere, in the middle of a letter, too."""
        self.seen = b""
        self.seen = b"\033[H" + self.read(b"\033[H").split(b"\033[H", 1)[1]
        text = self.read(b"\033[J").split(b"\033[J")[0].decode()
        return re.sub(r"\033\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "").split("\n")

    def end(self):
        status = self.process.wait(10)
        while select.select([self.master], [], [], 0.2)[0]:
            self.seen += os.read(self.master, 65536)
        after = termios.tcgetattr(self.slave)
        os.close(self.master)
        os.close(self.slave)
        return status, after


@test
def top_takes_the_terminal_and_gives_it_back():
    c = collector()
    for stop in (b"q", signal.SIGINT, signal.SIGTERM):
        terminal = Terminal(SONDE, "top", "--http", c.http, "--from", "-10m")
        terminal.read(b"q quit")
        assert terminal.seen.startswith(b"\033[?1049h") and b"\033[38;5;208m" in terminal.seen
        assert not termios.tcgetattr(terminal.slave)[3] & termios.ECHO
        if isinstance(stop, bytes):
            os.write(terminal.master, stop)
        else:
            terminal.process.send_signal(stop)
        status, after = terminal.end()
        assert status == 0, (stop, status)
        assert terminal.seen.endswith(b"\033[?1049l") and b"\033[?25h" in terminal.seen
        assert after == terminal.before, "terminal settings restored"


@test
def top_fits_the_terminal_and_follows_its_size():
    c = collector()
    terminal = Terminal(SONDE, "top", "--http", c.http, "--from", "-10m")
    terminal.read(b"q quit")
    for columns in (60, 44, 140):
        termios.tcsetwinsize(terminal.master, (24, columns))
        os.kill(terminal.process.pid, signal.SIGWINCH)
        end = time.monotonic() + 5
        while max(map(len, (lines := terminal.frame()))) > columns:  # frames of the old size may be under way
            assert time.monotonic() < end, (columns, lines)
        assert len(lines) >= 6 and lines[-1].startswith("q quit"), lines
    os.write(terminal.master, b"q")
    assert terminal.end()[0] == 0


@test
def top_honours_no_color():
    terminal = Terminal(SONDE, "top", "--http", collector().http, "--from", "-10m", env={"NO_COLOR": "1"})
    terminal.read(b"q quit")
    os.write(terminal.master, b"q")
    assert terminal.end()[0] == 0
    assert b"\033[38;5" not in terminal.seen and b"c CPU" in terminal.seen


@test
def top_goes_on_when_the_collector_comes_back():
    c = tap.Collector()
    process = tap.start(SONDE, "top", "--plain", "--interval", "0.2", "--http", c.url)
    tap.wait_for(lambda: "sonde top" in process.output(), "a first table")
    tap.stop(c.process)
    tap.wait_for(lambda: "no collector answers" in process.output(), "the loss to be said")
    tables = process.output().count("sonde top   ")
    c.start()
    tap.wait_for(lambda: process.output().count("sonde top   ") > tables + 1, "tables again")
    assert process.output().count("no collector answers") == 1, "said once"
    assert tap.stop(process, signal.SIGTERM) == 0


# ---- export ----

def exported(path, *arguments):
    c = collector()
    expect(sonde("export", "--http", c.http, "-o", path, *c.span, *arguments), 0, err=f"{path}: ")
    return path.read_bytes()


@test
def export_writes_each_format():
    directory = tap.scratch()
    assert b"sonde.requests" in gzip.decompress(exported(directory / "p", "--format", "pprof"))
    folded = exported(directory / "f", "--format", "folded").decode()
    assert re.search(r"^GET /fib/\{n\};\[cpu\];main;.*;fib \d+$", folded, re.M), folded[:500]
    html = exported(directory / "h", "--format", "html")
    assert b'id="sonde-data"' in html and b"</html>" in html
    assert sorted(os.listdir(directory)) == ["f", "h", "p"], "nothing else is left"


@test
def export_knows_the_format_by_the_files_name():
    directory = tap.scratch()
    assert exported(directory / "x.pb.gz")[:2] == b"\x1f\x8b"
    assert exported(directory / "x.html").lstrip()[:9].lower() == b"<!doctype"
    assert b";[cpu];" in exported(directory / "x.folded")


@test
def export_keeps_to_the_selection():
    directory = tap.scratch()
    folded = exported(directory / "x.folded", "--route", "GET /fib/{n}", "--state", "runq").decode()
    lines = [line for line in folded.splitlines() if not line.startswith("#")]
    assert lines and all(line.startswith("GET /fib/{n};[runq]") for line in lines), folded


@test
def export_to_standard_output_is_only_the_profile():
    c = collector()
    result = expect(sonde("export", "--http", c.http, "-o", "-", "-f", "folded", *c.span), 0, out=";[cpu];")
    assert result.stderr == "", result.stderr


@test
def an_empty_export_fails_and_keeps_the_old_file():
    c, path = collector(), tap.scratch() / "x.html"
    path.write_text("precious")
    for form in ("pprof", "folded", "html"):
        result = expect(sonde("export", "--http", c.http, "-f", form, "-o", path, "--route", "GET /nowhere", *c.span), 1,
                        err="nothing was measured in this selection")
        assert result.stderr.count("\n") == 1
    assert path.read_text() == "precious" and os.listdir(path.parent) == ["x.html"]


@test
def export_says_why_a_file_cannot_be_written():
    c, directory = collector(), tap.scratch()
    for path, why in (("/dev/full", "No space left"), (directory / "no/x", "No such file"), (directory, "Is a directory"),
                      ("/proc/x", "")):
        expect(sonde("export", "--http", c.http, "-f", "html", "-o", path, *c.span), 1, err=f"cannot write {path}: {why}")
    assert os.listdir(directory) == []


@test
def export_replaces_a_file_whole_and_keeps_a_link():
    directory = tap.scratch()
    (directory / "target").write_text("old")
    (directory / "link").symlink_to("target")
    os.umask(os.umask(0o022))
    exported(directory / "link", "-f", "folded")
    assert (directory / "link").is_symlink() and "main" in (directory / "target").read_text()


# ---- diff ----

BEFORE = """# sonde.requests 1000 GET /fib/{n}
# sonde.requests 200 GET /lock
GET /fib/{n};[cpu];main;handle;fib 1210000
GET /fib/{n};[queue];[queue] 10000
GET /lock;[lock];main;handle;pthread_mutex_lock 2480000
"""
AFTER = BEFORE.replace("1000 GET", "500 GET").replace("1210000", "302500").replace("[queue] 10000", "[queue] 5000")


def two_files():
    directory = tap.scratch()
    (directory / "a").write_text(BEFORE)
    (directory / "b").write_text(AFTER)
    return directory / "a", directory / "b"


@test
def diff_finds_a_known_change_per_request():
    answer = json.loads(expect(sonde("diff", *two_files(), "--json"), 0).stdout)
    assert answer["per"] == "request"
    fib, lock = answer["routes"]
    assert fib["route"] == "GET /fib/{n}" and fib["requests"] == {"before": 1000, "after": 500, "change": -500}
    assert fib["total_ns"] == {"before": 1220000, "after": 615000, "change": -605000}
    assert fib["states_ns"]["queue"] == {"before": 10000, "after": 10000, "change": 0}
    assert lock["total_ns"]["change"] == 0
    first = answer["functions"][0]
    assert (first["function"], first["route"]) == ("fib", "GET /fib/{n}")
    assert first["self_ns"] == {"before": 1210000, "after": 605000, "change": -605000}


@test
def diff_prints_the_largest_change_first():
    result = expect(sonde("diff", *two_files()), 0, out="time per request")
    assert "\033" not in result.stdout
    routes, functions = result.stdout.split("Functions,")
    assert routes.index("GET /fib/{n}") < routes.index("GET /lock")
    line = next(line for line in routes.splitlines() if line.endswith("GET /fib/{n}"))
    assert line.split()[:7] == ["-605", "µs", "-50", "%", "1.22", "ms", "615"], line
    assert "cpu -605 µs" in line and "1,000 → 500" in line
    assert functions.index("fib") < functions.index("main")
    assert "pthread_mutex_lock" not in functions, "what did not change is not listed"


@test
def diff_of_a_file_with_itself_finds_nothing():
    expect(sonde("diff", *two_files()[:1] * 2), 0, out="No function changed.")


@test
def diff_limits_rows():
    result = expect(sonde("diff", *two_files(), "-n", "1"), 0, out="1 more; --limit 0 shows all")
    assert "GET /lock" not in result.stdout


@test
def diff_filters_files_by_route_and_state():
    answer = json.loads(expect(sonde("diff", *two_files(), "--json", "--route", "GET /fib/{n}", "--state", "queue"), 0).stdout)
    assert [r["route"] for r in answer["routes"]] == ["GET /fib/{n}"]
    assert answer["routes"][0]["total_ns"] == {"before": 10000, "after": 10000, "change": 0}
    expect(sonde("diff", *two_files(), "--route", "GET /nowhere"), 1, err="neither side holds any time")


@test
def diff_without_request_counts_says_so():
    directory = tap.scratch()
    (directory / "a").write_text("main;f 10\n")
    (directory / "b").write_text("main;f 30\n")
    result = expect(sonde("diff", directory / "a", directory / "b"), 0, out="does not say how many requests")
    assert "total time" in result.stdout and "per request" not in result.stdout


@test
def diff_reads_all_formats_and_they_agree():
    directory = tap.scratch()
    for form in ("pprof", "html"):
        exported(directory / form, "-f", form)
    answer = json.loads(expect(sonde("diff", directory / "pprof", directory / "html", "--json"), 0).stdout)
    assert answer["per"] == "request" and len(answer["routes"]) >= 3
    for row in answer["routes"]:
        assert row["total_ns"]["change"] == 0 and row["requests"]["before"] == row["requests"]["after"] > 0, row
    for row in answer["functions"]:
        assert row["self_ns"]["change"] == 0 and row["total_ns"]["change"] == 0, row
    exported(directory / "folded", "-f", "folded")
    answer = json.loads(expect(sonde("diff", directory / "pprof", directory / "folded", "--json"), 0).stdout)
    for row in answer["routes"]:  # folded stacks are in whole microseconds
        assert abs(row["total_ns"]["change"]) <= 1e-3 * row["total_ns"]["before"], row


@test
def diff_compares_a_file_with_the_running_collector():
    c, directory = collector(), tap.scratch()
    exported(directory / "a.pb.gz")
    answer = json.loads(expect(sonde("diff", directory / "a.pb.gz", "live", "--json", "--http", c.http, *c.span), 0).stdout)
    assert answer["after"]["format"] == "live" and answer["routes"]
    routes = c.routes(**{"from": c.span[1], "to": c.span[3]})
    for row in answer["routes"]:
        truth = routes[row["route"]]
        assert row["total_ns"]["change"] == 0
        assert row["requests"]["after"] == truth["count"]
        assert abs(row["total_ns"]["after"] - truth["latency"]["mean"]) <= 8, (row, truth)


@test
def diff_takes_a_time_of_its_own_for_each_live_side():
    c = collector()
    begin, end = float(c.span[1]), float(c.span[3])
    middle = end - 60
    answer = json.loads(expect(sonde("diff", f"live:{begin}..{middle}", f"live:{middle}..{end}", "--json", "--http", c.http),
                               0).stdout)
    whole = sum(r["count"] for r in c.routes(**{"from": c.span[1], "to": c.span[3]}).values())
    assert answer["before"]["requests"] + answer["after"]["requests"] == whole
    assert answer["before"]["requests"] > 0 and answer["after"]["requests"] > 0


@test
def diff_refuses_what_is_no_profile():
    good = two_files()[0]
    expect(sonde("diff", good, "/nonexistent/file"), 1, err="/nonexistent/file: No such file")
    expect(sonde("diff", good, "/etc/passwd"), 1, err="/etc/passwd: it is no profile")
    expect(sonde("diff", SONDE, good), 1, err="it is no profile")


# ---- doctor ----

@test
def doctor_finds_the_agent_and_says_what_works():
    result = sonde("doctor", env={"SONDE_AGENT": str(AGENT)})
    expect(result, 0, out="The agent works here")
    for name in ("agent", "CPU timers", "kernel tick", "pending signals", "real-time signals", "run-queue delay",
                 "receive timestamps", "process_vm_readv", "clock", "ptrace", "perf events", "seccomp", "locked memory",
                 "glibc"):
        assert re.search(rf"^  [✓!] {name}  ", result.stdout, re.M), f"{name} is not in {result.stdout}"
    assert re.search(r"^  ✓ agent +\S+libsonde.so loads and reports$", result.stdout, re.M), result.stdout
    # What is missing has a line below that says what it costs.
    lines = result.stdout.splitlines()
    for line, below in zip(lines, lines[1:]):
        assert not line.startswith("  ! ") or below.startswith(" " * 20), line


@test
def doctor_exits_1_when_the_agent_cannot_work():
    result = expect(sonde("doctor", env={"SONDE_AGENT": "/nonexistent/x.so"}), 1, out="no libsonde.so at /nonexistent/x.so")
    assert "cannot work here" in result.stdout
    broken = tap.scratch() / "libsonde.so"
    broken.write_bytes(b"this is no library, and ld.so says so")
    expect(sonde("doctor", env={"SONDE_AGENT": str(broken)}), 1, out="does not load: ")


@test
def doctor_probes_timers_for_real():
    limited = ("import os, resource, sys; resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0)); "
               "os.execv(sys.argv[1], ['sonde', 'doctor'])")
    env = dict(os.environ, SONDE_AGENT=str(AGENT))
    result = subprocess.run([sys.executable, "-c", limited, str(SONDE)], env=env, capture_output=True, text=True, timeout=60)
    expect(result, 1, out="without CPU timers")
    assert re.search(r"✗ CPU timers +timer_create.*Resource temporarily unavailable", result.stdout), result.stdout


@test
def doctor_looks_at_a_process():
    sleeper = tap.start("sleep", "60")
    expect(sonde("doctor", sleeper.pid, env={"SONDE_AGENT": str(AGENT)}), 0, out="not loaded")
    held, address = nowhere()
    with held:
        ours = tap.start(SONDE, "run", "--agent", AGENT, "--collector", "tcp:" + address, "sleep", "60")
        tap.wait_for(lambda: "libsonde.so" in open(f"/proc/{ours.pid}/maps").read(), "the agent to be loaded")
        result = expect(sonde("doctor", ours.pid, env={"SONDE_AGENT": str(AGENT)}), 0, out=f"Process {ours.pid}, sleep")
    assert re.search(r"✓ agent in it +loaded", result.stdout), result.stdout
    gone = subprocess.Popen(["true"])
    gone.wait()
    expect(sonde("doctor", gone.pid), 1, err=f"there is no process {gone.pid}")


def doctor_of(process, *arguments):
    """What follows "The agent in it", and all lines of it by their first words."""
    result = expect(sonde("doctor", *arguments, process.pid, env={"SONDE_AGENT": str(AGENT)}), 0)
    text = result.stdout.split("The agent in it\n\n")[1]
    return text, {line[4:25].strip(): line[25:] for line in text.splitlines() if line[4:5].strip()}


@test
def doctor_says_what_the_agent_in_a_process_does_and_costs():
    c = tap.Collector()
    worker = tap.start(tap.BUILD / "tests/subjects/burner", "1", "10", "60", "0",
                       env={"LD_PRELOAD": str(AGENT), "SONDE_COLLECTOR": c.address, "SONDE_SERVICE": "burner"})
    tap.wait_for(lambda: c.get("processes")["processes"][0]["samples"] > 50, "its report")
    text, lines = doctor_of(worker, "--http", c.url.removeprefix("http://"))
    assert lines["state"] == "on", text
    assert "99 samples a second of CPU, 50 looks at waits" in lines["rates"], text
    assert re.search(r"% of a core; .* of the CPU time of the process", lines["CPU time"]), text
    assert re.search(r"B for 2 threads:$", lines["memory"]), text
    assert re.search(r"B a second, service burner$", lines["to the collector"]), text
    for part in ("wrapped calls", "the handler", "over samples and waits", "over requests and reports"):
        assert re.search(rf"^ {{20,}}[<\d.]+ % +.*{part}", text, re.M), (part, text)
    assert re.search(r"^ {20,}[\d.]+ [kM]?B +unwind tables of the code that is mapped, at most [\d.]+ MB$", text, re.M), text
    assert lines.get("lost or dropped") == "nothing", text


@test
def doctor_says_why_an_agent_is_off_and_who_does_not_answer():
    off = tap.start("sleep", "60", env={"LD_PRELOAD": str(AGENT), "SONDE_DISABLE": "1"})
    held, address = nowhere()
    with held:
        on = tap.start("sleep", "60", env={"LD_PRELOAD": str(AGENT), "SONDE_COLLECTOR": "tcp:" + address})
        for process in (off, on):
            tap.wait_for(lambda: "libsonde.so" in open(f"/proc/{process.pid}/maps").read(), "the agent to be loaded")
        tap.wait_for(lambda: len(os.listdir(f"/proc/{on.pid}/task")) == 2, "its thread")
        text, lines = doctor_of(off)
        assert lines["state"] == "off: SONDE_DISABLE is set" and "rates" not in lines, text
        text, lines = doctor_of(on, "--http", address)
        assert lines["state"] == "on" and lines["collector"].startswith("none answers at"), text


if __name__ == "__main__":
    try:
        tap.run()
    finally:
        if _shared is not None:
            tap.stop(_shared.process)
            os.unlink(_shared.process.log)

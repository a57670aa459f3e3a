"""What every end-to-end test shares: TAP output, paths of the build, starting and surely ending processes."""
import atexit
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = (ROOT / os.environ.get("B", "build/release")).resolve()
SONDE, AGENT, DEMO = BUILD / "sonde", BUILD / "libsonde.so", BUILD / "sonde-demo"

_tests, _started = [], []


def test(function):
    """Register a test; its name with spaces is what TAP shows."""
    _tests.append(function)
    return function


def run():
    """Run the registered tests in order and exit. A test passes when it returns; its doc string is not needed."""
    failed = 0
    only = sys.argv[1:]
    for number, function in enumerate(_tests, 1):
        name = function.__name__.replace("_", " ")
        if only and not any(word in function.__name__ for word in only):
            continue
        try:
            function()
            print(f"ok {number} - {name}", flush=True)
        except BaseException as error:  # a KeyboardInterrupt is a failure, too
            failed += 1
            traceback.print_exc(file=sys.stdout)
            print(f"not ok {number} - {name}: {error}", flush=True)
            if isinstance(error, KeyboardInterrupt):
                break
        finally:
            stop_all()
    print(f"1..{len(_tests)}")
    sys.exit(1 if failed else 0)


def start(*command, env=None, **options):
    """Start a program that stop_all() surely ends; output goes to a file, .output() reads it back."""
    log = tempfile.NamedTemporaryFile(mode="w+", prefix="sonde-test-", suffix=".log", delete=False)
    merged = dict(os.environ)
    merged.update(env or {})
    process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                               env=merged, **options)
    process.log = log.name
    process.output = lambda: open(log.name, errors="replace").read()
    _started.append(process)
    return process


def stop(process, how=signal.SIGTERM, seconds=10):
    """End a program by its pid and return its exit status."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode


def stop_all():
    while _started:
        process = _started.pop()
        stop(process)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(process.log)


atexit.register(stop_all)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(**more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SONDE_", "LD_PRELOAD"))}
    return {**clean, **more}


def outcome(command, env=None, seconds=120):
    """What a program does that one can see."""
    done = subprocess.run([str(c) for c in command], env=env or environment(), stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=seconds, check=False)
    return done.returncode, done.stdout, done.stderr


def preloaded(**more):
    """The agent by hand, with nobody listening."""
    return environment(**{"LD_PRELOAD": str(AGENT), "SONDE_COLLECTOR": f"tcp:127.0.0.1:{free_port()}", **more})


def under_agent(collector, service, *command):
    return [SONDE, "run", "--service", service, "--collector", collector.address, "--", *command]


def listening(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def scratch():
    """A directory that is removed at exit."""
    path = tempfile.mkdtemp(prefix="sonde-test-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return pathlib.Path(path)


def wait_for(check, what, seconds=15.0, every=0.05):
    """Poll until check() is true; its value is returned. Fails with @what after @seconds."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, urllib.error.URLError, KeyError, IndexError, json.JSONDecodeError):
            value = check()
            if value:
                return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(every)


def settled(ask):
    """Wait until the first part of ask()'s answer is true and all of it is as it was a second ago: the last window is stored."""
    before = []

    def same():
        before.append(ask())
        return before[-1][0] and before[-2:] == [before[-1]] * 2

    wait_for(same, "the last window to be stored", every=1.0)


def http(url, timeout=20):
    """GET: (status, headers, body bytes); an error status is an answer, not an exception."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


class Collector:
    """`sonde serve` on free ports with its own data directory."""

    def __init__(self, data=None, http_port=None, agent_port=None):
        self.data = data or scratch() / "data"
        self.http_port, self.agent_port = http_port or free_port(), agent_port or free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.address = f"tcp:127.0.0.1:{self.agent_port}"
        self.start()

    def start(self):
        self.process = start(SONDE, "serve", "--http", f"127.0.0.1:{self.http_port}", "--listen", self.address,
                             "--data", self.data)
        wait_for(lambda: http(self.url + "/api/v1/processes")[0] == 200 or self.process.poll() is not None,
                 "the collector to answer")
        if self.process.poll() is not None:
            raise AssertionError("the collector ended: " + self.process.output())

    def get(self, path, **parameters):
        """JSON of an API endpoint, parameters with _ for nothing special; a bad status fails."""
        query = urllib.parse.urlencode(parameters)
        status, _, body = http(f"{self.url}/api/v1/{path}?{query}")
        if status != 200:
            raise AssertionError(f"{path}?{query}: {status} {body[:300]!r}")
        return json.loads(body)

    def routes(self, **parameters):
        """{route: summary} of the last hour."""
        parameters.setdefault("from", "-1h")
        return {r["route"]: r for r in self.get("routes", **parameters)["routes"]}

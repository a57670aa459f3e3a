"""Exported files, shown to the programs that people open them with: go tool pprof, flame graph scripts, a browser."""
import functools
import gzip
import html.parser
import json
import os
import re
import shutil
import subprocess

import agentsim
import tap

SECONDS = 30
SUBJECT = tap.BUILD / "tests/subjects/inline"
STATES = agentsim.STATES
BACKGROUND = "(no request)"
FLAMEGRAPH = "/usr/share/perl5/Devel/NYTProf/flamegraph.pl"  # the original, as Debian ships it


class Agent(agentsim.Agent):
    """The pretended agent, with one frame of a real program: json_escape is where three functions of it are inlined."""

    def dictionary(self):
        symbols = subprocess.run(["nm", SUBJECT], check=True, capture_output=True, text=True).stdout
        address = int(re.search(r"^(\w+) . here_innermost$", symbols, re.M).group(1), 16)
        notes = subprocess.run(["readelf", "-n", SUBJECT], check=True, capture_output=True, text=True).stdout
        build_id = bytes.fromhex(re.search(r"Build ID: (\w+)", notes).group(1))
        escape = self.functions["json_escape"]
        self.stack_rows = [(i, parent, 1, address) if (module, frame) == (0, escape) else (i, parent, module, frame)
                           for i, parent, module, frame in self.stack_rows]
        module = agentsim.message((1, 1), (2, str(SUBJECT)), (3, build_id), (4, 0x400000), (5, 0x500000), (6, 0x400000))
        return agentsim.frame("dict", agentsim.message((1, [module]))) + super().dictionary()


@functools.cache
def collector():
    """One collector for all tests, with data up to now. Each test that needs it may be the first."""
    c = tap.Collector()
    tap._started.remove(c.process)  # stop_all() after each test must not end it; atexit does, below
    tap.atexit.register(tap.stop, c.process)
    c.agent = Agent("shop").history(c.address, SECONDS)
    c.agent.close()
    return c


@functools.cache
def exported(form, **selection):
    """The path of an export of all data, made once."""
    query = tap.urllib.parse.urlencode({"format": form, "from": "-1h", **selection})
    status, headers, body = tap.http(f"{collector().url}/api/v1/profile?{query}")
    assert status == 200, body[:300]
    assert "attachment" in headers["Content-Disposition"], headers
    path = tap.scratch() / re.search(r'filename="([^"/]+)"', headers["Content-Disposition"]).group(1)
    path.write_bytes(body)
    return path


def pprof(*arguments, form=None):
    """What go tool pprof prints; it may not complain about anything."""
    home = str(tap.scratch())
    done = subprocess.run(["go", "tool", "pprof", *arguments, form or exported("pprof")], capture_output=True, text=True,
                          timeout=60, env={**os.environ, "HOME": home, "TMPDIR": home, "PPROF_TMPDIR": home})
    assert done.returncode == 0 and done.stderr == "", (done.stdout, done.stderr)
    return done.stdout


def rows(top):
    """{name: (flat, cum) in ns} of a -top table made with -unit=ns."""
    lines = re.findall(r"^\s*(\S+?)(?:ns)? +\S+% +\S+% +(\S+?)(?:ns)? +\S+%  (.+)$", top, re.M)
    return {name: (int(float(flat)), int(float(cum))) for flat, cum, name in lines}


def top(*arguments, **options):
    return rows(pprof("-top", "-unit=ns", "-nodecount=100000", "-nodefraction=0", "-edgefraction=0", *arguments, **options))


def ledger(route):
    return collector().agent.truth[route].ledger


def close(a, b):
    """pprof prints up to seven digits."""
    return abs(a - b) <= 1 + abs(b) * 1e-5


@tap.test
def pprof_shows_the_wall_time_of_everything_by_default():
    output = pprof("-top")
    assert "Type: wall" in output and "sonde 0.1.0" in output, output
    table = top()
    expected = sum(sum(ledger(route)) for route in agentsim.ROUTES)
    assert close(sum(flat for flat, _ in table.values()), expected), (table, expected)
    assert table["fib"][0] > 0 and "??" not in table, table


@tap.test
def pprof_roots_stacks_at_their_routes():
    table = top("-tagroot=route")
    for route in agentsim.ROUTES:
        assert close(table[route][1], sum(ledger(route))), (route, table[route], sum(ledger(route)))
    states = top("-tagroot=state")
    for number, state in enumerate(STATES):
        expected = sum(ledger(route)[number] for route in agentsim.ROUTES)
        assert close(states.get(state, (0, 0))[1], expected), (state, states.get(state), expected)


@tap.test
def pprof_has_every_state_as_a_sample_index():
    for number, state in enumerate(STATES):
        expected = sum(ledger(route)[number] for route in agentsim.ROUTES)
        table = top(f"-sample_index={state}") if expected else {}
        assert close(sum(flat for flat, _ in table.values()), expected), (state, table, expected)
    lock = top("-sample_index=lock", "-tagfocus=route=POST /checkout")
    assert close(lock["pthread_mutex_lock"][0], ledger("POST /checkout")[agentsim.LOCK]), lock
    assert "samples" in pprof("-top", "-sample_index=samples")


@tap.test
def pprof_lists_labels():
    tags = pprof("-tags")
    for word in list(agentsim.ROUTES) + ["shop", "cpu", "queue", "lock", "route:", "state:", "service:"]:
        assert word in tags, (word, tags)


@tap.test
def pprof_shows_inlined_frames_with_their_lines():
    source = (tap.ROOT / "tests/subjects/inline.c").read_text().splitlines()
    line = {mark: next(i for i, text in enumerate(source, 1) if f"/* line: {mark} */" in text)
            for mark in ("innermost", "middle", "outer")}
    names = " ".join(top("-lines"))
    assert re.search(rf"innermost \S*inline\.c:{line['innermost']} \(inline\)", names), names
    assert re.search(rf"middle \S*inline\.c:{line['middle']} \(inline\)", names), names
    assert re.search(rf"outer \S*inline\.c:{line['outer']}(?! \(inline\))", names), names
    raw = pprof("-raw")
    assert re.search(r"^1: \S+ \S*/inline \w{8,} \[FN\]\[FL\]\[LN\]\[IN\]$", raw, re.M), raw[-2000:]


@tap.test
def pprof_compares_two_files():
    assert "Showing nodes" in pprof("-top", "-normalize", "-diff_base", exported("pprof"))


@tap.test
def pprof_of_work_outside_requests():
    table = top("-tagroot=route", form=exported("pprof", route=""))
    assert close(table[BACKGROUND][1], sum(collector().agent.background)), table
    assert not any(route in table for route in agentsim.ROUTES), table


@tap.test
def pprof_of_nothing_is_a_valid_file():
    path = exported("pprof", route="GET /nothing")
    gzip.decompress(path.read_bytes())
    assert "Total samples = 0" in pprof("-top", form=path)


@tap.test
def folded_stacks_are_what_flame_graph_scripts_read():
    sums, seen = {}, set()
    for line in exported("folded").read_text().splitlines():
        # as stackcollapse and flamegraph.pl take a line apart
        stack, count = re.fullmatch(r"(.*)\s+?(\d+(?:\.\d*)?)", line).groups()
        assert stack not in seen, stack
        seen.add(stack)
        route, state, *frames = stack.split(";")
        assert frames and all(frames) and int(count) >= 1, line
        sums[route, state] = sums.get((route, state), 0) + int(count)
    for route in agentsim.ROUTES:
        for number, state in enumerate(STATES):
            got, expected = sums.pop((route, f"[{state}]"), 0), ledger(route)[number] / 1000
            assert abs(got - expected) <= len(seen), (route, state, got, expected)
    assert not sums, sums
    assert any(";json_encode;outer;middle;innermost" in stack for stack in seen)


class Page(html.parser.HTMLParser):
    """The report's data, and every address that the page's markup could load."""

    def __init__(self, text):
        super().__init__()
        self.data, self.addresses, self.policy, self.inside = None, [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.inside = tag == "script" and attrs.get("id") == "sonde-data"
        self.addresses += [attrs[name] for name in ("src", "href", "action", "data") if attrs.get(name)]
        if attrs.get("http-equiv") == "Content-Security-Policy":
            self.policy = attrs["content"]

    def handle_data(self, data):
        if self.inside:
            self.data = json.loads(data)

    def handle_endtag(self, _):
        self.inside = False


@tap.test
def flamegraph_pl_draws_folded_stacks():
    done = subprocess.run(["perl", FLAMEGRAPH, exported("folded", service="shop")], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0 and not done.stderr, (done.returncode, done.stderr)
    assert done.stdout.count("<rect") > 10 and "GET /" in done.stdout, done.stdout[:500]


@tap.test
def report_holds_the_answers_of_the_api():
    page = Page(exported("html").read_text())
    report = page.data
    assert report["report"] == 1 and report["version"] == "0.1.0" and report["omitted"] == 0
    assert set(report["flames"]) == set(report["latency"]) == set(agentsim.ROUTES) | {""}
    api = collector().get("routes", **{"from": "-1h"})
    assert report["routes"]["routes"] == api["routes"]
    for route, flame in report["flames"].items():
        api = collector().get("flame", format="lines", **{"from": "-1h", "route": route})
        assert all(flame[key] == api[key] for key in ("total", "functions", "nodes", "requests")), route
    assert report["processes"]["processes"][0]["service"] == "shop"
    assert report["selection"]["route"] is None and report["selection"]["to"] > report["selection"]["from"]


@tap.test
def report_asks_nobody_and_nothing_in_it_can_break_out():
    evil = "</script><script>alert(1)</script><!--"
    agent = agentsim.Agent("evil", routes={evil: agentsim.ROUTES["GET /fib/{n}"]})
    agent.history(collector().address, 2)
    agent.close()
    text = exported("html", service="evil").read_text()
    page = Page(text)
    assert evil in page.data["flames"] and evil not in text and "alert(1)</script>" not in text
    assert all(address.startswith("data:") for address in page.addresses), page.addresses
    assert "default-src 'none'" in page.policy, page.policy
    pprof("-top", form=exported("pprof", service="evil"))


@tap.test
def report_opens_in_a_browser_from_disk():
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    assert browser, "no chromium"
    done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                           f"--user-data-dir={tap.scratch()}", "--virtual-time-budget=8000", "--dump-dom",
                           exported("html").as_uri()], capture_output=True, text=True, timeout=120)
    body = re.sub(r"<script.*?</script>", "", done.stdout, flags=re.S)
    for route in agentsim.ROUTES:
        assert route in body, (route, body[-3000:], done.stderr[-1000:])


@tap.test
def bad_questions_get_a_helpful_400():
    for query in ("", "format=svg", "format=pprof&colour=red", "format=pprof&from=yesterday", "format=folded&state=busy"):
        status, headers, body = tap.http(f"{collector().url}/api/v1/profile?{query}")
        assert status == 400 and headers["Content-Type"] == "application/json", (query, status)
        assert json.loads(body)["error"], query


@tap.test
def the_command_writes_the_same_files():
    for form, magic in (("pprof", b"\x1f\x8b"), ("folded", b""), ("html", b"<!doctype html")):
        path = tap.scratch() / "out"
        done = subprocess.run([tap.SONDE, "export", "--http", f"127.0.0.1:{collector().http_port}", "--service", "shop",
                               "--from", "-1h", "--format", form, "-o", path], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (form, done.stdout, done.stderr)
        assert path.read_bytes().startswith(magic), form
        if form == "folded":
            ours = exported("folded", service="shop").read_text()
            assert sorted(path.read_text().splitlines()) == sorted(ours.splitlines())


tap.run()

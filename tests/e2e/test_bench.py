"""The measurements run and print their rows; no time is judged here."""
import os
import re
import subprocess
import sys

import tap

BENCH = tap.ROOT / "tests/bench"


def bench(script, *options):
    done = subprocess.run([sys.executable, BENCH / script, *options], env=dict(os.environ) | {"B": str(tap.BUILD)}, timeout=300,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@tap.test
def calls_and_requests_are_compared_with_and_without_the_agent():
    out = bench("calls.py", "--runs", "1", "--batches", "2", "--parts")
    cases = re.findall(r"^(read /dev/zero|mutex lock \+ unlock|request: TCP, recv \+ send) +([\d.]+) +([+-][\d.]+) \[", out, re.M)
    assert [c[0] for c in cases] == ["read /dev/zero", "mutex lock + unlock", "request: TCP, recv + send"], out
    assert all(float(plain) > 0 for _, plain, _ in cases), out
    assert re.search(r"^request: TCP, recv \+ send: -?\d+ = ", out, re.M), out


@tap.test
def a_program_is_compared_with_and_without_the_agent():
    out = bench("servers.py", "--what", "cpu", "--peers", "none", "--pairs", "1", "--seconds", "1")
    rows = re.findall(r"^(aa|sonde 99 Hz|sonde 1000 Hz) +(\d\.\d+) \[", out, re.M)
    assert [r[0] for r in rows] == ["aa", "sonde 99 Hz", "sonde 1000 Hz"], out
    assert re.search(r"^sonde 99 Hz .* [1-9]\d* samples;", out, re.M), out


@tap.test
def a_peer_that_does_not_run_is_listed_with_the_reason():
    out = bench("servers.py", "--what", "cpu", "--peers", "none", "--pairs", "1", "--seconds", "0.2")
    assert re.search(r"^perf record -g 99 Hz +not run: not asked for$", out, re.M), out


tap.run()

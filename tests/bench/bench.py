#!/usr/bin/env python3
"""The whole report: what sonde costs, next to its peers, each section with the command that makes it alone.

    B=build/release tests/bench/bench.py [--what unwind,calls,thread,footprint,own,nginx,redis,cpu] [--peers ...] [--quick]
                                         [--pairs 4] [--seconds 2]
"""
import argparse
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = os.environ.get("B", "build/release")
SERVERS = ["own", "nginx", "redis", "cpu"]
SECTIONS = ["unwind", "calls", "thread", "footprint", *SERVERS]


def cpu_model():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return os.uname().machine


def section(title, *commands):
    """False when a command failed; its output is shown as it comes."""
    print(f"\n{'=' * 100}\n{title}\n{'=' * 100}\n", flush=True)
    good = True
    for command in commands:
        if not command[0].endswith(".py"):  # ours say it themselves
            print("$ " + " ".join(command), flush=True)
        status = subprocess.run([ROOT / command[0], *command[1:]], cwd=ROOT, check=False).returncode
        if status:
            print(f"FAILED: {command[0]} ended with {status}")
            good = False
    return good


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--what", default=",".join(SECTIONS))
    options.add_argument("--peers", default="all", help="all, none, or some of gperftools,perf,bpf,mutrace")
    options.add_argument("--pairs", type=int, default=4)
    options.add_argument("--seconds", type=float, default=2)
    options.add_argument("--quick", action="store_true", help="a few minutes instead of fifteen; the spread tells")
    o = options.parse_args()
    what = o.what.split(",")
    if unknown := set(what) - set(SECTIONS):
        options.error(f"no section called {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    pairs, seconds, runs = (1, 1, 3) if o.quick else (o.pairs, o.seconds, 10)
    start, good = time.monotonic(), True

    print(f"sonde, commit {subprocess.run(['git', 'describe', '--always', '--dirty'], cwd=ROOT, capture_output=True, text=True).stdout.strip() or '?'}, "
          f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, {os.cpu_count()} CPUs {cpu_model()}, Linux {os.uname().release}")
    if "unwind" in what:
        good &= section("Unwinding: one captured stack in the signal handler", [f"{BUILD}/tests/bench/unwind"])
    if "calls" in what:
        good &= section("Calls that do not block, and a request in parts", ["tests/bench/calls.py", "--parts", "--runs", str(runs)],
                        [f"{BUILD}/tests/bench/ledger"], [f"{BUILD}/tests/bench/stamps"], [f"{BUILD}/tests/bench/http"])
    if "thread" in what:
        good &= section("The agent's own thread, per ended request", [f"{BUILD}/tests/bench/aggregate"])
    if "footprint" in what:
        good &= section("Blocked threads, memory, wire", ["tests/bench/footprint.py", "--seconds", str(2 if o.quick else 5)],
                        [f"{BUILD}/tests/bench/peek"])
    if servers := [s for s in SERVERS if s in what]:
        good &= section("Whole programs, sonde beside its peers",
                        ["tests/bench/servers.py", "--what", ",".join(servers), "--peers", o.peers, "--pairs", str(pairs),
                         "--seconds", f"{seconds:g}", "--minutes", "2" if o.quick else "12"])
    print(f"\n{time.monotonic() - start:.0f} s")
    sys.exit(not good)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What the agent takes while nothing happens, and what it writes while much happens: blocked threads, memory, wire.

    B=build/release tests/bench/footprint.py [--seconds 5] [--threads 1000]
"""
import argparse
import os
import subprocess
import sys
import time

import servers
import tap


def blocked(threads, seconds, **settings):
    """(CPUs used, context switches of the blocked threads, private KiB)"""
    env = dict(os.environ) | settings
    home = tap.scratch()
    if settings:
        env |= {"LD_PRELOAD": str(tap.AGENT), "SONDE_OUTPUT": str(home / "windows")}
    out = subprocess.run([servers.HOSTS / "blocked", str(threads), str(seconds)], env=env, stdout=subprocess.PIPE, text=True,
                         check=True, timeout=60 + seconds).stdout
    cpu, switches, kib = (int(f) for f in out.split("\t"))
    return cpu / 1e9 / seconds, switches, kib


def judged(value, limit, unit, digits=1):
    return f"{value:.{digits}f} {unit}, at most {limit}: {'ok' if value <= limit else 'MISSED'}"


def threads_and_memory(threads, seconds):
    print(f"{threads} threads that wait for a condition, each with a request in hand, {seconds} s:")
    few_plain, many_plain = blocked(1, 1)[2], blocked(threads, seconds)
    few = blocked(1, 1, SONDE_LOOK_HZ="20")[2]
    print(f"  without the agent   {100 * many_plain[0]:.3f} % of a CPU, {many_plain[1]} context switches of theirs")
    for hz in ("20", "50"):
        many = blocked(threads, seconds, SONDE_LOOK_HZ=hz)
        per_look = (many[0] - many_plain[0]) / threads / int(hz) * 1e9
        print(f"  looked at {hz} times   {judged(100 * many[0], 0.1, '% of a CPU', 3) if hz == '20' else f'{100 * many[0]:.3f} % of a CPU'}; "
              f"{per_look:.0f} ns per thread and look, rest of the agent's loop included; {judged(many[1], 0, 'context switches', 0)}")
    fixed = few - few_plain
    per_thread = (many[2] - few - (many_plain[2] - few_plain)) / (threads - 1)
    print(f"private memory that the agent adds: {judged(fixed / 1024, 2, 'MiB', 2)} with one thread; "
          f"per further live thread {judged(per_thread, 80, 'KiB')}")


def wire(seconds):
    host, home = servers.Own(), tap.scratch()
    output = home / "windows"
    host.start(home, {"LD_PRELOAD": str(tap.AGENT), "SONDE_OUTPUT": str(output)})
    tap.wait_for(host.ready, "the server")
    host.load(2)
    before, start = output.stat().st_size, time.monotonic()
    load = host.load(seconds)
    time.sleep(1.1)  # the last window
    rate = (output.stat().st_size - before) / (time.monotonic() - start)
    print(f"wire, the saturated server of servers.py, {load.rate:,.0f} requests a second, 7 routes: {judged(rate / 1e3, 20, 'kB/s')}")


def main(argv=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=5)
    options.add_argument("--threads", type=int, default=1000)
    o = options.parse_args(argv)
    print(f"$ tests/bench/footprint.py {' '.join(argv if argv is not None else sys.argv[1:])}\n")
    threads_and_memory(o.threads, o.seconds)
    wire(o.seconds)
    tap.stop_all()


if __name__ == "__main__":
    main()

"""Wait time by stack, held against a program's own log of its waits (tests/subjects/offcpu.c).

    SONDE_TRUTH_SECONDS=20 /usr/bin/python3 tests/e2e/test_offcpu_truth.py      the long form: `make truth`

The program times its waits from outside. Part of that is not the wait: when it is over, the thread may have to wait for
a processor, which the agent tells from the wait where it can (state runq). So the truth is between the time with and
without that part, as the kernel counts it; on a quiet machine the two are the same. A request's ledger knows the sum of a
state, of which a place may have more or less than its part.
"""
import functools
import os
import time

import tap

SECONDS = int(os.environ.get("SONDE_TRUTH_SECONDS", "8"))
SHARE = 0.03                # promised
RUNQ = 1.25                 # the delay is read before and after a wait: on a busy machine it may grow in between
SLACK_NS = 50_000_000       # the last window may have a wait by its looks that was shorter than they tell
SUBJECT = tap.BUILD / "tests/subjects/offcpu"


def by_function(flame, state):
    """{function: ns at or below it}"""
    names, columns, path, sums = flame["functions"]["name"], flame["nodes"], [], {}
    for i, function in enumerate(columns["function"]):
        del path[columns["depth"][i]:]
        path.append(names[function])
        for name in set(path):
            sums[name] = sums.get(name, 0) + columns["self"][state][i]
    return sums


@functools.cache
def measured():
    """{(route, place, state): (waits, ns, runq ns, ns as the collector has it)}, and how the stuck wait looked meanwhile."""
    collector = tap.Collector()
    flame = lambda route: collector.get("flame", **{"from": "-1h", "route": "" if route == "-" else route})
    start = time.monotonic()
    subject = tap.start(SUBJECT, SECONDS, env={"LD_PRELOAD": tap.AGENT, "SONDE_COLLECTOR": collector.address})
    time.sleep(SECONDS * 0.75)
    stuck = time.monotonic() - start - 1, by_function(flame("-"), "lock").get("lock_stuck", 0) / 1e9
    assert subject.wait(SECONDS + 30) == 0, subject.output()
    tap.settled(lambda: (collector.get("processes")["processes"][0]["state"] != "live", [flame(r)["total"] for r in ("-", "mix", "long")]))
    rows = {}
    for line in subject.output().splitlines():
        route, place, state, *numbers = line.split()
        waits, ns, runq = map(int, numbers)
        rows[route, place, state] = (waits, ns, min(ns, runq * RUNQ), by_function(flame(route), state).get(place, 0))
    print(f"# {SECONDS} s")
    for (route, place, state), (waits, ns, runq, got) in rows.items():
        print(f"#   {route:5} {place:15} {state:6} {waits:6} waits   truth {(ns - runq) / 1e9:8.3f} .. {ns / 1e9:8.3f} s"
              f"   sonde {got / 1e9:8.3f} s   {(got - (ns - runq)) / ns:+7.2%} .. {(got - ns) / ns:+7.2%}")
    for route in "mix", "long", "-":
        everything = flame(route)["total"]
        print(f"#   {route:5} in all: " + ", ".join(f"{state} {ns / 1e9:.3f}" for state, ns in everything.items() if ns) + "; of it elsewhere: " +
              ", ".join(f"{s} {(everything[s] - sum(r[3] for key, r in rows.items() if key[0] == route and key[2] == s)) / 1e9:.3f}" for s in ("io", "lock", "sleep")))
    print(f"#   stuck for {stuck[0]:.2f} s, sonde {stuck[1]:.2f} s")
    return rows, stuck


def within(what, got, low, high):
    low, high = low * (1 - SHARE) - SLACK_NS, high * (1 + SHARE) + SLACK_NS
    assert low <= got <= high, f"{what}: {got / 1e9:.3f} s, not {low / 1e9:.3f} .. {high / 1e9:.3f}"


@tap.test
def wait_time_by_stack_is_the_programs_own_log():
    rows, _ = measured()
    for (route, place, state), (waits, ns, runq, got) in rows.items():
        assert waits, f"{place}: the test itself has no waits"
        low, high = ns - runq, ns
        if route != "-":    # what the ledgers say of the state in all, in the proportions of its places
            others = [row for key, row in rows.items() if (key[0], key[2]) == (route, state) and key[1] != place]
            others_low, others_high = sum(row[1] - row[2] for row in others), sum(row[1] for row in others)
            total = got + sum(row[3] for row in others)
            within(f"{route} {state} in all", total, low + others_low, high + others_high)
            low, high = total * low / (low + others_high), total * high / (high + others_low)
        within(f"{route} {place}", got, low, high)


@tap.test
def a_wait_that_goes_on_is_seen():
    _, (stuck, got) = measured()
    assert stuck - 3 <= got <= stuck * (1 + SHARE), f"{got} s of {stuck}"    # windows come once a second, and are stored soon after


if __name__ == "__main__":
    tap.run()

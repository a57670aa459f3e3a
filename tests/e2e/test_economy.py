"""What the agent costs, as it says itself: the governor keeps it inside its budget without losing truth, memory and wire stay
inside their bounds. No assertion here is on a speed."""
import os
import re
import time

import tap
from tap import test

BURNER = tap.BUILD / "tests/subjects/burner"
MIB, KIB = 1 << 20, 1 << 10


def agent(collector, **settings):
    return {"LD_PRELOAD": str(tap.AGENT), "SONDE_COLLECTOR": collector.address, **settings}


def of(collector, pid, seconds=3600):
    """The process's own report over the last @seconds; KeyError when there is none."""
    found = [p for p in collector.get("processes", **{"from": f"-{seconds}s"})["processes"] if p["pid"] == pid]
    if not found:
        raise KeyError(pid)
    return found[0]


def step_of(collector, pid):
    """The governor's step by the newest window: 1 is half the rates, 2 a quarter, ..."""
    p = of(collector, pid)
    assert p["hz"] == 1000 >> p["overhead"]["step"] or p["hz"] == 10 ** 9 // (10 ** 6 << p["overhead"]["step"]), p
    return p["overhead"]["step"]


@test
def the_rate_drops_to_keep_the_budget_and_rises_again_and_totals_stay_right():
    collector = tap.Collector()
    program = tap.start(BURNER, 4, 100, 8, 30, env=agent(collector, SONDE_HZ="1000", SONDE_BUDGET="1"))
    highest = tap.wait_for(lambda: step_of(collector, program.pid), "the rate to drop", 15)
    while "calm" not in program.output():
        highest = max(highest, step_of(collector, program.pid))
        time.sleep(0.2)
    tap.wait_for(lambda: step_of(collector, program.pid) == 0, "the rate to rise again", 30)
    assert program.wait(60) == 0
    true_ns = int(program.output().split()[-1])
    tap.wait_for(lambda: of(collector, program.pid)["state"] == "ended", "the last window")
    sampled_ns = collector.get("routes", **{"from": "-1h"})["background"]["cpu"]
    # Each of five threads may be a period of the slowest rate off at its end, and at each change of the rate.
    bound = 0.02 * true_ns + 5 * 2 * (highest + 1) * (10 ** 6 << highest)
    print(f"# steps 0 to {highest} and back: {sampled_ns / 1e6:.0f} ms sampled of {true_ns / 1e6:.0f} ms")
    assert abs(sampled_ns - true_ns) < bound, (sampled_ns, true_ns, bound)
    p = of(collector, program.pid)
    assert sum(end["count"] for end in p["stack_ends"]) == p["samples"], p


@test
def a_generous_budget_leaves_the_rate_alone():
    collector = tap.Collector()
    program = tap.start(BURNER, 2, 20, 4, 0, env=agent(collector, SONDE_BUDGET="1000"))
    while program.poll() is None:
        time.sleep(0.3)
        try:
            assert of(collector, program.pid)["overhead"]["step"] == 0
        except KeyError:
            pass
    p = tap.wait_for(lambda: of(collector, program.pid), "its report")
    assert p["hz"] == 99 and p["look_hz"] == 50 and p["overhead"]["budget_permille"] == 1000, p


if __name__ == "__main__":
    tap.run()

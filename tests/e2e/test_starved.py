"""
Memory runs out for the agent: each of its allocations and mappings fails in turn, in a whole process, and then all from one on.
The program does what it does. (tests/unit/test_agent_nomem.c looks at the data path alone, and for leaks.)
"""
import re
import subprocess

import tap
from tap import outcome, preloaded

WORKER = tap.BUILD / "examples/embed/worker"
STARVE = tap.scratch() / "starve.so"
subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-D_GNU_SOURCE", tap.ROOT / "tests/e2e/starve.c", "-o", STARVE, "-ldl"], check=True)


def starved(order, **more):
    # SONDE_CHILDREN has nothing to say here, but that the agent comes behind another library is of use
    return outcome([WORKER, "30"], preloaded(LD_PRELOAD=f"{STARVE}:{tap.AGENT}", STARVE=order, SONDE_WINDOW_MS="100",
                                             SONDE_OUTPUT=str(tap.scratch() / "stream"), **more))


def calls_of(kind):
    """How many there are when none fails."""
    done = starved(f"{kind}:0", STARVE_COUNT="1")
    assert done[:2] == (0, b"30 jobs done\n"), done
    return int(re.fullmatch(rb"(\d+) calls\n", done[2])[1])


def every(kind, few):
    calls = calls_of(kind)
    assert calls > few, calls
    turns = [f"{kind}:{n}" for n in sorted({*range(1, min(calls, 40)), *range(40, calls, max(1, calls // 40))})]
    turns += [f"{kind}:{n}+" for n in (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 40, 80, 160) if n <= calls]
    wrong = [(order, done) for order in turns if (done := starved(order)) != (0, b"30 jobs done\n", b"")]
    assert not wrong, "\n".join(map(str, wrong))
    print(f"# {kind}: {calls} calls, {len(turns)} ways to fail")


@tap.test
def an_allocation_that_fails_is_the_agents_affair():
    every("malloc", 50)


@tap.test
def a_mapping_that_fails_is_the_agents_affair():
    every("mmap", 5)


if __name__ == "__main__":
    tap.run()

"""Every wrapped call with every odd argument: the same results, errnos, buffers and deaths with the agent as without."""
import difflib
import os
import subprocess

import tap

CALLS = tap.BUILD / "tests/subjects/calls"


def outcome(command=(CALLS,), **more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SONDE_", "LD_PRELOAD"))}
    done = subprocess.run(command, env={**clean, **more}, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    return [f"status {done.returncode}"] + (done.stdout + done.stderr).decode().splitlines()


def under_agent(command=(CALLS,), **more):
    return outcome(command, LD_PRELOAD=str(tap.AGENT), SONDE_COLLECTOR=f"tcp:127.0.0.1:{tap.free_port()}", **more)


def same(**more):
    without, under = outcome(), under_agent(**more)
    assert without[0] == "status 0" and len(without) > 500, without[-5:]
    different = list(difflib.unified_diff(without, under, "without", "under the agent", lineterm="", n=0))
    assert not different, "\n".join(different[:30])


@tap.test
def calls_answer_as_without_the_agent():
    same()


@tap.test
def calls_answer_so_while_samples_and_looks_come_fast():
    same(SONDE_HZ="1000", SONDE_LOOK_HZ="1000", SONDE_BUDGET="1000")


@tap.test
def calls_answer_so_with_everything_switched_off():
    same(SONDE_HTTP="0", SONDE_LOCKS="0", SONDE_TIMESTAMPS="0")


NUMBERS = """
import os, time
wrong, end, number = 0, time.monotonic() + 3.5, os.open("/dev/null", os.O_RDONLY)
while time.monotonic() < end:
    os.close(number)
    again = os.open("/dev/null", os.O_RDONLY)
    wrong += again != number
    number = again
print(wrong, sorted(os.listdir("/proc/self/fd"))[-1] < "9")
"""


@tap.test
def the_next_descriptor_is_the_lowest_free_one():
    """A server that becomes a daemon counts on it: close(0), open()."""
    answer = under_agent(["/usr/bin/python3", "-c", NUMBERS])
    assert answer == ["status 0", "0 True"], answer


if __name__ == "__main__":
    tap.run()

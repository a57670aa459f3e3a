"""CPU time by function and thread, held against what the threads' own CPU clocks said (tests/subjects/cpu_shares.c).

    SONDE_TRUTH_SECONDS=20 /usr/bin/python3 tests/e2e/test_cpu_truth.py      the long form: `make truth`

How exact can it be? A thread's timer expires once per 10.1 ms of its CPU time; an expiry counts where the next tick of
the kernel finds the thread. So a stretch of work in one function gets, for each of its two ends, up to one period too
much or too little: at most half a period of standard deviation per end. That is the sigma below; bounds are 5 of them, or
what the project promises, whichever is more. Over 20 s the promise is more: then nothing but a mistake can miss it.
"""
import collections
import functools
import os

import tap

SECONDS = int(os.environ.get("SONDE_TRUTH_SECONDS", "6"))
HZ = 99
PERIOD_NS = 1e9 / HZ
SHARE, TOTAL = 0.02, 0.02   # promised: points of share, part of the whole
SIGMAS = 5
BACKGROUND = {"from": "-1h", "route": ""}   # work outside of requests
UNFOUND = "[before the thread was found]"
SUBJECT = tap.BUILD / "tests/subjects/cpu_shares"


def nodes(flame):
    """(names from the root, self ns on the CPU)"""
    names, columns, path = flame["functions"]["name"], flame["nodes"], []
    for i, function in enumerate(columns["function"]):
        del path[columns["depth"][i]:]
        path.append(names[function])
        yield list(path), columns["self"]["cpu"][i]


@functools.cache
def measured():
    """
    What the program says: {thread: {function: (ns, stretches)}} and getrusage's ns; what the collector says:
    {thread, or None for all: {function: ns}}, the process, and {thread: [(names from the root, ns)]}.
    """
    collector = tap.Collector()
    subject = tap.start(SUBJECT, SECONDS, env={"LD_PRELOAD": tap.AGENT, "SONDE_COLLECTOR": collector.address,
                                               "SONDE_SERVICE": "truth", "SONDE_HZ": str(HZ), "SONDE_BUDGET": "1000"})
    assert subject.wait(SECONDS + 30) == 0, subject.output()
    tap.settled(lambda: (collector.get("processes")["processes"][0]["state"] != "live", collector.get("flame", **BACKGROUND)["total"]))
    truth, total = collections.defaultdict(dict), 0
    for line in subject.output().splitlines():
        thread, function, stretches, ns = line.split()
        if thread == "total":
            total = int(ns)
        else:
            truth[thread][function] = (int(ns), int(stretches))
    sonde, paths = {thread: collections.Counter() for thread in [*truth, None]}, {}
    for thread, sums in sonde.items():
        selection = {"thread": thread} if thread else {}
        paths[thread] = [(path, ns) for path, ns in nodes(collector.get("flame", **BACKGROUND, **selection)) if ns]
        for path, ns in paths[thread]:
            burn = [name for name in path if name.startswith("burn_")]
            sums[burn[0] if burn else path[-1]] += ns
    process = collector.get("processes")["processes"][0]
    show(truth, total, sonde, process)
    return truth, total, sonde, process, paths


def sigma(stretches):
    """Standard deviation of what is attributed to a function that ran in so many stretches, in ns."""
    return PERIOD_NS / 2 * (2 * stretches) ** 0.5


def show(truth, total, sonde, process):
    known = known_ns(truth)
    print(f"# {SECONDS} s: {known / 1e9:.3f} s of CPU in functions, getrusage {total / 1e9:.3f} s, samples {sum(sonde[None].values()) / 1e9:.3f} s, "
          f"agent's thread {process['overhead']['agent_cpu_ns'] / 1e9:.3f} s")
    for thread, functions in truth.items():
        for function, (ns, stretches) in functions.items():
            got = sonde[thread][function]
            print(f"#   {thread:7} {function:12} truth {ns / 1e9:8.3f} s {ns / known:7.2%}   sonde {got / 1e9:8.3f} s {got / known:7.2%}"
                  f"   off {(got - ns) / known:+7.2%}, sigma {sigma(stretches) / known:6.2%}")
    named = {function for functions in truth.values() for function in functions}
    print("#   elsewhere: " + ", ".join(f"{name} {ns / 1e9:.3f}" for name, ns in sonde[None].most_common() if name not in named and ns))


def known_ns(truth):
    return sum(ns for functions in truth.values() for ns, _ in functions.values())


@tap.test
def cpu_shares_by_function_and_thread_are_the_threads_own_clocks():
    truth, _, sonde, _, _ = measured()
    known = known_ns(truth)
    for thread, functions in truth.items():
        for function, (ns, stretches) in functions.items():
            bound = max(SHARE, SIGMAS * sigma(stretches) / known)
            got = sonde[thread][function]
            if function == "burn_cloned":   # an agent that gets no CPU finds its thread late, and says so
                got += sonde[thread][UNFOUND]
            off = abs(got - ns) / known
            assert off < bound, f"{function} on {thread}: {off:.2%} of all CPU away from the truth, bound {bound:.2%}"


@tap.test
def all_samples_add_up_to_what_getrusage_says():
    truth, total, sonde, process, _ = measured()
    ends = truth["short"]["burn_short"][1] + 5      # threads: each end is up to a period off
    bound = max(TOTAL, SIGMAS * PERIOD_NS / 2 * ends ** 0.5 / total)
    seen = sum(sonde[None].values()) + process["overhead"]["agent_cpu_ns"]
    assert abs(seen - total) < bound * total, f"{seen / total:.2%} of getrusage, bound {bound:.2%}"


@tap.test
def a_cloned_thread_is_found_and_its_stack_too():
    *_, sonde, _, paths = measured()
    whole = sum(ns for path, ns in paths["cloned"] if "be_cloned" in path)
    total = sum(sonde["cloned"].values())
    assert whole > 0.5 * total > 0, f"{whole / 1e9:.3f} of {total / 1e9:.3f} s under be_cloned: {paths['cloned']}"


if __name__ == "__main__":
    tap.run()

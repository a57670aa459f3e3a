"""A collector that dies and comes back: the server never notices, nothing inside the spool is lost or counted twice."""
import re
import signal
import time

import load
import tap
import truth

ROUTES = ["/fast", "/fib/20", "/sleep/3", "/io/3", "/file", "/error", "/lock"]


def start_demo(collector, **env):
    port, log = tap.free_port(), tap.scratch() / "truth.tsv"
    demo = tap.start(tap.SONDE, "run", "--service", "demo", "--collector", collector.address, "--", tap.DEMO,
                     "--listen", f"127.0.0.1:{port}", "--log", log, env=env)
    tap.wait_for(lambda: "http://" in demo.output(), "the demo")
    return demo, port, log


def steady(seconds):
    """About 100 requests a second over ten connections."""
    return [load.Client([(0.1 * n + 0.01 * c, ROUTES[(n + c) % len(ROUTES)]) for n in range(int(seconds * 10))])
            for c in range(10)]


def kill(collector):
    collector.process.send_signal(signal.SIGKILL)
    collector.process.wait()


def instance(collector, demo):
    """The demo's own entry: its peer is a process of the service, too."""
    return next((p for p in collector.get("processes")["processes"] if p["pid"] == demo.pid), {"state": "unknown"})


def counts(collector):
    return {name: route["count"] for name, route in collector.routes().items()}


def expected(result):
    sums = load.collections.Counter()
    for path, count in result.sent.items():
        sums["GET " + truth.template(path)] += count
    return dict(sums)


@tap.test
def killed_and_started_again_nothing_is_lost_or_doubled():
    collector = tap.Collector()
    demo, port, _ = start_demo(collector)
    result = load.run(port, steady(14), during=[
        (3.0, lambda: kill(collector)), (5.5, collector.start),       # within the spool's bound
        (8.0, lambda: kill(collector)), (8.2, collector.start),       # in the middle of a conversation
        (9.1, lambda: kill(collector)), (10.0, collector.start)])
    assert not result.failures, result.failures[:5]
    tap.wait_for(lambda: instance(collector, demo)["state"] == "live", "the agent to be back", 20)
    assert tap.stop(demo) == 0, demo.output()
    want = expected(result)
    tap.wait_for(lambda: sum(counts(collector).values()) >= sum(want.values()), "every request")
    time.sleep(1)
    assert counts(collector) == want
    process = instance(collector, demo)
    assert process["lost_windows"] == 0 and process["state"] == "ended", process
    assert not re.search(r"sonde|agent", demo.output().replace("sonde-demo", "")), demo.output()

    # What was stored survives one more kill, of a collector that has nothing to hear from anybody.
    kill(collector)
    collector.start()
    assert counts(collector) == want


@tap.test
def a_collector_that_comes_late_hears_everything():
    collector = tap.Collector()
    kill(collector)
    demo, port, _ = start_demo(collector)
    result = load.run(port, steady(4))
    assert not result.failures, result.failures[:5]
    collector.start()
    tap.wait_for(lambda: instance(collector, demo)["state"] == "live", "the agent to find it", 20)
    assert tap.stop(demo) == 0, demo.output()
    want = expected(result)
    tap.wait_for(lambda: sum(counts(collector).values()) >= sum(want.values()), "every request")
    time.sleep(1)
    assert counts(collector) == want


@tap.test
def away_too_long_the_lost_windows_are_counted():
    collector = tap.Collector()
    demo, port, log = start_demo(collector, SONDE_SPOOL_KIB="64", SONDE_WINDOW_MS="100")
    result = load.run(port, steady(18), during=[(3.0, lambda: kill(collector)), (15.0, collector.start)])
    assert not result.failures, result.failures[:5]
    tap.wait_for(lambda: instance(collector, demo)["state"] == "live", "the agent to be back", 20)
    assert tap.stop(demo) == 0, demo.output()
    tap.wait_for(lambda: instance(collector, demo)["state"] == "ended", "the last window")
    process, want, got = instance(collector, demo), expected(result), counts(collector)
    print(f"# sent {sum(want.values())}, stored {sum(got.values())}, lost windows {process['lost_windows']}")
    assert process["lost_windows"] > 0, process
    assert all(got[route] <= want[route] for route in got), (got, want)
    missing = sum(want.values()) - sum(got.values())
    # 100 requests a second in windows of 0.1 s: what is missing fits the windows that are said to be lost.
    assert 0.5 * missing <= process["lost_windows"] * 10 <= 2 * missing + 50, (missing, process["lost_windows"])
    assert sum(row["count"] for row in truth.read(log).values()) == sum(want.values())


if __name__ == "__main__":
    tap.run()

"""The demo's own log, and holding the collector's answer against it."""
import collections
import re

STATES = ["queue", "cpu", "runq", "io", "lock", "sleep", "loop", "other"]


def template(path):
    """The route that sonde guesses from a path: numbers become {n}."""
    return re.sub(r"/\d+(?=/|$)", "/{n}", path.split("?")[0])


def read(log, received_ns=None):
    """
    {route: {"count", "latency", states..., means in ns}} of the requests that carried X-Sent-Ns.

    @received_ns: when the client had the answer, by X-Sent-Ns. A send() often wakes the client up on the server's own
    CPU, and then the server learns late that it has sent: the answer was sent when the client had it, at the latest.
    """
    received_ns = received_ns or {}
    with open(log) as lines:
        names = next(lines).rstrip("\n").split("\t")
        sums, counts = collections.defaultdict(collections.Counter), collections.Counter()
        for line in lines:
            row = dict(zip(names, line.rstrip("\n").split("\t")))
            if row["sent_ns"] == "0":
                continue
            ns = {name: int(row[name + "_ns"]) for name in
                  ("sent", "begin", "end", "cpu", "runq", "io", "lock", "sleep", "loop")}
            ns["end"] = min(ns["end"], received_ns.get(ns["sent"], ns["end"]))
            ns["latency"] = ns["end"] - ns["sent"]
            ns["queue"] = ns["begin"] - ns["sent"]
            ns["other"] = ns["latency"] - sum(ns[state] for state in STATES[:-1])
            route = f"{row['method']} {template(row['path'])}"
            counts[route] += 1
            for name in ["latency"] + STATES:
                sums[route][name] += ns[name]
    return {route: {"count": counts[route], **{name: sums[route][name] / counts[route] for name in ["latency"] + STATES}}
            for route in counts}


def table(truth, sonde):
    """Side by side, µs per request: a line of truth above a line of sonde for each route."""
    lines = [f"{'':24}{'count':>7}{'latency':>10}" + "".join(f"{state:>10}" for state in STATES)]
    for route in sorted(set(truth) | set(sonde)):
        t, s = truth.get(route), sonde.get(route)
        for who, row in ("truth", t), ("sonde", s and {"count": s["count"], "latency": s["latency"]["mean"], **s["ledger"]}):
            name = f"{route:18}" if who == "truth" else " " * 18
            lines.append(f"{name}{who:>6}" + ("  missing" if not row else
                         f"{row['count']:7}" + "".join(f"{row[n] / 1000:10.1f}" for n in ["latency"] + STATES)))
    return "\n".join("# " + line for line in lines)


def exact(truth, sonde):
    """What must hold on any machine, however loaded: a list of what does not."""
    wrong = []
    for route in sorted(set(truth) | set(sonde)):
        t, s = truth.get(route), sonde.get(route)
        if not t or not s:
            wrong.append(f"{route}: only in {'the truth' if t else 'sonde'}")
            continue
        if t["count"] != s["count"]:
            wrong.append(f"{route}: {t['count']} requests, sonde says {s['count']}")
        if abs(sum(s["ledger"][state] for state in STATES) - s["latency"]["mean"]) > 1000:
            wrong.append(f"{route}: the states do not add up to the latency")
        if any(s["ledger"][state] < 0 for state in STATES):
            wrong.append(f"{route}: a state is below zero")
    return wrong


def close(truth, sonde, states=("queue", "cpu", "io", "lock", "sleep", "loop")):
    """What must hold when nothing else disturbs: a list of what does not."""
    wrong = []
    for route in sorted(set(truth) & set(sonde)):
        t, s = truth[route], sonde[route]
        latency, ledger = t["latency"], s["ledger"]
        off = s["latency"]["mean"] - latency
        if abs(off) > max(0.02 * latency, 50_000):
            wrong.append(f"{route}: latency {off / 1000:+.1f} µs of {latency / 1000:.1f}")
        for state in states:
            off = ledger[state] - t[state]
            if abs(off) > max(0.05 * latency, 50_000):
                wrong.append(f"{route}: {state} {off / 1000:+.1f} µs of {t[state] / 1000:.1f}, latency {latency / 1000:.1f}")
        if ledger["other"] > max(0.02 * s["latency"]["mean"], 20_000):
            wrong.append(f"{route}: other {ledger['other'] / 1000:.1f} µs of {s['latency']['mean'] / 1000:.1f}")
    return wrong

#!/usr/bin/python3
"""A pretended agent: speaks include/sonde.proto by hand, with a fixed and realistic set of data and its own truth of it.

    agentsim.py tcp:127.0.0.1:7071 --service shop --seconds 300          history up to now, at once
    agentsim.py unix:/run/sonde.sock --seconds 60 --live                 then one window a second until stopped

All stacks are made of frames the agent names itself, so no program has to be there to be symbolised.
"""
import argparse
import bisect
import collections
import math
import random
import signal
import socket
import struct
import time

QUEUE, CPU, RUNQ, IO, LOCK, SLEEP, LOOP, OTHER = range(8)
STATES = ("queue", "cpu", "runq", "io", "lock", "sleep", "loop", "other")
MS = 1_000_000
SECOND = 1_000_000_000


# ---- Protocol buffers, as little as is needed ----

def varint(n):
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, value):
    """A field by the type of its value: int, str, bytes, or a list of int (packed). Zero and empty are left out."""
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""
    if isinstance(value, list):
        value = b"".join(varint(v) for v in value)
    elif isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value if value else b""


def message(*fields):
    """Fields as (number, value); lists of bytes are repeated messages."""
    out = b""
    for number, value in fields:
        if isinstance(value, list) and value and isinstance(value[0], bytes):
            for one in value:
                out += varint(number << 3 | 2) + varint(len(one)) + one
        else:
            out += field(number, value)
    return out


def decode(data):
    """{field number: [values]}: int, or bytes."""
    fields, at = collections.defaultdict(list), 0

    def number():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            fields[key >> 3].append(number())
        elif key & 7 == 1:
            fields[key >> 3].append(struct.unpack_from("<Q", data, at)[0])
            at += 8
        elif key & 7 == 2:
            size = number()
            fields[key >> 3].append(data[at:at + size])
            at += size
        else:
            raise ValueError(f"wire type {key & 7}")
    return fields


BODY = {"hello": 1, "dict": 2, "window": 3, "slow": 4, "event": 5, "welcome": 6, "ack": 7}


def frame(kind, body):
    """A message as it goes over the wire. An empty body is still a body."""
    packed = varint(BODY[kind] << 3 | 2) + varint(len(body)) + body
    return struct.pack("<I", len(packed)) + packed


# ---- Histograms (include/sonde_hist.h) ----

def hist_index(ns):
    if ns <= 1:
        return 0
    if ns & (ns - 1) == 0:
        return (ns.bit_length() - 1) * 32 - 1
    return min(44 * 32 - 1, math.ceil(32 * math.log2(ns)) - 1)


def coarse(ns):
    return hist_index(ns) // 16


def histogram(counts):
    """{index: count} as a Histogram message."""
    indexes = sorted(counts)
    deltas = [b - a for a, b in zip([0] + indexes, indexes)]
    return field_packed(1, deltas) + field_packed(2, [counts[i] for i in indexes])


def field_packed(number, values):
    body = b"".join(varint(v) for v in values)
    return varint(number << 3 | 2) + varint(len(body)) + body if values else b""


# ---- What the pretended server does ----

# name: (file, line)
FUNCTIONS = {
    "main": ("shop/main.c", 31), "worker_loop": ("shop/worker.c", 88), "handle_request": ("shop/server.c", 142),
    "parse_headers": ("shop/http.c", 57), "write_response": ("shop/http.c", 210), "json_encode": ("shop/json.c", 19),
    "json_escape": ("shop/json.c", 77), "handle_fib": ("shop/fib.c", 40), "fib": ("shop/fib.c", 12),
    "handle_user": ("shop/user.c", 25), "cache_lookup": ("shop/cache.c", 61), "cache_rebuild": ("shop/cache.c", 118),
    "pthread_mutex_lock": ("", 0), "db_query": ("shop/db.c", 73), "db_read_row": ("shop/db.c", 131), "recv": ("", 0),
    "handle_checkout": ("shop/checkout.c", 48), "charge_card": ("shop/payment.c", 22), "retry_sleep": ("shop/payment.c", 64),
    "nanosleep": ("", 0), "tls_write": ("shop/tls.c", 90), "send": ("", 0), "sha256": ("shop/sha.c", 14),
    "logger_thread": ("shop/log.c", 17), "log_flush": ("shop/log.c", 52), "fdatasync": ("", 0),
}
BASE = ("main", "worker_loop", "handle_request")

# route: requests per second, mean ns per state, errors, and stacks per state with their weights.
# "GET /users/{id}" has lock time and no lock sample on purpose in odd seconds.
ROUTES = {
    "GET /fib/{n}": {
        "rate": 14, "error": 0.0, "mean": {QUEUE: 60_000, CPU: 9 * MS, RUNQ: 400_000, OTHER: 20_000},
        "stacks": {CPU: [(("handle_fib",) + ("fib",) * 6, 60), (("handle_fib",) + ("fib",) * 9, 34),
                         (("handle_fib", "write_response", "json_encode"), 4), (("parse_headers",), 2)]},
    },
    "GET /users/{id}": {
        "rate": 40, "error": 0.0, "mean": {QUEUE: 30_000, CPU: 700_000, IO: 2_400_000, LOCK: 900_000, OTHER: 15_000},
        "stacks": {CPU: [(("handle_user", "cache_lookup"), 30), (("handle_user", "write_response", "json_encode", "json_escape"), 45),
                         (("parse_headers",), 25)],
                   IO: [(("handle_user", "db_query", "db_read_row", "recv"), 80), (("handle_user", "db_query", "recv"), 20)],
                   LOCK: [(("handle_user", "cache_lookup", "pthread_mutex_lock"), 70),
                          (("handle_user", "cache_rebuild", "pthread_mutex_lock"), 30)]},
    },
    "POST /checkout": {
        "rate": 6, "error": 0.05,
        "mean": {QUEUE: 500_000, CPU: 3 * MS, RUNQ: 100_000, IO: 6 * MS, LOCK: 400_000, SLEEP: 12 * MS, LOOP: 800_000, OTHER: 60_000},
        "stacks": {CPU: [(("handle_checkout", "charge_card", "sha256"), 70), (("handle_checkout", "json_encode"), 30)],
                   IO: [(("handle_checkout", "charge_card", "tls_write", "send"), 25), (("handle_checkout", "charge_card", "recv"), 75)],
                   LOCK: [(("handle_checkout", "cache_lookup", "pthread_mutex_lock"), 1)],
                   SLEEP: [(("handle_checkout", "charge_card", "retry_sleep", "nanosleep"), 1)]},
    },
}
BACKGROUND = [(CPU, ("main", "logger_thread", "log_flush"), 4 * MS), (IO, ("main", "logger_thread", "log_flush", "fdatasync"), 30 * MS)]
SAMPLE_NS = SECOND // 99


class Truth:
    """What was said of one route, added up."""

    def __init__(self):
        self.count = self.errors = self.sum_ns = self.max_ns = 0
        self.ledger = [0] * 8
        self.latencies = []


class Agent:
    """One instance: makes windows, and speaks for them over as many connections as it takes."""

    def __init__(self, service="shop", pid=4711, seed=1, instance=None, routes=None):
        self.service, self.pid, self.random = service, pid, random.Random(seed)
        self.instance = instance or random.Random(f"{service} {pid} {seed}").getrandbits(63) | 1
        self.routes = routes or ROUTES
        self.seq, self.lost = 0, 0
        self.truth = collections.defaultdict(Truth)
        self.background = [0] * 8
        self.sampled = collections.Counter()   # (route name, state): ns
        self.functions = {name: i for i, name in enumerate(FUNCTIONS, 1)}
        self.stacks, self.stack_rows = {}, []
        self.route_ids = {name: i for i, name in enumerate(self.routes, 1)}
        self.threads = {1: "shop", 2: "worker-1", 3: "worker-2"}
        for spec in self.routes.values():
            for choices in spec["stacks"].values():
                for names, _ in choices:
                    self.stack_id(BASE + names)
        for _, names, _ in BACKGROUND:
            self.stack_id(names)
        self.socket = None

    def stack_id(self, names):
        """The id of a stack, its callers first."""
        if not names:
            return 0
        if names not in self.stacks:
            parent = self.stack_id(names[:-1])
            self.stacks[names] = len(self.stacks) + 1
            self.stack_rows.append((self.stacks[names], parent, 0, self.functions[names[-1]]))
        return self.stacks[names]

    # -- messages --

    def hello(self, protocol=1, unix_ns=None, **changes):
        unix_ns = unix_ns or time.time_ns()
        fields = {3: self.service, 4: "sim-host", 5: "00000000-sim-boot", 6: self.pid, 7: 123456789, 8: "/usr/bin/" + self.service,
                  9: self.service + " --port 80", 10: "0.1.0", 11: 1000 * SECOND, 12: unix_ns, 13: 99, 14: 1}
        fields.update(changes)
        body = field(1, protocol) + varint(2 << 3 | 1) + struct.pack("<Q", self.instance)
        return frame("hello", body + message(*fields.items()))

    def dictionary(self):
        columns = list(zip(*self.stack_rows))
        return frame("dict", message(
            (2, [message((1, i), (2, name), (3, FUNCTIONS[name][0]), (4, FUNCTIONS[name][1])) for name, i in self.functions.items()]),
            (3, b"".join(field_packed(n, list(column)) for n, column in enumerate(columns, 1))),
            (4, [message((1, i), (2, name), (3, "http")) for name, i in self.route_ids.items()]),
            (6, [message((1, i), (2, 5000 + i), (3, name)) for i, name in self.threads.items()])))

    def request(self, spec):
        """The ledger of one request."""
        pull = self.random.lognormvariate(0, 0.35)
        if self.random.random() < 0.02:
            pull *= 6
        return [int(spec["mean"].get(state, 0) * pull * self.random.uniform(0.7, 1.3)) for state in range(8)]

    def window(self, end_unix_ns, seconds=1.0, last=False, count=True):
        """The next window, and what it says added to the truth."""
        self.seq += 1
        rows, stats = collections.Counter(), []
        counts = collections.Counter()
        for name, spec in self.routes.items():
            stats.append(self.one_route(name, spec, seconds, rows, counts, count))
        for state, names, ns in BACKGROUND:
            ns = int(ns * seconds)
            rows[0, state, 0, self.stack_id(names), 1] += ns
            counts[0, state, 0, self.stack_id(names), 1] += max(1, ns // SAMPLE_NS)
            if count:
                self.background[state] += ns
        keys = sorted(rows)
        columns = [[k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys], [k[3] for k in keys], [k[4] for k in keys],
                   [0] * len(keys), [counts[k] for k in keys], [rows[k] for k in keys]]
        length = int(seconds * SECOND)
        cpu = sum(ns for key, ns in rows.items() if key[1] == CPU and key[3] == 0)
        own = message((1, cpu + 12 * MS), (2, 2 * MS), (3, 300_000), (4, 60), (5, 140), (6, 1_800_000), (7, 3),
                      (8, [message((1, "ring full"), (2, self.seq // 100)), message((1, "stack table full"), (2, 0))]), (9, 99),
                      (10, [message((1, "complete"), (2, 58)), message((1, "truncated"), (2, 2))]))
        return frame("window", message(
            (1, self.seq), (2, 1000 * SECOND + self.seq * length), (3, 1000 * SECOND + (self.seq + 1) * length),
            (4, end_unix_ns - length), (5, end_unix_ns),
            (6, b"".join(field_packed(n, column) for n, column in enumerate(columns, 1))),
            (7, stats), (8, own), (9, self.lost), (10, last)))

    def one_route(self, name, spec, seconds, rows, counts, count):
        route, truth = self.route_ids[name], self.truth[name]
        n = int(spec["rate"] * seconds) + self.random.randint(0, 2)
        ledger, hist, state_hists = [0] * 8, collections.Counter(), [collections.Counter() for _ in range(8)]
        errors, largest = 0, 0
        sampled = collections.Counter()
        for _ in range(n):
            request = self.request(spec)
            latency = sum(request)
            largest = max(largest, latency)
            hist[hist_index(latency)] += 1
            errors += self.random.random() < spec["error"]
            if count:
                truth.latencies.append(latency)
            for state, ns in enumerate(request):
                ledger[state] += ns
                if ns:
                    state_hists[state][hist_index(ns)] += 1
                    rows[route, state, coarse(latency), 0, 0] += ns
                    counts[route, state, coarse(latency), 0, 0] += 1
                    sampled[state, coarse(latency)] += ns
        for (state, bucket), ns in sorted(sampled.items()):
            self.sample(name, spec, state, bucket, ns, rows, counts, count)
        if count:
            truth.count, truth.errors, truth.sum_ns = truth.count + n, truth.errors + errors, truth.sum_ns + sum(ledger)
            truth.max_ns = max(truth.max_ns, largest)
            truth.ledger = [a + b for a, b in zip(truth.ledger, ledger)]
        statuses = [message((1, 200), (2, n - errors))] + ([message((1, 503), (2, errors))] if errors else [])
        return message((1, route), (2, n), (3, errors), (4, ledger), (5, sum(ledger)), (6, largest), (7, histogram(hist)),
                       (8, self.random.randint(0, 3)),
                       (9, [message((1, state), (2, histogram(h))) for state, h in enumerate(state_hists) if h]), (10, statuses))

    def sample(self, name, spec, state, bucket, ns, rows, counts, count):
        """Samples of this much time: about one in SAMPLE_NS, each worth SAMPLE_NS."""
        choices = spec["stacks"].get(state)
        taken = int(ns / SAMPLE_NS + self.random.random())
        if not choices or not taken or (name == "GET /users/{id}" and state == LOCK and self.seq % 2):
            return
        edges, total = [], 0
        for _, weight in choices:
            total += weight
            edges.append(total)
        for _ in range(taken):
            stack = self.stack_id(BASE + choices[bisect.bisect(edges, self.random.uniform(0, total * 0.999999))][0])
            key = self.route_ids[name], state, bucket, stack, self.random.choice((2, 3))
            rows[key] += SAMPLE_NS
            counts[key] += 1
            if count:
                self.sampled[name, state] += SAMPLE_NS

    # -- the connection --

    def connect(self, address, timeout=10):
        kind, _, where = address.partition(":")
        if kind == "unix":
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.settimeout(timeout)
            self.socket.connect(where)
        else:
            host, _, port = where.rpartition(":")
            self.socket = socket.create_connection((host, int(port)), timeout)
        return self

    def send(self, data):
        self.socket.sendall(data)

    def receive(self):
        """(kind, fields) of the next message; None at the end of the stream."""
        head = self.exactly(4)
        if head is None:
            return None
        fields = decode(self.exactly(struct.unpack("<I", head)[0]))
        kind = next(name for name, n in BODY.items() if n in fields)
        return kind, decode(fields[BODY[kind]][0])

    def exactly(self, size):
        data = b""
        while len(data) < size:
            try:
                more = self.socket.recv(size - len(data))
            except ConnectionError:
                return None
            if not more:
                return None
            data += more
        return data

    def greet(self, address, unix_ns=None):
        """Connect, say Hello and the whole dictionary; the newest sequence number that is stored."""
        self.connect(address)
        self.send(self.hello(unix_ns=unix_ns))
        answer = self.receive()
        if answer is None or answer[0] != "welcome":
            raise ConnectionError(f"no welcome: {answer}")
        self.send(self.dictionary())
        return answer[1].get(2, [0])[0]

    def acknowledged(self):
        """The sequence number of the next acknowledgement."""
        answer = self.receive()
        if answer is None or answer[0] != "ack":
            raise ConnectionError(f"no ack: {answer}")
        return answer[1][1][0]

    def close(self):
        if self.socket:
            self.socket.close()
            self.socket = None

    def history(self, address, seconds, end_unix_ns=None):
        """Connect and send windows of one second for so long, up to @end_unix_ns; returns when all are stored."""
        end = end_unix_ns or time.time_ns()
        self.greet(address, end - seconds * SECOND)
        for i in range(seconds):
            self.send(self.window(end - (seconds - 1 - i) * SECOND))
            while self.acknowledged() < self.seq:
                pass
        return self


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--service", default="shop")
    parser.add_argument("--seconds", type=int, default=60, help="of history")
    parser.add_argument("--pid", type=int, default=4711)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--live", action="store_true", help="go on until stopped")
    options = parser.parse_args()
    agent = Agent(options.service, options.pid, options.seed, random.getrandbits(63) | 1)
    agent.history(options.address, options.seconds)
    print(f"{agent.seq} windows stored", flush=True)
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    signal.signal(signal.SIGINT, lambda *_: stop.append(1))
    due = time.time()
    while options.live and not stop:
        due += 1
        time.sleep(max(0, due - time.time()))
        agent.send(agent.window(time.time_ns(), last=bool(stop)))
        agent.acknowledged()
    agent.close()


if __name__ == "__main__":
    main()

"""A load client that says when it sent: one thread, one epoll, many keep-alive connections.

Each request carries X-Sent-Ns, CLOCK_MONOTONIC taken right before its send(): no other thread of this process can come in
between. Each response is read to its last byte and checked.
"""
import collections
import dataclasses
import heapq
import itertools
import random
import selectors
import socket
import time


@dataclasses.dataclass
class Client:
    """What one connection asks for, one after the other: paths, or (seconds after the start, path)."""
    requests: list
    pause: tuple = (0.0, 0.0)       # seconds between answer and next request, from .. to
    fresh: bool = False             # a new connection for each request


@dataclasses.dataclass
class Result:
    sent: collections.Counter = dataclasses.field(default_factory=collections.Counter)     # answered right, by path
    failures: list = dataclasses.field(default_factory=list)
    received_ns: dict = dataclasses.field(default_factory=dict)     # when the answer was here, by X-Sent-Ns


def expect(path):
    """The status a right answer has."""
    return 500 if path == "/error" else 200


class Connection:
    def __init__(self, load, client):
        self.load, self.client = load, client
        self.left = collections.deque(client.requests)
        self.socket, self.path, self.received = None, None, b""
        self.schedule(0)

    def schedule(self, pause):
        if not self.left:
            self.close()
            return
        at = self.left[0][0] if isinstance(self.left[0], tuple) else None
        due = time.monotonic() + pause if at is None else self.load.start + at
        heapq.heappush(self.load.due, (due, next(self.load.tie), self))

    def close(self):
        if self.socket:
            self.load.selector.unregister(self.socket)
            self.socket.close()
            self.socket = None

    def send(self):
        first = self.left.popleft()
        self.path = first[1] if isinstance(first, tuple) else first
        self.received = b""
        try:
            if self.socket is None:
                self.socket = socket.create_connection(self.load.address, timeout=10)
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.socket.setblocking(False)
                self.load.selector.register(self.socket, selectors.EVENT_READ, self)
            head = f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\nX-Sent-Ns: "
            self.sent_ns = time.monotonic_ns()
            self.socket.send(f"{head}{self.sent_ns}\r\n\r\n".encode())
        except OSError as error:
            self.fail(f"send: {error}")

    def fail(self, why):
        self.load.result.failures.append(f"{self.path}: {why}")
        self.close()
        self.schedule(0.1)

    def readable(self):
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(f"recv: {error}")
            return
        received_ns = time.monotonic_ns()
        if not data and self.path is None:     # an idle connection may be closed at any time
            self.close()
            return
        if not data:
            self.fail(f"closed after {len(self.received)} bytes")
            return
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.decode("latin-1").split("\r\n")
        fields = dict((k.strip().lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines[1:]))
        if len(body) < int(fields["content-length"]):
            return
        if len(body) > int(fields["content-length"]):
            self.fail("more bytes than Content-Length says")
            return
        if int(lines[0].split()[1]) != self.load.expect(self.path):
            self.fail(lines[0])
            return
        self.load.result.sent[self.path] += 1
        self.load.result.received_ns[self.sent_ns] = received_ns
        stays = fields.get("connection", "keep-alive" if lines[0].startswith("HTTP/1.1") else "close").lower()
        if self.client.fresh or stays == "close":
            self.close()
        self.path = None
        self.schedule(self.load.random.uniform(*self.client.pause))


class Load:
    def __init__(self, port, clients, seconds=120, seed=1, during=None, expect=expect):
        self.address = ("127.0.0.1", port)
        self.selector, self.due, self.tie = selectors.DefaultSelector(), [], itertools.count()
        self.random, self.result, self.expect = random.Random(seed), Result(), expect
        self.start = time.monotonic() + 0.05
        self.during = collections.deque(sorted(during or [], key=lambda entry: entry[0]))
        self.limit = self.start + seconds
        self.connections = [Connection(self, client) for client in clients]

    def run(self):
        while self.due or any(c.path for c in self.connections):
            now = time.monotonic()
            if now > self.limit:
                self.result.failures.append("out of time, waiting for " +
                                            ", ".join(c.path for c in self.connections if c.path))
                break
            while self.during and self.start + self.during[0][0] <= now:
                self.during.popleft()[1]()
            while self.due and self.due[0][0] <= now:
                heapq.heappop(self.due)[2].send()
            wait = min(self.due[0][0] - time.monotonic() if self.due else 0.1, 0.1)
            for key, _ in self.selector.select(max(wait, 0)):
                key.data.readable()
        for connection in self.connections:
            connection.close()
        return self.result


def run(port, clients, **options):
    """
    Drive the clients to their end; the Result. during=[(seconds, function)] calls functions in between, expect(path)
    is the status of a right answer.
    """
    return Load(port, clients, **options).run()

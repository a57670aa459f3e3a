"""Every framing of HTTP/1, from a client that cuts its bytes as it likes: counts and statuses are exact."""
import collections
import contextlib
import functools
import pathlib
import socket
import time

import tap

SERVER = pathlib.Path(__file__).with_name("framing.py")
TIMES = 5
BODY = b"GET /in/the/body HTTP/1.1\r\n\r\n"
CHUNKED = b"4\r\nGET \r\n1b;x=y\r\n/in/the/body HTTP/1.1\r\n\r\nab\r\n0\r\nTrailer: 1\r\n\r\n"


def request(path, method="GET", fields="", body=b"", version="1.1"):
    if body and "Transfer" not in fields:
        fields += f"Content-Length: {len(body)}\r\n"
    return f"{method} {path} HTTP/{version}\r\nHost: x\r\n{fields}\r\n".encode() + body


GET = {name: request("/" + name) for name in ("length", "chunked", "nothing", "unchanged", "hints", "bytes", "vectors", "file",
                                                "elsewhere", "duplicate")}
POST = [request("/length", "POST", body=BODY), request("/chunked", "POST", "Transfer-Encoding: chunked\r\n", CHUNKED),
        request("/head", "HEAD")]
STATUS = {"nothing": 204, "unchanged": 304, "bytes": 201}
SIZE = {"file": 300000}


class Client:
    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""

    def send(self, data, cut=0):
        if not cut:
            return self.sock.sendall(data)
        for i in range(0, len(data), cut):
            self.sock.sendall(data[i:i + cut])
            time.sleep(0.0003)
        return None

    def until(self, mark):
        while mark not in self.data:
            got = self.sock.recv(65536)
            assert got, "the server closed"
            self.data += got
        at = self.data.index(mark) + len(mark)
        part, self.data = self.data[:at], self.data[at:]
        return part

    def answer(self, bodyless=False):
        """The status of one final answer."""
        while True:
            head = self.until(b"\r\n\r\n").decode()
            status = int(head.split(" ")[1])
            if status >= 200:
                break
        if "chunked" in head:
            self.until(b"\r\n\r\n")
        elif "Content-Length: " in head and not bodyless and status not in (204, 304):
            left = int(head.split("Content-Length: ")[1].split("\r\n")[0])
            while len(self.data) < left:
                got = self.sock.recv(65536)
                assert got, "the server closed"
                self.data += got
            self.data = self.data[left:]
        return status

    def end(self):
        """Read until the server has closed."""
        while self.sock.recv(65536):
            pass
        self.sock.close()


class Expected(collections.defaultdict):
    """{route: {status: count}}; 0 for a request that got no whole answer."""

    def __init__(self):
        super().__init__(collections.Counter)

    def add(self, route, status, times=1):
        self[route][str(status)] += times


def exchange(port, expected, cut=0, keep=True):
    """Each kind after the other, on one connection or on one each."""
    client = Client(port) if keep else None
    for data in list(GET.values()) + POST:
        method, path, _ = data.decode().split(" ", 2)
        c = client or Client(port)
        c.send(data, cut)
        status = c.answer(bodyless=method == "HEAD")
        assert status == STATUS.get(path[1:], 200), (path, status)
        expected.add(f"{method} {path}", status)
        if not keep:
            c.sock.close()
    if keep:
        client.sock.close()


def pipelined(port, expected):
    client = Client(port)
    names = ["length", "chunked", "nothing", "bytes", "unchanged", "vectors", "hints", "length"]
    client.send(b"\r\n".join(GET[name] for name in names) + request("/head", "HEAD") + GET["length"][:-7])
    for name in names:
        assert client.answer() == STATUS.get(name, 200), name
        expected.add(f"GET /{name}", STATUS.get(name, 200))
    assert client.answer(bodyless=True) == 200
    expected.add("HEAD /head", 200)
    client.send(GET["length"][-7:])
    assert client.answer() == 200
    expected.add("GET /length", 200)
    client.sock.close()


def expectations(port, expected):
    client = Client(port)
    client.send(request("/expects", "POST", f"Expect: 100-continue\r\nContent-Length: {len(BODY)}\r\n"))
    assert b" 100 " in client.until(b"\r\n\r\n")
    client.send(BODY, 3)
    assert client.answer() == 200
    expected.add("POST /expects", 200)
    client.send(request("/refuses", "POST", f"Expect: 100-continue\r\nContent-Length: {len(BODY)}\r\n"))
    assert client.answer() == 417
    expected.add("POST /refuses", 417)
    client.send(GET["length"])
    assert client.answer() == 200
    expected.add("GET /length", 200)
    client.sock.close()


def endings(port, expected):
    """Answers that end with the connection, in good order or not."""
    for path, status in ("/close", 200), ("/cut", 0), ("/reset", 0):
        client = Client(port)
        client.send(request(path))
        try:
            client.end()
        except ConnectionResetError:
            pass
        expected.add("GET " + path, status)
    client = Client(port)
    client.send(request("/length"))
    client.sock.shutdown(socket.SHUT_WR)
    assert client.answer() == 200
    client.end()
    expected.add("GET /length", 200)
    client = Client(port)
    client.send(request("/abort"))
    time.sleep(0.02)
    client.sock.close()
    expected.add("GET /abort", 0)
    for nothing in b"", b"GET /hal", b"\x16\x03\x01\x02", b"PRI * HTTP/2.0\r\n\r\n"[:6]:
        client = Client(port)
        client.send(nothing)
        time.sleep(0.01)
        client.sock.close()
    client = Client(port)
    client.send(request("/upgrade", fields="Upgrade: echo\r\nConnection: upgrade\r\n"))
    assert b" 101 " in client.until(b"\r\n\r\n")
    client.send(request("/not/http"))
    client.until(b"\r\n\r\n")
    client.send(b"HTTP/1.1 200 OK\r\n\r\n")
    client.until(b"\r\n\r\n")
    client.sock.close()
    expected.add("GET /upgrade", 101)


@functools.cache
def measured():
    collector, port, expected = tap.Collector(), tap.free_port(), Expected()
    server = tap.start(tap.SONDE, "run", "--service", "framing", "--collector", collector.address, "--", "/usr/bin/python3",
                       SERVER, port)
    tap.wait_for(lambda: "ready" in server.output(), "the server")
    for _ in range(TIMES):
        exchange(port, expected)
        exchange(port, expected, cut=1)
        exchange(port, expected, cut=7)
        exchange(port, expected, keep=False)
        pipelined(port, expected)
        expectations(port, expected)
        endings(port, expected)
    time.sleep(1.5)
    process = collector.get("processes")["processes"][0]
    status = tap.stop(server)
    assert status == 0, server.output()
    sent = sum(sum(statuses.values()) for statuses in expected.values())
    with contextlib.suppress(AssertionError):  # which ones are missing, the test says
        tap.wait_for(lambda: sum(r["count"] for r in collector.routes().values()) >= sent, "every request", 5)
    return expected, collector.routes(), process


@tap.test
def counts_and_statuses_are_exact():
    expected, routes, _ = measured()
    got = {name: {status: count for status, count in route["statuses"].items() if count} for name, route in routes.items()}
    want = {name: dict(statuses) for name, statuses in expected.items()}
    for name in sorted(set(got) | set(want)):
        assert got.get(name) == want.get(name), f"{name}: {got.get(name)} instead of {want.get(name)}"


@tap.test
def requests_without_a_whole_answer_are_errors():
    expected, routes, _ = measured()
    for name, statuses in expected.items():
        assert routes[name]["errors"] == statuses["0"], routes[name]


@tap.test
def ledgers_add_up():
    for route in measured()[1].values():
        assert abs(sum(route["ledger"].values()) - route["latency"]["mean"]) <= 8, route


@tap.test
def nothing_is_in_flight_or_dropped_in_the_end():
    _, routes, process = measured()
    dropped = [d for d in process["drops"] if d["count"]]
    assert not dropped, dropped
    assert not [r for r in routes.values() if r["in_flight"]], routes


if __name__ == "__main__":
    tap.run()

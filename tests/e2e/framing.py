"""A server in every framing that HTTP/1 has, said by the path; nothing between it and the socket. framing.py PORT"""
import os
import queue
import signal
import socket
import struct
import sys
import tempfile
import threading


class Gone(Exception):
    pass


class Connection:
    def __init__(self, sock):
        self.sock, self.data = sock, b""

    def more(self):
        got = self.sock.recv(65536)
        if not got:
            raise Gone
        self.data += got

    def until(self, mark):
        while mark not in self.data:
            self.more()
        head, self.data = self.data.split(mark, 1)
        return head

    def exactly(self, count):
        while len(self.data) < count:
            self.more()
        body, self.data = self.data[:count], self.data[count:]
        return body

    def body(self, fields):
        if fields.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                size = int(self.until(b"\r\n").split(b";")[0], 16)
                if size == 0:
                    while self.until(b"\r\n"):
                        pass
                    return body
                body += self.exactly(size)
                self.exactly(2)
        return self.exactly(int(fields.get("content-length", 0)))

    def serve(self):
        """One request; whether another may follow."""
        lines = self.until(b"\r\n\r\n").decode().lstrip("\r\n").split("\r\n")
        _, path, _ = lines[0].split(" ")
        fields = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
        return PATHS[path.split("?")[0]](self, fields) is not False


def answer(c, body=b"hello", status="200 OK"):
    c.sock.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body))


def length(c, fields):
    c.body(fields)
    answer(c)


def chunked(c, fields):
    c.body(fields)
    c.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in b"5\r\nhel", b"lo\r", b"\n10;ext=1\r\n" + b"HTTP/1.1 500 No\n" + b"\r\n0", b"\r\nTrailer: x\r\n\r\n":
        c.sock.sendall(piece)


def head(c, _):
    c.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")


def nothing(c, _):
    c.sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def unchanged(c, _):
    c.sock.sendall(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n")


def expects(c, fields):
    c.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    c.body(fields)
    answer(c)


def refuses(c, _):
    answer(c, b"no", "417 Expectation Failed")  # the body stays with the client, another request may come


def hints(c, _):
    c.sock.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
    answer(c, b"")


def until_close(c, _):
    c.sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    c.sock.sendall(b"x" * 3000)
    return False


def by_bytes(c, _):
    for byte in b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nabc":
        c.sock.sendall(bytes([byte]))


def vectors(c, _):
    c.sock.sendmsg([b"HTTP/1.1 200 OK\r\nCont", b"", b"ent-Length: 6\r\n\r", b"\nabc", b"def"])


def by_file(c, _):
    with tempfile.TemporaryFile() as f:
        f.write(b"y" * 300000)
        f.flush()
        c.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n")
        at = 0
        while at < 300000:
            at += os.sendfile(c.sock.fileno(), f.fileno(), at, 300000 - at)


def cut(c, _):
    c.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    return False


def upgrade(c, _):
    c.sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n\r\n")
    try:
        while True:  # what follows looks like HTTP, and is none
            c.sock.sendall(c.data)
            c.data = b""
            c.more()
    except Gone:
        return False


def wait_for_close(c, _):
    c.more()


def elsewhere(c, _):
    """Answered by another thread."""
    done = threading.Event()
    jobs.put((c, done))
    done.wait()


def duplicate(c, _):
    """Answered through a duplicate, the original closed before."""
    copy = socket.socket(fileno=os.dup(c.sock.fileno()))
    c.sock.close()
    c.sock = copy
    answer(c)


def reset(c, _):
    c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


PATHS = {"/length": length, "/chunked": chunked, "/head": head, "/nothing": nothing, "/unchanged": unchanged, "/expects": expects,
         "/refuses": refuses, "/hints": hints, "/close": until_close, "/bytes": by_bytes, "/vectors": vectors, "/file": by_file,
         "/cut": cut, "/upgrade": upgrade, "/abort": wait_for_close, "/elsewhere": elsewhere, "/duplicate": duplicate,
         "/reset": reset}
jobs = queue.Queue()


def worker():
    while True:
        c, done = jobs.get()
        answer(c)
        done.set()


def handle(sock):
    c = Connection(sock)
    try:
        while c.serve():
            pass
    except (Gone, OSError):
        pass
    c.sock.close()


def main(port):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    threading.Thread(target=worker, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=64)
    print("ready", flush=True)
    while True:
        threading.Thread(target=handle, args=(listener.accept()[0],), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])

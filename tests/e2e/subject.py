"""Small programs in the shapes that servers come in, to be run with and without the agent: subject.py SHAPE ARGUMENT..."""
import ctypes
import http.server
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self):
        body = f"{self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener):
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


def listen(port):
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=64)
    listener.setblocking(False)  # several processes wait for the same connection
    return listener


def serve(listener):
    """Until SIGTERM, then end in good order."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Server(listener).serve_forever(poll_interval=0.1)


def plain(port):
    serve(listen(port))


def prefork(port, workers="3"):
    listener, pids = listen(port), []
    for _ in range(int(workers)):
        pid = os.fork()
        if pid == 0:
            serve(listener)
        pids.append(pid)
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(pid, signal.SIGTERM) for pid in pids])
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids))


def reexec(port, fd=None):
    """SIGHUP: become a new program on the same listening socket."""
    listener = listen(port) if fd is None else socket.socket(fileno=int(fd))
    listener.set_inheritable(True)
    arguments = [sys.executable, __file__, "reexec", port, str(listener.fileno())]
    signal.signal(signal.SIGHUP, lambda *_: os.execv(sys.executable, arguments))
    serve(listener)


def daemon(port, pid_file):
    """As old daemons do: fork twice, close every descriptor."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.closerange(0, 4096)
    os.open("/dev/null", os.O_RDWR)
    os.dup(0), os.dup(0)
    listener = listen(port)
    with open(pid_file + ".new", "w") as out:
        out.write(str(os.getpid()))
    os.rename(pid_file + ".new", pid_file)
    serve(listener)


def dropped(port):
    """Become nobody before serving."""
    listener = listen(port)
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    serve(listener)


def churn():
    """3,000 threads that come and go; descriptors and memory stay."""
    def kib():
        return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])

    def batch(count):
        for _ in range(count // 20):
            threads = [threading.Thread(target=time.sleep, args=(0.001,)) for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    batch(1000)
    time.sleep(1.5)  # threads that ended are cleared away once a second
    before, descriptors = kib(), len(os.listdir("/proc/self/fd"))
    batch(2000)
    time.sleep(1.5)
    print("descriptors", "stay" if len(os.listdir("/proc/self/fd")) <= descriptors else os.listdir("/proc/self/fd"))
    print("memory", "stays" if kib() < before + 4096 else f"{before} KiB, then {kib()} KiB")


def signals():
    """Prints the number of each signal it gets, ends with SIGTERM and status 3."""
    def got(number, _):
        print(number, flush=True)
        if number == signal.SIGTERM:
            sys.exit(3)

    mine = [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPROF, signal.SIGRTMIN + 10, signal.SIGTERM]
    for number in mine:
        signal.signal(number, got)
    print("ready", flush=True)
    while True:
        signal.pause()


def profiled():
    """A program with a profiling timer of its own: both work."""
    ticks = []
    signal.signal(signal.SIGPROF, lambda *_: ticks.append(1))
    signal.setitimer(signal.ITIMER_PROF, 0.01, 0.01)
    end = time.process_time() + 0.6
    while time.process_time() < end:
        pass
    signal.setitimer(signal.ITIMER_PROF, 0)
    # 60, but the kernel counts whole ticks for who is there at one: on a busy machine half as many again without any agent
    print("ticks", "come" if len(ticks) >= 30 else len(ticks))


def undisturbed():
    """Blocking calls beside busy threads: none is interrupted, none returns early."""
    libc = ctypes.CDLL(None, use_errno=True)
    stop, wrong = threading.Event(), []

    class Timespec(ctypes.Structure):
        _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]

    def busy():
        while not stop.is_set():
            sum(range(1000))

    def check(name, call, result=0):
        for _ in range(25):
            start = time.monotonic()
            got = call()
            took = time.monotonic() - start
            if got != result or took < 0.0195:
                wrong.append(f"{name}: {got}, errno {ctypes.get_errno()}, {took}")

    epoll = select.epoll()
    left, right = socket.socketpair()
    left.settimeout(None)
    left.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, (0).to_bytes(8, "little") + (20000).to_bytes(8, "little"))
    events, byte = ctypes.create_string_buffer(64), ctypes.create_string_buffer(1)
    calls = [("nanosleep", lambda: libc.nanosleep(ctypes.byref(Timespec(0, 20_000_000)), None), 0),
             ("usleep", lambda: libc.usleep(20000), 0),
             ("poll", lambda: libc.poll(None, 0, 20), 0),
             ("select", lambda: libc.select(0, None, None, None, ctypes.byref(Timespec(0, 20_000))), 0),
             ("epoll_wait", lambda: libc.epoll_wait(epoll.fileno(), events, 1, 20), 0),
             ("recv", lambda: libc.recv(left.fileno(), byte, 1, 0), -1)]
    threads = [threading.Thread(target=busy) for _ in range(2)] + [threading.Thread(target=check, args=c) for c in calls]
    for thread in threads:
        thread.start()
    for thread in threads[2:]:
        thread.join()
    stop.set()
    right.close()
    print("undisturbed" if not wrong else wrong)


def children():
    """subprocess starts by vfork, and by fork; all statuses come back."""
    statuses = [subprocess.run(["/bin/sh", "-c", f"exit {n}"], preexec_fn=(lambda: None) if n % 2 else None).returncode
                for n in range(40)]
    print("children", "ended as told" if statuses == list(range(40)) else statuses)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

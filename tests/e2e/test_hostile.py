"""
Kernels and guardians that refuse what the agent needs: the program runs as if the agent were not there, and one line in the
collector, or on stderr when SONDE_LOG asks, says why.
"""
import errno
import os
import platform
import re

import tap
from tap import environment, outcome, preloaded, under_agent

PYTHON = "/usr/bin/python3"
SUBJECTS = tap.BUILD / "tests/subjects"
DENY, CALLS = SUBJECTS / "deny", SUBJECTS / "calls"

# Threads, sockets, children, files: and no more system calls than these need.
PROGRAM = """
import os, socket, subprocess, threading
left, right = socket.socketpair()
def send():
    with left:
        for _ in range(50):
            left.send(b'x' * 100)
thread = threading.Thread(target=send)
thread.start()
got = 0
while more := len(right.recv(4096)):
    got += more
thread.join()
print(got, subprocess.run(['/bin/echo', 'hi'], capture_output=True).stdout, len(os.listdir('/usr')))
"""
PROGRAMS = {"ls": ["ls", "-l", tap.ROOT / "tests/unit"], "python": [PYTHON, "-c", PROGRAM], "calls": [CALLS]}
# x86_64 numbers of what the agent asks of the kernel, and a program may not.
NUMBERS = {
    "timer_create": 222, "timer_settime": 223, "timer_delete": 226, "process_vm_readv": 310, "pidfd_open": 434, "pidfd_getfd": 438,
    "close_range": 436, "clone3": 435, "prctl": 157, "futex": 202, "rt_sigtimedwait": 128, "getdents64": 217, "getsockopt": 55,
    "setsockopt": 54, "getpeername": 52, "connect": 42, "sendto": 44, "recvmsg": 47, "uname": 63, "getrandom": 318, "madvise": 28,
    "rseq": 334, "fcntl": 72, "gettid": 186, "getrusage": 98, "poll": 7, "clock_gettime": 228, "readlink": 89, "pread64": 17,
    "getppid": 110, "openat": 257, "clone": 56, "set_robust_list": 273, "lseek": 8,
}


def marks(collector, service):
    return [m["name"] for m in collector.get("routes", service=service, **{"from": "-1h"})["marks"]]


def stable(done):
    """CPython tells addresses when it dies."""
    return done[0], done[1], re.sub(rb"0x[0-9a-f]+", b"0x", done[2])


def denied(how, names, *command, **variables):
    """The agent comes after the filter: it would not go along with a program that installs one."""
    return [DENY, how, *[NUMBERS[name] for name in names], "--", "env", *[f"{k}={v}" for k, v in variables.items()], *command]


def under(how, names, *command, **more):
    loaded = {k: v for k, v in preloaded(**more).items() if k == "LD_PRELOAD" or k.startswith("SONDE_")}
    return outcome(denied(how, names, *command, **loaded))


@tap.test
def what_the_kernel_refuses_the_program_does_not_notice():
    """One call at a time, as an old kernel (ENOSYS) and a container (EPERM) refuse it."""
    if platform.machine() != "x86_64":
        print("# the numbers are x86_64's")
        return
    wrong, compared = [], 0
    for name in NUMBERS:
        for how in errno.ENOSYS, errno.EPERM:
            program = "calls" if name in ("close_range", "recvmsg", "timer_create") else "python"
            without = outcome(denied(how, [name], *PROGRAMS[program]))
            if without[0] < 0:
                continue
            got = under(how, [name], *PROGRAMS[program])
            compared += 1
            if stable(without) != stable(got):
                wrong.append((name, errno.errorcode[how], program, without[0], got[0], without[2][-300:], got[2][-300:]))
    assert not wrong, "\n".join(map(str, wrong))
    assert compared > 50, compared


@tap.test
def what_a_filter_kills_for_the_agent_does_not_ask():
    """
    As service managers do it. A program that needs the call itself is killed without us, too, and proves nothing. Not
    here: clone, which the agent finds out with.
    """
    if platform.machine() != "x86_64":
        print("# the numbers are x86_64's")
        return
    wrong, told = [], 0
    for name in NUMBERS.keys() - {"clone"}:
        for program in "ls", "python":
            without = outcome(denied(0, [name], *PROGRAMS[program]))
            if without[0] < 0 or b"-31" in without[2]:
                continue
            loud = under(0, [name], *PROGRAMS[program], SONDE_LOG="1")
            told += f"sonde: {name}\n".encode() in loud[2]
            if without[:2] != loud[:2] or (loud[2] and b"stays off" not in loud[2]):
                wrong.append((name, program, without[0], loud[0], loud[2][-300:]))
            quiet = under(0, [name], *PROGRAMS[program])
            if quiet != without:
                wrong.append((name, program, "quiet", quiet[0], quiet[2][-300:]))
    assert not wrong, "\n".join(map(str, wrong))
    assert told >= 20, told


@tap.test
def what_is_missing_is_told_the_collector():
    if platform.machine() != "x86_64":
        print("# the numbers are x86_64's")
        return
    collector = tap.Collector()
    busy = "import time\nend = time.time() + 1.5\nwhile time.time() < end: pass\n"
    names = ["close_range", "process_vm_readv", "pidfd_getfd"]
    assert under(errno.ENOSYS, names, PYTHON, "-c", busy, SONDE_COLLECTOR=collector.address, SONDE_SERVICE="old")[0] == 0
    told = tap.wait_for(lambda: [m for m in marks(collector, "old") if "process_vm_readv" in m], "the line")
    assert "Function not implemented" in told[0] and "close_range" in told[0], told


@tap.test
def a_filter_of_the_programs_own_is_told_the_collector():
    collector = tap.Collector()
    code = ("import ctypes, time\nlibc = ctypes.CDLL(None)\nend = time.time() + 0.5\nwhile time.time() < end: pass\n"
            # one instruction: everything is allowed
            "program = ctypes.create_string_buffer(bytes([6, 0, 0, 0, 0, 0, 255, 127]))\n"
            "class Fprog(ctypes.Structure): _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]\n"
            "fprog = Fprog(1, ctypes.addressof(program))\n"
            "libc.prctl(38, *map(ctypes.c_ulong, (1, 0, 0, 0)))\n"
            "assert libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(fprog)) == 0\n"
            "time.sleep(0.5)\nimport os; print(len(os.listdir('/proc/self/task')))")
    got = outcome(under_agent(collector, "locked", PYTHON, "-c", code))
    assert got == (0, b"1\n", b""), got
    tap.wait_for(lambda: [m for m in marks(collector, "locked") if "seccomp" in m], "the line")


@tap.test
def in_a_chroot_the_agent_goes_on_and_says_so():
    if os.geteuid() != 0:
        print("# not root: no chroot")
        return
    collector, empty = tap.Collector(), tap.scratch()
    code = f"import os, time\nos.chroot({str(empty)!r})\nwhile time.process_time() < 2: pass\nprint(os.listdir('/'))"
    assert outcome(under_agent(collector, "jailed", PYTHON, "-c", code)) == (0, b"[]\n", b"")
    tap.wait_for(lambda: [m for m in marks(collector, "jailed") if "/proc" in m], "the line")
    process, = [p for p in collector.get("processes")["processes"] if p["service"] == "jailed"]
    ends = {end["how"]: end["count"] for end in process["stack_ends"]}
    assert process["samples"] > 100 and ends["complete"] > 0.8 * sum(ends.values()), process  # what was known is still used


BEHIND = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None)
def threads():
    time.sleep(0.3)
    return len(os.listdir('/proc/self/task'))
sys.stdout.write('')
child = %s
if child == 0:
    code = 0 if threads() == %d else 1
    os._exit(code)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@tap.test
def in_a_child_made_behind_libc_it_stays_off():
    """malloc's lock may be held there for good, by a thread that the child does not have."""
    raw, whole = BEHIND % ("libc.syscall(57)", 1), BEHIND % ("os.fork()", 2)
    for _ in range(5):
        assert outcome([PYTHON, "-c", raw], preloaded()) == (0, b"0\n", b"")
    assert outcome([PYTHON, "-c", whole], preloaded()) == (0, b"0\n", b"")  # and in one of fork's it is there


@tap.test
def when_a_step_of_the_start_fails_the_program_runs_on():
    """Limits that make one step fail each: address space, processes, pending signals, descriptors."""
    for limit, value, why in (("v", 1000000, b"ulimit -v"), ("i", 0, b""), ("n", 12, b"")):
        command = ["sh", "-c", f"ulimit -{limit} {value}; exec \"$@\"", "sh", PYTHON, "-c", PROGRAM]
        without = outcome(command)
        assert without[0] == 0, without
        assert outcome(command, preloaded()) == without, limit
        loud = outcome(command, preloaded(SONDE_LOG="1"))
        assert loud[:2] == without[:2] and why in loud[2], loud
    # no more processes for this user: the agent's thread cannot be made
    if os.geteuid() == 0:
        code = ("import os, resource, sys\nresource.setrlimit(resource.RLIMIT_NPROC, (1, 1))\nos.setgroups([]); os.setgid(54321); os.setuid(54321)\n"
                f"os.execve({str(CALLS)!r}, ['calls'], os.environ)")
        without, loud = outcome([PYTHON, "-c", code]), outcome([PYTHON, "-c", code], preloaded(SONDE_LOG="1"))
        assert without[:2] == loud[:2] and b"thread cannot be created" in loud[2] and len(loud[1]) > 1000, (without, loud)


@tap.test
def disabled_it_is_not_there():
    for command in PROGRAMS.values():
        without = outcome(command, environment())
        assert outcome(command, preloaded(SONDE_DISABLE="1")) == without, command
        loud = outcome(command, preloaded(SONDE_DISABLE="1", SONDE_LOG="1"))
        assert loud[:2] == without[:2] and set(loud[2].splitlines()) == {b"sonde: SONDE_DISABLE is set"}, loud


if __name__ == "__main__":
    tap.run()

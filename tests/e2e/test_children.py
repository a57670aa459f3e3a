"""Who gets the agent: the program again and what a launcher starts; not a server's tools, nor what it cannot live in."""
import os
import pathlib
import shutil
import signal
import subprocess
import time

import load
import tap
from tap import environment, listening, outcome, preloaded, under_agent

PYTHON = "/usr/bin/python3"
CHILD = tap.BUILD / "tests/subjects/child"

# Takes one connection when told to, so that it is a server, then starts children in the way that is asked for.
HOST = """
import ctypes, os, socket, subprocess, sys
serves, how, *command = sys.argv[1:]
if serves == "serves":
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    listener.accept()
libc = ctypes.CDLL(None, use_errno=True)
arguments = (ctypes.c_char_p * (len(command) + 1))(*map(str.encode, command), None)
environment = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
status = 0
sys.stdout.flush()
if how == "popen":  # libc's own
    libc.popen.restype = ctypes.c_void_p
    stream = libc.popen(" ".join(command).encode(), b"w")
    libc.pclose(ctypes.c_void_p(stream))
elif how == "system":
    libc.system(" ".join(command).encode())
elif how == "subprocess":
    subprocess.run(command)
elif how == "copied":
    subprocess.run(command, env=dict(os.environ))
elif how.startswith("posix_spawn"):
    pid = ctypes.c_int()
    assert getattr(libc, how)(ctypes.byref(pid), command[0].encode(), None, None, arguments, environment) == 0
    os.waitpid(pid.value, 0)
else:
    pid = os.fork()
    if pid == 0:
        if how in ("execv", "execvp"):
            getattr(libc, how)(command[0].encode(), arguments)
        elif how in ("execve", "execvpe"):
            getattr(libc, how)(command[0].encode(), arguments, environment)
        elif how == "execl":
            libc.execl(command[0].encode(), *map(str.encode, command), None)
        elif how == "execle":
            libc.execle(command[0].encode(), *map(str.encode, command), None, environment)
        elif how == "fexecve":
            libc.fexecve(os.open(command[0], os.O_RDONLY), arguments, environment)
        elif how == "execveat":
            libc.execveat(os.open(os.path.dirname(command[0]), os.O_RDONLY), os.path.basename(command[0]).encode(), arguments, environment, 0)
        os._exit(126)
    os.waitpid(pid, 0)
"""
WAYS = ["popen", "system", "subprocess", "copied", "posix_spawn", "posix_spawnp", "execv", "execvp", "execve", "execvpe", "execl",
        "execle", "fexecve", "execveat"]
# What a process has of us: the library mapped, and its environment.
LOADED = "import os; print('libsonde' in open('/proc/self/maps').read(), os.environ.get('LD_PRELOAD'))"


def child(serves, how, *command, **more):
    """What the child prints, "loaded" or "free" and its LD_PRELOAD for CHILD."""
    done = outcome([PYTHON, "-c", HOST, serves, how, *command], preloaded(**more))
    assert done[0] == 0 and done[2] == b"", (serves, how, done)
    return done[1].decode().strip()


@tap.test
def what_a_launcher_starts_gets_the_agent():
    for how in WAYS:
        got = child("launches", how, CHILD)
        assert got == f"loaded {tap.AGENT}", (how, got)


@tap.test
def what_a_server_starts_besides_does_not():
    for how in WAYS:
        got = child("serves", how, CHILD)
        assert got.split()[0] == "free" and str(tap.AGENT) not in got, (how, got)


@tap.test
def a_server_that_starts_itself_anew_keeps_the_agent():
    for how in WAYS:
        if how in ("popen", "system"):  # their shell is the child
            continue
        got = child("serves", how, PYTHON, "-c", LOADED)
        assert got == f"True {tap.AGENT}", (how, got)


@tap.test
def a_script_is_judged_by_its_interpreter():
    for first, wanted in (f"#!{PYTHON}\n", "True"), ("#!/usr/bin/env python3\n", "True"), ("#! /usr/bin/env -S python3 -B\n", "True"):
        script = tap.scratch() / "script"
        script.write_text(first + LOADED)
        script.chmod(0o755)
        path = environment()["PATH"]
        got = child("serves", "execve", script, PATH="/usr/bin:" + path)
        # env itself is another program, but it becomes this one
        assert got.split()[0] == wanted, (first, got)
    script = tap.scratch() / "script"
    script.write_text(f"#!/bin/sh\nexec {CHILD}\n")
    script.chmod(0o755)
    assert child("serves", "execve", script).split()[0] == "free"


@tap.test
def all_and_none_are_as_told():
    for how in "subprocess", "posix_spawn", "execl", "system":
        assert child("serves", how, CHILD, SONDE_CHILDREN="all") == f"loaded {tap.AGENT}", how
        assert child("launches", how, CHILD, SONDE_CHILDREN="none").split()[0] == "free", how
    assert child("serves", "execve", PYTHON, "-c", LOADED, SONDE_CHILDREN="none").startswith("False")


@tap.test
def other_preloads_stay_in_their_order():
    scratch = tap.scratch()
    libraries = [scratch / name for name in ("first.so", "second.so")]
    for library in libraries:
        subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "/dev/null", "-o", library], check=True)
    first, second = map(str, libraries)
    for value, wanted in ((f"{first}:{tap.AGENT}:{second}", f"{first}:{second}"), (f"{tap.AGENT} {second}", second),
                          (f"{second}:{first}:{tap.AGENT}", f"{second}:{first}")):
        for how in "subprocess", "copied", "posix_spawn", "execvp":
            got = child("serves", how, CHILD, LD_PRELOAD=value)
            assert got == f"free {wanted}", (value, how, got)
        got = child("serves", "system", CHILD, LD_PRELOAD=value).split(" ", 1)  # blanked in place: separators more
        assert got[0] == "free" and [p for p in got[1].replace(" ", ":").split(":") if p] == wanted.split(":"), got
        assert child("launches", "execvp", CHILD, LD_PRELOAD=value) == f"loaded {value}"


@tap.test
def a_program_of_another_libc_starts():
    scratch = tap.scratch()
    source = scratch / "hello.c"
    source.write_text('#include <stdio.h>\n#include <stdlib.h>\nint main(void) { char *p = getenv("LD_PRELOAD"); return printf("hello %s\\n", p ? p : "free") < 0; }\n')
    musl, static = scratch / "musl", scratch / "static"
    subprocess.run(["musl-gcc", source, "-o", musl], check=True)
    subprocess.run(["cc", "-static", source, "-o", static], check=True)
    # Preloaded as it is, a musl program does not start: that is what we save it from.
    assert outcome([musl], preloaded())[0] == 127
    for serves in "launches", "serves":
        for how in WAYS:
            for mode in "same", "all":
                if how in ("popen", "system") and mode == "all":
                    continue
                got = child(serves, how, musl, SONDE_CHILDREN=mode)
                assert got.split()[0] == "hello" and str(tap.AGENT) not in got, (serves, how, mode, got)
        assert child(serves, "system", f"sh -c 'exec {musl}'", SONDE_CHILDREN="all") == "hello free"
        assert child(serves, "execvp", static).startswith("hello")
    # A static launcher hands on what it got: nothing in it could change that.


@tap.test
def a_shell_an_env_and_a_wrapper_reach_the_server():
    scratch, collector = tap.scratch(), tap.Collector()
    script = scratch / "start.sh"
    script.write_text(f"#!/bin/sh\nexec env SOME=thing {CHILD}\n")
    script.chmod(0o755)
    wrapper = f"import subprocess, sys; sys.exit(subprocess.call([{str(CHILD)!r}]))"
    for command in (["sh", "-c", str(CHILD)], ["sh", "-c", f"{CHILD}; true"], [script], ["env", CHILD], ["nice", "-n", "0", CHILD],
                    ["timeout", "20", CHILD], [PYTHON, "-c", wrapper], ["sh", "-c", f"sh -c 'sh -c {CHILD}'"]):
        got = outcome(under_agent(collector, "wrapped", *command))
        assert got[0] == 0 and got[1].startswith(b"loaded "), (command, got)
    assert outcome(under_agent(collector, "wrapped", "env", "-i", CHILD))[1].startswith(b"free")


@tap.test
def an_upgraded_nginx_stays_under_the_agent():
    """nginx makes a fresh environment for its new self, and an upgrade is another file under the old name."""
    collector, port, scratch = tap.Collector(), tap.free_port(), tap.scratch()
    binary, pid_file = scratch / "nginx", scratch / "nginx.pid"
    shutil.copy("/usr/sbin/nginx", binary)
    (scratch / "nginx.conf").write_text(
        f"pid {pid_file}; error_log {scratch}/error.log;\nevents {{}}\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }} }}\n")
    assert outcome(under_agent(collector, "upgraded", binary, "-p", scratch, "-c", scratch / "nginx.conf"))[0] == 0

    def running():
        return {int(text) for name in ("nginx.pid", "nginx.pid.oldbin") if (text := (scratch / name).read_text().strip()
                                                                            if (scratch / name).exists() else "")}
    try:
        tap.wait_for(lambda: listening(port), "nginx")
        old, = running()
        shutil.copy("/usr/sbin/nginx", scratch / "new")
        os.rename(scratch / "new", binary)
        time.sleep(1.2)  # whoever starts itself anew at once, with a clean environment, gets what it wants
        os.kill(old, signal.SIGUSR2)
        tap.wait_for(lambda: len(running()) == 2, "the new nginx")
        new, = running() - {old}
        maps = pathlib.Path(f"/proc/{new}/maps").read_text()
        assert str(tap.AGENT) in maps, maps
        os.kill(old, signal.SIGQUIT)
        tap.wait_for(lambda: not os.path.exists(f"/proc/{old}"), "the old nginx to end")
        sent = sum(load.run(port, [load.Client(["/"] * 50, (0.0, 0.01))]).sent.values())
        tap.wait_for(lambda: collector.routes(service="upgraded").get("GET /", {"count": 0})["count"] >= sent, "its requests")
    finally:
        last = running()
        for pid in last:
            os.kill(pid, signal.SIGQUIT)
    tap.wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in last), "nginx to end")


@tap.test
def a_program_that_cleans_its_environment_and_starts_anew_is_let_go():
    """Were the agent to come back each time, it would do so for ever."""
    code = "import os, sys\nif 'LD_PRELOAD' in os.environ: os.execve(sys.executable, [sys.executable, '-c', sys.argv[1], sys.argv[1]], {'HOME': '/'})\nprint('clean')"
    for environment_of_child in code, code.replace("{'HOME': '/'}", "{k: v for k, v in os.environ.items() if k != 'LD_PRELOAD'}"):
        got = outcome([PYTHON, "-c", environment_of_child, environment_of_child], preloaded(), seconds=20)
        assert got == (0, b"clean\n", b""), got


if __name__ == "__main__":
    tap.run()

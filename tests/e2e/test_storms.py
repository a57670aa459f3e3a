"""
Storms (tests/storms/): programs that do one dangerous thing at full rate do the same under the agent as without, however
fast samples and looks come. Two seconds each here; `make soak SECONDS=120` runs them long.
"""
import os
import signal
import struct
import subprocess
import sys
import time

import agentsim
import tap

SECONDS = float(os.environ.get("STORM_SECONDS", "2"))
SOAKING = "STORM_SECONDS" in os.environ
# Beyond the storm's own time: a loaded machine is slow, a hang is forever.
PATIENCE = 60 + SECONDS

HIGHEST = {"SONDE_HZ": "1000", "SONDE_LOOK_HZ": "1000", "SONDE_BUDGET": "1000"}
# Storms that need another environment, or more words on their command line, say so here.
ENVIRONMENT = {}
# Storms that end this process's own CPU samples on purpose, or hardly use a CPU.
WITHOUT_SAMPLES = set()


def note(text):
    print(f"# {text}", flush=True)


def left_behind(session):
    """Processes of a storm's session that still live."""
    found = subprocess.run(["ps", "-o", "pid=,stat=,args=", "-s", str(session)], capture_output=True, text=True, check=False)
    return [line for line in found.stdout.splitlines() if " Z" not in line]


def outcome(program, seconds, environment):
    """(status, standard output, foreign lines on stderr, notes)"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SONDE_", "LD_PRELOAD", "STORM_"))}
    process = subprocess.Popen([program, str(seconds)], env={**clean, **environment}, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        out, err = process.communicate(timeout=seconds + PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # our own session: the storm and its children
        out, err = process.communicate()
        raise AssertionError(f"it hangs; so far:\n{out.decode()}{err.decode()}") from None
    until = time.monotonic() + 5  # one that is ending may not be a zombie yet
    while (left := left_behind(process.pid)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left, f"processes left: {left}"
    lines = err.decode(errors="replace").splitlines()
    return (process.returncode, out.decode(errors="replace"), [line for line in lines if not line.startswith("# ")],
            [line for line in lines if line.startswith("# ")])


def sampled(output):
    """CPU samples in what the agent wrote; a child that is quicker than its parent has the file, and the parent FILE.PID."""
    return sum(map(sampled_in, output.parent.glob(output.name + "*")))


def sampled_in(file):
    data, at, samples = file.read_bytes(), 0, 0
    while at + 4 <= len(data):
        length, = struct.unpack_from("<I", data, at)
        frame = agentsim.decode(data[at + 4:at + 4 + length])
        at += 4 + length
        for window in frame[3]:
            for report in agentsim.decode(window)[8]:
                samples += sum(agentsim.decode(report)[4])
    return samples


def storm(name):
    def weather():
        program, output = tap.BUILD / "tests/storms" / name, tap.scratch() / "stream"
        under = {"LD_PRELOAD": str(tap.AGENT), "SONDE_OUTPUT": str(output), **HIGHEST, **ENVIRONMENT.get(name, {})}
        start = time.monotonic()
        if SOAKING:
            note(f"{name}: {SECONDS:g} s under the agent")
        status, out, foreign, notes = outcome(program, SECONDS, under)
        if SOAKING:
            print("\n".join(notes), flush=True)
        told = f"status {status}\n{out}" + "\n".join(foreign + notes)
        assert status == 0, f"under the agent: {told}"
        assert not foreign, f"on stderr under the agent: {told}"
        alone = outcome(program, min(SECONDS, 1), {})
        assert alone[0] == 0 and not alone[2], f"without the agent, too: {alone}"
        assert out == alone[1], f"without the agent:\n{alone[1]}under it:\n{told}"
        samples = sampled(output) if name not in WITHOUT_SAMPLES else None
        assert samples is None or samples >= 5, f"the agent took {samples} samples: nothing is proved"
        if SOAKING:
            note(f"{name}: {samples} samples, {time.monotonic() - start:.0f} s")

    weather.__name__ = f"storm_{name}"
    tap.test(weather)


for source in sorted((tap.ROOT / "tests/storms").glob("*.c*")):
    storm(source.stem)


if __name__ == "__main__":
    tap.run()

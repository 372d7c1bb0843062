"""`make demo`: free the stuck threads of a sacrificial process with the real command line, and show it living on."""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

STUCK = ["sleeper", "lock-waiter", "consumer", "receiver", "spinner", "pool_0"]
PATIENCE = 10.0  # seconds for anything here to happen


class Victim:
    """The sacrificial process: prints what it says, as it says it, and counts its ticks."""

    def __init__(self, python: str) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        script = Path(__file__).with_name("victim.py")
        self.process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
        )
        self.ticks = 0
        self.heard: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_for(lambda: "ready" in self.heard and self.ticks > 0, "start")

    def _read(self) -> None:
        for line in map(str.strip, self.process.stdout or ()):
            if line == "tick":
                self.ticks += 1
            else:
                self.heard.append(line)
                print(f"      victim: {line}", flush=True)

    def tell(self, word: str) -> None:
        """Send it one word."""
        assert self.process.stdin
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def wait_for(self, happened: Callable[[], bool], what: str) -> None:
        """Wait until something has happened, or end the demonstration."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit(f"the victim did not {what}")
            time.sleep(0.02)

    def finish(self) -> int:
        """Ask it to end, and return its exit status."""
        self.tell("finish")
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status


class Tool:
    """threadsurgeon, run as a person would."""

    program = str(Path(sys.executable).with_name("threadsurgeon"))

    def run(self, *arguments: object) -> None:
        """Show the command line, and what comes of it."""
        words = [str(argument) for argument in arguments]
        print(f"\n$ threadsurgeon {shlex.join(words)}", flush=True)
        status = subprocess.run([self.program, *words], timeout=60, check=False).returncode
        if status != 0:
            raise SystemExit(f"threadsurgeon ended with status {status}")

    def tids(self, pid: int) -> dict[str, int]:
        """Look the TIDs up, as a program would."""
        command = [self.program, "list", str(pid), "--json"]
        listing = json.loads(subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True).stdout)
        return {thread["name"]: thread["tid"] for thread in listing["threads"]}


def say(text: str) -> None:
    """Tell the audience what comes next."""
    print(f"\n# {text}", flush=True)


def operate(victim: Victim, tool: Tool) -> None:
    """Free every stuck thread, one after the other."""
    pid = victim.process.pid
    say(f"Process {pid} has a thread that ticks, and six that are stuck, each in its own way.")
    tool.run("list", pid)
    tids = tool.tids(pid)
    tool.run("stack", tids["lock-waiter"])
    for name in STUCK:
        tool.run("cancel", tids[name])

    say("Now a regular expression that backtracks for ages, and keeps the GIL: the whole process stands still.")
    victim.tell("freeze")
    frozen_at = -1
    while frozen_at != victim.ticks:  # no tick for a second
        frozen_at = victim.ticks
        time.sleep(1.0)
    tid = tool.tids(pid)["regex"]
    tool.run("stack", tid)
    tool.run("cancel", tid)
    victim.wait_for(lambda: victim.ticks > frozen_at, "tick again")
    print("      victim: ticks again")

    say("What is left?")
    victim.tell("check")
    victim.wait_for(lambda: any(line.startswith("a new job") for line in victim.heard), "answer")
    print(f"      victim: {victim.ticks} ticks so far", flush=True)
    tool.run("list", pid)


def main() -> None:
    """Run the demonstration; any step that fails ends it with a status other than 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="the CPython the victim runs on (default: this one)")
    victim = Victim(parser.parse_args().python)
    try:
        operate(victim, Tool())
        say("The process is asked to finish, as on any other day.")
        status = victim.finish()
        print(f"      victim: exit status {status}")
        if status != 0:
            raise SystemExit("the victim should have ended with 0")
    finally:
        victim.process.kill()
        victim.process.wait()


if __name__ == "__main__":
    main()

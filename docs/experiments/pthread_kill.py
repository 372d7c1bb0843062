"""Is pthread_kill enough to close a Python 3 thread? Tries that, and the other ways, each on a process of its own.

    python docs/experiments/pthread_kill.py [--python OTHER_PYTHON] [--json]

Needs Linux, glibc, and any CPython 3.8 or newer. Where threadsurgeon is installed for the Python that runs this file,
it is tried as well. Every row is one fresh process: its main thread acts on a worker thread (threadsurgeon acts from
outside) and then says what Python believes; what the kernel says is read from /proc by the process that prints the
table.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time

PATIENCE = 2.0  # seconds an action has to show its effect

# action: (what the worker does, shown as)
ACTIONS = {
    "SIGTERM": ("sleeping", "`pthread_kill`, SIGTERM"),
    "SIGKILL": ("sleeping", "`pthread_kill`, SIGKILL"),
    "SIGUSR1": ("sleeping", "`pthread_kill`, SIGUSR1, no handler"),
    "SIGUSR1-handler": ("sleeping", "`pthread_kill`, SIGUSR1, Python handler"),
    "cancel-sleeping": ("sleeping", "`pthread_cancel`"),
    "cancel-busy": ("busy", "`pthread_cancel`"),
    "async-sleeping": ("sleeping", "`PyThreadState_SetAsyncExc`"),
    "async-nudged": ("sleeping", "`PyThreadState_SetAsyncExc`, then a handled signal"),
    "async-busy": ("busy", "`PyThreadState_SetAsyncExc`"),
    "tool-sleeping": ("sleeping", "`threadsurgeon cancel`"),
    "tool-busy": ("busy", "`threadsurgeon cancel`"),
}


# ── in the sacrificial process ────────────────────────────────────────────────────────────────────────────────────


def say(**facts: object) -> None:
    """Write one JSON line, in one system call: the process may die at any moment."""
    os.write(1, (json.dumps(facts) + "\n").encode())


def work(kind: str) -> None:
    """Be the thread that somebody wants to end."""
    say(version=sys.version.split()[0], tid=threading.get_native_id())
    try:
        if kind == "sleeping":
            time.sleep(1000)
        while True:
            pass
    finally:
        say(finally_ran=True)


def act(action: str, worker: threading.Thread) -> None:
    """Do one thing to the worker, with what the process itself has."""
    ident = ctypes.c_ulong(worker.ident or 0)  # Python's ident is the pthread_t
    if action in ("SIGUSR1-handler", "async-nudged"):
        signal.signal(signal.SIGUSR1, lambda *_: say(handler_ran_in=threading.current_thread().name))
    if action.startswith("async"):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit))
    if action.startswith("SIG"):
        signal.pthread_kill(worker.ident or 0, getattr(signal, action.partition("-")[0]))
    elif action == "async-nudged":
        signal.pthread_kill(worker.ident or 0, signal.SIGUSR1)
    elif action.startswith("cancel"):
        ctypes.CDLL(None).pthread_cancel(ident)


def be_the_target(action: str) -> None:
    """Start the worker; at each line on stdin take the next step: act, answer, end."""
    worker = threading.Thread(target=work, args=(ACTIONS[action][0],), daemon=True)
    worker.start()
    sys.stdin.readline()
    act(action, worker)
    worker.join(PATIENCE)
    say(alive=worker.is_alive())
    sys.stdin.readline()


# ── outside it ────────────────────────────────────────────────────────────────────────────────────────────────────


class Target:
    """A sacrificial process, and everything it said so far."""

    def __init__(self, python: str, action: str) -> None:
        command = [python, os.path.abspath(__file__), "--target", action]
        # Our own venv's variables would mislead another Python.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)
        self.facts: dict[str, object] = {}
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(line)
        self._lines.put(None)

    def hear(self, fact: str, seconds: float) -> bool:
        """Take in what it says until it says this, ends, or the time is over."""
        deadline = time.monotonic() + seconds
        while fact not in self.facts:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return False
            if line is None:
                return False
            self.facts.update(json.loads(line))
        return True

    def next_step(self) -> None:
        """Let it take its next step, if it still can."""
        try:
            assert self.process.stdin
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def gone(self, tid: object, seconds: float) -> bool:
        """Wait until the kernel no longer has the thread."""
        deadline = time.monotonic() + seconds
        while os.path.exists(f"/proc/{self.process.pid}/task/{tid}"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def system_call(self, tid: object) -> str:
        """Read the system call the thread is in: only then is a sleeping worker asleep."""
        try:
            with open(f"/proc/{self.process.pid}/task/{tid}/syscall") as file:
                return file.read().split()[0]
        except OSError:
            return "gone"


def observe(python: str, action: str) -> dict[str, object]:
    """Run one action in a fresh process, and tell what was seen."""
    target = Target(python, action)
    try:
        if not target.hear("tid", 30):
            raise SystemExit(f"{python} did not start the experiment")
        tid = target.facts["tid"]
        if ACTIONS[action][0] == "sleeping":
            while target.system_call(tid) in ("running", "gone"):
                time.sleep(0.01)
        else:
            time.sleep(0.1)  # any moment of a busy loop is as good as another
        if action.startswith("tool"):
            tool = [sys.executable, "-m", "threadsurgeon", "cancel", str(tid)]
            subprocess.run(tool, stdout=subprocess.DEVNULL, timeout=60, check=False)
        target.next_step()
        answered = target.hear("alive", PATIENCE + 5)
        thread_there = not target.gone(tid, 1.0)  # Python calls a thread ended a moment before the kernel does
        status = target.process.poll() if answered else wait(target.process, 1)
        died = status is not None
        if not died:  # does it still end when it is asked to?
            target.next_step()
            status = wait(target.process, 5)
        return {
            "action": action,
            "version": target.facts["version"],
            "died": died,
            "frozen": not died and not answered,
            "exit_status": status,
            "thread_there": thread_there and not died,
            "alive": target.facts.get("alive"),
            "finally": bool(target.facts.get("finally_ran")),
            "handler_ran_in": target.facts.get("handler_ran_in"),
        }
    finally:
        target.process.kill()
        target.process.wait()


def wait(process: subprocess.Popen[str], seconds: float) -> int | None:
    """Wait for the exit status; None if the process is still there."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def row(seen: dict[str, object]) -> list[str]:
    """Turn what was seen into the cells of one row."""
    worker, shown = ACTIONS[str(seen["action"])]
    finally_ran = "run" if seen["finally"] else "not run"
    status = seen["exit_status"]
    if seen["died"]:
        assert isinstance(status, int)
        return [shown, worker, "-", "-", "-", finally_ran, f"**dies**, {128 - status if status < 0 else status}"]
    thread = "still there" if seen["thread_there"] else "gone"
    process = "**frozen**, when asked to end" if status is None else f"lives, ends with {status}"
    if seen["handler_ran_in"]:
        process += f"; the handler ran in {seen['handler_ran_in']}"
    if seen["frozen"]:
        return [shown, worker, thread, "no answer", "no answer", finally_ran, "**frozen for ever**"]
    joins = "no: times out" if seen["alive"] else "yes"
    return [shown, worker, thread, "alive" if seen["alive"] else "ended", joins, finally_ran, process]


def table(rows: list[list[str]]) -> str:
    """Lay the cells out as a Markdown table that is readable as it stands."""
    head = ["action", "worker", "OS thread", "Python thinks", "`join` returns", "`finally`", "process"]
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"  # noqa: B905  # since 3.10
        for line in lines
    )


def main() -> None:
    """Run every action and print what was seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="the CPython to try it on (default: this one)")
    parser.add_argument("--json", action="store_true", help="print what was seen as JSON")
    parser.add_argument("--target", choices=ACTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.target:
        be_the_target(arguments.target)
        return
    has_tool = importlib.util.find_spec("threadsurgeon.__main__") if importlib.util.find_spec("threadsurgeon") else None
    seen = [observe(arguments.python, action) for action in ACTIONS if has_tool or not action.startswith("tool")]
    if arguments.json:
        print(json.dumps(seen, indent=1))
        return
    print(f"CPython {seen[0]['version']}, Linux {os.uname().release}, {os.confstr('CS_GNU_LIBC_VERSION')}\n")
    print(table([row(facts) for facts in seen]))
    if not has_tool:
        print(f"\nthreadsurgeon cancel: not tried, threadsurgeon is not installed for {sys.executable}")


if __name__ == "__main__":
    main()

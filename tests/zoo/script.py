"""A sacrificial process whose code stands in the test itself: many threads, one line in, one line out."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .pythons import Python
from .victim import FATAL, waiting

# Before the script's own code. It calls ready() when it is, and then answers lines, or ends.
PRELUDE = """
import json, os, resource, sys, threading, time
resource.setrlimit(resource.RLIMIT_CPU, (int(os.environ["CPU_SECONDS"]),) * 2)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

def say(**answer):
    sys.stdout.write(json.dumps(answer) + "\\n")
    sys.stdout.flush()

def ready(threads):
    while not all(thread.native_id for thread in threads):
        time.sleep(0.001)
    say(tids=[thread.native_id for thread in threads])

def hear():
    line = sys.stdin.readline()
    if not line:
        os._exit(70)
    return line.strip()
"""


class Script:
    """A running script. ``tids`` are those of the threads it is about."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._stderr = stderr
        self._buffer = b""
        self.tids: list[int] = self.answer()["tids"]

    def answer(self, deadline_seconds: float = 30.0) -> dict[str, Any]:
        assert self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                assert selector.select(deadline_seconds), f"no answer from PID {self.pid}: {self.stderr}"
                data = os.read(self.process.stdout.fileno(), 1 << 16)
                assert data, f"PID {self.pid} ended instead of answering: {self.process.wait(30)}, {self.stderr}"
                self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tell(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, line: str, deadline_seconds: float = 30.0) -> dict[str, Any]:
        self.tell(line)
        return self.answer(deadline_seconds)

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def wait_until_gone(self, tid: int) -> None:
        for _ in waiting(f"thread {tid} of PID {self.pid} is gone: {self.stderr}"):
            if not os.path.exists(f"/proc/{self.pid}/task/{tid}"):
                return

    def wait_until_in(self, tid: int, *calls: int) -> None:
        """Wait until the thread sits in one of these system calls."""
        for _ in waiting(f"thread {tid} of PID {self.pid} in system call {calls}"):
            text = Path(f"/proc/{self.pid}/task/{tid}/syscall").read_text()
            if text.split()[0] in map(str, calls):
                return

    def finish(self) -> None:
        """Let the script run to its end, which is to be an orderly one."""
        self.tell("finish")
        status = self.process.wait(40)
        assert (status, re.findall(FATAL, self.stderr)) == (0, []), self.stderr


@contextlib.contextmanager
def running(command: Sequence[str | Path], folder: Path, *, cpu_seconds: int = 120, **environment: str) -> Iterator[Script]:
    """Run what talks as a script does until the block ends. The kernel ends it after so much CPU time: nobody else may."""
    stderr = folder / "stderr"
    with open(stderr, "wb") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "LC_ALL": "C.UTF-8",
                "CPU_SECONDS": str(cpu_seconds),
                **environment,
            },
        )
    try:
        yield Script(process, stderr)
    finally:
        process.kill()
        process.wait(30)
        for pipe in (process.stdin, process.stdout):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@contextlib.contextmanager
def script(python: Python, code: str, *, cpu_seconds: int = 120, **environment: str) -> Iterator[Script]:
    """Run the code until the block ends."""
    with tempfile.TemporaryDirectory(prefix="threadsurgeon-script-", ignore_cleanup_errors=True) as directory:
        path = Path(directory, "script.py")
        path.write_text(PRELUDE + code)
        command = [python.command, "-B", "-W", "ignore", str(path)]
        with running(command, Path(directory), cpu_seconds=cpu_seconds, **environment) as process:
            yield process

"""The audit trail of real operations: before the thread is touched, and whichever way it ends."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.command import run
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim, waiting
from threadsurgeon.inventory import Target

Start = Callable[..., Victim]

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("gdb")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("command", ["cancel", "kill"])
@pytest.mark.parametrize("how", ["option", "environment"])
def test_operation_is_logged(command: str, how: str, any_python: Python, stuck: Start, tmp_path: Path) -> None:
    """Who did what to which thread, where that thread was, and what came of it; the report names the same gdb."""
    victim, log = stuck(any_python, "sleep"), tmp_path / "log"
    target = Target(victim.pid)
    functions = [str(frame) for frame in target.see(victim.tid).thread.frames]
    start_time = target.start_time
    arguments = [command, str(victim.tid), "--json", *(["--log", str(log)] if how == "option" else [])]
    result = run(*arguments, **({"THREADSURGEON_LOG": str(log)} if how == "environment" else {}))
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    before, after = read(log)

    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert (before["event"], before["command"], before["who"]["uid"]) == ("intent", command, os.getuid())
    assert (before["process"]["pid"], before["process"]["start_time"]) == (victim.pid, start_time)
    assert any("sleep.py" in word for word in before["process"]["command_line"])
    assert before["thread"]["tid"] == victim.tid
    assert (after["event"], after["operation"], after["outcome"]) == ("result", before["operation"], "ended")
    assert (after["technique"], after["exception"]) == ("interrupt", "SystemExit")
    assert after["stack_before"] == functions
    assert after["debugger"] == report["debugger"]
    assert report["debugger"].startswith("gdb ")
    victim.assert_lives_on()
    victim.finish()


def test_refusal_is_logged(any_python: Python, stuck: Start, tmp_path: Path) -> None:
    """The main thread: what was wanted, and why it was not done."""
    victim, log = stuck(any_python, "main_thread"), tmp_path / "log"
    result = run("kill", str(victim.tid), "--log", str(log))
    before, after = read(log)

    assert result.returncode == 5
    assert (before["event"], after["event"], after["outcome"]) == ("intent", "result", None)
    assert after["error"]["type"] == "Refused"
    assert after["error"]["message"] in result.stderr
    victim.assert_lives_on(unwound=False)


def test_looking_is_not_logged(any_python: Python, stuck: Start, tmp_path: Path) -> None:
    """A dry run touches nothing: there is nothing to log."""
    victim, log = stuck(any_python, "sleep"), tmp_path / "log"
    result = run("kill", str(victim.tid), "--dry-run", "--log", str(log))

    assert result.returncode == 0, result.stderr
    assert not log.exists()
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


@pytest.mark.parametrize("make", [None, os.mkdir, os.mkfifo], ids=["no folder", "a folder", "a pipe"])
def test_nothing_is_done_without_the_log(
    make: Callable[[Path], None] | None, any_python: Python, stuck: Start, tmp_path: Path
) -> None:
    """One line says so; the thread was not touched."""
    victim, log = stuck(any_python, "sleep"), tmp_path / "folder" / "log"
    if make is not None:
        log.parent.mkdir()
        make(log)
    result = run("cancel", str(victim.tid), "--log", str(log))
    error, hint = result.stderr.splitlines()

    assert (result.returncode, result.stdout) == (1, "")
    assert str(log) in error
    assert "nothing was touched" in hint
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_operation_that_is_interrupted(number: signal.Signals, any_python: Python, stuck: Start, tmp_path: Path) -> None:
    """The intent stands while it goes on, and after SIGKILL; otherwise what ended it is added."""
    victim, log = stuck(any_python, "ctypes_wait"), tmp_path / "log"
    with subprocess.Popen(
        [sys.executable, "-m", "threadsurgeon", "cancel", str(victim.tid), "--timeout", "100", "--log", str(log)],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        for _ in waiting("the thread is traced"):
            if "TracerPid:\t0\n" not in Path(f"/proc/{victim.pid}/task/{victim.tid}/status").read_text():
                break
        (before,) = read(log)
        process.send_signal(number)
        process.wait(30)
    entries = read(log)

    assert (before["event"], before["who"]["pid"]) == ("intent", process.pid)
    if number == signal.SIGKILL:
        assert entries == [before]
    else:
        assert [entry["error"] for entry in entries[1:]] == [{"type": "Interrupted", "message": f"by {number.name}"}]
    for _ in waiting("the thread is let go"):
        if victim.is_traced_or_stopped() == []:
            break
    victim.assert_lives_on(unwound=False)

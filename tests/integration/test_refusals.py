"""What cannot or must not be done is said in one line, with the right exit status, and nothing is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import threadsurgeon
from tests.integration.command import run
from tests.zoo.behaviours import Behaviour
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim, waiting
from threadsurgeon import errors

Start = Callable[..., Victim]

NO_SUCH_ID = str(2**22 + 1)  # one more than the kernel ever gives (PID_MAX_LIMIT)


@pytest.mark.behaviours("main_thread", "native_thread")
def test_thread_that_must_not_be_ended(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """The main thread is the process, a native thread has no Python to raise in: refused, and nothing was touched."""
    victim = stuck(python, behaviour)
    with pytest.raises(errors.ThreadsurgeonError) as caught:
        threadsurgeon.cancel(victim.tid, pid=victim.pid)

    assert "\n" not in str(caught.value)
    assert victim.system_call() in behaviour.waits_in
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


@pytest.mark.parametrize(("behaviour", "status"), [("main_thread", 5), ("native_thread", 5)])
def test_command_line_refuses(behaviour: str, status: int, any_python: Python, stuck: Start) -> None:
    """What would harm is refused, what cannot be done is an error: one line says which thread and why."""
    victim = stuck(any_python, behaviour)

    assert str(victim.tid) in refusal(status, "cancel", str(victim.tid))
    victim.assert_lives_on(unwound=False)


def test_program_that_is_not_python() -> None:
    """Another program is recognised, by PID and by TID."""
    with program("sleep", "1000") as process:
        assert "Python" in refusal(1, "list", str(process.pid))
        refusal(1, "cancel", str(process.pid))
        assert process.poll() is None


def test_pypy_is_not_supported() -> None:
    """PyPy is a Python and not CPython."""
    pypy = shutil.which("pypy3")
    if pypy is None:
        pytest.skip("there is no pypy3 here")
    with program(pypy, "-c", "input()") as process:
        refusal(1, "list", str(process.pid))
        assert process.poll() is None


@pytest.mark.parametrize("command", ["list", "cancel"])
def test_id_that_does_not_exist(command: str) -> None:
    """An id that nobody has is said to be just that."""
    assert NO_SUCH_ID in refusal(1, command, NO_SUCH_ID)


@pytest.mark.parametrize("command", ["list", "cancel"])
def test_zombie(command: str) -> None:
    """A process that has ended and was not collected has no threads to operate on."""
    with program("true") as process:
        for _ in waiting(f"process {process.pid} is a zombie"):
            if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                break
        refusal(1, command, str(process.pid))


@pytest.mark.parametrize("command", ["list", "cancel"])
def test_kernel_thread(command: str) -> None:
    """Kernel threads are tasks too."""
    try:
        flags = int(Path("/proc/2/stat").read_text().rpartition(")")[2].split()[6])
    except FileNotFoundError:
        flags = 0
    if not flags & 0x00200000:  # PF_KTHREAD
        pytest.skip("no kernel thread to be seen here")
    refusal(1, command, "2")


def test_thread_of_another_process(any_python: Python, stuck: Start) -> None:
    """A TID together with a PID it does not belong to is a mistake, and nobody is touched."""
    victim, other = stuck(any_python, "sleep"), stuck(any_python, "lock")

    refusal(1, "cancel", str(victim.tid), "--pid", str(other.pid))
    for one in (victim, other):
        assert not one.assert_lives_on(unwound=False)["finally_ran"]


def test_thread_that_has_ended(any_python: Python, stuck: Start) -> None:
    """A process that ended a moment ago is as good as one that never was."""
    victim = stuck(any_python, "sleep")
    victim.kill()

    refusal(1, "cancel", str(victim.tid))


@pytest.mark.parametrize(
    "arguments", [("list", "-1"), ("list",), ("list", "1x"), ("cancel",), ("surgery",), ("list", "1", "2")]
)
def test_garbage_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    """Click explains, with its own exit status."""
    result = run(*arguments)

    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("tid", ["0", "99999999999999999999", "\u0664\u0662", "no-such-name"])
def test_impossible_thread(tid: str) -> None:
    """What no thread can be called is refused as usage or as unknown, never with a traceback."""
    result = run("cancel", tid)

    assert result.returncode in (1, 2), result.stderr
    assert result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["NoSuchError", "int", "os.system", "", "SystemExit()"])
def test_impossible_exception(name: str, any_python: Python, stuck: Start) -> None:
    """What is not a builtin exception is not raised, and the thread does not notice."""
    victim = stuck(any_python, "sleep")
    result = run("cancel", str(victim.tid), "--exception", name)

    assert result.returncode in (1, 2), result.stderr
    assert "Traceback" not in result.stderr
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


def test_missing_debugger_is_said(any_python: Python, stuck: Start) -> None:
    """Without gdb on PATH the command says so, and how to get it."""
    victim = stuck(any_python, "sleep")
    result = run("cancel", str(victim.tid), PATH=os.path.dirname(sys.executable))
    if shutil.which("gdb", path=os.path.dirname(sys.executable)):
        pytest.skip("gdb lives beside our Python")

    assert result.returncode == 1
    assert "gdb" in result.stderr
    assert "Traceback" not in result.stderr
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


def refusal(status: int, *arguments: str) -> str:
    """Assert that the command fails with this status and one clear line (and a hint at most); return what it said."""
    begin = time.monotonic()
    result = run(*arguments)
    assert result.returncode == status, result.stdout + result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert 1 <= len(lines) <= 2, result.stderr
    assert "Traceback" not in result.stderr
    assert "Error(" not in result.stderr
    assert time.monotonic() - begin < 20
    return result.stderr


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends; it is executing its own code when the block begins."""
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin
        process.stdin.close()

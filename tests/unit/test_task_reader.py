"""What the kernel says of all threads, read here or by a second process: the same, whatever becomes of that one."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from threadsurgeon.errors import NoSuchProcess
from threadsurgeon.linux import task_reader
from threadsurgeon.linux.process import iterate_tasks, list_tids, read_system_call
from threadsurgeon.linux.task_reader import TaskReader, may_fork

NO_SUCH_ID = 2**22 + 1  # one more than the kernel ever gives (PID_MAX_LIMIT)
READ = 0  # x86-64
THREADS = """
import sys, threading
for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print()
sys.stdin.read()
"""


@pytest.fixture
def program():
    """A process of four threads that all wait, the first of them for input from us."""
    with subprocess.Popen([sys.executable, "-c", THREADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            call = read_system_call(process.pid, process.pid)
            if call and call.number == READ and [task.state for task in iterate_tasks(process.pid)] == ["S"] * 4:
                break
        yield process
        process.stdin.close()
    assert process.returncode == 0


@pytest.fixture
def forking(monkeypatch):
    """Whatever else the tests run beside: what is forked here touches nothing that threads share."""
    monkeypatch.setattr(task_reader, "may_fork", lambda: True)


def children():
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize("forks", [False, True])
def test_every_thread_is_read(forks, program, forking):
    """And what it sits in; no child and no open file is left."""
    before, files = children(), os.listdir("/proc/self/fd")
    with TaskReader(program.pid, forks=forks) as reader:
        assert len(children() - before) == forks
        tasks, calls = reader.finish()

    assert [task.tid for task in tasks] == list(calls) == list_tids(program.pid)
    assert {task.state for task in tasks} == {"S"}
    assert calls[program.pid].number == READ
    assert (children(), os.listdir("/proc/self/fd")) == (before, files)


def test_second_process_that_is_killed(program, forking, monkeypatch):
    """Then we read ourselves."""
    monkeypatch.setattr(task_reader, "_read_and_exit", lambda pid, pipe: os.kill(os.getpid(), signal.SIGKILL))
    with TaskReader(program.pid, forks=True) as reader:
        tasks, _ = reader.finish()

    assert [task.tid for task in tasks] == list_tids(program.pid)


def test_second_process_is_not_waited_for(program, forking, monkeypatch):
    """An error of ours ends it, too."""
    before = children()
    monkeypatch.setattr(task_reader, "_read_and_exit", lambda pid, pipe: signal.pause())
    with pytest.raises(KeyboardInterrupt), TaskReader(program.pid, forks=True):
        raise KeyboardInterrupt

    assert children() == before


def test_no_process_may_be_made(program, forking, monkeypatch):
    """A limit of the system costs time, and nothing else."""

    def fork():
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", fork)
    with TaskReader(program.pid, forks=True) as reader:
        assert len(reader.finish()[0]) == 4


def test_children_are_not_left_for_us(program, forking):
    """Who ignores SIGCHLD, as a parent may have made us do, could not tell the child's id from another process's."""
    before = children()
    disposition = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with TaskReader(program.pid, forks=True) as reader:
            assert children() == before
            assert len(reader.finish()[0]) == 4
    finally:
        signal.signal(signal.SIGCHLD, disposition)


@pytest.mark.parametrize("forks", [False, True])
def test_process_that_is_not_there(forks, forking):
    """It is said to be gone, by whoever reads."""
    with TaskReader(NO_SUCH_ID, forks=forks) as reader, pytest.raises(NoSuchProcess):
        reader.finish()


def test_calls_that_the_kernel_does_not_tell(program, monkeypatch):
    """The threads are listed all the same, and it is asked once."""
    asked = []
    read_file = task_reader.read_file

    def refuse(path, size, *, folder):
        if path.endswith("/syscall"):
            asked.append(path)
            raise PermissionError
        return read_file(path, size, folder=folder)

    monkeypatch.setattr(task_reader, "read_file", refuse)
    with TaskReader(program.pid, forks=False) as reader:
        tasks, calls = reader.finish()

    assert (len(tasks), calls, len(asked)) == (4, {}, 1)


def test_we_have_other_threads():
    """A fork would have the locks that they hold, and nobody to give them back."""
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    try:
        assert not may_fork()
    finally:
        end.set()
        other.join()

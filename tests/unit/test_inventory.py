"""Listing real small processes, and saying why there is nothing to list."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from threadsurgeon.errors import NativeThread, NoSuchProcess, NoSuchThread, NotPython, PermissionDenied, UnsupportedPython
from threadsurgeon.inventory import Target, explain_permission, is_pool_worker
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.linux.process import read_status
from threadsurgeon.model.threads import Frame

NO_SUCH_ID = 2**22 + 1  # one more than the kernel ever gives (PID_MAX_LIMIT)
PROGRAM = """
import sys, threading
def wait():
    ready.release()
    end.acquire()
ready, end = threading.Semaphore(0), threading.Semaphore(0)
threads = [threading.Thread(target=wait, name="first"), threading.Thread(target=wait, name="second", daemon=True)]
for thread in threads:
    thread.start()
    ready.acquire()
print(*(thread.native_id for thread in threads), flush=True)
sys.stdin.read()
end.release(); end.release()
"""
FORKING = """
import os, sys, threading, time
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
child = os.fork()
if child == 0:
    print(os.getpid(), flush=True)
sys.stdin.read()
"""


@contextmanager
def program(*command, **options):
    """A process that lives until the block ends, its first line of output read."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options) as process:
        try:
            yield process, process.stdout.readline().split()
        finally:
            process.stdin.close()
            process.kill()


def test_threads_of_a_child_are_listed():
    """The main thread first; names, daemons, frames and states as the program made them."""
    with program(sys.executable, "-c", PROGRAM) as (process, tids):
        first, second = map(int, tids)
        target = Target(process.pid)
        deadline = time.monotonic() + 20
        while True:  # until the threads are where they wait, and no longer on their way
            listing = target.list_threads()
            waiting = sum(Frame("wait", "<string>", 5) in thread.frames for thread in listing.threads)
            if time.monotonic() > deadline or (waiting == 2 and {t.state for t in listing.threads} == {"sleeping"}):
                break

        assert listing.pid == process.pid
        assert [thread.tid for thread in listing.threads] == [process.pid, *sorted([first, second])]
        threads = {thread.tid: thread for thread in listing.threads}
        assert [(t.main, t.name, t.daemon) for t in map(threads.get, [process.pid, first, second])] == [
            (True, "MainThread", False),
            (False, "first", False),
            (False, "second", True),
        ]
        assert all(t.python and t.interpreter == 0 and t.state == "sleeping" and t.cpu_percent < 50 for t in listing.threads)
        assert Frame("wait", "<string>", 5) in threads[first].frames
        assert os.path.samefile(listing.python.executable, f"/proc/{process.pid}/exe")


def test_one_thread_is_seen_as_in_the_list():
    """Also when it is looked at again; another id is said to be no thread of it."""
    with program(sys.executable, "-c", PROGRAM) as (process, tids):
        target = Target(process.pid)
        tid = int(tids[0])
        sighting = target.see(tid)
        listed = next(thread for thread in target.list_threads().threads if thread.tid == tid)
        again = target.see(tid, state=sighting.state)

        assert sighting.thread.name == "first"
        assert (sighting.thread.ident, sighting.thread.frames) == (listed.ident, listed.frames)
        assert again.raw_frames == sighting.raw_frames
        for other in (NO_SUCH_ID, os.getpid()):
            with pytest.raises(NoSuchThread):
                target.see(other)


def test_forked_child_has_its_own_thread_only():
    """Its main thread has another id than the one the parent recorded, and the parent's other threads are not there."""
    with program(sys.executable, "-W", "ignore", "-c", FORKING) as (process, (child,)):
        (thread,) = Target(int(child)).list_threads().threads

        assert (thread.tid, thread.python, thread.main, thread.name) == (int(child), True, True, "MainThread")
        os.kill(int(child), signal.SIGKILL)
        assert process.poll() is None


def test_process_that_ends_is_not_listed_as_another():
    """Between finding it and looking at it."""
    with program(sys.executable, "-c", PROGRAM) as (process, tids):
        target = Target(process.pid)
        process.kill()
        process.wait()
        for look in (target.list_threads, target.check_is_same, target.find_gil_holder):
            with pytest.raises(NoSuchProcess):
                look()
        with pytest.raises((NoSuchProcess, NoSuchThread)):
            target.see(int(tids[0]))


def test_reused_pid_is_not_the_same_process():
    """The id alone is nothing; with the time of its start it is the process."""
    target = Target(os.getpid())
    target.check_is_same()
    target.start_time -= 1

    with pytest.raises(NoSuchProcess):
        target.check_is_same()


def test_tid_in_the_place_of_a_pid_is_explained():
    """With the PID that was meant."""
    with program(sys.executable, "-c", PROGRAM) as (process, tids):
        with pytest.raises(NoSuchProcess, match=f"not a process but a thread of process {process.pid}") as caught:
            Target(int(tids[0]))

        assert caught.value.hint == f"threadsurgeon list {process.pid}"


@pytest.mark.parametrize("pid", [NO_SUCH_ID, 2**31 - 1])
def test_missing_process_is_said(pid):
    """Its id is in the message."""
    with pytest.raises(NoSuchProcess, match=str(pid)):
        Target(pid)


def test_zombie_is_explained():
    """It ended: nothing can be listed, and whose fault it is."""
    process = subprocess.Popen(["true"], stdin=subprocess.DEVNULL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        with pytest.raises(NotPython, match=r"\(true\) is a zombie"):
            Target(process.pid)
    finally:
        process.wait()


def test_other_program_is_not_python():
    """It is named."""
    process = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n" and time.monotonic() < deadline:
            time.sleep(0.001)
        with pytest.raises(NotPython, match=rf"{process.pid} \(sleep\)"):
            Target(process.pid)
    finally:
        process.kill()
        process.wait()


def test_kernel_thread_is_explained():
    """Where one can be seen."""
    try:
        kernel = read_status(2).kernel_thread
    except NoSuchProcess:
        kernel = False
    if not kernel:
        pytest.skip("no kernel thread to be seen here")

    with pytest.raises(NotPython, match="is a kernel thread"):
        Target(2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_process_of_another_user_is_not_permitted():
    """As nobody, looking at a process of root: whose it is, who we are, what to do."""
    look = (
        "import sys; sys.path[:] = sys.argv[2].split(':'); from threadsurgeon import inventory, errors\n"
        "import threadsurgeon.cpython.runtime, threadsurgeon.linux.permission, os; os.setgid(65534); os.setuid(65534)\n"
        "try: inventory.Target(int(sys.argv[1]))\n"
        "except errors.PermissionDenied as error: print(error, '|', error.hint)"
    )
    command = [sys.executable, "-c", look, str(os.getpid()), ":".join([str(Path(__file__).parents[2]), *sys.path])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert result.stderr == ""
    assert f"process {os.getpid()} " in result.stdout
    assert "it belongs to user 0, and we are user 65534 | run threadsurgeon as root" in result.stdout


def test_refusal_is_explained_by_what_is_the_case():
    """The process ended meanwhile, is unreadable, or needs privileges."""
    assert isinstance(explain_permission(NO_SUCH_ID, PermissionDenied("x")), NoSuchProcess)
    assert isinstance(explain_permission(os.getpid(), BadAddress(1, 1)), UnsupportedPython)
    denied = explain_permission(os.getpid(), PermissionDenied("not that"))
    assert type(denied) is PermissionDenied
    assert str(os.getpid()) in str(denied)
    assert denied.hint


def test_native_thread_is_an_error_of_its_own(monkeypatch):
    """It exists, so that it is not said to be missing."""
    target = Target(os.getpid())
    monkeypatch.setattr(target, "_find_state", lambda namespace_tid: None)

    with pytest.raises(NativeThread, match="has no Python state") as caught:
        target.see(os.getpid())
    assert "threadsurgeon list" in caught.value.hint


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([Frame("f", "x.py", 1), Frame("_worker", "/usr/lib/python3.12/concurrent/futures/thread.py", 80)], True),
        ([Frame("_worker", "/app/thread.py", 80)], False),
        ([Frame("run", "/usr/lib/python3.12/concurrent/futures/thread.py", 80)], False),
        ([], False),
    ],
)
def test_pool_workers_are_recognised(frames, expected):
    """By the function and its file together."""
    assert is_pool_worker(frames) is expected


def test_holder_of_the_gil_is_named():
    """Who runs all the time holds it most of the time."""
    with program(sys.executable, "-c", "print(flush=True)\nwhile True: pass") as (process, _):
        target = Target(process.pid)
        deadline = time.monotonic() + 10
        while (holder := target.find_gil_holder()) is None and time.monotonic() < deadline:
            time.sleep(0.001)

        assert (holder.tid, holder.holds_gil, holder.python) == (process.pid, True, True)

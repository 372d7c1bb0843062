"""What the kernel says of processes and threads, whatever they are called and whenever they end."""

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from threadsurgeon.errors import NoSuchProcess, NoSuchThread, PermissionDenied
from threadsurgeon.linux import process
from threadsurgeon.linux.process import (
    CLOCK_TICKS,
    SystemCall,
    find_process,
    is_alive,
    iterate_tasks,
    list_tids,
    read_cpu_time,
    read_status,
    read_system_call,
    read_task,
)

NO_SUCH_ID = 2**22 + 1  # one more than the kernel ever gives (PID_MAX_LIMIT)
READ = 0  # x86-64
STATUS = """Name:\tpython3
Umask:\t0022
State:\tS (sleeping)
Tgid:\t42
Pid:\t43
PPid:\t1
TracerPid:\t7
Uid:\t1000\t1001\t1002\t1003
NSpid:\t43\t5
VmSize:\t  1000 kB
Threads:\t9
"""
STAT = "43 (python3) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 123456 1000 100 184467 1 1 0 0 0 0 0 0 0 0 0 0 17 3"


@pytest.fixture
def fake_proc(monkeypatch):
    """Answer every reading below /proc with a text, or an error."""

    def fake(answer):
        def read(path, size=None):
            if isinstance(answer, Exception):
                raise answer
            return answer if isinstance(answer, bytes) else answer.encode()

        monkeypatch.setattr(process, "read_file", read)

    return fake


@contextmanager
def child(*command):
    """A process with a pipe to its standard input, gone when the block ends."""
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_status_is_read_as_the_kernel_writes_it(fake_proc):
    """The effective user, the innermost namespace's id, the tracer."""
    fake_proc(STATUS)
    status = read_status(43)

    assert (status.name, status.state, status.tgid, status.tracer, status.uid) == ("python3", "S", 42, 7, 1001)
    assert (status.namespace_pids, status.namespace_pid, status.threads) == ((43, 5), 5, 9)
    assert not status.kernel_thread


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("VmSize:\t  1000 kB\n", ""), True),
        (("VmSize:\t  1000 kB\n", "Kthread:\t1\n"), True),
        (("VmSize:\t  1000 kB\n", "VmSize:\t  1000 kB\nKthread:\t0\n"), False),
        (("VmSize:\t  1000 kB\n", "VmSize:\t  1000 kB\nKthread:\t1\n"), True),
    ],
)
def test_kernel_threads_are_told_apart(fake_proc, change, expected):
    """By what Linux 6.8 says, and before that by their missing memory."""
    fake_proc(STATUS.replace(*change))

    assert read_status(43).kernel_thread is expected


@pytest.mark.parametrize("state", ["Z (zombie)", "X (dead)"])
def test_zombie_is_no_kernel_thread(fake_proc, state):
    """It has no memory either: it had some."""
    fake_proc(STATUS.replace("VmSize:\t  1000 kB\n", "").replace("S (sleeping)", state))

    assert not read_status(43).kernel_thread


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028"])
def test_name_cannot_pretend_to_be_a_line(fake_proc, separator):
    """The kernel escapes a newline in a name, and nothing else that Python takes for the end of a line."""
    fake_proc(STATUS.replace("python3", f"x{separator}Kthread:\t1"))

    assert not read_status(43).kernel_thread


def test_name_of_broken_text_is_read(fake_proc):
    """A name is 15 bytes, cut anywhere."""
    fake_proc(STATUS.encode().replace(b"python3", b"caf\xc3"))

    assert read_status(43).name == "caf\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("error", "expected"),
    [(FileNotFoundError(), NoSuchProcess), (ProcessLookupError(), NoSuchProcess), (PermissionError(), PermissionDenied)],
)
def test_unreadable_status_is_explained(fake_proc, error, expected):
    """The process is gone, or hidden from us."""
    fake_proc(error)

    with pytest.raises(expected, match="43"):
        read_status(43)


def test_task_is_read_as_the_kernel_writes_it(fake_proc):
    """Times are in ticks: user and system time add up, the start stays as it is."""
    fake_proc(STAT)
    task = read_task(42, 43)

    assert (task.tid, task.native_name, task.state, task.start_time) == (43, "python3", "S", 123456)
    assert task.cpu_seconds == 300 / CLOCK_TICKS


@pytest.mark.parametrize("name", ["a) R 1 (b", ")", "(", "", " ", ") S (", "x) Z 0 0 0 0"])
def test_task_of_any_name_is_read(fake_proc, name):
    """Brackets, blanks and what looks like the following fields are part of the name."""
    fake_proc(STAT.replace("python3", name))
    task = read_task(42, 43)

    assert (task.native_name, task.state, task.start_time) == (name, "S", 123456)


@pytest.mark.parametrize("error", [FileNotFoundError(), ProcessLookupError()])
def test_missing_task_is_no_such_thread(fake_proc, error):
    """Both ways in which the kernel says so: not there, and ended while being read."""
    fake_proc(error)

    with pytest.raises(NoSuchThread, match=r"42.*43"):
        read_task(42, 43)


def test_own_thread_of_a_strange_name_is_read():
    """The kernel's own text for such a name."""
    seen = []

    def look():
        with open("/proc/thread-self/comm", "wb") as comm:
            comm.write(b"a) R 1 (b")
        seen.append(read_task(os.getpid(), threading.get_native_id()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()

    assert (seen[0].native_name, seen[0].state) == ("a) R 1 (b", "R")


def test_threads_are_listed_and_found():
    """All of a process, and from each the way back to the process."""
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        tids = list_tids(os.getpid())
        expected = {os.getpid(), *(thread.native_id for thread in threads)}

        assert expected <= set(tids)
        assert {task.tid for task in iterate_tasks(os.getpid())} == set(tids)
        assert {find_process(tid) for tid in expected} == {os.getpid()}
        assert read_status(threads[0].native_id).tgid == os.getpid()
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_threads_that_end_meanwhile_are_left_out(monkeypatch):
    """Between listing the ids and reading each."""
    gone = threading.Thread(target=int)
    gone.start()
    tid = gone.native_id
    gone.join()
    wait_until(lambda: tid not in list_tids(os.getpid()))
    monkeypatch.setattr(process, "list_tids", lambda pid: [tid, os.getpid()])

    assert [task.tid for task in iterate_tasks(os.getpid())] == [os.getpid()]


@pytest.mark.parametrize("pid", [0, -1, NO_SUCH_ID, 10**30])
def test_ids_that_nobody_has(pid):
    """Each question says that there is nobody."""
    with pytest.raises(NoSuchProcess):
        read_status(pid)
    with pytest.raises(NoSuchProcess):
        list_tids(pid)
    with pytest.raises(NoSuchThread) as caught:
        find_process(pid)
    assert "threadsurgeon list" in caught.value.hint
    with pytest.raises(NoSuchThread):
        read_task(os.getpid(), pid)
    with pytest.raises(NoSuchThread):
        read_system_call(os.getpid(), pid)
    assert read_cpu_time(os.getpid(), pid) is None
    assert not is_alive(pid)


def test_zombie_is_not_alive():
    """Ended and not collected: it has a status, and no life."""
    running = subprocess.Popen(["true"], stdin=subprocess.DEVNULL)
    os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)

    assert not is_alive(running.pid)
    assert read_status(running.pid).state == "Z"
    assert read_task(running.pid, running.pid).state == "Z"
    running.wait()
    assert not is_alive(running.pid)


def test_system_call_of_a_blocked_child_is_told():
    """A child in read(0, ..., 4096): its number and arguments."""
    with child(sys.executable, "-c", "import os; os.read(0, 4096)") as running:

        def blocked():
            call = read_system_call(running.pid, running.pid)
            return call is not None and call.number == READ and call.arguments[2] == 4096

        if not os.access(f"/proc/{running.pid}/syscall", os.R_OK):
            pytest.skip("the kernel does not tell system calls")
        wait_until(blocked)
        call = read_system_call(running.pid, running.pid)

        assert call.arguments[0] == 0
        assert len(call.arguments) == 6
        assert call.stack_pointer > 0
        assert is_alive(running.pid)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("running\n", None),
        ("-1 0x7ffe 0x55\n", None),
        ("", None),
        ("202 0x10 0x80 0x0 0x0 0x0 0xff 0x7ffe 0x55\n", SystemCall(202, (16, 128, 0, 0, 0, 255), 0x7FFE, 0x55)),
    ],
)
def test_system_call_is_read_as_the_kernel_writes_it(fake_proc, text, expected):
    """Running, blocked outside of a system call, ended, and in one."""
    fake_proc(text)

    assert read_system_call(42, 43) == expected


def test_system_call_that_the_kernel_does_not_tell_is_none(fake_proc):
    """As without permission."""
    fake_proc(PermissionError())

    assert read_system_call(42, 43) is None


@pytest.mark.parametrize("text", ["", "garbage", "\n", "1.5 2 3"])
def test_unknown_cpu_time_is_none(fake_proc, text):
    """A kernel without scheduler statistics."""
    fake_proc(text)

    assert read_cpu_time(42, 43) is None

"""What system calls and stacks are explained as, without a process."""

import os
import socket
import struct
import time

import pytest

from tests.unit.examples import WAITING, replace
from threadsurgeon.explain import Subject, explain_waits, system_calls
from threadsurgeon.explain.arguments import Timeout, read_path, read_poll, read_sets, seconds_left, signed
from threadsurgeon.explain.python_waits import explain_frames
from threadsurgeon.explain.system_calls import Surroundings, explain_call
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.linux.process import OUTSIDE, Status, SystemCall, Task
from threadsurgeon.model.threads import Frame, Wait

ADDRESS = 0x10000
MINUS_ONE = 0xFFFFFFFF  # an int in the lower half of a register


class Bytes:
    """Memory that holds these bytes at an address, and ends where its page does."""

    def __init__(self, content=b"", address=ADDRESS):
        self.content = content
        self.address = address

    def read(self, address, size):
        if not self.holds(address, size):
            raise BadAddress(address, size)
        start = address - self.address
        return self.content[start : start + size]

    def read_many(self, ranges):
        return [self.read(*one) if self.holds(*one) else None for one in ranges]

    def holds(self, address, size):
        return 0 <= address - self.address <= len(self.content) - size


class Descriptors:
    """Descriptors by their numbers."""

    def describe(self, number):
        return f"descriptor {number}"

    def list_watched(self, number):
        return [number + 1, number + 2, number + 3, number + 4]

    def find_inode(self, number):
        return None


def status(pid=42):
    return Status("python3", "S", pid, 0, 0, (pid,), 1, False)


@pytest.fixture
def around():
    """A process with nothing in its memory."""
    made = Surroundings(status(), Bytes())
    made.descriptors = Descriptors()
    return made


def call(number, *arguments, pc=0):
    return SystemCall(number, (*arguments, *[0] * (6 - len(arguments))), 0, pc)


@pytest.mark.parametrize(
    ("number", "arguments", "kind", "words"),
    [
        (0, (5,), "read", "reading from descriptor 5"),
        (1, (5,), "write", "writing to descriptor 5"),
        (45, (5,), "receive", "receiving from descriptor 5"),
        (46, (5,), "send", "sending to descriptor 5"),
        (288, (5,), "accept", "waiting for a connection at descriptor 5"),
        (34, (), "signal", "waiting for a signal"),
        (35, (0, 0), "sleep", "sleeping"),
        (202, (0x1234, 0x189), "lock", "waiting for a lock (futex 0x1234)"),
        (232, (5, 0, 0, MINUS_ONE), "readiness", "waiting for readiness of 4 descriptors: "
         "descriptor 6, descriptor 7, descriptor 8, …"),
        (7, (0, 0, MINUS_ONE), "sleep", "waiting for a signal"),
        (247, (3, 9), "child", "waiting for descriptor 9"),
        (58, (), "child", "waiting for a new child to start its program (vfork)"),
        (56, (0x4000,), "child", "waiting for a new child to start its program (vfork)"),
        (56, (0,), "system-call", "starting a thread or process"),
        (257, (0, 0), "open", "opening a file"),
        (72, (5, 3), "system-call", "in fcntl of descriptor 5"),
        (9999, (), "system-call", "in system call 9999"),
        (219, (), "system-call", "waiting on after a stop"),
    ],
)  # fmt: skip
def test_call_is_put_into_words(around, number, arguments, kind, words):
    """By its number and arguments, even where none of the memory they point to is readable."""
    reason = explain_call(around, call(number, *arguments))

    assert (reason.kind, reason.detail, reason.timeout) == (kind, words, None)


@pytest.mark.parametrize("number", sorted(system_calls._CALLS))
@pytest.mark.parametrize("argument", [0, 1, MINUS_ONE, 0x7FFFFFFFFFFF, 2**64 - 1])
def test_no_argument_makes_it_fail(around, number, argument):
    """A call may have any arguments, and its memory may be gone."""
    assert explain_call(around, call(number, *[argument] * 6)).detail


TIMESPEC = struct.pack("<qq", 50, 500_000_000)


@pytest.mark.parametrize(
    ("number", "arguments", "timeout"),
    [
        (35, (ADDRESS,), Timeout(50.5)),
        (230, (time.CLOCK_MONOTONIC, 0, ADDRESS), Timeout(50.5)),
        (230, (time.CLOCK_MONOTONIC, 1, ADDRESS), Timeout(50.5, time.CLOCK_MONOTONIC)),
        (202, (1, 0x80, 0, ADDRESS), Timeout(50.5)),
        (202, (1, 0x89, 0, ADDRESS), Timeout(50.5, time.CLOCK_MONOTONIC)),
        (202, (1, 0x189, 0, ADDRESS), Timeout(50.5, time.CLOCK_REALTIME)),
        (202, (1, 0x86, 0, ADDRESS), Timeout(50.5, time.CLOCK_REALTIME)),
        (7, (0, 0, 1500), Timeout(1.5)),
        (271, (0, 0, ADDRESS), Timeout(50.5)),
        (232, (5, 0, 0, 2000), Timeout(2.0)),
        (441, (5, 0, 0, ADDRESS), Timeout(50.5)),
        (270, (0, 0, 0, 0, ADDRESS), Timeout(50.5)),
        (128, (0, 0, ADDRESS), Timeout(50.5)),
    ],
)
def test_timeout_is_read_by_the_calls_own_rules(around, number, arguments, timeout):
    """Relative or until a time, by which clock, in which unit: futex(2), clock_nanosleep(2), poll(2)…"""
    around.memory = Bytes(TIMESPEC)

    assert explain_call(around, call(number, *arguments)).timeout == timeout


def test_select_counts_microseconds(around):
    """Its struct timeval looks like a timespec, and is none."""
    around.memory = Bytes(struct.pack("<qq", 1, 500_000))

    assert explain_call(around, call(23, 0, 0, 0, 0, ADDRESS)).timeout == Timeout(1.5)


def test_time_left_needs_the_time_waited_only_for_relative_timeouts():
    """A deadline tells by itself."""
    deadline = Timeout(time.clock_gettime(time.CLOCK_MONOTONIC) + 1000, time.CLOCK_MONOTONIC)

    assert seconds_left(Timeout(60), None) is None
    assert seconds_left(Timeout(60), 45.0) == 15
    assert seconds_left(Timeout(60), 61.0) == 0
    left = seconds_left(deadline, None)
    assert left is not None
    assert 0 < left <= 1000


def test_connect_says_the_address(around):
    """As the target gave it, before any table of the kernel has it."""
    around.memory = Bytes(struct.pack("<H", socket.AF_INET) + struct.pack(">H", 5432) + bytes([10, 0, 0, 3]) + bytes(8))

    assert explain_call(around, call(42, 5, ADDRESS, 16)).detail == "connecting to 10.0.0.3:5432"


def test_opened_path_is_made_whole():
    """A relative one counts from the target's own directory."""
    around = Surroundings(status(os.getpid()), Bytes(b"data/fifo\0" + bytes(4096)))

    assert explain_call(around, call(257, -100 & 2**64 - 1, ADDRESS, os.O_WRONLY)).detail == (
        f"opening {os.getcwd()}/data/fifo for writing"
    )


def test_descriptors_of_poll_and_select_are_read():
    """Negative numbers in a poll are left out; sets are read in whole words."""
    polled = Bytes(struct.pack("<iHHiHHiHH", 3, 1, 0, -1, 1, 0, 70, 4, 0))
    sets = Bytes(struct.pack("<QQ", 1 << 5, 1 << 6))

    assert read_poll(polled, ADDRESS, 3) == [3, 70]
    assert read_poll(polled, ADDRESS, 10_000_000) == []
    assert read_sets(sets, (ADDRESS, 0, 0), 71) == [5, 70]
    assert read_sets(sets, (ADDRESS,), 6) == [5]


def test_path_may_end_with_its_page():
    """What follows need not be mapped; without an end it is none."""
    assert read_path(Bytes(b"x" * 4095 + b"\0"), ADDRESS) == "x" * 4095
    assert read_path(Bytes(b"/tmp\0" + bytes(10), ADDRESS + 4081), ADDRESS + 4081) == "/tmp"
    assert read_path(Bytes(b"x" * 5000), ADDRESS) is None
    assert (signed(MINUS_ONE), signed(2**64 - 100), signed(7)) == (-1, -100, 7)


THREADING, QUEUE = "/usr/lib/python3.12/threading.py", "/usr/lib/python3.12/queue.py"
WORKER = "/usr/lib/python3.12/concurrent/futures/thread.py"


@pytest.mark.parametrize(
    ("functions", "kind"),
    [
        ([("Condition.wait", THREADING)], "condition"),
        ([("wait", THREADING)], "condition"),
        ([("wait", THREADING), ("wait", THREADING)], "event"),
        ([("wait", THREADING), ("wait_for", THREADING)], "condition"),
        ([("wait", THREADING), ("wait_for", THREADING), ("_wait", THREADING), ("wait", THREADING)], "barrier"),
        ([("wait", THREADING), ("acquire", THREADING)], "semaphore"),
        ([("wait", THREADING), ("get", QUEUE)], "queue"),
        ([("_wait_for_tstate_lock", THREADING), ("join", THREADING)], "thread"),
        ([("_worker", WORKER), ("run", THREADING)], "work"),
        ([("f", "/app/main.py"), ("run", WORKER), ("_worker", WORKER)], None),
        ([("run", WORKER), ("_worker", WORKER)], None),
        ([("get", QUEUE), ("run", WORKER), ("_worker", WORKER)], "queue"),
        ([("wait", "/app/my_threading.py")], None),
        ([("wait", "/app/threading.py.old")], None),
        ([("acquire", "<frozen importlib._bootstrap>")], "import"),
        ([], None),
    ],
)
def test_top_of_the_stack_tells_what_a_lock_belongs_to(functions, kind):
    """Innermost first, with class names or without (before 3.11); code of the program in between ends it."""
    found = explain_frames([Frame(function, file, 1) for function, file in functions])

    assert (found and found[0]) == kind


@pytest.fixture(autouse=True)
def never_run(monkeypatch):
    """When a thread last ran is not known."""
    monkeypatch.setattr("threadsurgeon.linux.last_run.read_last_run", lambda pid, tid: None)


def explain(calls, *subjects, memory=None):
    return explain_waits(status(), memory or Bytes(), subjects, calls, 200)


def task(state="S", tid=43):
    return Task(tid, "python3", state, 100, 0.0)


def test_nothing_is_said_where_the_kernel_does_not_tell():
    """No permission, and a thread that runs: no failure, and no guess from the stack."""
    calls = {}

    assert explain(calls, Subject(task(), (Frame("wait", THREADING, 1),)), Subject(task("R", 44))) == {}


def test_times_of_many_sleepers_are_read_at_once():
    """One that cannot be read is no worse than a sleep of unknown end."""
    far = struct.pack("<qq", 1 << 40, 0)
    memory = Bytes(far * 2)
    single = []
    memory.read = lambda address, size: single.append(address) or Bytes.read(memory, address, size)
    memory.read_many = lambda ranges: [Bytes.read(memory, *one) if memory.holds(*one) else None for one in ranges]
    calls = {
        43: call(230, time.CLOCK_MONOTONIC, 1, ADDRESS),
        44: call(202, 0x1010, 0x189, 0, ADDRESS + 16),
        45: call(230, time.CLOCK_MONOTONIC, 1, 0xBAD0),
    }
    waits = explain(calls, *(Subject(task("S", tid)) for tid in calls), memory=memory)

    assert [waits[tid].kind for tid in (43, 44, 45)] == ["sleep", "lock", "sleep"]
    assert waits[43].remaining_seconds > 1e9 < waits[44].remaining_seconds
    assert waits[45].remaining_seconds is None
    assert single == [0xBAD0]


def test_call_that_goes_on_after_a_stop_is_recognised(monkeypatch):
    """restart_syscall hides which call it is; the code before the program counter tells, or the kernel. Not what is left."""
    memory = Bytes(b"\xb8" + struct.pack("<I", 230) + b"\x0f\x05" + TIMESPEC)
    pc = ADDRESS + 7
    calls = {
        43: call(219, time.CLOCK_MONOTONIC, 0, pc, pc=pc),
        44: call(219, time.CLOCK_MONOTONIC, 1, pc, pc=pc),
        45: call(219, 0, 0, 1000),
        46: call(219, 0, 0, 1000),
    }
    functions = {45: "poll_schedule_timeout.constprop.0", 46: "do_syscall_64"}
    monkeypatch.setattr("threadsurgeon.linux.restarted.read_kernel_function", lambda pid, tid: functions[tid])
    waits = explain(calls, *(Subject(task("S", tid)) for tid in calls), memory=memory)

    assert {tid: wait.kind for tid, wait in waits.items()} == {43: "sleep", 44: "sleep", 45: "sleep", 46: "system-call"}
    assert {tid for tid, wait in waits.items() if wait.remaining_seconds is not None} == {44}


def test_gil_is_told_from_locks_by_its_address():
    """And is that of the thread's own interpreter."""
    calls = {43: call(202, 0x1010, 0x189), 44: call(202, 0x10C8, 0x189), 45: call(202, 0x1010, 0x189)}
    frames = (Frame("f", "/app/main.py", 1),)
    with_gil = [Subject(task(tid=tid), frames, 0x1000) for tid in (43, 44)]
    waits = explain(calls, *with_gil, Subject(task(tid=45), frames))

    assert {tid: wait.kind for tid, wait in waits.items()} == {43: "gil", 44: "lock", 45: "lock"}
    assert waits[44] == Wait("lock", "waiting for a lock")


def test_uninterruptible_wait_names_the_kernels_function(monkeypatch):
    """A page fault, or a call into a disk or file system that does not answer."""
    calls = {43: call(OUTSIDE)}
    monkeypatch.setattr("threadsurgeon.explain.read_kernel_function", lambda pid, tid: "folio_wait_bit")

    (wait,) = explain(calls, Subject(task("D"))).values()
    assert wait.kind == "page-fault"
    assert wait.detail.endswith("uninterruptibly (folio_wait_bit)")


def test_traced_thread_is_said_to_be():
    """Whatever it was in."""
    calls = {}
    waits = explain(calls, Subject(task("T")), Subject(task("t", os.getpid())))

    assert {wait.kind for wait in waits.values()} == {"stopped", "traced"}


@pytest.mark.parametrize(
    ("wait", "text"),
    [
        (Wait("lock", "waiting for a lock"), "waiting for a lock"),
        (Wait("lock", "waiting for a lock", 0.4), "waiting for a lock"),
        (Wait("read", "reading", 41.2), "reading, 41 s"),
        (Wait("read", "reading", 7260.0), "reading, 2 h 1 min"),
        (Wait("read", "reading", 200_000.0), "reading, 2 d 7 h"),
        (Wait("sleep", "sleeping", 1.2, 58.8), "sleeping, 59 of 60 s left"),
        (Wait("sleep", "sleeping", None, 58.8), "sleeping, 59 s left"),
        (Wait("sleep", "sleeping", 1.0, 99_999.0), "sleeping, 27 h 46 min left"),
    ],
)
def test_time_is_told_as_people_do(wait, text):
    """Two units at most, and of a short timeout both parts."""
    assert wait.text == text


@pytest.mark.parametrize(
    ("percent", "wait", "activity"),
    [
        (50.0, None, "busy"),
        (0.0, None, None),
        (None, None, None),
        (0.0, Wait("lock", "", 9.9), None),
        (0.0, Wait("lock", "", 10.0), "stuck"),
        (0.0, Wait("lock", "", None), None),
        (0.0, Wait("lock", "", 100.0, 1.0), None),
        (0.0, Wait("sleep", "", 100.0), None),
        (0.0, Wait("work", "", 100.0), "idle"),
        (0.0, Wait("accept", "", None), "idle"),
    ],
)
def test_activity_claims_what_was_seen(percent, wait, activity):
    """Stuck has been still for long and has no timeout; what is not known is not claimed."""
    assert replace(WAITING, cpu_percent=percent, waits_for=wait).activity == activity

"""Moments at which a target, or we, are not as usual: each has its outcome, or one clear line, and nobody is harmed.

What else is refused: test_refusals.py. Who ends us, and when: test_interrupted.py and test_crash_safety.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.integration.command import begin, end, run
from tests.integration.test_refusals import refusal
from tests.zoo.pythons import Python
from tests.zoo.script import Script, script
from tests.zoo.victim import Victim, waiting
from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import NoSuchProcess, NoSuchThread, TargetBusy
from threadsurgeon.linux import ptrace
from threadsurgeon.linux.process import list_tids, read_status
from threadsurgeon.model.operations import Outcome
from threadsurgeon.surgery.ladder import Policy
from threadsurgeon.surgery.operation import Operation

Start = Callable[..., Victim]

pytestmark = pytest.mark.usefixtures("gdb")

# Some threads that wait, each for a lock of its own, and what they leave.
WAITING = """
left = []
def wait():
    try:
        time.sleep(1000)
    finally:
        left.append(threading.get_native_id())
"""
THREADS = """
threads = [threading.Thread(target=wait, daemon=True) for _ in range(2)]
for thread in threads:
    thread.start()
ready(threads)
"""
ANSWERS = """
while True:
    line = hear()
    if line == "finish":
        break
    say(left=left)
os._exit(0)
"""


def assert_well(process: Script) -> None:
    """It is neither traced nor stopped, it answers, and it ends in order."""
    for _ in waiting("it is left alone"):
        states = [read_status(tid) for tid in list_tids(process.pid)]
        if not any(status.tracer or status.state in "Tt" for status in states):
            break
    process.finish()


# --- others at work ---


@pytest.mark.parametrize("behaviour", ["lock", "sleep", "busy_loop"])
def test_two_of_us_on_one_thread(behaviour: str, any_python: Python, stuck: Start) -> None:
    """One ends it. The other does, too, or says in one line that somebody was there before."""
    victim = stuck(any_python, behaviour)
    results = [end(process) for process in [begin("cancel", str(victim.tid)) for _ in range(2)]]

    assert 0 in [status for status, _, _ in results], results
    for status, _, errors in results:
        assert status in (0, 1), results
        assert (errors == "") == (status == 0)
        assert errors.count("\n") <= 2
    assert victim.thread_is_gone()
    victim.assert_lives_on()
    victim.finish()


def test_thread_that_another_of_us_has_in_hand(any_python: Python, stuck: Start) -> None:
    """While one waits, armed, for the thread to check for signals, another is told who is there, and disturbs nobody."""
    victim = stuck(any_python, "ctypes_wait")
    first = begin("cancel", str(victim.tid), "--timeout", "100")
    for _ in waiting("it is traced"):
        if read_status(victim.tid).tracer:
            break
    error = refusal(1, "cancel", str(victim.tid))
    tracer = read_status(victim.tid).tracer
    first.terminate()
    status, _, _ = end(first)

    assert f"traced by process {tracer} (gdb)" in error
    assert status == 128 + signal.SIGTERM
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


def test_two_of_us_on_two_threads(python: Python) -> None:
    """Of one process, at the same time: both end."""
    with script(python, WAITING + THREADS + ANSWERS) as process:
        processes = [begin("cancel", str(tid)) for tid in process.tids]
        results = [end(one) for one in processes]

        assert [status for status, _, _ in results] == [0, 0], results
        assert sorted(process.ask("status")["left"]) == sorted(process.tids)
        assert_well(process)


@contextmanager
def traced(*tids: int) -> Iterator[None]:
    """Be the tracer of these threads."""
    for tid in tids:
        ptrace._ptrace(ptrace._PTRACE_SEIZE, tid)
    try:
        yield
    finally:
        for tid in tids:
            ptrace._ptrace(ptrace._PTRACE_INTERRUPT, tid)
            os.waitpid(tid, ptrace._WALL)
            ptrace._ptrace(ptrace._PTRACE_DETACH, tid)


def test_another_thread_is_traced(any_python: Python, stuck: Start) -> None:
    """Somebody debugs one thread; another one is none of their business."""
    victim = stuck(any_python, "sleep")
    other = next(tid for tid in list_tids(victim.pid) if tid not in (victim.pid, victim.tid))
    with traced(other):
        refusal(1, "cancel", str(other))
        result = run("cancel", str(victim.tid))

    assert result.returncode == 0, result.stderr
    victim.assert_lives_on()
    victim.finish()


def test_strace(any_python: Python, stuck: Start) -> None:
    """A program that traces the whole process is named, and goes on as if nothing had been."""
    victim = stuck(any_python, "sleep")
    try:
        strace = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(victim.pid)], stderr=subprocess.PIPE)
    except FileNotFoundError:
        pytest.skip("there is no strace here")
    with strace:
        try:
            for _ in waiting("strace has it"):
                if read_status(victim.tid).tracer:
                    break
            error = refusal(1, "cancel", str(victim.tid))
            assert f"traced by process {strace.pid} (strace)" in error
            assert run("list", str(victim.pid)).returncode == 0
            assert strace.poll() is None
        finally:
            strace.terminate()
            strace.wait(20)
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]
    assert run("cancel", str(victim.tid)).returncode == 0
    victim.assert_lives_on()
    victim.finish()


# What keeps debuggers away: a child that traces its parent.
OWN_CHILD = """
import ctypes
libc = ctypes.CDLL(None)
libc.prctl(0x59616d61, -1, 0, 0, 0)  # PR_SET_PTRACER_ANY
child_hears, we_tell = os.pipe()
child = os.fork()
if not child:
    os.close(we_tell)
    tids = [int(name) for name in os.listdir("/proc/%d/task" % os.getppid())]
    for tid in tids:
        libc.ptrace(0x4206, tid, None, None)  # PTRACE_SEIZE
    os.read(child_hears, 1)
    os._exit(0)
"""


def test_process_that_debugs_itself(any_python: Python) -> None:
    """It looks like any other tracer, and is said to be one."""
    code = WAITING + THREADS.replace("ready(threads)", OWN_CHILD + "ready(threads)") + ANSWERS
    with script(any_python, code) as process:
        for _ in waiting("its child traces it"):
            if all(read_status(tid).tracer for tid in process.tids):
                break
        assert "traced by process" in refusal(1, "cancel", str(process.tids[0]))
        assert process.ask("status")["left"] == []
        process.tell("finish")
        assert process.process.wait(20) == 0


def test_stopped_process(any_python: Python, stuck: Start) -> None:
    """It is looked at as it is; operating waits until somebody lets it go on."""
    victim = stuck(any_python, "sleep")
    os.kill(victim.pid, signal.SIGSTOP)
    for _ in waiting("it is stopped"):
        if read_status(victim.tid).state == "T":
            break
    for command in ("cancel", "kill"):
        assert f"kill -CONT {victim.pid}" in refusal(1, command, str(victim.tid))
    listed = json.loads(run("list", "--json", str(victim.pid)).stdout)
    assert {thread["state"] for thread in listed["threads"]} == {"stopped"}
    assert read_status(victim.tid).state == "T"
    os.kill(victim.pid, signal.SIGCONT)

    assert run("cancel", str(victim.tid)).returncode == 0
    victim.assert_lives_on()
    victim.finish()


# --- a target that does not stay as it is ---

FORKING = """
bad, forked = [], [0]
def fork():
    while True:
        child = os.fork()
        if not child:
            os._exit(0)
        _, status = os.waitpid(child, 0)
        forked[0] += 1
        if status:
            bad.append(status)
threads = [threading.Thread(target=fork, daemon=True)]
threads[0].start()
ready(threads)
while True:
    if hear() == "finish":
        break
    say(bad=bad, forked=forked[0])
os._exit(bool(bad))
"""


def test_thread_that_forks_all_the_time(python: Python) -> None:
    """It is ended between two forks or in one; none of its children dies of a breakpoint that it inherited."""
    with script(python, FORKING) as process:
        for _ in waiting("it has forked"):
            if process.ask("status")["forked"] > 3:
                break
        result = run("kill", str(process.tids[0]))

        assert result.returncode == 0, result.stdout + result.stderr
        process.wait_until_gone(process.tids[0])
        assert process.ask("status")["bad"] == []
        assert_well(process)


EXEC = """
import ctypes
libc = ctypes.CDLL(None)
threads = [threading.Thread(target=lambda: libc.pause(), daemon=True)]
threads[0].start()
ready(threads)
hear()
os.execv(sys.executable, [sys.executable, "-c", "print('{}', flush=True); input()"])
"""


def test_process_becomes_another_program(any_python: Python) -> None:
    """While a thread of it is armed: that ends with a clear word, and the new program is left alone."""
    with script(any_python, EXEC) as process:
        (tid,) = process.tids
        ours = begin("cancel", str(tid), "--timeout", "20")
        for _ in waiting("it is armed, or ended before it was seen to be"):
            try:
                status = read_status(tid)
            except (NoSuchProcess, NoSuchThread):
                break
            if status.tracer and status.state != "t":
                break
        process.tell("exec")
        process.answer()
        status, output, errors = end(ours)

        assert status in (0, 1, 6), output + errors
        assert (errors == "") == (status != 1)
        assert errors.count("\n") <= 2
        process.tell("")
        assert process.process.wait(20) == 0, process.stderr


ENDING = """
class Last:
    def __del__(self):
        say(ending=True)
        hear()

kept = Last()
threads = [threading.Thread(target=time.sleep, args=(1000,), daemon=True)]
threads[0].start()
ready(threads)
hear()
"""


def test_process_that_shuts_down(python: Python) -> None:
    """Its daemon threads end with it: nobody needs to end them, and the end is not disturbed."""
    with script(python, ENDING) as process:
        assert process.ask("end") == {"ending": True}
        error = refusal(5, "kill", str(process.tids[0]))
        assert "shutting down" in error
        listed = json.loads(run("list", "--json", str(process.pid)).stdout)
        assert set(process.tids) <= {thread["tid"] for thread in listed["threads"]}
        process.tell("go on")
        assert process.process.wait(20) == 0, process.stderr


ONE_BY_ONE = """
left, ended = [], threading.Event()
def wait():
    ended.wait()
threads = [threading.Thread(target=wait)]
threads[0].start()
ready(threads)
while True:
    line = hear()
    if line == "finish":
        break
    ended.set()
    threads[0].join()
    say(left=left)
"""


def test_thread_ends_between_look_and_operation(any_python: Python) -> None:
    """Nothing is done to anybody, and it is said that it ended."""
    with script(any_python, ONE_BY_ONE) as process, Session.start() as session:
        (tid,) = process.tids
        operation = Operation(process.pid, tid, Policy(timeout_seconds=2.0))
        process.ask("end")
        process.wait_until_gone(tid)
        try:
            report = operation.run(session)
        except NoSuchThread:
            pass
        else:
            assert report.outcome is Outcome.ENDED
            assert report.stopped_seconds == 0.0
        assert_well(process)


def test_another_tracer_comes_between_look_and_operation(any_python: Python) -> None:
    """The thread is theirs, and they are named."""
    with script(any_python, WAITING + THREADS + ANSWERS) as process, Session.start() as session:
        tid = process.tids[0]
        operation = Operation(process.pid, tid, Policy(timeout_seconds=2.0))
        with traced(tid), pytest.raises(TargetBusy, match=str(os.getpid())):
            operation.run(session)
        assert process.ask("status")["left"] == []
        assert_well(process)

"""CPU shares of threads: the busy are told from the idle, and an idle process is not waited for."""

import os
import sys
import threading
import time

import pytest

from tests.unit.test_process import NO_SUCH_ID, child, wait_until
from threadsurgeon.linux import cpu_shares
from threadsurgeon.linux.cpu_shares import CpuClock, CpuShares
from threadsurgeon.linux.process import list_tids

SPIN = "print(1, flush=True)\nwhile True: pass"
SLEEP = "import sys; print(1, flush=True); sys.stdin.read()"


@pytest.fixture
def asked(monkeypatch):
    """The threads whose CPU time was read."""
    tids = []
    read = cpu_shares.read_cpu_time
    monkeypatch.setattr(cpu_shares, "read_cpu_time", lambda pid, tid: tids.append(tid) or read(pid, tid))
    return tids


@pytest.fixture
def clock(monkeypatch):
    """A process whose CPU time is written down here; time passes only by sleeping."""

    class Clock:
        now, used, per_second = 100.0, 0.0, 0.0

        def sleep(self, seconds):
            self.now += seconds
            self.used += seconds * self.per_second

    fake = Clock()
    monkeypatch.setattr(cpu_shares.time, "monotonic", lambda: fake.now)
    monkeypatch.setattr(cpu_shares.time, "sleep", fake.sleep)
    monkeypatch.setattr(cpu_shares, "list_tids", lambda pid: [1])
    monkeypatch.setattr(cpu_shares, "read_process_cpu_time", lambda pid: fake.used)
    monkeypatch.setattr(cpu_shares, "read_cpu_time", lambda pid, tid: fake.used)
    return fake


def test_busy_process_is_measured():
    """From outside; the main thread spins."""
    with child(sys.executable, "-c", SPIN) as process:
        process.stdout.readline()

        def spins():
            shares = CpuShares(process.pid)
            time.sleep(0.02)  # work
            shares.watch()
            return (shares.finish([process.pid])[process.pid] or 0) > 5

        wait_until(spins)  # on a busy machine it does not always get a processor


def test_threads_of_an_idle_process_are_not_asked(asked):
    """They cannot have used what their process has not used."""
    with child(sys.executable, "-c", SLEEP) as process:
        process.stdout.readline()
        wait_until(lambda: _is_idle(process.pid, asked))


def _is_idle(pid, asked):
    asked.clear()
    shares = CpuShares(pid)
    shares.watch()
    return shares.finish([pid]) == {pid: 0.0} and not asked


def test_process_that_ran_for_a_moment_is_waited_for_until_it_is_clear_that_it_is_idle(clock):
    """No longer than until what it used is less than 1 %."""
    shares = CpuShares(1)
    clock.used += 0.0001
    clock.sleep(0.002)

    assert shares.finish([1]) == {1: 0.0}
    assert clock.now == pytest.approx(100 + 0.01)


@pytest.mark.parametrize(("work", "end"), [(0.0, 0.05), (0.02, 0.05), (0.08, 0.08)])
def test_work_done_meanwhile_need_not_be_waited_for(clock, work, end):
    """The wait is as long as the rest of the interval."""
    clock.per_second = 0.5
    shares = CpuShares(1)
    clock.used += 0.001
    shares.watch()
    clock.sleep(work)

    assert shares.finish([1, 2]) == {1: 50.0, 2: None}
    assert clock.now == pytest.approx(100 + end)


def test_process_that_becomes_busy_late_is_measured(clock):
    """It was idle when the threads were listed."""
    shares = CpuShares(1)
    shares.watch()
    clock.per_second = 0.5
    clock.sleep(0.01)

    assert shares.finish([1]) == {1: 50.0}


def test_cpu_share_tells_the_busy_from_the_idle():
    """A spinning thread has most of a CPU at least of what is free, a waiting one nothing; a newer one is not known."""
    end = threading.Event()
    idle = threading.Thread(target=end.wait)
    idle.start()
    try:
        clock = CpuClock(os.getpid(), [threading.get_native_id(), idle.native_id])
        deadline = time.thread_time() + 0.05
        while time.thread_time() < deadline:
            pass
        busy, waiting = clock.percent(threading.get_native_id()), clock.percent(idle.native_id)
        if busy is None:
            pytest.skip("the kernel does not tell CPU times")

        assert 5 < busy <= 100
        assert waiting < 5
        assert clock.percent(NO_SUCH_ID) is None
    finally:
        end.set()
        idle.join()


def test_cpu_share_of_an_ended_thread_is_none():
    """It ran when the clock was made."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    clock = CpuClock(os.getpid(), [thread.native_id])
    end.set()
    thread.join()
    wait_until(lambda: thread.native_id not in list_tids(os.getpid()))

    assert clock.percent(thread.native_id) is None

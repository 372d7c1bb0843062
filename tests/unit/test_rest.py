"""Whether a thread has come to rest is told by its own time, on whatever machine, and by where it stands."""

from types import SimpleNamespace

import pytest

from threadsurgeon.errors import NoSuchThread
from threadsurgeon.surgery import rest
from threadsurgeon.surgery.plan import Doing
from threadsurgeon.surgery.rest import MOST_SECONDS_PER_LOOK, SECONDS_ELSEWHERE, SECONDS_IN_PLACE, OwnTime, Rest

STUCK, ELSEWHERE = (1, 2), (3,)


class Thread:
    """A thread whose time is made by hand. ``frames`` None: it is gone."""

    def __init__(self, monkeypatch):
        self.now = self.cpu = 0.0
        self.doing = Doing.RUNNING
        self.frames = STUCK
        self.seen = SimpleNamespace(thread=SimpleNamespace(tid=7), raw_frames=STUCK)
        self.target = SimpleNamespace(pid=6)
        monkeypatch.setattr(rest, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(rest, "read_cpu_time", lambda pid, tid: self.cpu)
        monkeypatch.setattr(rest, "find_doing", self.find_doing)
        monkeypatch.setattr(rest, "Watch", lambda target, before: SimpleNamespace(before=before, sight=self.sight))

    def find_doing(self, target, sighting):
        if self.frames is None:
            raise NoSuchThread("thread 7 ended")
        return self.doing

    def sight(self):
        return None if self.frames is None else SimpleNamespace(raw_frames=self.frames)

    def pass_time(self, watched, seconds, look_every, *, on_cpu=False):
        """Return whether it was ever said to rest meanwhile."""
        rested = False
        for _ in range(round(seconds / look_every)):
            self.now += look_every
            self.cpu += look_every if on_cpu else 0.0
            rested = watched.has_come() or rested
        return rested


@pytest.fixture
def thread(monkeypatch):
    return Thread(monkeypatch)


def test_time_without_a_processor_does_not_count(thread):
    """A busy machine: hours may pass, and the thread has had no chance to do anything."""
    assert not thread.pass_time(Rest(thread.target, thread.seen), 100, 0.01)


@pytest.mark.parametrize("doing", [Doing.WAITING_FOR_GIL, Doing.WAITING_FOR_COLLECTOR])
def test_waiting_for_its_turn_does_not_count(thread, doing):
    """It could not run any Python code meanwhile."""
    thread.doing = doing

    assert not thread.pass_time(Rest(thread.target, thread.seen), 100, 0.01)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_thread_that_is_back_where_it_was_rests_soon(thread, on_cpu):
    """Computing or waiting, at the very same instructions as before."""
    thread.doing = Doing.RUNNING if on_cpu else Doing.IN_SYSTEM_CALL
    watched = Rest(thread.target, thread.seen)

    assert not thread.pass_time(watched, SECONDS_IN_PLACE / 2, 0.001, on_cpu=on_cpu)
    assert thread.pass_time(watched, SECONDS_IN_PLACE, 0.001, on_cpu=on_cpu)


def test_thread_elsewhere_is_given_time_to_tidy_up(thread):
    """It may be in a ``finally`` block."""
    thread.frames = ELSEWHERE
    watched = Rest(thread.target, thread.seen)

    assert not thread.pass_time(watched, SECONDS_ELSEWHERE * 0.9, 0.001, on_cpu=True)
    assert thread.pass_time(watched, SECONDS_ELSEWHERE * 0.3, 0.001, on_cpu=True)


def test_a_wait_seen_seldom_counts_little(thread):
    """If we got no processor to look, the one whom the thread waits for may not have got one either."""
    thread.doing = Doing.IN_SYSTEM_CALL
    own_time = OwnTime(thread.target, thread.seen)
    own_time.seconds()
    thread.now += 100

    assert own_time.seconds() == pytest.approx(MOST_SECONDS_PER_LOOK)


def test_thread_that_ended_is_not_waited_for(thread):
    """Whoever watches is to look what became of it."""
    thread.frames = None

    assert Rest(thread.target, thread.seen).has_come()

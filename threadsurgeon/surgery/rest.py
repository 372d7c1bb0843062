"""Has a thread come to rest after something was raised in it: has it caught that, or does it not notice it at all?

Wall time tells nothing on a busy machine: the thread may have waited all the while for a processor or for the GIL. What
counts is its own time: what it spent on a processor, or in a system call that does not wait for the GIL.
"""

from __future__ import annotations

import time

from threadsurgeon.errors import NoSuchProcess, NoSuchThread
from threadsurgeon.inventory import Sighting, Target
from threadsurgeon.linux.process import read_cpu_time
from threadsurgeon.surgery.plan import Doing, find_doing
from threadsurgeon.surgery.verify import Watch

# Of its own time, before it counts as resting: where it stood when it was first seen, at the very same instructions, and
# anywhere else, where it may still be tidying up.
SECONDS_IN_PLACE = 0.03
SECONDS_ELSEWHERE = 0.3
# Of a wait no more is counted than this for each look: on a busy machine we may not get to look, either.
MOST_SECONDS_PER_LOOK = 0.01


class OwnTime:
    """The time of one thread, from now on. It is only looked at, and the result is as exact as that is often."""

    def __init__(self, target: Target, sighting: Sighting) -> None:
        self._target = target
        self._sighting = sighting
        self._cpu_before = self._read_cpu_time()
        self._waited_seconds = 0.0
        self._waits_since: float | None = None

    def seconds(self) -> float:
        """Look, and return it.

        Raises:
            NoSuchThread: it ended.
        """
        now = time.monotonic()
        waits = find_doing(self._target, self._sighting) is Doing.IN_SYSTEM_CALL
        if self._waits_since is not None and waits:
            self._waited_seconds += min(now - self._waits_since, MOST_SECONDS_PER_LOOK)
        self._waits_since = now if waits else None
        return self._waited_seconds + self._read_cpu_time() - self._cpu_before

    def _read_cpu_time(self) -> float:
        cpu = read_cpu_time(self._target.pid, self._sighting.thread.tid)
        return time.monotonic() if cpu is None else cpu  # without CONFIG_SCHED_INFO wall time is all there is


class Rest:
    """Watches one thread from now on."""

    def __init__(self, target: Target, sighting: Sighting) -> None:
        """``sighting``: how it was seen before anything was raised in it."""
        self._watch = Watch(target, sighting)
        self._own_time = OwnTime(target, sighting)
        self._next_look = SECONDS_IN_PLACE

    def has_come(self) -> bool:
        """Say whether the thread has come to rest, or has ended."""
        try:
            seconds = self._own_time.seconds()
            if seconds < self._next_look:
                return False
            self._next_look = seconds + SECONDS_IN_PLACE
            now = self._watch.sight()
        except (NoSuchThread, NoSuchProcess):
            return True
        return now is None or now.raw_frames == self._watch.before.raw_frames or seconds >= SECONDS_ELSEWHERE

"""Threads in C code that never looks for signals: their native frames are removed, and Python unwinds by itself."""

from __future__ import annotations

import json
import os
import random
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.zoo.pythons import Python
from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import DebuggerDied, Refused, ThreadsurgeonError
from threadsurgeon.inventory import Target
from threadsurgeon.linux.process import read_status
from threadsurgeon.surgery.addresses import make_victim
from threadsurgeon.surgery.cut_frames import cut, survey
from threadsurgeon.surgery.plan import examine
from threadsurgeon.surgery.technique import Applied, Effect

pytestmark = pytest.mark.usefixtures("gdb")

# One process, one stuck thread after the other. Each says its TID itself: the main thread may have no GIL to do so.
PROGRAM = """
import collections, ctypes, functools, itertools, json, os, sys, threading, time, zlib
LIBC, HOLDING = ctypes.CDLL(None), ctypes.PyDLL(None)
ENDLESS = lambda: filter(None, itertools.repeat(0))
class Odd:
    __hash__ = functools.partial(next, ENDLESS())
    def __setitem__(self, *_): next(ENDLESS())
def store(): Odd()[1] = 2
def loop():
    for _ in ENDLESS(): pass
def unpack(): first, second = ENDLESS()
def callback():
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    done = []
    def compare(*_):
        if not done:
            done.append(1)
            next(ENDLESS())
        return 0
    LIBC.qsort(ctypes.create_string_buffer(2), ctypes.c_size_t(2), ctypes.c_size_t(1), kind(compare))
    raise SystemExit
SHARED, SIZES = set(range(3000)), map(range, itertools.cycle(range(3000)))
def generator(): return list(sum(itertools.count(one)) for one in range(2))
def sound():
    SHARED.add(-1)
    SHARED.remove(-1)
    return len(list(SHARED)) == len(SHARED) and all(element in SHARED for element in list(SHARED))
def allocate(make, *arguments): collections.deque(map(make, *map(itertools.repeat, arguments)), maxlen=0)
KINDS = dict(
    sum=lambda: sum(itertools.count()), contains=lambda: -1 in itertools.count(), extend=lambda: [].extend(ENDLESS()),
    loop=loop, unpack=unpack, store=store, generator=generator, callback=callback, hash=lambda: hash(Odd()),
    update=lambda: {}.update(zip(itertools.cycle(range(5000)), itertools.count())),
    bytes=lambda: allocate(bytes, 100000), lists=lambda: allocate(list, range(50)), str=lambda: allocate(str, 10 ** 30),
    pause=LIBC.pause, sleep=lambda: LIBC.sleep(1000), holding=HOLDING.pause,
    change=lambda: collections.deque(map(SHARED.symmetric_difference_update, SIZES), maxlen=0),
    compress=lambda: allocate(zlib.compress, b"x" * 100000),
)
def work(kind, lock, facts):
    try:
        with lock:
            os.write(1, b"%d\\n" % threading.get_native_id())
            KINDS[kind]()
            facts["returned"] = True
    finally:
        facts["tidied"] = True
def tick():
    while True:
        ticks.append(1)
        time.sleep(0.001)
ticks = []
threading.Thread(target=tick, daemon=True).start()
for line in iter(sys.stdin.readline, "quit\\n"):
    lock, facts = threading.Lock(), {}
    thread = threading.Thread(target=work, args=(line.strip(), lock, facts), daemon=True)
    thread.start()
    sys.stdin.readline()
    thread.join(20)
    before = len(ticks)
    while len(ticks) < before + 3: time.sleep(0.001)
    with open("/proc/self/statm") as statm: pages = int(statm.read().split()[1])
    facts.update(joined=not thread.is_alive(), free=not lock.locked(), pages=pages, sound=sound())
    print(json.dumps(facts), flush=True)
"""
KINDS = (
    "sum", "contains", "extend", "loop", "unpack", "store", "generator", "callback", "hash", "update", "bytes", "lists", "str",
    "pause", "sleep", "holding", "change", "compress",
)  # fmt: skip
UNWOUND = {"joined": True, "free": True, "tidied": True, "sound": True}
KILLS = 20


class Patient:
    """A process that gets stuck as it is told, again and again."""

    def __init__(self, python: Python) -> None:
        self.process = subprocess.Popen(
            [python.command, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(40), "no answer"
        line = self.process.stdout.readline().decode()
        assert line, f"the process ended: {self.process.wait(20)}"
        return line

    def get_stuck(self, kind: str) -> int:
        """Return the TID of a thread that is about to be stuck."""
        self.say(kind)
        return int(self.hear())

    def recover(self) -> dict[str, int]:
        """Wait for the thread's end, and return what it left."""
        self.say("recovered")
        facts: dict[str, int] = json.loads(self.hear())
        return facts


def cut_thread(session: Session, pid: int, tid: int) -> Applied:
    """Cut it as soon as there is something to cut."""
    target = Target(pid)
    for _ in range(50):
        sighting = target.see(tid)
        victim = make_victim(examine(target, sighting, "SystemExit"))
        applied = cut(session, victim, survey(target, sighting.state.interpreter), 5.0)
        if applied.effect is Effect.CUT:
            break
        time.sleep(0.02)  # it was still on its way there
    return applied


@pytest.fixture
def patient(python: Python) -> Iterator[Patient]:
    patient = Patient(python)
    yield patient
    patient.process.kill()
    patient.process.communicate()


def assert_lives_on(patient: Patient) -> None:
    """It ends in order, and has nothing to complain about."""
    patient.say("quit")
    _, complaints = patient.process.communicate(timeout=40)

    assert (patient.process.returncode, complaints.decode()) == (0, "") or (
        patient.process.returncode == 0 and b"Exception ignored" in complaints  # a callback's: ctypes says so
    )


def test_every_kind_of_c_code(patient: Patient) -> None:
    """Loops, foreign calls with and without the GIL, callbacks, and code that allocates all the time."""
    with Session.start() as session:
        for kind in KINDS:
            tid = patient.get_stuck(kind)
            time.sleep(random.uniform(0.0, 0.05))
            applied = cut_thread(session, patient.process.pid, tid)
            facts = patient.recover()
            facts.pop("pages")

            assert applied.cut, kind
            assert facts == UNWOUND, kind
    assert_lives_on(patient)


def test_many_in_a_row(patient: Patient) -> None:
    """One process survives many, and what they leave behind is little."""
    pages, stops = [], []
    with Session.start() as session:
        for _ in range(KILLS):
            tid = patient.get_stuck("sum")
            stops.append(cut_thread(session, patient.process.pid, tid).stopped_seconds)
            facts = patient.recover()
            pages.append(facts.pop("pages"))

            assert facts == UNWOUND
    growth = (pages[-1] - pages[4]) * 4
    print(f"{KILLS} kills: +{growth} KiB, stopped {sorted(stops)[KILLS // 2] * 1000:.1f} ms in the median")

    assert growth < 2048
    assert_lives_on(patient)


def test_gdb_is_killed_at_any_moment(any_python: Python) -> None:
    """While the thread is held, watched or let go: it goes on as it was, or is cut; nothing between."""
    patient = Patient(any_python)
    try:
        tid = patient.get_stuck("sum")
        for _ in range(12):
            with Session.start() as session:
                session.wait_until_ready()
                killer = threading.Timer(random.uniform(0.03, 0.1), os.kill, (session.pid, signal.SIGKILL))
                killer.start()
                try:
                    cut_thread(session, patient.process.pid, tid)
                except (DebuggerDied, Refused):
                    pass
                finally:
                    killer.cancel()
                    killer.join()
            assert patient.process.poll() is None
            try:
                status = read_status(tid)
            except ThreadsurgeonError:  # it is cut and gone: the next
                assert patient.recover()["joined"]
                tid = patient.get_stuck("sum")
                continue
            assert (status.tracer, status.state in "tT") == (0, False)
        with Session.start() as session:
            cut_thread(session, patient.process.pid, tid)
        patient.recover()
        assert_lives_on(patient)
    finally:
        patient.process.kill()
        patient.process.communicate()

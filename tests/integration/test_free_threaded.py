"""Builds without a GIL (PEP 703): listed as Python says itself, operated on where that was shown to be safe."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest

from tests.integration.builds import nth_build
from tests.integration.command import operate, run
from tests.integration.test_list import printable
from tests.zoo.pythons import Python
from tests.zoo.script import script
from tests.zoo.victim import Victim

Start = Callable[..., Victim]

pytestmark = pytest.mark.usefixtures("gdb")

# Three threads allocate and change one dict, one collects garbage all the time; one more is there to be ended.
BUSY = """
import gc
shared, lock, tidied = {}, threading.Lock(), []
stopping = False

def change(own):
    n = 0
    while not stopping:
        n = (n + 1) % 1000
        shared[n, own] = [{"n": n} for _ in range(10)]
        shared.pop((n // 2, own), None)

def collect():
    while not stopping:
        gc.collect()

def victim(kind, started):
    try:
        started.set()
        while True:
            if kind == "wait":
                lock.acquire()
            elif kind == "sleep":
                time.sleep(1000)
            elif kind == "collect":
                gc.collect()
            else:
                shared["victim"] = [n for n in range(100)]
    finally:
        tidied.append(kind)

lock.acquire()
others = [threading.Thread(target=change, args=(own,)) for own in range(3)] + [threading.Thread(target=collect)]
for thread in others:
    thread.start()
ready(others)
while True:
    line = hear()
    if line == "finish":
        break
    if line == "join":
        worker.join(30)
        say(joined=not worker.is_alive(), tidied=tidied == [kind])
        continue
    kind, started = line, threading.Event()
    tidied.clear()
    worker = threading.Thread(target=victim, args=(kind, started))
    worker.start()
    started.wait()
    say(tid=worker.native_id)
stopping = True
for thread in others:
    thread.join()
"""
KILLS = int(os.environ.get("THREADSURGEON_TEST_KILLS", "8"))


@pytest.fixture(params=[0, 1, 2, 3])
def free_threaded(request: pytest.FixtureRequest) -> Python:
    """Every free-threaded build found."""
    return nth_build(request, request.param, lambda python: python.free_threaded)


@pytest.mark.parametrize("gil", ["", "1"])
@pytest.mark.parametrize("behaviour", ["sleep", "busy_loop", "lock", "unicode_names"])
def test_free_threaded_build_is_listed(free_threaded: Python, behaviour: str, gil: str, stuck: Start) -> None:
    """Names and stacks are Python's own; nobody holds a GIL where there is none."""
    victim = stuck(free_threaded, behaviour, **({"PYTHON_GIL": gil} if gil else {}))
    listing = json.loads(run("list", str(victim.pid), "--json").stdout)
    truth = {thread["tid"]: thread for thread in victim.ask("truth")["threads"]}

    threads = {thread["tid"]: thread for thread in listing["threads"]}
    assert listing["python"]["build"] == free_threaded.build
    assert {tid: thread["name"] for tid, thread in threads.items()} == {tid: printable(t["name"]) for tid, t in truth.items()}
    frames = threads[victim.tid]["frames"]
    assert [frame["function"] for frame in frames] == truth[victim.tid]["functions"]
    moving = behaviour == "busy_loop"  # its callers stand still, be it in a copy of their bytecode (3.14)
    assert [frame["line"] for frame in frames][moving:] == truth[victim.tid]["lines"][moving:]
    if not gil:
        assert listing["gil_holder"] is None
    victim.assert_lives_on(unwound=False)


@pytest.mark.parametrize("gil", ["", "1"])
@pytest.mark.parametrize(
    ("behaviour", "command"),
    [
        *((name, "cancel") for name in ("busy_loop", "sleep", "lock", "queue_get", "regex", "pool_worker", "subinterpreter")),
        ("swallow_exit", "kill"),
        ("swallow_nested", "kill"),
    ],
)
def test_free_threaded_build_is_operated_on(
    free_threaded: Python, behaviour: str, command: str, gil: str, stuck: Start
) -> None:
    """By raise, interrupt and insist; locks are given back, and the process ends well."""
    victim = stuck(free_threaded, behaviour, **({"PYTHON_GIL": gil} if gil else {}))
    status, report = operate(command, str(victim.tid))

    assert (status, report["outcome"] in ("ended", "unwound")) == (0, True), report
    if not gil:
        assert "there is no GIL" in report["evidence"]
    victim.assert_lives_on()
    victim.finish()


@pytest.mark.parametrize("options", [(), ("--force", "--yes")])
def test_free_threaded_build_is_not_cut(free_threaded: Python, options: tuple[str, ...], stuck: Start) -> None:
    """C code that never checks for signals goes on as it was."""
    victim = stuck(free_threaded, "c_any")
    status, report = operate("kill", str(victim.tid), "--grace", "2", *options)

    assert (status, report["outcome"]) == (4, "pending")
    assert "free-threaded" in report["detail"]
    assert not victim.thread_is_gone()
    assert victim.is_traced_or_stopped() == []
    victim.assert_lives_on(unwound=False)


@pytest.mark.timeout(300)
def test_busy_free_threaded_process_loses_threads_in_a_row(free_threaded: Python) -> None:
    """Others allocate, change what all share, and stop the world meanwhile; at last the process ends in order."""
    with script(free_threaded, BUSY) as target:
        for number in range(KILLS):
            kind = ("loop", "wait", "sleep", "collect")[number % 4]
            tid = target.ask(kind)["tid"]
            status, report = operate("cancel", str(tid), "--timeout", "30")

            assert (status, report["outcome"]) == (0, "ended"), (number, kind, report)
            assert target.ask("join") == {"joined": True, "tidied": True}
        target.finish()

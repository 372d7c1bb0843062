"""What is listed from outside agrees with what each victim says of itself, on every CPython; nobody is disturbed."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import threadsurgeon
from tests.integration.command import run
from tests.zoo.behaviours import Behaviour
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim, waiting
from threadsurgeon.model.threads import Listing

Start = Callable[..., Victim]

LOOKS_AT_CHURN = 20


def test_listing_agrees_with_the_truth(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """Every thread the victim knows of is listed as it says; what else the kernel has is listed as not Python's."""
    victim = stuck(python, behaviour)
    truth = victim.ready if behaviour.freezes else victim.ask("truth")
    with nobody_traced(victim):
        listing = threadsurgeon.list_threads(victim.pid)

    assert listing.python.version.split()[0].rstrip("+") == truth["version"]
    assert listing.python.build == python.build
    assert listing.warnings == ()
    assert_agrees(listing, victim, truth)
    if behaviour.name != "thread_churn":
        assert {str(thread.tid) for thread in listing.threads} == tasks(victim)
    assert victim.process.poll() is None


def test_many_threads_are_listed_with_the_help_of_a_fork(any_python: Python, stuck: Start) -> None:
    """The command says the same as the library, which reads everything itself; the child it had is not left behind."""
    victim = stuck(any_python, "threads_1000")
    with nobody_traced(victim):
        listed = json.loads(run("list", str(victim.pid), "--json").stdout)["threads"]
        expected = threadsurgeon.list_threads(victim.pid).threads

    assert [(thread["tid"], thread["name"]) for thread in listed] == [(thread.tid, thread.name) for thread in expected]
    waiting = [thread for thread in listed if (thread["name"] or "").startswith("waiter-")]
    assert len(waiting) == 1000
    assert {(thread["state"], thread["waits_for"]["kind"]) for thread in waiting} == {("sleeping", "event")}
    victim.assert_lives_on(unwound=False)


@pytest.mark.behaviours("regex", "huge_int")
def test_frozen_process_says_who_holds_the_gil(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """The one that freezes the process is named, and no other."""
    victim = stuck(python, behaviour)
    for _ in waiting(f"{victim} seen spinning"):  # on a busy machine it may not get a processor while we look
        listing = threadsurgeon.list_threads(victim.pid)
        assert listing.gil_holder == victim.tid
        assert [thread.tid for thread in listing.threads if thread.holds_gil] == [victim.tid]
        spinning = next(thread for thread in listing.threads if thread.tid == victim.tid)
        shares = [thread.cpu_percent for thread in listing.threads if thread.cpu_percent is not None]
        if spinning.cpu_percent is None or spinning.cpu_percent == max(shares) > 0:
            break


@pytest.mark.behaviours("busy_loop", "busy_calls", "between")
def test_stack_of_a_running_thread_is_soon_read_whole(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """A thread that calls and returns all the time is read while it moves: some looks see part of it, not all looks."""
    victim = stuck(python, behaviour)

    for _ in waiting(f"{victim} seen with its whole stack", 5):
        listing = threadsurgeon.list_threads(victim.pid)
        functions = next([f.function for f in t.frames] for t in listing.threads if t.tid == victim.tid)
        if any(name.endswith("victim") for name in functions) and functions[-1].endswith("_bootstrap"):
            break


@pytest.mark.behaviours("sleep")
def test_idle_process_has_no_gil_holder(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """Where everybody waits nobody is shown holding the GIL, most of the time: the tickers take it now and then."""
    victim = stuck(python, behaviour)

    for _ in waiting(f"{victim} seen with the GIL free"):
        if threadsurgeon.list_threads(victim.pid).gil_holder is None:
            break


@pytest.mark.behaviours("thread_churn")
def test_threads_that_come_and_go_are_never_invented(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """However often we look while threads start and end: no failure, no nonsense, and the others are always there."""
    victim = stuck(python, behaviour)
    truth = victim.ask("truth")
    lasting = {t["tid"]: t for t in truth["threads"] if t["name"] != "mayfly"}
    names = {t["name"] for t in truth["threads"]} | {"mayfly", None}

    for _ in range(LOOKS_AT_CHURN):
        listing = threadsurgeon.list_threads(victim.pid)
        seen = {thread.tid: thread for thread in listing.threads}
        assert len(seen) == len(listing.threads)
        assert len({t.ident for t in listing.threads if t.python}) == sum(t.python for t in listing.threads)
        assert {thread.name for thread in listing.threads} <= names
        for tid, expected in lasting.items():
            assert (seen[tid].ident, seen[tid].name) == (expected["ident"], expected["name"])
    victim.assert_lives_on(unwound=False)


@pytest.mark.behaviours("native_thread")
def test_thread_without_python_is_listed_as_such(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """A thread that C made is in the list, with what the kernel says of it and nothing invented."""
    victim = stuck(python, behaviour)
    thread = next(t for t in threadsurgeon.list_threads(victim.pid).threads if t.tid == victim.tid)

    assert not thread.python
    assert (thread.ident, thread.name, thread.daemon, thread.interpreter) == (None, None, None, None)
    assert thread.frames == ()
    assert not thread.main


@pytest.mark.behaviours("lock", "unicode_names")
def test_command_line_lists_the_same(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """``list`` as JSON names every thread, as they are called."""
    victim = stuck(python, behaviour)
    machine = run("list", str(victim.pid), "--json")

    assert (machine.returncode, machine.stderr) == (0, "")
    threads = json.loads(machine.stdout)["threads"]
    truth = {t["tid"]: printable(t["name"]) for t in victim.ready["threads"]}
    assert {thread["tid"]: thread["name"] for thread in threads} == truth


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_text_survives_any_name(encoding: str, any_python: Python, stuck: Start) -> None:
    """No name of a thread makes the listing fail, break its lines or write to the terminal as if it were ours."""
    victim = stuck(any_python, "unicode_names")
    result = run("list", str(victim.pid), PYTHONIOENCODING=encoding)

    assert (result.returncode, result.stderr) == (0, "")
    assert str(victim.tid) in result.stdout
    assert "\x1b" not in result.stdout
    assert not any(line.startswith("lines") for line in result.stdout.splitlines())


def tasks(victim: Victim) -> set[str]:
    return {task.name for task in Path(f"/proc/{victim.pid}/task").iterdir()}


def printable(name: str | None) -> str | None:
    """What a name is shown as: half of a surrogate pair is no text, and could not be written anywhere."""
    return name and re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", name)


# Threads of victims that end by themselves.
PASSING = ("mayfly", "release")


def assert_agrees(listing: Listing, victim: Victim, truth: dict[str, Any]) -> None:
    seen = {thread.tid: thread for thread in listing.threads}
    assert len(seen) == len(listing.threads)
    assert listing.threads[0].tid == victim.pid
    for expected in truth["threads"]:
        if expected["name"] in PASSING and expected["tid"] not in seen:
            continue  # gone by now
        thread = seen[expected["tid"]]
        if expected["name"] in PASSING and thread.name is None:  # threading has forgotten it: it is on its way out
            assert all(frame.function.endswith("_bootstrap") for frame in thread.frames[-1:])
            continue
        assert thread.python
        assert thread.ident == expected["ident"]
        assert thread.name == printable(expected["name"])
        assert thread.daemon == expected["daemon"]
        assert thread.main == expected["main"]
        assert thread.interpreter is not None
        assert thread.pool_worker == (victim.behaviour.name == "pool_worker" and thread.tid == victim.tid)
        assert_same_stack([frame.function for frame in thread.frames], expected, victim)
    known = {e["tid"] for e in truth["threads"] if e["name"] not in PASSING or e["tid"] in seen}
    if victim.behaviour.name != "thread_churn":
        assert {thread.tid for thread in listing.threads if thread.python} == known
    if victim.tid in known:
        place = victim.ready["victim"].get("interpreter", 0)
        assert seen[victim.tid].interpreter == place


def assert_same_stack(functions: list[str], expected: dict[str, Any], victim: Victim) -> None:
    """Compare exactly where the thread stands still, and by what must be on the stack where it moves."""
    functions = [name.rpartition(".")[2] for name in functions]
    if expected["tid"] != victim.tid and expected["main"]:
        assert functions[-1] == "<module>"
        assert "run" in functions
    elif expected["tid"] != victim.tid and expected["name"] in ("churn", "commands"):
        assert functions[-1] == "_bootstrap"
    elif victim.behaviour.spins and not victim.behaviour.freezes:
        assert set(functions) <= {
            "fibonacci",
            *expected["functions"],
        }  # it runs while it is read: perhaps not all of it
    elif expected["functions"] is None or victim.behaviour.freezes or victim.behaviour.moves:
        if expected["tid"] == victim.tid:
            assert "victim" in functions
    else:
        assert functions == expected["functions"]


@contextmanager
def nobody_traced(victim: Victim) -> Iterator[None]:
    """Watch all the while that no thread of the victim is traced or stopped."""
    done = threading.Event()
    found: list[str] = []

    def watch() -> None:
        while not done.wait(0.002):
            found.extend(victim.is_traced_or_stopped())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    assert found == []

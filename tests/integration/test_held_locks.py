"""What a thread is said to hold agrees with what it says of itself, on every CPython; and nothing else is ever said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.zoo.behaviours import Behaviour
from tests.zoo.pythons import Python
from tests.zoo.victim import BETWEEN_LOOKS, LOOKS, Victim, waiting
from threadsurgeon.cpython.held_locks import Holdings, read_holdings
from threadsurgeon.inventory import Target

Start = Callable[..., Victim]
LOOKS_AT_RUNNING = 50

pytestmark = pytest.mark.behaviours("holds_locks")


def test_holdings_agree_with_the_truth(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """Each scenario of the victim: its blocks, innermost first, its locks, and whether it is handling an exception."""
    victim = stuck(python, behaviour, ALL="1")
    wait_until_all_are_stuck(victim)
    status = victim.ask("status")["more"]
    target = Target(victim.pid)
    wrong = {}
    for name, truth in status["truths"].items():
        said = describe(target, truth.pop("tid"))
        if name == "one":  # performed by the victim's thread, which holds the backchannel's lock as well
            truth["blocks"].append(["body", "_thread.lock", status["own"]])
            truth["locks"].append(["_thread.lock", status["own"], 1])
            truth["generators"].append(None)
        expected = {
            **truth,
            "told": True,
            "locks": sorted(truth["locks"]),
            "waits": [truth["waits"]] * len(truth["blocks"]),
            "handles": truth["handling"] != [],
            "unproven": [truth["blocks"][0][2]] if name == "exit_is_no_method" else [],
            "complete": True,
        }
        if said != expected:
            wrong[name] = (said, expected)

    assert len(status["truths"]) > 30
    assert wrong == {}


def test_block_around_running_code_is_seen(python: Python, behaviour: Behaviour, start: Start) -> None:
    """A loop inside a block is caught in motion: the block that lasts is always seen, the one that comes and goes at most."""
    victim = start(python, behaviour, SCENARIO="spins")
    truth = wait_until_told(victim, "spins")
    target = Target(victim.pid)
    seen = [describe(target, victim.tid) for _ in range(20)]
    lasting = truth["blocks"][1]

    assert all(lasting in said["blocks"] for said in seen)
    assert all(block in [*truth["blocks"], own_block(victim)] for said in seen for block in said["blocks"])
    assert all(lasting[2] in [address for _, address, _ in said["locks"]] for said in seen)
    assert all(said["unproven"] == [] for said in seen)


def test_nothing_is_invented_of_a_thread_that_runs_through_blocks(python: Python, behaviour: Behaviour, start: Start) -> None:
    """Exits of locks that it never takes pass through the same memory: they are never taken for held."""
    victim = start(python, behaviour, SCENARIO="runs_through")
    truth = wait_until_told(victim, "runs_through")
    target = Target(victim.pid)
    sighting = target.see(victim.tid)
    claimed = set()
    for _ in range(LOOKS_AT_RUNNING):
        holdings = read_holdings(target.memory, target.runtime, sighting.state, sighting.raw_frames)
        claimed |= {(block.type_name, block.address) for block in holdings.blocks}
        claimed |= {(lock.type_name, lock.address) for lock in holdings.locks}

    # It is truly held for as long as the thread waits for the GIL inside the block.
    assert claimed <= {tuple(block[1:]) for block in (*truth["blocks"], own_block(victim))}


def test_thread_that_ended_holds_nothing(any_python: Python, stuck: Start) -> None:
    """Its state is gone, or another thread's: nothing is said of it."""
    victim = stuck(any_python, "thread_churn")
    target = Target(victim.pid)
    known = {state.address: state for state in target._list_states()[1]}
    for _ in waiting("a thread has ended"):
        gone = set(known) - {state.address for state in target._list_states()[1]}
        if gone:
            break
    holdings = [read_holdings(target.memory, target.runtime, known[address], ()) for address in gone]

    assert {(said.blocks, said.locks) for said in holdings} == {((), ())}


def describe(target: Target, tid: int) -> dict[str, Any]:
    """Say what a thread holds in the words of the victim."""
    sighting = target.see(tid)
    holdings: Holdings = read_holdings(target.memory, target.runtime, sighting.state, sighting.raw_frames)
    functions = [frame.function.rpartition(".")[2] for frame in sighting.thread.frames]
    return {
        "told": True,
        "blocks": [[functions[block.frame], block.type_name, block.address] for block in holdings.blocks],
        "locks": sorted([lock.type_name, lock.address, lock.times] for lock in holdings.locks if lock.proven),
        "generators": [block.generator for block in holdings.blocks],
        "waits": [block.waits for block in holdings.blocks],
        "handling": [functions[index] for index in holdings.handling],
        "handles": holdings.handles_exception,
        "unproven": [part.address for part in (*holdings.blocks, *holdings.locks) if not part.proven],
        "complete": holdings.complete,
    }


def own_block(victim: Victim) -> list[Any]:
    return ["body", "_thread.lock", victim.ask("status")["more"]["own"]]


def wait_until_told(victim: Victim, scenario: str) -> dict[str, Any]:
    for _ in waiting(f"{victim} in its scenario"):
        truth = victim.ask("status")["more"]["truths"].get(scenario, {"told": False})
        if truth["told"]:
            break
    return dict(truth)


def wait_until_all_are_stuck(victim: Victim) -> None:
    """Return once every scenario has said what is true, and waits for a lock."""
    seen: list[list[str]] = []
    for _ in waiting(f"every scenario of {victim} stuck", pause=BETWEEN_LOOKS):
        truths = victim.ask("status")["more"]["truths"].values()
        calls = [victim._syscall_line(truth["tid"]) for truth in truths]
        told = all(truth["told"] for truth in truths)
        seen.append(calls if told and all(victim.system_call(t["tid"]) == "futex" for t in truths) else [str(len(seen))])
        if len(seen) >= LOOKS and all(calls == seen[-1] for calls in seen[-LOOKS:]):
            return

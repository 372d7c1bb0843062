"""Results as JSON: the names that programs rely on, fixed here."""

import json

import pytest

from tests.unit import examples
from tests.unit.examples import replace
from threadsurgeon.model.operations import Outcome, Report
from threadsurgeon.model.threads import Frame, Thread, Wait
from threadsurgeon.schema import SCHEMA, dump_listing, dump_plan, dump_report, dump_thread, thread_to_dict

THREAD = {
    "tid", "ident", "name", "native_name", "main", "daemon", "python", "interpreter", "state", "cpu_percent",
    "cpu_seconds", "holds_gil", "pool_worker", "frames",
}  # fmt: skip
REPORT = {
    "schema", "pid", "tid", "ident", "name", "outcome", "technique", "exception", "attempts", "stopped_seconds",
    "seconds", "process_alive", "stack_before", "stack_after", "detail",
}  # fmt: skip
HOSTILE = "\x1b]0;x\x07\n[red]\u2028\x9b31m\udcff\ud800 Ω😀\0"


def test_listing_has_the_published_names():
    """Names may be added, and none may go."""
    content = json.loads(dump_listing(examples.LISTING))

    assert content.keys() >= {"schema", "pid", "python", "gil_holder", "threads"}
    assert content["python"].keys() >= {"version", "build", "executable"}
    assert all(thread.keys() >= THREAD for thread in content["threads"])
    assert content["threads"][1]["frames"][0].keys() == {"function", "file", "line"}


def test_listing_has_the_values():
    """Each under its name; what is not known is null."""
    content = json.loads(dump_listing(examples.LISTING))
    native = content["threads"][2]

    assert (content["schema"], content["pid"], content["gil_holder"]) == (SCHEMA, 4711, 4712)
    assert content["python"] == {"version": "3.12.1", "build": "release", "executable": "/usr/bin/python3.12"}
    for thread, shown in zip(examples.LISTING.threads, content["threads"], strict=True):
        for name in THREAD - {"frames"}:
            assert getattr(thread, name) == shown[name]
    assert content["threads"][1]["frames"] == [
        {"function": "wait", "file": "/usr/lib/python3.12/threading.py", "line": 359},
        {"function": "new", "file": "/app/main.py", "line": None},
    ]
    assert (native["ident"], native["name"], native["daemon"], native["frames"]) == (None, None, None, [])


def test_every_field_of_a_thread_is_published():
    """Whoever adds one to the model decides about it here; a start time is of use to us alone."""
    expected = set(Thread._fields) - {"start_time"} | {"schema", "activity"}

    assert set(json.loads(dump_thread(examples.WAITING))) == expected


def test_report_has_the_published_names_and_values():
    """The outcome by its value, times in seconds."""
    content = json.loads(dump_report(examples.REPORT))

    assert content.keys() >= REPORT
    assert content.keys() - {"schema"} == set(Report._fields)
    assert (content["outcome"], content["technique"], content["exception"]) == ("ended", "interrupt", "SystemExit")
    assert (content["stopped_seconds"], content["seconds"], content["process_alive"]) == (0.0123, 0.5, True)
    assert content["attempts"][0] == {"technique": "raise", "outcome": "not noticed", "seconds": 0.1}
    assert content["stack_before"][0]["function"] == "wait"
    assert content["stack_after"] == []


@pytest.mark.parametrize("outcome", Outcome)
def test_outcomes_have_their_published_values(outcome):
    """One word each."""
    published = {"ended", "unwound", "survived", "pending", "target-died"}

    assert json.loads(dump_report(replace(examples.REPORT, outcome=outcome)))["outcome"] in published


def test_plan_says_that_nothing_was_done():
    """It can be told apart from a report."""
    content = json.loads(dump_plan(examples.PLAN))

    assert content["dry_run"] is True
    assert "outcome" not in content
    assert content["techniques"] == ["raise", "interrupt"]
    assert content["stack"][0]["line"] == 359


def test_hostile_names_come_back_as_they_are():
    """In one line of ASCII: no terminal obeys it, every encoding can write it."""
    hostile = replace(examples.WAITING, name=HOSTILE, native_name=HOSTILE, frames=(Frame(HOSTILE, HOSTILE, 1),))
    text = dump_listing(replace(examples.LISTING, threads=(hostile,)))
    content = json.loads(text)["threads"][0]

    assert text.isascii()
    assert text.isprintable()
    assert [content["name"], content["native_name"], content["frames"][0]["function"]] == [HOSTILE] * 3


def test_threads_that_differ_in_one_thing_are_told_apart():
    """Also where all else is the same, which is encoded once."""
    one = examples.WAITING
    changes = [
        {"tid": 9}, {"ident": None}, {"name": '", "shared": null, "'}, {"native_name": '"shared": null'},
        {"main": not one.main},
        {"daemon": None}, {"daemon": not one.daemon}, {"state": "zombie"}, {"cpu_percent": 99.5}, {"cpu_seconds": 7.25},
        {"holds_gil": not one.holds_gil}, {"pool_worker": not one.pool_worker}, {"frames": one.frames[:1]},
        {"waits_for": Wait("lock", "a lock", 11.0)}, {"waits_for": Wait("lock", "a lock", 1.0)}, {"waits_for": None},
    ]  # fmt: skip
    threads = (one, *(replace(one, **change) for change in changes), one)
    content = json.loads(dump_listing(replace(examples.LISTING, threads=threads)))

    assert content["threads"] == [json.loads(json.dumps(thread_to_dict(thread))) for thread in threads]


def test_process_without_threads_is_listed():
    """It is just ending."""
    assert json.loads(dump_listing(replace(examples.LISTING, threads=(), gil_holder=None)))["threads"] == []

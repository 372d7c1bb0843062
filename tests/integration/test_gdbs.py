"""Every gdb found does all that the first one on PATH does: it answers, raises, cuts, insists, ends, looks, and lets go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

import threadsurgeon
from tests.integration import test_crash_safety
from tests.integration.test_cancel import assert_left_in_order
from tests.integration.test_crash_safety import Target
from tests.zoo.behaviours import all_behaviours
from tests.zoo.gdbs import Gdb, others
from tests.zoo.patient import patient
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim
from threadsurgeon.debugger.mi import GdbError
from threadsurgeon.debugger.session import Session
from threadsurgeon.model.diagnosis import CheckStatus
from threadsurgeon.model.threads import Frame

Start = Callable[..., Victim]

NONE = pytest.param(None, marks=pytest.mark.skip(reason="no other gdb with Python is found: see tests/zoo/gdbs.py"))


@pytest.fixture(params=others() or [NONE], ids=str)
def other_gdb(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Gdb:
    """Another one, first on PATH."""
    gdb: Gdb = request.param
    monkeypatch.setenv("PATH", f"{gdb.folder}:{os.environ['PATH']}")
    return gdb


@pytest.fixture
def target() -> Iterator[Target]:
    """Start a process to operate on; it is gone after the test."""
    target = Target()
    yield target
    target.process.kill()
    target.process.communicate()


def test_it_may_be_used_here(other_gdb: Gdb) -> None:
    """So says the doctor, who has tried."""
    checks = {check.name: check for check in threadsurgeon.diagnose().checks}

    assert other_gdb.version in checks["gdb"].value
    assert [checks[name].status for name in ("attach", "breakpoint", "read-memory")] == [CheckStatus.OK] * 3


@pytest.mark.parametrize("text", ['a"b\\c\\\\d$pid', "# ! ` ' ; | ~ %s @ \n\t\x07", "{" * 40, "x" * 100_000], ids=range(4))
@pytest.mark.usefixtures("other_gdb")
def test_any_text_gets_there_and_back(text: str) -> None:
    """An argument that there is not is named in the error."""
    with Session.start() as session:
        with pytest.raises(GdbError, match="wrong arguments") as caught:
            session.command("-ts-about", {text: 1})
        assert session.command("-ts-about")["gdb"] == session.version

    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("behaviour", "technique"),
    [("busy_loop", "raise"), ("lock", "interrupt"), ("c_sum", "cut"), ("swallower", "insist")],
)
def test_kill(other_gdb: Gdb, behaviour: str, technique: str, any_python: Python, stuck: Start) -> None:
    """By each technique; the report says which gdb it was."""
    victim = stuck(any_python, all_behaviours()[behaviour])
    report = threadsurgeon.kill(victim.tid, pid=victim.pid, grace=5.0)

    assert (report.outcome.value, report.technique) == ("ended", technique), report
    assert report.debugger == f"gdb {other_gdb.version}"
    assert_left_in_order(victim, report)
    victim.finish()


@pytest.mark.usefixtures("other_gdb")
def test_terminate(any_python: Python) -> None:
    """A thread that no exception ends."""
    with patient(any_python) as subject:
        subject.get_stuck("deaf")
        report = threadsurgeon.kill(subject.tid, pid=subject.pid, grace=0.3, force=True)

        assert (report.outcome.value, report.technique) == ("ended", "terminate"), report
        facts = subject.release()
        assert (facts["joined"], facts["ticked"]) == (True, True)
        subject.process.finish()


def test_native_stack(other_gdb: Gdb, any_python: Python, stuck: Start) -> None:
    """The thread is held still and goes on."""
    victim = stuck(any_python, all_behaviours()["sleep"])
    stack = threadsurgeon.find_native_stack(victim.tid, pid=victim.pid)

    assert any(isinstance(frame, Frame) and frame.function == "victim" for frame in stack.merged)
    assert stack.debugger == f"gdb {other_gdb.version}"
    victim.assert_lives_on(unwound=False)


@pytest.mark.usefixtures("other_gdb")
def test_gdb_is_killed_while_armed(target: Target) -> None:
    """Debug registers are cleared at once."""
    test_crash_safety.test_gdb_is_killed_while_armed(target)


@pytest.mark.usefixtures("other_gdb")
def test_we_are_killed_while_armed(target: Target) -> None:
    """Gdb sees the end of its input, takes the breakpoints out and detaches."""
    test_crash_safety.test_we_are_killed_while_armed(target)

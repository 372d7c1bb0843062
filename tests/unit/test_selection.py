"""Which thread is meant by a TID, an ident or a name."""

import os

import pytest

from threadsurgeon import selection
from threadsurgeon.errors import AmbiguousThread, NoSuchThread
from threadsurgeon.model.threads import Listing, Python, Thread
from threadsurgeon.selection import select_thread

NO_SUCH_ID = 2**22 + 1


def thread(tid, ident=None, name=None):
    return Thread(tid, tid, 1, "native", "sleeping", 0.0, 0.0, False, python=ident is not None, ident=ident, name=name)


@pytest.fixture
def threads(monkeypatch):
    """A process 7 with some threads, two of one name, and two native ones."""
    found = (
        thread(7, 100, "main"),
        thread(8, 200, "twin"),
        thread(9, 300, "twin"),
        thread(10),
        thread(11),
        thread(12, 400, "200"),
    )

    class Target:
        def __init__(self, pid):
            assert pid == 7

        def list_threads(self):
            return Listing(7, Python("3", "release", "python"), found, None)

    monkeypatch.setattr(selection, "Target", Target)
    monkeypatch.setattr(selection, "list_tids", lambda pid: [one.tid for one in found])
    return found


@pytest.mark.parametrize(
    ("designation", "tid"), [("9", 9), ("10", 10), ("0x8", 8), ("008", 8), ("300", 9), ("0x12C", 9), ("main", 7)]
)
def test_thread_is_found_by_each_of_its_names(threads, designation, tid):
    """A TID first, then an ident, then a name; native threads have a TID only."""
    assert select_thread(7, designation) == (7, tid)


@pytest.mark.parametrize(
    "designation", ["nobody", "", "None", "-8", "8.0", "1e1", "\u0668", "99999", "9" * 5000, "0x" + "f" * 100]
)
def test_thread_that_is_not_there_is_said(threads, designation):
    """Also where native threads have neither name nor ident."""
    with pytest.raises(NoSuchThread) as caught:
        select_thread(7, designation)

    assert "list 7" in caught.value.hint


@pytest.mark.parametrize(("designation", "hint"), [("twin", "8, 9"), ("200", "8, 12")])
def test_name_of_two_threads_is_ambiguous(threads, designation, hint):
    """The TIDs to choose from are named."""
    with pytest.raises(AmbiguousThread) as caught:
        select_thread(7, designation)

    assert caught.value.hint.endswith(hint)


def test_tid_needs_no_process():
    """It is unique on the machine."""
    pid = os.getpid()

    assert select_thread(None, str(pid)) == (pid, pid)
    assert select_thread(None, f"000{pid}") == (pid, pid)


@pytest.mark.parametrize("designation", ["name", "", "-1", "\u0664\u0662", "0", "9" * 20, "9" * 5000, "1\n", str(NO_SUCH_ID)])
def test_what_is_no_tid_is_said_without_a_process(designation):
    """A name, an id that nobody has, or garbage of any length."""
    with pytest.raises(NoSuchThread) as caught:
        select_thread(None, designation)

    assert caught.value.hint

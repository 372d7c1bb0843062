"""Programs frozen by PyInstaller: they bring their Python with them, and are not called so."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integration.command import operate, run
from tests.zoo import frozen
from tests.zoo.pythons import Python
from tests.zoo.script import Script
from tests.zoo.victim import waiting

pytestmark = pytest.mark.usefixtures("gdb")

NANOSLEEP, CLOCK_NANOSLEEP, SELECT, PSELECT6, FUTEX = 35, 230, 23, 270, 202


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """One for all the processes that tests run in (pytest-xdist)."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


@pytest.fixture
def frozen_program(python: Python, shared_folder: Path) -> Path:
    """Where PyInstaller put a program and this interpreter."""
    if not frozen.can_be_frozen(python):
        pytest.skip("no libpython, which PyInstaller needs, or more packages needed than are installed")
    return frozen.freeze(python, shared_folder)


@pytest.mark.parametrize("form", frozen.FORMS)
@pytest.mark.timeout(300)  # the first of an interpreter waits until it is frozen
def test_frozen_program(form: str, python: Python, frozen_program: Path, tmp_path: Path) -> None:
    """Listed under its own name and with the names of its functions; a sleep and a wait for a lock end, and it ends well."""
    with frozen.running(frozen_program, form, tmp_path) as target:
        listing = assert_frozen_threads_are_listed(target, python)
        assert os.path.basename(listing["python"]["executable"]) == ("file" if form == "file" else "starter")
        for tid in target.tids[:2]:
            assert_frozen_thread_ends("cancel", tid, target)
        target.finish()


@pytest.mark.parametrize("form", frozen.FORMS)
@pytest.mark.timeout(300)
def test_c_code_of_a_frozen_program_is_cut(form: str, frozen_program: Path, tmp_path: Path) -> None:
    """It holds the GIL for good; where it is in C is known, and the program goes on without it."""
    with frozen.running(frozen_program, form, tmp_path) as target:
        assert_counting_thread_is_cut(target)
        target.finish()


@pytest.mark.timeout(300)
def test_deleted_frozen_program(python: Python, frozen_program: Path, tmp_path: Path) -> None:
    """Something tidied up the temporary folder that one file unpacks itself into, while it runs from there."""
    if os.geteuid() != 0:
        pytest.skip("only root can open a file that has no name any more")
    with frozen.running(frozen_program, "file", tmp_path) as target:
        (folder,) = tmp_path.glob("_MEI*")
        shutil.rmtree(folder)
        maps = Path(f"/proc/{target.pid}/maps").read_text()
        assert re.search(rf"{folder}/libpython\S+ \(deleted\)$", maps, re.MULTILINE)
        assert_frozen_threads_are_listed(target, python)
        assert_frozen_thread_ends("cancel", target.tids[0], target)
        assert_counting_thread_is_cut(target)
        target.finish()


def assert_frozen_threads_are_listed(target: Script, python: Python) -> dict[str, Any]:
    """Each by its name, with the functions it is in."""
    for tid in target.tids[:2]:
        target.wait_until_in(tid, NANOSLEEP, CLOCK_NANOSLEEP, SELECT, PSELECT6, FUTEX)
    listing: dict[str, Any] = json.loads(run("list", str(target.pid), "--json").stdout)
    threads = {thread["tid"]: thread for thread in listing["threads"]}
    assert listing["python"]["version"] == "{}.{}.{}".format(*python.version)
    assert threads[target.pid]["name"] == "MainThread"
    for tid, function in zip(target.tids, frozen.FUNCTIONS, strict=True):
        assert threads[tid]["name"] == f"to {function}"
        functions = [frame["function"] for frame in threads[tid]["frames"]]
        # "count" has not begun.
        assert functions[functions.index(function) :][:3] == [function, "work", "run"]
    return listing


def assert_counting_thread_is_cut(target: Script) -> None:
    *_, tid = target.tids
    target.tell("count")
    schedule = Path(f"/proc/{target.pid}/task/{tid}/schedstat")
    for _ in waiting("it has counted for a while"):
        if int(schedule.read_text().split()[0]) > 1e8:
            break
    merged = json.loads(run("stack", str(tid), "--native", "--json").stdout)["merged"]
    called = list(itertools.takewhile(lambda frame: frame["kind"] == "native", merged))
    assert any(os.path.basename(frame["file"]).startswith("libpython3") for frame in called), called  # the top may be ld.so's
    assert merged[len(called)]["function"] == "count"
    assert_frozen_thread_ends("kill", tid, target, "--grace", "2")


def assert_frozen_thread_ends(command: str, tid: int, target: Script, *options: str) -> None:
    status, report = operate(command, str(tid), *options)
    assert (status, report["outcome"]) == (0, "ended"), report
    assert (command == "kill") == (report["technique"] == "cut"), report
    assert frozen.FUNCTIONS[target.tids.index(tid)] in target.ask("status")["ended"]
    assert "TracerPid:\t0\n" in Path(f"/proc/{target.pid}/status").read_text()

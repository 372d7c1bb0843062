"""Interpreters with a JIT compiler, and those embedded in another program, be their libpython still there or not."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.builds import nth_build
from tests.integration.command import operate, run
from tests.zoo import embedded
from tests.zoo.pythons import Python
from tests.zoo.script import Script, script
from tests.zoo.victim import waiting

pytestmark = pytest.mark.usefixtures("gdb")

NANOSLEEP, CLOCK_NANOSLEEP, SELECT, PSELECT6 = 35, 230, 23, 270

# The hot loop is compiled (PEP 744); then the thread stays in it, or in C code that it calls.
HOT = """
import itertools
go, finished = threading.Event(), threading.Event()

def loop():
    n = 0
    go.wait()
    try:
        while True:
            n = (n * 3 + 1) & 0xFFFF
    finally:
        finished.set()

def call():
    go.wait()
    try:
        for iterable in [(0,)] * 50000 + [itertools.repeat(0, 10 ** 11)]:
            any(iterable)
    finally:
        finished.set()

worker = threading.Thread(target={function}, daemon=True)
worker.start()
ready([worker])
go.set()
while hear() != "finish":
    say(finished=finished.is_set())
os._exit(0)
"""


@pytest.fixture(params=[0, 1, 2, 3])
def with_jit(request: pytest.FixtureRequest) -> Python:
    """Every build with a JIT compiler."""
    return nth_build(request, request.param, lambda python: python.version >= (3, 14) and python.has_jit)


def test_compiled_loop_is_ended(with_jit: Python) -> None:
    """Code that the JIT compiler made looks for a pending exception, as bytecode does."""
    with hot(with_jit, "loop") as target:
        status, report = operate("cancel", str(target.tids[0]))

        assert (status, report["outcome"], report["technique"]) == (0, "ended", "raise")
        assert target.ask("status")["finished"]
        target.finish()


def test_c_code_called_by_compiled_code_is_not_cut(with_jit: Python) -> None:
    """It has no unwind information: the thread is left as it was, with the reason."""
    with hot(with_jit, "call") as target:
        status, report = operate("kill", str(target.tids[0]), "--grace", "2")

        assert (status, report["outcome"]) == (4, "pending"), report
        assert "no unwind information" in report["detail"]
        assert report["stack_after"][0]["function"] == "call"
        assert "TracerPid:\t0\n" in Path(f"/proc/{target.pid}/task/{target.tids[0]}/status").read_text()


@contextmanager
def hot(python: Python, function: str) -> Iterator[Script]:
    """Run it until it has been compiled: there is code in memory that comes from no file."""
    with script(python, HOT.replace("{function}", function), PYTHON_JIT="1") as target:
        thread = Path(f"/proc/{target.pid}/task/{target.tids[0]}/schedstat")
        for _ in waiting("its loop is compiled, and it has run for a while"):
            compiled = re.search(r"^\S+ r-xp \S+ 00:00 0 *$", Path(f"/proc/{target.pid}/maps").read_text(), re.MULTILINE)
            if compiled and int(thread.read_text().split()[0]) > 5e8:
                break
        yield target


@pytest.mark.parametrize("options", [("-pie", "-fPIE"), ("-no-pie", "-fno-pie")], ids=["pie", "no-pie"])
def test_embedded_python(python: Python, options: tuple[str, ...], tmp_path: Path) -> None:
    """The program is not called python, and the thread is none of threading's: listed, ended, and the program ends well."""
    program = tmp_path / "server"
    build(python, program, *options)
    with embedded.running(program) as target:
        assert_operable(target, "server")


@pytest.mark.parametrize("replaced", [False, True])
def test_deleted_libpython(python: Python, replaced: bool, tmp_path: Path) -> None:
    """An upgrade took the library away, or put another file there, while the process runs: the mapped one counts."""
    if os.geteuid() != 0:
        pytest.skip("only root can open a file that has no name any more")
    if not python.shared or not embedded.can_be_embedded(python):
        pytest.skip("it has no libpython to delete")
    program, folder = tmp_path / "server", tmp_path / "lib"
    build(python, program)
    folder.mkdir()
    source = embedded.library(python).resolve()
    copy = folder / source.name
    shutil.copy(source, copy)
    with embedded.running(program, LD_LIBRARY_PATH=str(folder)) as target:
        assert str(copy) in Path(f"/proc/{target.pid}/maps").read_text()
        copy.unlink()
        if replaced:
            shutil.copy("/proc/self/exe", copy)
        assert_operable(target, "server")


def build(python: Python, program: Path, *options: str) -> None:
    if shutil.which("cc") is None or not embedded.can_be_embedded(python):
        pytest.skip("no compiler, headers or library for it")
    embedded.build(python, program, *options)


def assert_operable(target: Script, name: str) -> None:
    """It is listed, its thread can be ended, and the program ends with status 0."""
    (tid,) = target.tids
    target.wait_until_in(tid, NANOSLEEP, CLOCK_NANOSLEEP, SELECT, PSELECT6)
    listing = json.loads(run("list", str(target.pid), "--json").stdout)
    (thread,) = [thread for thread in listing["threads"] if thread["tid"] == tid]
    assert os.path.basename(listing["python"]["executable"]) == name
    assert (thread["python"], [frame["function"] for frame in thread["frames"]]) == (True, ["work"])

    status, report = operate("cancel", str(tid))
    assert (status, report["outcome"]) == (0, "ended"), report
    for _ in waiting("finally ran"):
        if target.ask("status")["ended"]:
            break
    assert "TracerPid:\t0\n" in Path(f"/proc/{target.pid}/status").read_text()
    target.finish()

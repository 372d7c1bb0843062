"""Builds of CPython that are not the usual ones: without a GIL, with a JIT compiler, embedded, frozen, with musl."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import threadsurgeon
from tests.integration import test_locks
from tests.integration.command import run
from tests.integration.test_list import printable
from tests.zoo import embedded, frozen
from tests.zoo.pythons import Python, select
from tests.zoo.script import Script, script
from tests.zoo.victim import Victim, waiting

Start = Callable[..., Victim]

pytestmark = pytest.mark.usefixtures("gdb")

NANOSLEEP, CLOCK_NANOSLEEP, SELECT, PSELECT6, FUTEX = 35, 230, 23, 270, 202

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

# One after the other; who counts keeps the GIL to itself.
IN_TURN = """
import itertools
go, ended, held = [threading.Event() for _ in range(20)], [], threading.Lock()

def loop():
    while True:
        pass

def sleep():
    time.sleep(100000)

def wait():
    held.acquire()

def count():
    sum(itertools.count())

def work(number, function):
    go[number].wait()
    try:
        function()
    finally:
        ended.append(number)

held.acquire()
functions = [loop, sleep, wait, count] * (len(go) // 4)
threads = [threading.Thread(target=work, args=pair) for pair in enumerate(functions)]
for thread in threads:
    thread.start()
ready(threads)
for number, thread in enumerate(threads):
    hear()
    go[number].set()
    thread.join()
    say(ended=ended)
hear()
"""


def pythons(request: pytest.FixtureRequest) -> list[Python]:
    return select(str(request.config.getoption("--pythons")))


def nth(found: list[Python], number: int) -> Python:
    if number >= len(found):
        pytest.skip("fewer such builds are found on this machine")
    return found[number]


@pytest.fixture(params=[0, 1, 2, 3])
def free_threaded(request: pytest.FixtureRequest) -> Python:
    """Every free-threaded build found."""
    found = [python for python in pythons(request) if python.free_threaded]
    return nth(found, request.param)


@pytest.fixture(params=[0, 1, 2, 3])
def with_jit(request: pytest.FixtureRequest) -> Python:
    """Every build with a JIT compiler."""
    found = [python for python in pythons(request) if python.version >= (3, 14) and python.has_jit]
    return nth(found, request.param)


@pytest.fixture
def with_musl(request: pytest.FixtureRequest) -> Python:
    """One whose C library is musl; every test with victims runs on all of them."""
    return nth([python for python in pythons(request) if python.musl], 0)


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


def operate(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the command, and return its exit status and its report."""
    result = run(*arguments, "--json")
    assert result.stdout, result.stderr
    return result.returncode, json.loads(result.stdout)


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

            # "unwound": on its way out it waited for the collector so long that we did not wait for its end
            assert status == 0, (number, kind, report)
            assert report["outcome"] in ("ended", "unwound")
            assert target.ask("join") == {"joined": True, "tidied": True}
        target.finish()


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


def test_locks_with_musl(with_musl: Python) -> None:
    """Who waits for whom is read from Python's objects, and from arguments of calls that every C library makes."""
    test_locks.test_every_kind_of_wait_is_found(with_musl)


def test_threads_with_musl_end_in_a_row(with_musl: Python) -> None:
    """By raise, interrupt and cut in turn, in one process, which ends in order."""
    techniques = itertools.cycle([("loop", "raise"), ("sleep", "interrupt"), ("wait", "interrupt"), ("count", "cut")])
    with script(with_musl, IN_TURN) as target:
        for number, (tid, (function, technique)) in enumerate(zip(target.tids, techniques, strict=False)):
            target.tell("next")
            for _ in waiting(f"{function} is what it is in"):
                (thread,) = [thread for thread in threadsurgeon.list_threads(target.pid).threads if thread.tid == tid]
                if [frame.function for frame in thread.frames[:1]] == [function]:
                    break
            report = threadsurgeon.kill(tid, pid=target.pid, grace=2.0)

            assert (report.outcome.is_success, report.technique) == (True, technique), report
            assert target.answer() == {"ended": [*range(number + 1)]}
        target.finish()


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

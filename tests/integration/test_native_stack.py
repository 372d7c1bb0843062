"""Native and Python frames in one list, against threads that know how they got where they are; none is the worse for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest

import threadsurgeon
from tests.integration.command import run
from tests.zoo.behaviours import Behaviour
from tests.zoo.patient import Patient, patient
from tests.zoo.pythons import Python
from tests.zoo.script import script
from tests.zoo.victim import Victim, waiting
from threadsurgeon import native_stack
from threadsurgeon.errors import Refused
from threadsurgeon.model.native import NativeCall, NativeStack
from threadsurgeon.model.threads import Frame

pytestmark = pytest.mark.usefixtures("gdb")

# Each function calls the one above it: directly, or through C.
CODE = """
import ctypes, functools, traceback, zlib

reader, writer = os.pipe()
truth, stopping = {}, []

def bottom():
    truth[threading.get_native_id()] = [frame.name for frame in reversed(traceback.extract_stack())]
    os.read(reader, 1)

def direct():
    bottom()

def by_sorted():
    sorted([1], key=lambda one: direct())

def by_map():
    list(map(lambda one: by_sorted(), [1]))

def by_reduce():
    functools.reduce(lambda one, two: by_map(), [1, 2])

def by_callback():
    ctypes.CFUNCTYPE(None)(by_reduce)()

def generator():
    yield by_callback()

def by_generator():
    list(generator())

def sleep():
    truth[threading.get_native_id()] = []
    while not stopping:
        time.sleep(0.2)

def compress():
    truth[threading.get_native_id()] = []
    while not stopping:
        zlib.compress(bytes(range(256)) * 4096)

threads = [threading.Thread(target=function) for function in (by_generator, sleep, compress)]
for thread in threads:
    thread.start()
while len(truth) < len(threads):
    time.sleep(0.001)
ready(threads)
say(names=truth[threads[0].native_id])
hear()
stopping.append(1)
os.write(writer, b"x")
for thread in threads:
    thread.join()
"""
READ = 0
THROUGH_C = ["by_sorted", "by_map", "by_reduce", "by_callback"]


def test_python_frames_stand_where_they_are_run(python: Python) -> None:
    """All Python frames, in order; native ones between two exactly where one called the other through C."""
    with script(python, CODE) as process:
        names = process.answer()["names"]
        nested, *_ = process.tids
        process.wait_until_in(nested, READ)

        stack = threadsurgeon.find_native_stack(nested)

        assert stack.warnings == ()
        functions = [frame.function for frame in stack.merged if isinstance(frame, Frame)]
        assert functions[: len(names)] == names
        assert [frame for frame in stack.merged if isinstance(frame, Frame)] == list(stack.thread.frames)
        assert isinstance(stack.merged[0], NativeCall)
        assert stack.merged[0].function in ("read", "__read", None)
        through_c = {(inner, outer) for inner, outer in pairs(stack) if native_between(stack, inner, outer)}
        for outer in THROUGH_C:
            inner = functions[functions.index(outer) - 1]
            assert (inner, outer) in through_c
        if python.version >= (3, 11):  # one eval loop runs both
            assert ("bottom", "direct") not in through_c
            assert ("by_sorted", "<lambda>") not in through_c
        assert isinstance(stack.merged[-1], NativeCall)  # where the C library begins a thread
        assert stack.stopped_seconds > 0
        process.finish()


def test_names_are_those_that_libraries_export(python: Python) -> None:
    """A sleep ends in the C library's own call, compression in zlib's; each above the Python frame that called it."""
    with script(python, CODE) as process:
        process.answer()
        _, sleeping, compressing = process.tids

        for _ in waiting("a sleep is seen", pause=0.01):
            above = names_above(threadsurgeon.find_native_stack(sleeping), "sleep")
            if above & {"clock_nanosleep", "select"}:
                break
        for _ in waiting("compression is seen", pause=0.01):
            if "deflate" in names_above(threadsurgeon.find_native_stack(compressing), "compress"):
                break
        process.finish()


@pytest.mark.parametrize(("kind", "function"), [("sum", "add"), ("call", "call"), ("read", "read"), ("busy", "busy")])
def test_thread_goes_on_as_if_nothing_had_been(kind: str, function: str, python: Python) -> None:
    """Looked at three times, a thread that computes or waits is where it was, and ends in order when its work is done."""
    with patient(python) as process:
        tid = process.get_stuck(kind)
        for _ in range(3):
            stack = threadsurgeon.find_native_stack(tid)
            assert process.traced_or_stopped() == []

        functions = [frame.function for frame in stack.merged if isinstance(frame, Frame)]
        assert function in functions[:2]
        assert kind == "busy" or isinstance(stack.merged[0], NativeCall)
        if kind == "call":
            assert stack.merged[0].function in ("read", "__read", None)
        assert_well(process)


def assert_well(process: Patient) -> None:
    facts = process.release()
    assert (facts["joined"], facts["free"], facts["ticked"], facts["passed"], facts["tidied"]) == (True,) * 5
    process.process.finish()


@pytest.mark.behaviours("native_thread")
def test_thread_without_python_has_native_frames_only(
    python: Python, behaviour: Behaviour, stuck: Callable[..., Victim]
) -> None:
    """It is shown with what its libraries name, to the C library's start of it."""
    victim = stuck(python, behaviour)

    stack = threadsurgeon.find_native_stack(victim.tid)

    assert not stack.thread.python
    assert len(stack.merged) >= 2
    assert all(isinstance(frame, NativeCall) for frame in stack.merged)
    assert stack.warnings == ()
    victim.assert_lives_on(unwound=False)


def test_main_thread_is_refused_with_the_reason(any_python: Python) -> None:
    """To trace it would stop all threads; what can be seen without is named."""
    with patient(any_python) as process:
        result = run("stack", "--native", str(process.pid))

        assert result.returncode == 5
        assert "main thread" in result.stderr
        assert f"threadsurgeon stack {process.pid}" in result.stderr
        assert process.traced_or_stopped() == []


def test_json_has_both_lists(any_python: Python) -> None:
    """``frames`` is as without ``--native``; ``merged`` tells native from Python frames, and files from addresses."""
    with patient(any_python) as process:
        tid = process.get_stuck("read")
        result = run("stack", "--native", str(tid), "--json")
        text = run("stack", "--native", str(tid))

        assert (result.returncode, result.stderr) == (0, "")
        answer = json.loads(result.stdout)
        python_frames = [frame for frame in answer["merged"] if frame.pop("kind") == "python"]
        assert python_frames == answer["frames"] == json.loads(run("stack", str(tid), "--json").stdout)["frames"]
        native = [frame for frame in answer["merged"] if "offset" in frame]
        assert all(frame["file"].startswith("/") and frame["offset"] > 0 for frame in native)
        assert answer["stopped_seconds"] > 0
        assert "this thread only" in text.stdout
        assert_well(process)


def test_interrupted_it_lets_go(any_python: Python, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the thread is held: it is free before anybody hears of it."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(native_stack, "copy_stack", interrupted)
    with patient(any_python) as process:
        tid = process.get_stuck("read")
        with pytest.raises(KeyboardInterrupt):
            threadsurgeon.find_native_stack(tid)

        assert process.traced_or_stopped() == []
        with pytest.raises(Refused):
            threadsurgeon.find_native_stack(process.pid)
        assert_well(process)


def pairs(stack: NativeStack) -> list[tuple[str, str]]:
    """Each Python frame's function with its caller's."""
    return list(pairwise(frame.function for frame in stack.merged if isinstance(frame, Frame)))


def native_between(stack: NativeStack, inner: str, outer: str) -> bool:
    """Whether native frames stand between these two, the first time that they follow each other."""
    positions = [index for index, frame in enumerate(stack.merged) if isinstance(frame, Frame)]
    for first, second in pairwise(positions):
        if (stack.merged[first].function, stack.merged[second].function) == (inner, outer):
            return second - first > 1
    raise AssertionError((inner, outer))


def names_above(stack: NativeStack, function: str) -> set[str | None]:
    """The names of the native frames above the innermost frame of a Python function."""
    names = set()
    for frame in stack.merged:
        if isinstance(frame, Frame):
            assert frame.function == function
            break
        names.add(frame.function)
    return names

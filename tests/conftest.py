"""Which CPythons the tests run on, and what a test needs before it may touch a process."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # `pytest` without `python -m`

from tests.zoo import victim as zoo
from tests.zoo.behaviours import Behaviour, all_behaviours
from tests.zoo.pythons import Python, select


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pythons",
        default=os.environ.get("THREADSURGEON_TEST_PYTHONS", ""),
        metavar="NAMES",
        help="only the interpreters that match: 3.8,3.14 or parts of names such as pyenv (default: all found)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "behaviours(*names): run with these victims only, of those each interpreter can run")


def pytest_report_header(config: pytest.Config) -> str:
    if all("unit" in argument for argument in config.args):
        return "pythons: not looked for (unit tests)"
    names = [python.name for python in select(config.getoption("--pythons"))]
    return f"pythons: {', '.join(names) or 'none'}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``python``: every interpreter found, not yet free-threaded ones; with ``behaviour``: every victim it runs.

    Without, those with musl are left out, too: what is particular to a C library is asserted of glibc.
    """
    if "python" not in metafunc.fixturenames:
        return
    pythons = [python for python in select(metafunc.config.getoption("--pythons")) if not python.free_threaded]
    if "behaviour" not in metafunc.fixturenames:
        metafunc.parametrize("python", [python for python in pythons if python.is_usual], ids=str)
        return
    marker = metafunc.definition.get_closest_marker("behaviours")
    names = marker.args if marker else tuple(all_behaviours())
    pairs = [(p, all_behaviours()[name]) for p in pythons for name in names if all_behaviours()[name].runs_on(p)]
    metafunc.parametrize(("python", "behaviour"), pairs, ids=[f"{b.name}-{p.name}" for p, b in pairs])


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard() -> None:
    """A shell has what it starts in the background ignore SIGINT, nohup SIGHUP, and so do children: some tests send one."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """After the last test no victim and no gdb of ours is left."""
    yield
    import psutil

    left = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    assert [child.cmdline() for child in left] == []


@pytest.fixture
def start() -> Iterator[Callable[..., zoo.Victim]]:
    """Start a victim that is gone when the test is."""
    with ExitStack() as stack:
        yield lambda python, behaviour, **environment: stack.enter_context(zoo.start(python, behaviour, **environment))


@pytest.fixture
def stuck() -> Iterator[Callable[..., zoo.Victim]]:
    """Start a victim and wait until it is stuck; it is gone when the test is."""
    with ExitStack() as stack:
        yield lambda python, behaviour, **environment: stack.enter_context(zoo.stuck(python, behaviour, **environment))


@pytest.fixture(scope="session")
def gdb() -> str:
    """Skip where there is no gdb."""
    path = shutil.which("gdb")
    if path is None:
        pytest.skip("there is no gdb here")
    return path


@pytest.fixture(scope="session")
def any_python(request: pytest.FixtureRequest) -> Python:
    """One interpreter, for what does not depend on its version."""
    pythons = [p for p in select(request.config.getoption("--pythons")) if p.is_usual and not p.debug]
    if not pythons:
        pytest.skip("no CPython found to operate on")
    return pythons[-1]


__all__ = ["Behaviour", "Python"]

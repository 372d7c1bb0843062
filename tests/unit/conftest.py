"""Interpreters that the readers are tried on: our own, and one idle child of each CPython found."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fake_memory import Heap
from tests.zoo import pythons
from threadsurgeon.cpython.layout import find_layout
from threadsurgeon.cpython.runtime import Runtime, find_runtime
from threadsurgeon.linux.mappings import iterate_images
from threadsurgeon.linux.memory import ProcessMemory

SAMPLES = Path(__file__).with_name("samples.py")
LAYOUTS = [(8, False), (10, False), (11, False), (12, False), (13, False), (14, False), (14, True)]


@dataclass
class Sampled:
    """An interpreter, and what it said of objects in it."""

    memory: ProcessMemory
    runtime: Runtime
    said: dict[str, Any]


@pytest.fixture(scope="session")
def own_memory():
    return ProcessMemory(os.getpid())


@pytest.fixture(scope="session")
def own_runtime(own_memory):
    return find_runtime(own_memory, iterate_images(os.getpid()))


def pytest_generate_tests(metafunc):
    """``sampled``: one interpreter of each version and build found."""
    if "sampled" in metafunc.fixturenames:
        chosen = {(python.version[:2], python.build): python for python in pythons.select() if not python.musl}
        metafunc.parametrize("sampled", chosen.values(), ids=str, indirect=True, scope="session")


@pytest.fixture(scope="session")
def sampled(request):
    """A child that made objects, said where they are, and waits."""
    command = [request.param.command, "-I", "-X", "utf8", str(SAMPLES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        said = json.loads(child.stdout.readline())
        memory = ProcessMemory(child.pid)
        yield Sampled(memory, find_runtime(memory, iterate_images(child.pid)), said)
        child.stdin.close()


@pytest.fixture(params=LAYOUTS, ids=lambda param: f"3.{param[0]}{'t' if param[1] else ''}")
def heap(request):
    """Fake memory of a version, to put objects into."""
    minor, free_threaded = request.param
    return Heap(find_layout((3, minor), debug=False, free_threaded=free_threaded))

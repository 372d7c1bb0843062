"""Finding the interpreter: which version and build it is, or why it is none of ours."""

import os
import sys
import sysconfig
import time
from types import SimpleNamespace

import pytest

from tests.unit.fake_memory import FakeMemory
from threadsurgeon.cpython.layout import find_layout
from threadsurgeon.cpython.runtime import Runtime, find_runtime
from threadsurgeon.errors import NotPython, UnsupportedPython
from threadsurgeon.linux.memory import BadAddress

RUNTIME, VERSION, DATA = 0x10000, 0x20000, 0x30000


class FakeImage:
    """An ELF file at its place, with some symbols."""

    def __init__(self, path="/usr/bin/python3", size=4096, **symbols):
        self.file = SimpleNamespace(path=path)
        self.symbols = symbols
        self.size = size

    def symbol(self, name):
        return self.symbols.get(name)

    def writable_ranges(self):
        return [(0x999, 10), (DATA, self.size)]


def python(version_hex=None, text=None, **symbols):
    """Memory and image of a CPython that says its version as a number, or as text only."""
    memory = FakeMemory({RUNTIME: bytes(4096)})
    symbols = {"_PyRuntime": RUNTIME, **symbols}
    if version_hex is not None:
        memory.write_pointer(VERSION, version_hex)
        symbols["Py_Version"] = VERSION
    memory.write(DATA, (text or b"").ljust(4096, b"\0"))
    return memory, FakeImage(**symbols)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (b"3.8.18 (default, Jan  1 2024, 10:00:00) \n[GCC 12.2.0]", "3.8.18"),
        (b"3.10.13 (main, Jan  1 2024, 10:00:00) [GCC 12.2.0]", "3.10.13"),
        (b"3.9.18+ (heads/3.9:abc, Jan  1 2024) \n[Clang 14.0]", "3.9.18+"),
        (b"3.10.0rc2 (main) [GCC]", "3.10.0rc2"),
        (b"1.2.3 of something\0" + b"\0" * 100 + b"3.9.1 (default, x) \n[GCC", "3.9.1"),
        (b"3.9.1" + b"\0" * 500 + b"3.8.2 (default, x) \n[GCC", "3.8.2"),
    ],
)
def test_version_is_found_in_the_text_before_3_11(text, version):
    """What Py_GetVersion() composed; other numbers and unreadable segments do not mislead."""
    memory, image = python(text=b"\0\0" + text)
    runtime = find_runtime(memory, [image])

    assert (runtime.version, runtime.address, runtime.build) == (version, RUNTIME, "release")
    assert runtime.layout.version == tuple(map(int, version.rstrip("+").split("rc")[0].split(".")[:2]))


def test_search_for_the_version_takes_no_minutes():
    """In megabytes of zeroes, of numbers, and of what nearly is a version."""
    begin = time.monotonic()
    for filler in (b"\0", b"3.8.1", b"3.8.1 (", b"3.8.1\0", b"3.8.1 (x) "):
        memory, _ = python()
        size = 2 * 1024 * 1024
        memory.segments[DATA] = bytearray((filler * (size // len(filler) + 1))[:size])
        with pytest.raises(UnsupportedPython, match="does not tell its version"):
            find_runtime(memory, [FakeImage(size=size, _PyRuntime=RUNTIME)])

    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("number", "version"), [(0x030B07F0, "3.11.7"), (0x030C0000 | 0xA1, "3.12.0a1"), (0x030C01C2, "3.12.1rc2")]
)
def test_version_is_read_from_3_11_on(number, version):
    """As a number, pre-releases too."""
    assert find_runtime(*wrap(python(number))).version == version


def wrap(pair):
    memory, image = pair
    return memory, [image]


@pytest.mark.parametrize("number", [0x030707F0, 0x031000F0, 0x02071200, 0x040000F0, 0x036300F0])
def test_unknown_version_is_named(number):
    """Too old or too new: which, and what would be supported."""
    with pytest.raises(UnsupportedPython) as caught:
        find_runtime(*wrap(python(number)))

    assert f"{number >> 24}.{number >> 16 & 255}." in str(caught.value)
    assert "3.8 to 3.15" in caught.value.hint


def test_cpython_before_3_7_is_named():
    """It has no _PyRuntime; its version is in the text all the same."""
    memory, image = python(text=b"3.6.15 (default, x) \n[GCC 12]")
    image.symbols = {"PyInterpreterState_Head": 0x1}

    with pytest.raises(UnsupportedPython, match=r"3\.6\.15"):
        find_runtime(memory, [image])


@pytest.mark.parametrize("path", ["/opt/pypy/bin/pypy3.9", "/opt/pypy/bin/libpypy3.9-c.so"])
def test_pypy_is_recognised(path):
    """By its name: it exports some of the same symbols."""
    with pytest.raises(NotPython, match="PyPy"):
        find_runtime(FakeMemory(), [FakeImage(path, PyInterpreterState_Head=1)])


@pytest.mark.parametrize("images", [[], [FakeImage("/bin/sleep"), FakeImage("/lib/libc.so.6")]])
def test_other_program_is_not_python(images):
    """Nothing in it exports an interpreter."""
    with pytest.raises(NotPython):
        find_runtime(FakeMemory(), images)


@pytest.mark.parametrize("symbol", ["_Py_RefTotal", "_Py_GetGlobalRefTotal"])
def test_debug_build_is_recognised(symbol):
    """By what only such a build exports; it has a layout of its own."""
    runtime = find_runtime(*wrap(python(0x030B07F0, **{symbol: 0x5})))

    assert runtime.build == "debug"
    assert runtime.layout == find_layout((3, 11), debug=True, free_threaded=False)


def test_unreadable_version_is_an_error_of_ours():
    """The image says where, and memory has nothing there."""
    with pytest.raises((UnsupportedPython, BadAddress)):
        find_runtime(FakeMemory(), [FakeImage(_PyRuntime=RUNTIME, Py_Version=VERSION)])


def test_target_that_does_not_describe_itself_is_refused():
    """From 3.13 on the description is demanded."""
    with pytest.raises(UnsupportedPython, match="describe"):
        find_runtime(*wrap(python(0x030D00F0)))


def test_first_image_with_an_interpreter_is_taken():
    """Others are not even looked at."""

    def images():
        yield FakeImage("/lib/libc.so.6")
        yield image
        raise AssertionError

    memory, image = python(0x030C01F0)

    assert find_runtime(memory, images()).image is image


@pytest.mark.parametrize(
    ("debug", "free_threaded", "build"),
    [(False, False, "release"), (True, False, "debug"), (False, True, "free-threaded"), (True, True, "free-threaded debug")],
)
def test_kinds_of_build_have_names(debug, free_threaded, build):
    """Those that people know."""
    layout = find_layout((3, 13), debug=debug, free_threaded=free_threaded)

    assert Runtime(0, "3.13.0", layout, None).build == build


def test_missing_symbol_is_named():
    """A fully stripped static program."""
    memory, image = python(0x030C01F0)

    with pytest.raises(UnsupportedPython, match="/usr/bin/python3 does not export PyErr_SetNone"):
        find_runtime(memory, [image]).symbol("PyErr_SetNone")


def test_own_interpreter_is_found(own_runtime):
    """Version and build as Python says of itself."""
    kinds = ["free-threaded"] * bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    kinds += ["debug"] * hasattr(sys, "gettotalrefcount")

    assert own_runtime.version.split("+")[0] == sys.version.split()[0].rstrip("+")
    assert own_runtime.layout.version == sys.version_info[:2]
    assert own_runtime.build == (" ".join(kinds) or "release")
    assert own_runtime.problem is None
    assert os.path.exists(own_runtime.image.file.path)

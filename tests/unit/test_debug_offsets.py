"""What a target says of itself: believed where it is possible, refused where it is not."""

import struct

import pytest

from threadsurgeon.cpython.debug_offsets import described_fields, parse_version, read_debug_offsets
from threadsurgeon.cpython.layout import find_layout
from threadsurgeon.errors import UnsupportedPython
from threadsurgeon.linux.memory import BadAddress

RUNTIME = 0x7F0000001000
MINORS = [13, 14, 15]
SIZES = {"size", "asciiobject_size", "compactunicodeobject_size"}


class FakeMemory:
    """Some bytes at one address."""

    def __init__(self, address, content):
        self.address, self.content = address, content

    def read(self, address, size):
        start = address - self.address
        if start < 0 or start + size > len(self.content):
            raise BadAddress(address, size)
        return self.content[start : start + size]

    def read_many(self, ranges):
        raise NotImplementedError


def hex_version(minor, micro=5, level=0xF, serial=0):
    return 3 << 24 | minor << 16 | micro << 8 | level << 4 | serial


def target(minor, changes=None, *, version=None, cookie=b"xdebugpy", free_threaded=0, debug=False):
    """The memory of a target that says what our table says, but for the changes: {(section, field): value}."""
    table = find_layout((3, minor), debug=debug, free_threaded=bool(free_threaded))
    gil = 8000  # where the interpreter embeds its GIL: not among the fields we use
    words = {(s, f): getattr(getattr(table, s, None), f, None) for s, f in described_fields(minor)}
    words |= {
        ("interpreter_state", "gil_runtime_state"): gil,
        ("interpreter_state", "gil_runtime_state_enabled"): table.gil_runtime_state.enabled,
        ("interpreter_state", "gil_runtime_state_locked"): gil + table.gil_runtime_state.locked,
        ("interpreter_state", "gil_runtime_state_holder"): gil + table.gil_runtime_state.last_holder,
        ("bytes_object", "size"): 56,
        ("long_object", "size"): 48,
        ("unicode_object", "size"): 80,
    }
    if minor >= 14:
        words["debugger_support", "eval_breaker"] = table.thread_state.eval_breaker
    for place, value in (changes or {}).items():
        assert place in words
        words[place] = value
    head = struct.pack("<8sQQ", cookie, hex_version(minor) if version is None else version, free_threaded)
    body = b"".join(struct.pack("<Q", 0 if word is None else word) for word in words.values())
    return FakeMemory(RUNTIME, head + body)


def used(minor):
    """The described fields that end up in a layout, but for the GIL's, with the layout's name for them."""
    table = find_layout((3, minor), debug=False, free_threaded=False)
    for section, field in described_fields(minor):
        if (section, field) == ("debugger_support", "eval_breaker"):
            yield section, field, ("thread_state", "eval_breaker")
        elif getattr(getattr(table, section, None), field, None) is not None:
            yield section, field, (section, field)


USED = [(minor, *names) for minor in MINORS for names in used(minor)]


@pytest.mark.parametrize("free_threaded", [0, 1])
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("minor", MINORS)
def test_a_target_that_agrees_has_the_layout_of_the_table(minor, debug, free_threaded):
    """Where target and table agree, the result is the table's layout."""
    memory = target(minor, free_threaded=free_threaded, debug=debug)
    offsets = read_debug_offsets(memory, RUNTIME, debug=debug)

    assert offsets.layout == find_layout((3, minor), debug=debug, free_threaded=bool(free_threaded))
    assert offsets.differs == ()
    assert offsets.version == (3, minor, 5, "final", 0)


@pytest.mark.parametrize(("minor", "section", "field", "ours"), USED)
def test_the_target_is_believed_and_the_difference_named(minor, section, field, ours):
    """A possible value goes before the table's, and a field that differs is named (sizes are free to grow)."""
    table = find_layout((3, minor), debug=False, free_threaded=False)
    old = getattr(getattr(table, ours[0]), ours[1])
    new = old + 8 if field in SIZES else 0 if old else 8
    offsets = read_debug_offsets(target(minor, {(section, field): new}), RUNTIME, debug=False)

    assert getattr(getattr(offsets.layout, ours[0]), ours[1]) == new
    assert offsets.layout == table.replace(**{ours[0]: getattr(table, ours[0]).replace(**{ours[1]: new})})
    assert offsets.differs == (() if field == "size" else (".".join(ours),))


@pytest.mark.parametrize("value", [2**64 - 1, 2**63, 2**32], ids=hex)
@pytest.mark.parametrize(("minor", "section", "field", "ours"), USED)
def test_impossible_values_are_refused(minor, section, field, ours, value):
    """A field outside its struct, or a size beyond reason, is refused with its name and value."""
    with pytest.raises(UnsupportedPython, match=rf"{'.'.join(ours)} is {value}"):
        read_debug_offsets(target(minor, {(section, field): value}), RUNTIME, debug=False)


@pytest.mark.parametrize(("minor", "section", "field", "ours"), USED)
def test_values_that_no_compiler_gives_are_refused(minor, section, field, ours):
    """A field that is not aligned is refused, and so is a size that is no multiple of eight; bytes lie anywhere."""
    value = getattr(getattr(find_layout((3, minor), debug=False, free_threaded=False), ours[0]), ours[1]) - 1
    memory = target(minor, {(section, field): max(value, 1)})
    if field in {"owner", "ob_sval"}:
        assert read_debug_offsets(memory, RUNTIME, debug=False).differs == (".".join(ours),)
    else:
        with pytest.raises(UnsupportedPython, match=rf"{'.'.join(ours)} is"):
            read_debug_offsets(memory, RUNTIME, debug=False)


@pytest.mark.parametrize("section", ["runtime_state", "thread_state", "bytes_object", "unicode_object"])
def test_a_struct_of_no_size_is_refused(section):
    """The size bounds the other fields, so it is checked even where no layout keeps it."""
    with pytest.raises(UnsupportedPython, match=rf"{section}\.size is 0"):
        read_debug_offsets(target(14, {(section, "size"): 0}), RUNTIME, debug=False)


@pytest.mark.parametrize("value", [0, 8000 - 8, 8000 + 4096], ids=str)
@pytest.mark.parametrize("field", ["gil_runtime_state_locked", "gil_runtime_state_holder"])
def test_fields_outside_the_gil_are_refused(field, value):
    """The GIL's fields are told relative to the interpreter; outside the GIL they are impossible."""
    with pytest.raises(UnsupportedPython, match=r"gil_runtime_state\."):
        read_debug_offsets(target(14, {("interpreter_state", field): value}), RUNTIME, debug=False)


def test_gil_fields_that_moved_are_named():
    """The GIL's fields follow the interpreter's description."""
    memory = target(13, {("interpreter_state", "gil_runtime_state_locked"): 8000 + 32})
    offsets = read_debug_offsets(memory, RUNTIME, debug=False)

    assert offsets.layout.gil_runtime_state.locked == 32
    assert offsets.differs == ("gil_runtime_state.locked",)


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (target(13, cookie=b"xdebugpZ"), "cookie"),
        (target(13, cookie=bytes(8)), "cookie"),
        (target(13, version=hex_version(12)), r"no layout for Python 3\.12\.5"),
        (target(13, version=hex_version(99)), r"no layout for Python 3\.99\.5"),
        (target(15, version=hex_version(15, 0, 0xA, 3)), r"3\.15\.0a3 is a pre-release"),
        (target(15, version=hex_version(15, 0, 0xB, 1)), r"3\.15\.0b1 is a pre-release"),
        (target(13, version=2**63), "not a version"),
        (target(13, version=0), "not a version"),
    ],
)
def test_other_heads_are_refused(memory, message):
    """What does not begin as a description of a version we know is refused."""
    with pytest.raises(UnsupportedPython, match=message):
        read_debug_offsets(memory, RUNTIME, debug=False)


def test_a_free_threaded_flag_is_a_flag():
    """Any other value than 0 and 1 is refused."""
    memory = target(13)
    memory.content = memory.content[:16] + struct.pack("<Q", 2) + memory.content[24:]

    with pytest.raises(UnsupportedPython, match="free_threaded is 2"):
        read_debug_offsets(memory, RUNTIME, debug=False)


def test_a_description_that_ends_early_is_unreadable():
    """Errors of the memory pass."""
    memory = target(14)
    memory.content = memory.content[:-8]

    with pytest.raises(BadAddress):
        read_debug_offsets(memory, RUNTIME, debug=False)


@pytest.mark.parametrize(
    ("version_hex", "expected", "text"),
    [
        (0x030D05F0, (3, 13, 5, "final", 0), "3.13.5"),
        (0x030E00C2, (3, 14, 0, "candidate", 2), "3.14.0rc2"),
        (0x030F00B1, (3, 15, 0, "beta", 1), "3.15.0b1"),
        (0x030B00A7, (3, 11, 0, "alpha", 7), "3.11.0a7"),
    ],
)
def test_versions_read_as_people_write_them(version_hex, expected, text):
    """PY_VERSION_HEX is taken apart as sys.version_info is."""
    version = parse_version(version_hex)

    assert version == expected
    assert str(version) == text

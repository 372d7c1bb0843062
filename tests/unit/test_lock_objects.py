"""The state of locks in each shape they have had, and the names of types."""

import struct

import pytest

from threadsurgeon.cpython.lock_objects import HEAP_TYPE, LOCK, RLOCK, LockReader, LockState
from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.cpython.reading import walk_alone
from threadsurgeon.linux.memory import BadAddress

IDENT = 0x7F12_3456_7000


def make_type(heap, name, size=0, base=0, module=None):
    layout = heap.layout.type_object
    fields = {
        layout.tp_name: heap.allocate(name.encode() + bytes(256)) if isinstance(name, str) else name,
        layout.tp_basicsize: size,
        layout.tp_base: base,
        layout.tp_flags: HEAP_TYPE if module is not None else 0,
        layout.tp_dict: heap.dict({"other": heap.number(1), "__module__": module}) if module is not None else 0,
    }
    return heap.allocate(heap.struct(layout.size, fields))


def read_type(heap, address):
    return walk_alone(heap.memory, LockReader(ObjectReader(heap.layout)).read_type(address))


def read_lock(heap, kind, content, *, size=None, base_name=None):
    """Read a lock with this content behind its PyObject, of a type of its own if ``base_name`` is given."""
    header = heap.layout.pyobject.size
    type_address = make_type(heap, base_name or kind, header + len(content) if size is None else size)
    if base_name is not None:
        type_address = make_type(heap, kind, 200, type_address, heap.text("module"))
    address = heap.allocate(heap.struct(header, {heap.layout.pyobject.ob_type: type_address}) + content)
    reader = LockReader(ObjectReader(heap.layout))
    type_name = walk_alone(heap.memory, reader.read_type_of(address))
    return walk_alone(heap.memory, reader.read_lock(address, type_name))


@pytest.mark.parametrize("locked", [0, 1])
def test_plain_locks(heap, locked):
    """With a lock of pthreads inside, and as a PyMutex, whose other bit says that somebody waits."""
    assert read_lock(heap, LOCK, struct.pack("<QQQ", 1, 1, locked)) == LockState(bool(locked), None, locked)
    assert read_lock(heap, LOCK, struct.pack("<Q", locked | 2)) == LockState(bool(locked), None, locked)


@pytest.mark.parametrize("times", [1, 2, 7])
def test_reentrant_locks(heap, times):
    """Up to 3.13 with a count, later with a level, which is one less."""
    assert read_lock(heap, RLOCK, struct.pack("<QQQQ", 1, IDENT, times, 0)) == LockState(True, IDENT, times)
    assert read_lock(heap, RLOCK, struct.pack("<QQQ", 1, IDENT, times - 1)) == LockState(True, IDENT, times)


def test_free_reentrant_locks(heap):
    """Nobody's, and taken no times."""
    assert read_lock(heap, RLOCK, bytes(32)) == LockState(False, 0, 0)
    assert read_lock(heap, RLOCK, bytes(24)) == LockState(False, 0, 0)


def test_derived_locks(heap):
    """A class derived from RLock is one, with more behind it."""
    assert read_lock(heap, "Mine", struct.pack("<QQQQ", 1, IDENT, 1, 0), base_name=RLOCK) == LockState(True, IDENT, 1)


@pytest.mark.parametrize("kind", [LOCK, RLOCK])
@pytest.mark.parametrize("size", [0, 8, 80, 2**40, -1])
def test_unknown_shapes_have_no_state(heap, kind, size):
    """A type that only has the name, or a version that nobody knows yet."""
    assert read_lock(heap, kind, b"\xff" * 16, size=size) is None


def test_other_objects_have_no_state(heap):
    """Anything else is no lock."""
    assert read_lock(heap, "_io.TextIOWrapper", b"\xff" * 32) is None


def test_names_of_types(heap):
    """Types made in C have the module in their name; those made by Python code in their dict."""
    module = heap.text("package.module")
    base = make_type(heap, "object", 16)
    made = make_type(heap, "Made", 48, base, module)

    assert read_type(heap, base).bases == (("object", 16),)
    assert read_type(heap, made).name == "package.module.Made"
    assert read_type(heap, made).find("object") == 16
    assert read_type(heap, make_type(heap, "Odd", 48, base, heap.number(1))).name == "Odd"


def test_name_at_the_end_of_mapped_memory(heap):
    """What follows its page is not read."""
    text = b"_thread.lock\0"
    page = heap.allocate(b"", before=text)

    assert read_type(heap, make_type(heap, page - len(text))).name == LOCK


def test_long_name_is_cut(heap):
    """After 256 bytes."""
    assert len(read_type(heap, make_type(heap, "x" * 1000)).name) == 256


@pytest.mark.parametrize("text", [b"\0", b"cut off"])
def test_what_is_no_name_is_no_type(heap, text):
    """Empty, or without an end where the mapped memory ends."""
    page = heap.allocate(b"", before=text)
    with pytest.raises(BadAddress):
        read_type(heap, make_type(heap, page - len(text)))


def test_types_that_lead_in_circles_end(heap):
    """A type that is its own base."""
    address = make_type(heap, "Loop")
    heap.memory.write_pointer(address + heap.layout.type_object.tp_base, address)

    assert 1 < len(read_type(heap, address).bases) < 100

"""What an object is called, and the state of the locks of the ``_thread`` module."""

from __future__ import annotations

import struct
from typing import NamedTuple

from threadsurgeon.cpython.objects import POINTER, ObjectReader
from threadsurgeon.cpython.reading import Walk
from threadsurgeon.linux.memory import BadAddress

MAX_NAME = 256  # bytes
PAGE = 4096
MAX_BASES = 16
HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
LOCK, RLOCK = "_thread.lock", "_thread.RLock"

_pointer = struct.Struct("<Q").unpack_from
_signed = struct.Struct("<q").unpack_from


class TypeName(NamedTuple):
    """A type: its name with its module, and those of its bases (``tp_base``), nearest first, with their instances' sizes."""

    name: str
    bases: tuple[tuple[str, int], ...]

    def find(self, name: str) -> int | None:
        """Return the size of that type's instances, if this is it or is derived from it."""
        return next((size for base, size in self.bases if base == name), None)

    @property
    def is_lock(self) -> bool:
        """Is it a lock of the ``_thread`` module?"""
        return self.find(LOCK) is not None or self.find(RLOCK) is not None


class LockState(NamedTuple):
    """A lock at one moment.

    ``owner`` is an ident, 0 while it is free, None for a plain lock, which has no owner. ``times``: how often it was taken.
    """

    locked: bool
    owner: int | None
    times: int


class LockReader:
    """Reads the names of types, and locks, of one target during one look. A type is read once."""

    def __init__(self, objects: ObjectReader) -> None:
        self._objects = objects
        self._layout = objects.layout
        self._types: dict[int, TypeName] = {}

    def read_type_of(self, address: int) -> Walk[TypeName]:
        """Return the type of the object at the address."""
        type_address = yield from self._objects.read_pointer(address + self._layout.pyobject.ob_type)
        return (yield from self.read_type(type_address))

    def read_type(self, address: int) -> Walk[TypeName]:
        """Return the type at the address."""
        known = self._types.get(address)
        if known is not None:
            return known
        layout = self._layout.type_object
        bases: list[tuple[str, int]] = []
        base = address
        while base and len(bases) < MAX_BASES:
            content = yield (base, layout.size)
            name = yield from self._read_name(content)
            bases.append((name, _signed(content, layout.tp_basicsize)[0]))
            (base,) = _pointer(content, layout.tp_base)
        if not bases:
            raise BadAddress(address, layout.size)
        type_name = TypeName(bases[0][0], tuple(bases))
        self._types[address] = type_name
        return type_name

    def _read_name(self, content: bytes) -> Walk[str]:
        """Return ``tp_name``, with the module that a class made by Python code keeps apart."""
        layout = self._layout.type_object
        name = yield from self._read_text(_pointer(content, layout.tp_name)[0])
        (dictionary,) = _pointer(content, layout.tp_dict)
        if "." in name or not _pointer(content, layout.tp_flags)[0] & HEAP_TYPE or not dictionary:
            return name
        entries = yield from self._objects.read_dict(dictionary)
        found = yield from self._objects.find_items(entries, "__module__")
        if "__module__" not in found:
            return name
        try:
            module = yield from self._objects.read_str(found["__module__"])
        except BadAddress:  # a property, as in some metaclasses
            return name
        return f"{module}.{name}"

    def _read_text(self, address: int) -> Walk[str]:
        """Return the C string at the address. What follows the page it begins in may not be mapped."""
        first = min(MAX_NAME, PAGE - address % PAGE)
        begin, more = yield [(address, first), (address, MAX_NAME)]
        content = more or begin
        if content is None:
            raise BadAddress(address, first)
        text, end, _ = content.partition(b"\0")
        if not text or (not end and len(content) < MAX_NAME):
            raise BadAddress(address, first)
        return str(text.decode("utf-8", "replace"))

    def read_lock(self, address: int, type_name: TypeName) -> Walk[LockState | None]:
        """Return the state of a ``_thread.lock`` or ``_thread.RLock``, None for any other object.

        Both are structs of Modules/_threadmodule.c, which no header shows, and changed within 3.13: their size tells
        which they are. What follows the PyObject:

        ===== ==== =================================================================================================
        RLock 32   ``rlock_lock``, ``rlock_owner``, ``rlock_count``, ``in_weakreflist``: up to 3.13
        RLock 24   ``_PyRecursiveMutex``: mutex, ``thread``, ``level`` (one less than the count): 3.14 on
        lock  24   ``lock_lock``, ``in_weakreflist``, ``char locked``: up to early 3.13
        lock  8    ``PyMutex``, whose bit 0 says locked: later 3.13, 3.14 on
        ===== ==== =================================================================================================
        """
        header = self._layout.pyobject.size
        size = type_name.find(RLOCK)
        if size is not None:
            if size - header not in (24, 32):
                return None
            content = yield (address + header + POINTER, 2 * POINTER)
            owner, times = struct.unpack("<QQ", content)
            if size - header == 24 and owner:
                times += 1
            return LockState(owner != 0, owner, times)
        size = type_name.find(LOCK)
        if size is None or size - header not in (8, 24):
            return None
        content = yield (address + header + (0 if size - header == 8 else 2 * POINTER), 1)
        return LockState(bool(content[0] & 1), None, content[0] & 1)

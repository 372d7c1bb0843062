"""What a wait for a lock is about: the lock itself, or the queue, the import, the thread… that is made of it."""

from __future__ import annotations

import struct
from typing import NamedTuple

from threadsurgeon.cpython.lock_objects import LOCK, RLOCK, LockReader
from threadsurgeon.cpython.lock_waits import MODULE_LOCK, SIMPLE_QUEUE, LockWait, Method
from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.cpython.reading import Walk
from threadsurgeon.linux.memory import BadAddress

JOINS = ("join", "_wait_for_tstate_lock", "_shutdown")  # functions of threading.py
_signed = struct.Struct("<q").unpack_from


class Resource(NamedTuple):
    """What threads wait for. Two that are equal: nothing has changed in between.

    ``lock``: the address of the object that a ``with`` block of its holder would be about, 0 where holding means nothing.
    ``owner``: the ident of the thread that holds it, where the object itself says so: 0 is nobody.
    ``locked``: the wait is not about to end; None where that cannot be told.
    """

    kind: str
    address: int
    lock: int = 0
    owner: int | None = None
    locked: bool | None = None
    detail: str = ""


class ResourceReader:
    """Reads what waits are about, during one look. ``joinable``: see ``read_joinable``."""

    def __init__(self, objects: ObjectReader, locks: LockReader, joinable: dict[int, int]) -> None:
        self._objects = objects
        self._locks = locks
        self._joinable = joinable

    def read(self, wait: LockWait) -> Walk[Resource | None]:
        """Return what the wait is about, None if it is for no lock of Python's."""
        joined = self._joinable.get(wait.native) or self._joinable.get(wait.address)
        if joined:
            return Resource("Thread", wait.native, owner=joined, locked=True)
        if wait.type_name == SIMPLE_QUEUE:
            return Resource("SimpleQueue", wait.address, locked=True, detail="empty")
        if not wait.address:
            return None
        type_name = yield from self._locks.read_type_of(wait.address)
        state = yield from self._locks.read_lock(wait.address, type_name)
        innermost = wait.methods[0] if wait.methods else None
        if innermost is not None and type_name.find(LOCK) is not None:
            if innermost.type_name == MODULE_LOCK:
                found = yield from self._read_import(innermost, wait.address)
                if found is not None:
                    return found
            if innermost.function == "wait" and innermost.type_name == "threading.Condition":
                return (yield from self._read_waited(_outermost(wait.methods), innermost.address))
        kind = "Lock" if type_name.find(RLOCK) is None else "RLock"
        owner, locked = (None, None) if state is None else (state.owner, state.locked)
        return Resource(kind, wait.address, lock=wait.address, owner=owner, locked=locked)

    def _read_import(self, method: Method, lock: int) -> Walk[Resource | None]:
        """Return the import of a module by another thread: ``_ModuleLock`` keeps its owner itself (3.8 to 3.15)."""
        attributes = yield from self._objects.read_attributes(method.address, "wakeup", "owner", "name")
        if attributes.get("wakeup") != lock or "owner" not in attributes or "name" not in attributes:
            return None
        name = yield from self._objects.read_str(attributes["name"])
        owner = self._objects.parse_int((yield (attributes["owner"], self._objects.int_size)))
        return Resource("import", method.address, owner=max(owner, 0), locked=owner > 0, detail=name)

    def _read_waited(self, method: Method, condition: int) -> Walk[Resource]:
        """Return the object whose method waits on a Condition."""
        kind = method.type_name.rpartition(".")[2]
        if kind == "Queue":  # which has three: to wait for an item is not to wait for room
            return Resource(kind, condition, detail=(yield from self._read_filling(method)))
        return Resource(kind, method.address, lock=method.address if kind == "Semaphore" else 0)

    def _read_filling(self, method: Method) -> Walk[str]:
        attributes = yield from self._objects.read_attributes(method.address, "queue", "maxsize")
        if method.function == "join":
            return "join: tasks are not done yet"
        if "queue" not in attributes or "maxsize" not in attributes:
            return method.function
        maxsize = self._objects.parse_int((yield (attributes["maxsize"], self._objects.int_size)))
        try:  # a deque's or a list's ob_size follows its header
            content = yield (attributes["queue"] + self._objects.layout.pyobject.size, 8)
        except BadAddress:
            return method.function
        (count,) = _signed(content)
        if method.function == "get":
            return "empty" if count == 0 else f"{count} items"
        return f"full: {count} of {maxsize}" if count >= maxsize > 0 else f"{count} of {maxsize}"


def _outermost(methods: tuple[Method, ...]) -> Method:
    """Return the method that a caller has called; a Thread that waits in ``start`` waits for an Event."""
    return [method for method in methods if method.type_name != "threading.Thread"][-1]

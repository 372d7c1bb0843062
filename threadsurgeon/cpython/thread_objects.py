"""What the ``threading`` module of the target knows: each thread's ``Thread`` object, by ident."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.cpython.reading import Walk, walk_alone, walk_together
from threadsurgeon.cpython.threads import Interpreter
from threadsurgeon.linux.memory import BadAddress, Memory

TRIES = 5


class ThreadObject(NamedTuple):
    """A ``threading.Thread``: its name and whether it is a daemon."""

    name: str | None
    daemon: bool | None


def read_thread_objects(
    memory: Memory, objects: ObjectReader, interpreter: Interpreter, true_address: int, *, only: int | None = None
) -> dict[int, ThreadObject]:
    """Return the ``Thread`` objects of an interpreter by ident, or ``only`` that of one ident.

    There are none where ``threading`` was not imported, and none for threads that it did not start.
    """
    active: list[tuple[int, int]] = []
    for _ in range(TRIES):
        try:
            active = walk_alone(memory, read_active(objects, interpreter))
            break
        except BadAddress:
            continue  # the dict was resized under us; or there is none yet, and names are not worth an error
    contents = memory.read_many([(key, objects.int_size) for key, _ in active])
    by_ident = {
        objects.parse_int(content): value
        for (_, value), content in zip(active, contents, strict=True)
        if content is not None
    }
    if only is not None:
        by_ident = {ident: value for ident, value in by_ident.items() if ident == only}
    # The main thread and one other first: what instances share (types, keys and their names) is then read once.
    walk_together(memory, (_read_thread(objects, value, true_address) for value in islice(by_ident.values(), 2)))
    threads = walk_together(memory, (_read_thread(objects, value, true_address) for value in by_ident.values()))
    return {ident: thread for ident, thread in zip(by_ident, threads, strict=True) if thread is not None}


def read_active(objects: ObjectReader, interpreter: Interpreter) -> Walk[list[tuple[int, int]]]:
    """Return the (ident, Thread) addresses of ``threading._active``."""
    modules = yield from objects.read_dict(interpreter.modules)
    threading = (yield from objects.find_items(modules, "threading")).get("threading")
    if threading is None:
        return []
    namespace = yield from objects.read_pointer(threading + objects.layout.module_object.md_dict)
    items = yield from objects.read_dict(namespace)
    active = (yield from objects.find_items(items, "_active")).get("_active")
    if active is None:
        return []
    entries = yield from objects.read_changing_dict(active)
    return [(key, value) for key, value in entries if key and value]


def _read_thread(objects: ObjectReader, address: int, true_address: int) -> Walk[ThreadObject]:
    attributes = yield from objects.read_attributes(address, "_name", "_daemonic")
    name = None
    if "_name" in attributes:
        try:
            name = yield from objects.read_str(attributes["_name"])
        except BadAddress:
            pass  # changed under us, or an instance of a subclass of str
    daemon = attributes["_daemonic"] == true_address if "_daemonic" in attributes else None
    return ThreadObject(name, daemon)

"""What ``Thread.join`` waits for, thread by thread."""

from __future__ import annotations

from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.cpython.reading import Walk, walk_alone, walk_together
from threadsurgeon.cpython.runtime import Runtime
from threadsurgeon.cpython.thread_handle import ATTRIBUTES, EXITING, SINCE
from threadsurgeon.cpython.thread_objects import read_active
from threadsurgeon.cpython.threads import Interpreter
from threadsurgeon.linux.memory import BadAddress, Memory


def read_joinable(memory: Memory, runtime: Runtime, objects: ObjectReader, interpreter: Interpreter) -> dict[int, int]:
    """Return the idents of the threads that ``threading`` knows, by what a ``join`` of each waits for.

    That is the address of an event within its ThreadHandle (3.13 on), or of the lock object ``_tstate_lock``.
    """
    try:
        active = walk_alone(memory, read_active(objects, interpreter))
    except BadAddress:  # resized under us, or not there
        return {}
    contents = memory.read_many([(key, objects.int_size) for key, _ in active])
    found = walk_together(memory, (_read_waited_for(runtime, objects, thread) for _, thread in active))
    return {
        waited_for: objects.parse_int(content)
        for waited_for, content in zip(found, contents, strict=True)
        if waited_for and content is not None
    }


def _read_waited_for(runtime: Runtime, objects: ObjectReader, thread: int) -> Walk[int]:
    if runtime.layout.version < SINCE:
        return (yield from objects.read_attributes(thread, "_tstate_lock")).get("_tstate_lock", 0)
    for wrapper in (yield from objects.read_attributes(thread, *ATTRIBUTES)).values():
        handle = yield from objects.read_pointer(wrapper + runtime.layout.pyobject.size)
        return handle + EXITING
    return 0

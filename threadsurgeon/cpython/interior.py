"""What an interpreter's memory says of its threads, live or in a core file: stacks, names, who holds the GIL."""

from __future__ import annotations

from collections.abc import Iterable

from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.cpython.runtime import Runtime
from threadsurgeon.cpython.stacks import Stack, read_stacks
from threadsurgeon.cpython.thread_objects import ThreadObject, read_thread_objects
from threadsurgeon.cpython.threads import Interpreter, ThreadState, read_gil
from threadsurgeon.linux.memory import BadAddress, Memory
from threadsurgeon.model.threads import Frame


class Interior:
    """One interpreter's memory, by its layout."""

    def __init__(self, memory: Memory, runtime: Runtime) -> None:
        """Look up what every look needs.

        Raises:
            UnsupportedPython: it does not export that.
        """
        self._memory = memory
        self._runtime = runtime
        self._code_type = runtime.symbol("PyCode_Type")

    def find_holders(self, interpreters: list[Interpreter]) -> set[int]:
        """Return the addresses of the thread states that hold a GIL."""
        layout = self._runtime.layout.gil_runtime_state
        holders = set()
        for address in {interpreter.gil for interpreter in interpreters if interpreter.gil}:
            try:
                holders.add(read_gil(self._memory, layout, address).holder)
            except BadAddress:
                continue
        return holders - {0}

    def read_names(
        self, interpreters: list[Interpreter], *, only: int | None = None
    ) -> dict[tuple[int, int], ThreadObject]:
        """Return what ``threading`` knows, by interpreter id and ident; with ``only`` of that ident."""
        true_address = self._runtime.symbol("_Py_TrueStruct")
        return {
            (interpreter.id, ident): thread
            for interpreter in interpreters
            for ident, thread in read_thread_objects(
                self._memory, ObjectReader(self._runtime.layout), interpreter, true_address, only=only
            ).items()
        }

    def read_stacks(self, states: list[ThreadState]) -> dict[int, Stack]:
        """Return each thread's frames by the address of its thread state."""
        return read_stacks(self._memory, self._runtime, self._code_type, states)


def choose_states(
    states: list[ThreadState], tids: dict[int, int], stacks: dict[int, Stack]
) -> dict[int, ThreadState]:
    """Return the thread state in which each TID is.

    A thread that entered a sub-interpreter has a state in each: it is in that of the newest one in which it has frames.
    """
    chosen: dict[int, ThreadState] = {}
    for state in states:  # of the newest interpreter first
        tid = tids.get(state.address)
        if tid is not None and (tid not in chosen or (stacks[state.address].raw and not stacks[chosen[tid].address].raw)):
            chosen[tid] = state
    return chosen


def is_pool_worker(frames: Iterable[Frame]) -> bool:
    """Say whether the stack is that of a worker of ``concurrent.futures.ThreadPoolExecutor``."""
    workers = [frame for frame in frames if frame.function == "_worker"]
    return any(frame.file.endswith("concurrent/futures/thread.py") for frame in workers)

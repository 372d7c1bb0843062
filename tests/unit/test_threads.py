"""Interpreters, thread states and the GIL: lists that change, end nowhere or never."""

import struct
import sys
import threading
import time

import pytest

from tests.unit.fake_memory import FakeMemory, Heap
from threadsurgeon.cpython import threads as threads_module
from threadsurgeon.cpython.layout import find_layout
from threadsurgeon.cpython.runtime import Runtime
from threadsurgeon.cpython.threads import (
    MAX_INTERPRETERS,
    TRIES,
    list_interpreters,
    list_thread_states,
    read_finalizing,
    read_gil,
    read_main_ident,
    read_thread_state,
)
from threadsurgeon.errors import UnreadableTarget
from threadsurgeon.linux.memory import BadAddress


class FakeTarget:
    """A runtime with interpreters and thread states."""

    def __init__(self, heap):
        self.heap, self.memory, self.layout = heap, heap.memory, heap.layout
        self.address = heap.allocate(bytes(self.layout.runtime_state.size))
        self.runtime = Runtime(self.address, "3.x", self.layout, None)

    def set(self, address, offset, value):
        self.memory.write_pointer(address + offset, value)

    def interpreter(self, number, next_address=0):
        """Add an interpreter, as the head of the list."""
        layout = self.layout.interpreter_state
        fields = {layout.id: number, layout.next: next_address, layout.imports_modules: 0x5000 + number}
        if layout.ceval_gil is not None:
            fields[layout.ceval_gil] = 0x6000 + number
        address = self.heap.allocate(self.heap.struct(layout.size, fields))
        self.set(self.address, self.layout.runtime_state.interpreters_head, address)
        return address

    def thread(self, interpreter, ident, next_address=0, tid=None):
        """Add a thread state, as the head of its interpreter's list."""
        layout = self.layout.thread_state
        fields = {layout.interp: interpreter, layout.thread_id: ident, layout.next: next_address}
        if layout.native_thread_id is not None:
            fields[layout.native_thread_id] = tid or ident + 1
        address = self.heap.allocate(self.heap.struct(layout.size, fields))
        if next_address:
            self.set(next_address, layout.prev, address)
        self.set(interpreter, self.layout.interpreter_state.threads_head, address)
        return address

    def interpreters(self):
        return list_interpreters(self.memory, self.runtime)

    def states(self):
        return list_thread_states(self.memory, self.runtime, self.interpreters())


@pytest.fixture
def target(heap):
    return FakeTarget(heap)


def test_interpreters_are_listed_newest_first(target):
    """With what each shares or has of its own: the GIL."""
    first = target.interpreter(0)
    second = target.interpreter(7, first)
    seen = target.interpreters()
    shared = target.layout.runtime_state.ceval_gil

    assert [(one.address, one.id, one.modules) for one in seen] == [(second, 7, 0x5007), (first, 0, 0x5000)]
    assert [one.gil for one in seen] == ([0x6007, 0x6000] if shared is None else [target.address + shared] * 2)


def test_runtime_without_interpreters_has_none(target):
    """It starts, or ends."""
    assert target.interpreters() == []
    assert target.states() == []


@pytest.mark.parametrize("length", [1, 3])
def test_cycle_of_interpreters_is_refused(target, length):
    """The list does not end: bounded, and said."""
    first = address = target.interpreter(0)
    for number in range(1, length):
        address = target.interpreter(number, address)
    target.set(first, target.layout.interpreter_state.next, address)
    begin = time.monotonic()
    with pytest.raises(UnreadableTarget):
        target.interpreters()

    assert target.memory.calls <= 5 * MAX_INTERPRETERS
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("head", [0x10, 0xDEAD0000, 2**63, 2**64 - 1])
def test_interpreters_that_are_not_there_are_refused(target, head):
    """The head, or a later one."""
    target.set(target.address, target.layout.runtime_state.interpreters_head, head)
    with pytest.raises(UnreadableTarget):
        target.interpreters()

    target.interpreter(0, head)
    with pytest.raises(UnreadableTarget):
        target.interpreters()


def test_thread_states_are_listed_by_interpreter(target):
    """Ident, the TID where this version records it, and the content for the frames."""
    main = target.interpreter(0)
    sub = target.interpreter(1, main)
    a = target.thread(main, 100)
    b = target.thread(main, 200, a)
    c = target.thread(sub, 2**47)
    seen = target.states()
    recorded = target.layout.thread_state.native_thread_id is not None

    assert [(s.address, s.interpreter.id, s.ident) for s in seen] == [(c, 1, 2**47), (b, 0, 200), (a, 0, 100)]
    assert [s.native_thread_id for s in seen] == ([2**47 + 1, 201, 101] if recorded else [None] * 3)
    assert {len(s.content) for s in seen} == {target.layout.thread_state.size}


@pytest.mark.parametrize("length", [1, 2, 5])
def test_cycle_of_thread_states_is_refused(target, length):
    """Each is seen once; a list that comes back is torn, and no try helps."""
    interpreter = target.interpreter(0)
    first = address = target.thread(interpreter, 1)
    for ident in range(2, length + 1):
        address = target.thread(interpreter, ident, address)
    target.set(first, target.layout.thread_state.next, address)
    begin = target.memory.calls
    with pytest.raises(UnreadableTarget):
        target.states()

    assert target.memory.calls - begin <= TRIES * (length + 3) + 5


def test_thread_state_of_nobody_is_refused(target):
    """One that does not say it belongs to the interpreter is freed memory."""
    interpreter = target.interpreter(0)
    address = target.thread(interpreter, 1)
    target.set(address, target.layout.thread_state.interp, 0xCDCDCDCDCDCDCDCD)

    with pytest.raises(UnreadableTarget):
        target.states()


def test_list_that_was_torn_is_read_again(target, monkeypatch):
    """A thread ended while we walked: the next try sees the list without it."""
    interpreter = target.interpreter(0)
    lasting = target.thread(interpreter, 1)
    ending = target.thread(interpreter, 2, lasting)
    del target.memory.segments[ending]
    tries = []

    def walk_once(memory, runtime, interpreter):
        tries.append(1)
        if len(tries) == 3:
            target.set(interpreter.address, target.layout.interpreter_state.threads_head, lasting)
        return original(memory, runtime, interpreter)

    original = threads_module._walk_once
    monkeypatch.setattr(threads_module, "_walk_once", walk_once)

    assert [state.ident for state in target.states()] == [1]
    assert len(tries) == 3


def test_list_of_more_threads_than_any_process_has_is_refused(target, monkeypatch):
    """A bound on the walk, besides the cycles."""
    monkeypatch.setattr(threads_module, "MAX_THREADS", 10)
    interpreter = target.interpreter(0)
    address = 0
    for ident in range(10):
        address = target.thread(interpreter, ident + 1, address)

    assert len(target.states()) == 10
    target.thread(interpreter, 11, address)
    with pytest.raises(UnreadableTarget):
        target.states()


def test_one_thread_state_is_read_again(target):
    """Where it still is, None where it belongs to nobody any more, BadAddress where nothing is."""
    address = target.thread(target.interpreter(0), 5)
    (interpreter,) = target.interpreters()

    assert read_thread_state(target.memory, target.runtime, interpreter, address).ident == 5
    target.set(address, target.layout.thread_state.interp, 0)
    assert read_thread_state(target.memory, target.runtime, interpreter, address) is None
    with pytest.raises(BadAddress):
        read_thread_state(target.memory, target.runtime, interpreter, 0xDEAD0000)


@pytest.mark.parametrize(("value", "expected"), [(0, False), (1, True), (0x7F0000000000, True), (2**63, True)])
def test_finalizing_is_seen(target, value, expected):
    """A flag or the thread state that finalizes."""
    target.set(target.address, target.layout.runtime_state.finalizing, value)

    assert read_finalizing(target.memory, target.runtime) is expected


def test_main_ident_is_read(target):
    """As an unsigned number."""
    target.set(target.address, target.layout.runtime_state.main_thread, 2**63 + 1)

    assert read_main_ident(target.memory, target.runtime) == 2**63 + 1


@pytest.mark.parametrize(("locked", "holder"), [(1, 0x7777), (0, 0), (-1, 0)])
def test_gil_has_a_holder_while_it_is_locked(heap, locked, holder):
    """The last holder is remembered while the GIL is free (0), and before it was made (-1)."""
    layout = heap.layout.gil_runtime_state
    fields = {layout.locked: struct.pack("<i", locked), layout.last_holder: 0x7777, layout.switch_number: 42}
    gil = read_gil(heap.memory, layout, address := heap.allocate(heap.struct(layout.size, fields)))

    assert (gil.address, gil.holder, gil.switches) == (address, holder, 42)


@pytest.mark.parametrize("enabled", [0, 1, 2**31 - 1])
def test_free_threaded_build_may_have_no_gil(enabled):
    """It is switched on for good, or for as long as so many ask for it."""
    heap = Heap(find_layout((3, 13), debug=False, free_threaded=True))
    layout = heap.layout.gil_runtime_state
    address = heap.allocate(heap.struct(layout.size, {layout.enabled: struct.pack("<i", enabled)}))

    assert read_gil(heap.memory, layout, address).enabled == bool(enabled)


def test_missing_gil_is_a_bad_address(heap):
    """An interpreter that is just being made or removed."""
    with pytest.raises(BadAddress):
        read_gil(FakeMemory(), heap.layout.gil_runtime_state, 0)


def test_own_threads_are_what_python_says(own_memory, own_runtime):
    """Idents, TIDs, main thread, not finalizing, and we hold the GIL ourselves while we look."""
    end = threading.Event()
    others = [threading.Thread(target=end.wait) for _ in range(5)]
    for other in others:
        other.start()
    try:
        interpreters = list_interpreters(own_memory, own_runtime)
        states = list_thread_states(own_memory, own_runtime, interpreters)
        expected = {thread.ident: thread.native_id for thread in threading.enumerate()}

        assert [interpreter.id for interpreter in interpreters] == [0]
        assert {state.ident for state in states} >= set(expected)
        if sys.version_info >= (3, 11):
            assert expected.items() <= {state.ident: state.native_thread_id for state in states}.items()
        assert read_main_ident(own_memory, own_runtime) == threading.main_thread().ident
        assert not read_finalizing(own_memory, own_runtime)
    finally:
        end.set()
        for other in others:
            other.join()


def test_state_made_anew_at_a_freed_place_is_not_taken_for_the_old_one(target):
    """It belongs to the same interpreter, but does not lead to the rest of the list."""
    interpreter = target.interpreter(0)
    last = target.thread(interpreter, 1)
    freed = target.thread(interpreter, 2, last)
    target.thread(interpreter, 3, freed)
    target.set(freed, target.layout.thread_state.prev, 0)
    target.set(freed, target.layout.thread_state.next, 0)

    with pytest.raises(UnreadableTarget):
        target.states()

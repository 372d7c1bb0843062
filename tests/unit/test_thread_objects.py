"""What the target's threading module knows: names and daemons by ident, or nothing rather than nonsense."""

import random
import struct
import threading

import pytest

from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.cpython.thread_objects import ThreadObject, read_thread_objects
from threadsurgeon.cpython.threads import Interpreter, list_interpreters

TRUE, FALSE = 0x1111000, 0x2222000


class FakeThreading:
    """sys.modules["threading"]._active in fake memory, with instances whose type keeps a dict at an offset."""

    def __init__(self, heap):
        self.heap, self.layout = heap, heap.layout
        size = self.layout.type_object.size
        self.type = heap.allocate(heap.struct(size, {self.layout.type_object.tp_dictoffset: 16}))
        self.threads = {}

    def thread(self, ident, name=None, daemon=None):
        """Add a Thread object; what is None it does not have."""
        attributes = {}
        if name is not None:
            attributes["_name"] = name if isinstance(name, int) else self.heap.text(name)
        if daemon is not None:
            attributes["_daemonic"] = TRUE if daemon else FALSE
        fields = {self.layout.pyobject.ob_type: self.type, 16: 0}
        instance = self.heap.allocate(self.heap.struct(40, fields), before=bytes(32))
        # In a debug or free-threaded build ob_type is elsewhere: the dict's pointer must not stand on it.
        place = 32 if self.layout.pyobject.size > 16 else 16
        self.heap.memory.write_pointer(self.type + self.layout.type_object.tp_dictoffset, place)
        self.heap.memory.write_pointer(instance + place, self.heap.dict(attributes))
        self.threads[self.heap.number(ident)] = instance

    def interpreter(self, *, name="threading", active="_active"):
        """An interpreter whose sys.modules has it."""
        entries = list(self.threads.items())
        keys = self.heap.keys(entries, kind=0)
        table = self.heap.allocate(
            self.heap.struct(self.layout.dict_object.size, {self.layout.dict_object.ma_keys: keys})
        )
        namespace = self.heap.dict({"other": 0x10, active: table})
        module = self.heap.allocate(self.heap.struct(64, {self.layout.module_object.md_dict: namespace}))
        return Interpreter(0x1000, 0, 0, self.heap.dict({"sys": 0x20, name: module}))


@pytest.fixture
def fake(heap):
    return FakeThreading(heap)


def read(heap, interpreter, **options):
    return read_thread_objects(heap.memory, ObjectReader(heap.layout), interpreter, TRUE, **options)


def test_names_and_daemons_are_found_by_ident(heap, fake):
    """Also those of strange names."""
    fake.thread(1 << 46, "MainThread", False)
    fake.thread(77, "wörker [1]", True)
    fake.thread(78, "", True)

    assert read(heap, fake.interpreter()) == {
        1 << 46: ThreadObject("MainThread", False),
        77: ThreadObject("wörker [1]", True),
        78: ThreadObject("", True),
    }


def test_one_thread_is_read_alone(heap, fake):
    """By its ident; there may be a thousand others."""
    for ident in range(1, 20):
        fake.thread(ident, f"thread {ident}", False)

    assert read(heap, fake.interpreter(), only=7) == {7: ThreadObject("thread 7", False)}
    assert read(heap, fake.interpreter(), only=99) == {}


def test_thread_without_the_attributes_is_known_without_them(heap, fake):
    """A half-made Thread, whose __init__ has not come so far."""
    fake.thread(5)
    fake.thread(6, "named")

    assert read(heap, fake.interpreter()) == {5: ThreadObject(None, None), 6: ThreadObject("named", None)}


def test_unreadable_name_is_left_out(heap, fake):
    """Only the name, not what else is known of the thread."""
    fake.thread(5, "good", True)
    fake.thread(6, 0xDEAD0000, True)

    assert read(heap, fake.interpreter()) == {5: ThreadObject("good", True), 6: ThreadObject(None, True)}


@pytest.mark.parametrize("names", [{"name": "threadin"}, {"active": "_activ"}])
def test_target_without_threading_has_no_thread_objects(heap, fake, names):
    """It never imported the module, or is importing it."""
    fake.thread(5, "name", True)

    assert read(heap, fake.interpreter(**names)) == {}


@pytest.mark.parametrize("modules", [0, 0x10, 0xDEAD0000, 2**64 - 1])
def test_target_without_modules_has_no_thread_objects(heap, modules):
    """The interpreter is being made."""
    assert read(heap, Interpreter(0x1000, 0, 0, modules)) == {}


def test_hostile_memory_is_survived(heap, fake):
    """Random words anywhere: some threads or none, never an error."""
    dice = random.Random(11)
    for ident in range(1, 4):
        fake.thread(ident, f"name {ident}", True)
    interpreter = fake.interpreter()
    good = {start: bytes(segment) for start, segment in heap.memory.segments.items()}
    addresses = list(good)
    for _ in range(200):
        for start in dice.sample(addresses, 3):
            segment = bytearray(good[start])
            where = dice.randrange(0, max(1, len(segment) - 8), 8)
            word = dice.choice([0, 1, 2**31, 2**63, 2**64 - 1, dice.choice(addresses)])
            segment[where : where + 8] = struct.pack("<Q", word)[: len(segment) - where]
            heap.memory.segments[start] = segment

        assert len(read(heap, interpreter)) <= 3
        for start, content in good.items():
            heap.memory.segments[start] = bytearray(content)


def test_own_threads_are_what_python_says(own_memory, own_runtime):
    """Names of every kind, a renamed thread, a subclass, and one whose __dict__ was looked at."""

    class Subclass(threading.Thread):
        def __init__(self, **options):
            super().__init__(**options)
            self.more = 1

    end = threading.Event()
    threads = [
        threading.Thread(target=end.wait, name="plain"),
        threading.Thread(target=end.wait, name="Ω 😀", daemon=True),
        Subclass(target=end.wait, name="sub", daemon=True),
        threading.Thread(target=end.wait, name="opened"),
        threading.Timer(1000, int),
    ]
    vars(threads[3])
    for thread in threads:
        thread.start()
    threads[0].name = "renamed"
    try:
        (interpreter,) = list_interpreters(own_memory, own_runtime)
        true_address = own_runtime.symbol("_Py_TrueStruct")
        seen = read_thread_objects(own_memory, ObjectReader(own_runtime.layout), interpreter, true_address)
        expected = {thread.ident: ThreadObject(thread.name, thread.daemon) for thread in threading.enumerate()}
    finally:
        end.set()
        threads[4].cancel()
        for thread in threads:
            thread.join()

    assert seen == expected
    assert true_address == id(True)

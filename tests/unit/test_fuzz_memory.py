"""A process whose memory lies: whatever stands there, a look ends soon, with a result of the right kind or an error of ours.

The memory is that of a real process of each CPython found, with threads in all kinds of blocks. First it is looked at
undisturbed; then words among those that were read are replaced: by pointers back (cycles), by sizes that are huge or
negative, by addresses of nothing, by garbage.
"""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fuzzing import MANY, tries
from tests.zoo import pythons
from tests.zoo.script import script
from threadsurgeon.cpython.held_locks import Holdings, read_holdings
from threadsurgeon.cpython.runtime import find_runtime
from threadsurgeon.cpython.thread_handle import ThreadHandle, find_thread_handle
from threadsurgeon.cpython.threads import list_interpreters, list_thread_states, read_finalizing
from threadsurgeon.errors import ThreadsurgeonError, UnsupportedPython
from threadsurgeon.inventory import Target
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.model.threads import Listing
from threadsurgeon.schema import dump_listing

LARGEST = 5 * 4096  # of what is mutated: a chunk of frames is the largest thing that is not just text or a table
PAGE = 4096
# What a look may cost at most, whatever it reads. The same process undisturbed: about 300 calls and 2 MB.
MOST_CALLS, MOST_BYTES = 300_000, 256 << 20

CODE = """
import contextlib, gc, threading
never, plain, again, condition = threading.Event(), threading.Lock(), threading.RLock(), threading.Condition()

@contextlib.contextmanager
def managed():
    with again:
        yield

class Worker:
    def __init__(self):
        self.lock, self.name = threading.RLock(), "\\u03a9"
    def run(self):
        with self.lock, managed(), plain:
            never.wait()

def handling():
    try:
        raise ValueError
    except ValueError:
        with condition:
            condition.wait()

def deep(depth):
    return deep(depth - 1) if depth else list(generator())

def generator():
    yield never.wait()

threads = [threading.Thread(target=target, args=args, name=name, daemon=True) for name, target, args in [
    ("worker", Worker().run, ()), ("\\u6c34", handling, ()), ("x" * 5000, deep, (30,)), ("\\udcff", never.wait, ())]]
for thread in threads:
    thread.start()
gc.disable()
ready(threads)
hear()
os._exit(0)
"""


class Snapshot:
    """A process's memory, each page as it was when it was first read; with words replaced."""

    def __init__(self, memory):
        self._memory = memory
        self._pages = {}
        self.words = {}
        self.touched = set()
        self.calls = self.bytes = 0

    def begin(self, words):
        """Replace these words, by address, and count anew."""
        self.words = words
        self.calls = self.bytes = 0

    def read(self, address, size):
        self._count(1, 0)
        content = self._read(address, size)
        if content is None:
            raise BadAddress(address, size)
        return content

    def read_many(self, ranges):
        self._count(1 + len(ranges) // 1024, 0)
        return [self._read(address, size) for address, size in ranges]

    def _count(self, calls, size):
        self.calls += calls
        self.bytes += size
        assert self.calls <= MOST_CALLS, "too many system calls"
        assert self.bytes <= MOST_BYTES, "too much memory read"

    def _read(self, address, size):
        assert isinstance(address, int)
        assert isinstance(size, int)
        if not 0 < size <= 64 << 20 or not 0 < address < 1 << 63:
            return None
        self._count(0, size)
        pages = [self._page(number) for number in range(address // PAGE, (address + size - 1) // PAGE + 1)]
        if None in pages:
            return None
        content = b"".join(pages)[address % PAGE :][:size]
        if not self.words:
            if size <= LARGEST:
                self.touched.update(range(address & ~7, address + size, 8))
            return content
        for place in range(address & ~7, address + size, 8) if size <= LARGEST else ():
            if place in self.words:
                content = self._replace(content, address, place)
        return content

    def _replace(self, content, address, place):
        changed = bytearray(8) + content + bytes(8)
        start = place - address + 8
        changed[start : start + 8] = struct.pack("<Q", self.words[place] & 2**64 - 1)
        return bytes(changed[8:-8])

    def _page(self, number):
        if number not in self._pages:
            try:
                self._pages[number] = self._memory.read(number * PAGE, PAGE)
            except BadAddress:
                self._pages[number] = None
        return self._pages[number]


class Subject:
    """A process to be looked at through a snapshot of its memory."""

    def __init__(self, pid):
        self.target = Target(pid)
        self.snapshot = self.target.memory = Snapshot(self.target.memory)
        self.image = self.target.runtime.image
        self.runtime = self.target.runtime
        self.states = list_thread_states(self.snapshot, self.runtime, list_interpreters(self.snapshot, self.runtime))
        self.look()
        for state in self.states:
            look_closely(self.snapshot, self.runtime, state)
        self.places = sorted(self.snapshot.touched)

    def look(self):
        """Look at everything, in each way that there is, and return the listing, None if there was none."""
        listing = None
        try:
            self.target.runtime = find_runtime(self.snapshot, [self.image])
            listing = self.target.list_threads()
        except BadAddress as error:
            raise AssertionError("not an error that anybody is told") from error
        except ThreadsurgeonError:
            pass
        finally:
            self.target.runtime = self.runtime
        # The expensive part, for one of the threads at a time.
        look_closely(self.snapshot, self.runtime, self.states[sum(self.snapshot.words) // 8 % len(self.states)])
        try:
            assert read_finalizing(self.snapshot, self.runtime) in (True, False)
        except BadAddress:
            pass
        return listing


def look_closely(memory, runtime, state):
    try:
        holdings = read_holdings(memory, runtime, state, ())
    except BadAddress:
        pass
    else:
        assert isinstance(holdings, Holdings)
    if runtime.layout.version >= (3, 13):
        try:
            assert isinstance(find_thread_handle(memory, runtime, state), ThreadHandle | None)
        except UnsupportedPython:
            pass


def pytest_generate_tests(metafunc):
    if "subject" in metafunc.fixturenames:
        found = [python for python in pythons.select() if not python.musl and (MANY or python.build == "release")]
        chosen = {(python.version[:2], python.build): python for python in found}
        metafunc.parametrize("subject", chosen.values(), ids=str, indirect=True, scope="module")


@pytest.fixture(scope="module")
def subject(request):
    with script(request.param, CODE) as process:
        yield Subject(process.pid)


PLACES = st.floats(0, 1, exclude_max=True)
SMALL = st.integers(-3, 70)
LARGE = st.sampled_from([2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**47 - 4096, 2**62, 2**63 - 1, 2**63, -(2**31)])
# (kind, detail): see `replacement`.
CHANGES = st.one_of(
    st.tuples(st.just("number"), SMALL | LARGE | st.integers(0, 2**64 - 1)),
    st.tuples(st.just("flip"), st.integers(0, 63)),
    st.tuples(st.just("self"), st.integers(-64, 64)),
    st.tuples(st.just("elsewhere"), PLACES),
    st.tuples(st.just("copy"), PLACES),
    st.tuples(st.just("shift"), st.integers(-64, 64)),
)
MUTATIONS = st.lists(st.tuples(PLACES, CHANGES), min_size=1, max_size=12)


def replacement(subject, place, kind, detail):
    """Return what is to stand at the place: a number; what is there with one bit flipped, or moved; a pointer."""
    original = int.from_bytes(subject.snapshot._read(place, 8) or bytes(8), "little")
    if kind == "number":
        return detail
    if kind == "flip":
        return original ^ 1 << detail
    if kind == "self":
        return place + detail
    if kind == "shift":
        return original + detail
    other = subject.places[int(detail * len(subject.places))]
    return other if kind == "elsewhere" else int.from_bytes(subject.snapshot._read(other, 8) or bytes(8), "little")


def test_undisturbed(subject):
    """What is mutated below is a whole process: its threads are found, and what they hold was looked at."""
    subject.snapshot.begin({})
    listing = subject.look()

    assert sum(thread.python for thread in listing.threads) == 5
    assert {"worker", "x" * 4096 + "…", "\u6c34"} <= {thread.name for thread in listing.threads}
    assert 0 < subject.snapshot.calls < MOST_CALLS / 100
    assert len(subject.places) > 1000


def test_memory_that_lies(subject):
    """A look ends, with a listing or with an error of ours."""

    @tries(15)
    @given(MUTATIONS)
    def look(mutations):
        words = {}
        subject.snapshot.begin({})
        for where, (kind, detail) in mutations:
            place = subject.places[int(where * len(subject.places))]
            words[place] = replacement(subject, place, kind, detail)
        subject.snapshot.begin(words)
        assert_is_listing(subject.look())

    look()


def test_each_pointer_led_astray(subject):
    """Not by chance: of all words that are read every so many leads back to itself, or is as large as can be."""
    step = max(1, len(subject.places) // (MANY or 30))
    for number, place in enumerate(subject.places[::step]):
        value = (place, 2**63 - 1, 1 << 19, -1)[number % 4]
        subject.snapshot.begin({place: value})
        assert_is_listing(subject.look())


def assert_is_listing(listing):
    assert isinstance(listing, Listing | None)
    if listing is not None:
        dump_listing(listing).encode()
        for thread in listing.threads:
            assert isinstance(thread.name, str | None)
            assert all(isinstance(frame.line, int | None) and isinstance(frame.file, str) for frame in thread.frames)

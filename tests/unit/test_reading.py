"""Walks run side by side: one read for each step of all of them, and nobody's bad address is another's."""

import pytest

from tests.unit.fake_memory import FakeMemory
from threadsurgeon.cpython.reading import walk_alone, walk_together
from threadsurgeon.linux.memory import BadAddress

START = 0x1000


@pytest.fixture
def memory():
    return FakeMemory({START: bytes(range(256))})


def chain(start, length):
    """Read a byte at a time."""
    content = b""
    for index in range(length):
        content += yield (start + index, 1)
    return content


def run_alone(memory, walk):
    """Like ``walk_together`` with one walk."""
    try:
        return walk_alone(memory, walk)
    except BadAddress:
        return None


def run_together(memory, walk):
    return walk_together(memory, [walk])[0]


@pytest.fixture(params=[run_alone, run_together])
def run(request):
    return request.param


def test_results_stand_in_the_order_of_the_walks(memory):
    """However long each takes."""
    lengths = [3, 0, 7, 1, 7, 2]
    walks = [chain(START + 10 * index, length) for index, length in enumerate(lengths)]
    expected = [bytes(range(10 * index, 10 * index + length)) for index, length in enumerate(lengths)]

    assert walk_together(memory, walks) == expected


@pytest.mark.parametrize(("lengths", "calls"), [([], 0), ([0, 0], 0), ([1] * 100, 1), ([5] * 100, 5), ([1, 9, 3], 9)])
def test_as_many_reads_as_the_longest_walk_has_steps(memory, lengths, calls):
    """Not one for each walk."""
    walk_together(memory, [chain(START, length) for length in lengths])

    assert memory.calls == calls


def test_walk_that_meets_a_bad_address_ends_alone(memory):
    """Its result is None, and the others go on."""
    walks = [chain(START, 4), chain(START + 254, 4), chain(0, 1), chain(START + 1, 4)]

    assert walk_together(memory, walks) == [b"\0\1\2\3", None, None, b"\1\2\3\4"]


def test_bad_address_can_be_caught_in_the_walk(memory, run):
    """It is raised at the yield, says where, and the walk may go on."""

    def walk():
        try:
            yield (0x9999, 3)
        except BadAddress as error:
            where = (error.address, error.size)
        content = yield (START, 1)
        return where, content

    assert run(memory, walk()) == ((0x9999, 3), b"\0")


def test_list_of_ranges_is_answered_as_a_list(memory, run):
    """In order, None for what is not there; an empty list is an answer too."""

    def walk():
        some = yield [(START + 2, 1), (0, 1), (START + 1, 2)]
        none = yield []
        one = yield (START, 1)
        return some, none, one

    assert run(memory, walk()) == ([b"\2", None, b"\1\2"], [], b"\0")


def test_lists_and_single_ranges_mix(memory):
    """Each walk gets its own part of what was read together."""

    def lists(start):
        first = yield [(start, 1), (start + 1, 1)]
        second = yield [(start + 2, 1)]
        return b"".join(first + second)

    walks = [lists(START), chain(START + 50, 3), lists(START + 100), chain(START + 60, 2)]

    assert walk_together(memory, walks) == [b"\0\1\2", bytes([50, 51, 52]), bytes([100, 101, 102]), bytes([60, 61])]
    assert memory.calls == 3


def test_walk_may_refuse_what_it_read(memory):
    """By raising BadAddress itself: at once, or after a step."""

    def refuse(steps):
        yield from chain(START, steps)
        raise BadAddress(START, 1)

    assert walk_together(memory, [refuse(0), refuse(2), chain(START, 1)]) == [None, None, b"\0"]
    with pytest.raises(BadAddress):
        walk_alone(memory, refuse(1))


def test_walk_alone_raises_the_bad_address(memory):
    """There is no list of results to put a None into."""
    with pytest.raises(BadAddress) as caught:
        walk_alone(memory, chain(START + 255, 2))

    assert caught.value.address == START + 256


def test_other_errors_are_not_hidden(memory, run):
    """A mistake of ours is no bad address."""

    def walk():
        yield (START, 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(memory, walk())


def test_walks_may_be_made_one_by_one(memory):
    """From a generator, as the callers do."""
    assert walk_together(memory, (chain(START, 1) for _ in range(3))) == [b"\0"] * 3

"""A stack is copied to its end, wherever that is, and no further than allowed."""

import pytest

from tests.unit.fake_memory import FakeMemory
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.linux.stack_copy import MAX_COPY, RED_ZONE, copy_stack

TOP = 0x7F00_0080_0000
PAGE = 4096


@pytest.mark.parametrize("pages", [1, 2, 3, 7, 64, 255])
@pytest.mark.parametrize("used", [8, 4000, PAGE])
def test_all_that_is_mapped_is_copied(pages, used):
    """From the red zone on to the last page."""
    content = bytes(index % 251 for index in range(pages * PAGE))
    memory = FakeMemory({TOP - len(content): content})
    stack_pointer = TOP - len(content) + RED_ZONE + PAGE - used
    copy = copy_stack(memory, stack_pointer)

    assert copy.content == content[PAGE - used :]
    assert not copy.is_full
    assert copy.read(TOP - 8, 8) == content[-8:]


def test_copy_is_bounded():
    """A stack that does not end is copied up to the limit, which can be seen."""
    memory = FakeMemory({TOP: bytes(2 * MAX_COPY)})
    copy = copy_stack(memory, TOP + RED_ZONE)

    assert copy.is_full
    assert len(copy.content) <= MAX_COPY + PAGE


def test_nothing_is_read_outside():
    """What was not copied is not there, as in any memory."""
    memory = FakeMemory({TOP: bytes(PAGE)})
    copy = copy_stack(memory, TOP + RED_ZONE)

    for address, size in [(TOP - 1, 8), (TOP + PAGE - 4, 8), (TOP + PAGE, 1), (TOP, 0), (TOP, -1)]:
        with pytest.raises(BadAddress):
            copy.read(address, size)
    assert copy.read_many([(TOP, 4), (TOP - 8, 8)]) == [bytes(4), None]


def test_no_stack_is_no_copy():
    """A thread may use any register as it likes for a while."""
    with pytest.raises(BadAddress):
        copy_stack(FakeMemory(), TOP)

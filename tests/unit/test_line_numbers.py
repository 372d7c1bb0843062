"""Line numbers, judged by each CPython found; damaged tables give some line, in time."""

import random
import struct
import time

import pytest

from threadsurgeon.cpython.line_numbers import find_line

VERSIONS = [(3, 8), (3, 10), (3, 11), (3, 14)]


def test_lines_are_those_that_the_interpreter_says(sampled):
    """Every stretch of code of odd functions and of whole modules: at its first and at its last instruction."""
    version = sampled.runtime.layout.version
    wrong = []
    for table, first_line, stretches in sampled.said["lines"]:
        content = bytes.fromhex(table)
        for start, end, line in stretches:
            wrong += [
                (first_line, offset, line)
                for offset in {start, max(start, end - 2)}
                if start < end and find_line(version, content, first_line, offset) != line
            ]

    assert len(sampled.said["lines"]) > 30
    assert wrong == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offset", [-1, -2, -(2**40)])
def test_frame_that_has_not_started_stands_at_its_first_line(version, offset):
    """Whatever its table says."""
    assert find_line(version, b"\xff\x01" * 20, 7, offset) == 7


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offset", [0, 2, 10**6, 2**62])
def test_empty_table_has_the_first_line_only(version, offset):
    """Wherever the instruction is."""
    assert find_line(version, b"", 7, offset) == 7


@pytest.mark.parametrize(
    ("version", "table", "expected"),
    [
        # 3.8: (4 bytes, +1), (4 bytes, -3), (4 bytes, +127), (0 bytes, +1)
        ((3, 8), b"\x04\x01\x04\xfd\x04\x7f\x00\x01", [10, 10, 11, 11, 8, 8, 136]),
        # 3.10: (4 bytes, +0), (4 bytes, no line), (4 bytes, -2)
        ((3, 10), b"\x04\x00\x04\x80\x04\xfe", [10, 10, None, None, 8, 8]),
        # 3.11: two units no columns +1; one unit no location; one unit one-line form +2; one unit long form -1
        ((3, 11), b"\xe9\x02\xf8\xe0\x00\x00\xf0\x03\x00\x00\x00", [11, 11, None, 13, 12]),
    ],
)
def test_hand_made_tables(version, table, expected):
    """Forward, backward, no line, and the last byte of each stretch."""
    assert [find_line(version, table, 10, offset) for offset in range(0, 2 * len(expected), 2)] == expected
    assert [find_line(version, table, 10, offset + 1) for offset in range(0, 2 * len(expected), 2)] == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_damaged_tables_give_a_line_or_none(version):
    """Random tables and offsets: no error, and never a number that no C int could hold by far."""
    dice = random.Random(7)
    for _ in range(2000):
        table = dice.randbytes(dice.randrange(40))
        line = find_line(version, table, dice.randrange(100), dice.randrange(200))

        assert line is None or abs(line) < 2**48


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("table", [b"\xf0" + b"\x7f" * 2**20, b"\xf0" * 2**18, b"\x00\x7f" * 2**17, b"\xe8\x7f" * 2**17])
def test_huge_damaged_table_takes_no_minutes(version, table):
    """As large as any table we read, made of what takes longest: a second at most."""
    begin = time.monotonic()
    line = find_line(version, table, 1, 2**62)

    assert line is None or abs(line) < 2**64
    assert time.monotonic() - begin < 5
    struct.pack("<q", line or 0)

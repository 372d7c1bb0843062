"""From an instruction's offset to a line number, in the three encodings that CPython has used since 3.8."""

from __future__ import annotations


def find_line(version: tuple[int, int], table: bytes, first_line: int, offset: int) -> int | None:
    """Return the line of the instruction at ``offset`` (bytes from the first one), or None where it has none.

    A frame that has not started yet (``offset`` below 0) stands at its first line.
    """
    if offset < 0:
        return first_line
    if version >= (3, 11):
        return _find_in_locations(table, first_line, offset)
    if version >= (3, 10):
        return _find_in_line_ranges(table, first_line, offset)
    return _find_in_lnotab(table, first_line, offset)


def _find_in_lnotab(table: bytes, line: int, offset: int) -> int:
    """3.8, 3.9: pairs of increments (bytes of code, signed lines). Objects/lnotab_notes.txt."""
    address = 0
    for position in range(0, len(table) - 1, 2):
        address += table[position]
        if address > offset:
            break
        increment = table[position + 1]
        line += increment - 256 if increment > 127 else increment
    return line


def _find_in_line_ranges(table: bytes, line: int, offset: int) -> int | None:
    """3.10: pairs (length in bytes, signed lines; -128: no line), PEP 626."""
    end = 0
    for position in range(0, len(table) - 1, 2):
        length, increment = table[position], table[position + 1]
        increment = increment - 256 if increment > 127 else increment
        if increment != -128:
            line += increment
        end += length
        if end > offset:
            return None if increment == -128 else line
    return line


def _find_in_locations(table: bytes, line: int, offset: int) -> int | None:
    """3.11 on: a first byte with bit 7 set (kind and length), then what the kind needs. Objects/locations.md."""
    end = 0
    position = 0
    while position < len(table):
        first = table[position]
        kind = first >> 3 & 15
        end += 2 * ((first & 7) + 1)
        if kind == 13 or kind == 14:  # no columns; long form: a signed varint
            line += _signed_varint(table, position + 1)
        elif 10 <= kind <= 12:  # one-line form
            line += kind - 10
        if end > offset:
            return None if kind == 15 else line
        position += 1
        while position < len(table) and not table[position] & 0x80:
            position += 1
    return line


def _signed_varint(table: bytes, position: int) -> int:
    """Six bits a byte, lowest first; bit 6 says that more follow, bit 0 of the value is the sign."""
    value = shift = 0
    while position < len(table) and shift < 36:  # a line is a C int: a damaged table must not make a number of megabytes
        byte = table[position]
        value |= (byte & 63) << shift
        if not byte & 64:
            break
        shift += 6
        position += 1
    return -(value >> 1) if value & 1 else value >> 1

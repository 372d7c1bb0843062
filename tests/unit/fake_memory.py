"""Bytes at addresses, for the readers in ``cpython``: they receive a ``Memory`` and never know whose."""

import struct

from threadsurgeon.linux.memory import BadAddress


class FakeMemory:
    """Segments of bytes; everything else is not mapped. Counts the calls, as each would be a system call."""

    def __init__(self, segments=None):
        self.segments = {address: bytearray(content) for address, content in (segments or {}).items()}
        self.calls = 0

    def write(self, address, content):
        """Map the bytes at the address, or change them where it is mapped."""
        for start, segment in self.segments.items():
            if start <= address and address + len(content) <= start + len(segment):
                segment[address - start : address - start + len(content)] = content
                return
        self.segments[address] = bytearray(content)

    def write_pointer(self, address, value):
        self.write(address, struct.pack("<Q", value))

    def read(self, address, size):
        self.calls += 1
        content = self._find(address, size)
        if content is None:
            raise BadAddress(address, size)
        return content

    def read_many(self, ranges):
        self.calls += 1
        return [self._find(address, size) for address, size in ranges]

    def _find(self, address, size):
        if size <= 0:
            return None
        for start, segment in self.segments.items():
            if start <= address and address + size <= start + len(segment):
                return bytes(segment[address - start : address - start + size])
        return None

"""Bytes at addresses, for the readers in ``cpython``: they receive a ``Memory`` and never know whose."""

import struct

from threadsurgeon.linux.memory import BadAddress


class FakeMemory:
    """Segments of bytes; everything else is not mapped.

    Counts the calls, as each would be a system call, and knows the largest size asked for, as that would be allocated.
    """

    def __init__(self, segments=None):
        self.segments = {address: bytearray(content) for address, content in (segments or {}).items()}
        self.calls = 0
        self.largest = 0

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
        self.largest = max(self.largest, size)
        if size <= 0:
            return None
        for start, segment in self.segments.items():
            if start <= address and address + size <= start + len(segment):
                return bytes(segment[address - start : address - start + size])
        return None


class Heap:
    """A fake target's memory with objects in it, laid out as in one version. Nothing stands beside an object."""

    STRIDE = 1 << 20

    def __init__(self, layout):
        self.layout = layout
        self.memory = FakeMemory()
        self._next = 0x7F00_0000_0000

    def allocate(self, content, before=b""):
        """Map the bytes somewhere, with some before their address."""
        self._next += self.STRIDE
        self.memory.write(self._next - len(before), before + bytes(content))
        return self._next

    def struct(self, size, fields):
        """Bytes of a struct: {offset: value}, where a value is a number (eight bytes) or bytes."""
        content = bytearray(size)
        for offset, value in fields.items():
            piece = value if isinstance(value, bytes) else struct.pack("<Q", value & 2**64 - 1)
            content[offset : offset + len(piece)] = piece
        return content

    def text(self, text, **changes):
        """A compact str object; ``changes``: length, kind, compact, ascii."""
        layout = self.layout.unicode_object
        largest = max(map(ord, text), default=0)
        kind, encoding = (1, "latin-1") if largest < 256 else (2, "utf-16-le") if largest < 2**16 else (4, "utf-32-le")
        facts = {"length": len(text), "kind": kind, "compact": 1, "ascii": largest < 128, **changes}
        shift = 8 if self.layout.free_threaded and self.layout.version >= (3, 14) else 2
        state = facts["kind"] << shift | facts["compact"] << shift + 3 | facts["ascii"] << shift + 4
        size = layout.asciiobject_size if facts["ascii"] else layout.compactunicodeobject_size
        fields = {layout.length: facts["length"], layout.state: struct.pack("<I", state)}
        return self.allocate(self.struct(size, fields) + text.encode(encoding, "surrogatepass"))

    def number(self, value):
        """An int object of at most two digits."""
        layout = self.layout.long_object
        digits = 0 if value == 0 else 1 if value < 1 << 30 else 2
        tag = digits << 3 | (value == 0) if self.layout.version >= (3, 12) else digits
        pair = struct.pack("<II", value & (1 << 30) - 1, value >> 30)
        return self.allocate(self.struct(layout.ob_digit + 8, {layout.lv_tag: tag, layout.ob_digit: pair}))

    def bytes(self, content, size=None):
        """A bytes object."""
        layout = self.layout.bytes_object
        header = self.struct(layout.ob_sval, {layout.ob_size: len(content) if size is None else size})
        return self.allocate(header + content)

    def keys(self, entries, **changes):
        """A dict's table of (key, value) addresses; ``changes``: slots, log2_index_bytes, kind, count."""
        layout = self.layout.dict_keys
        slots = changes.get("slots", 8)
        fields = {layout.dk_nentries: changes.get("count", len(entries))}
        if layout.dk_size is not None:
            fields[layout.dk_size] = slots
            words = [(0, *entry) for entry in entries]
        else:
            fields[layout.dk_log2_index_bytes] = bytes([changes.get("log2_index_bytes", 3)])
            fields[layout.dk_kind] = bytes([changes.get("kind", 1)])
            words = [entry if changes.get("kind", 1) else (0, *entry) for entry in entries]
        table = b"".join(struct.pack("<Q", word) for entry in words for word in entry)
        return self.allocate(self.struct(layout.dk_indices, fields) + bytes(8) + table)

    def dict(self, items, **changes):
        """A dict of {text: address}."""
        layout = self.layout.dict_object
        keys = self.keys([(self.text(name), value) for name, value in items.items()], **changes)
        return self.allocate(self.struct(layout.size, {layout.ma_keys: keys, layout.ma_used: len(items)}))

    def code(self, code_type, name, file, first_line, table, copies=()):
        """A code object; ``copies``: where threads have copies of its bytecode, 0 for one that has none yet."""
        layout = self.layout.code_object
        fields = {
            self.layout.pyobject.ob_type: code_type,
            layout.name: self.text(name),
            layout.filename: self.text(file),
            layout.linetable: self.bytes(table),
            layout.firstlineno: struct.pack("<i", first_line),
        }
        address = self.allocate(self.struct(layout.size, fields))
        if layout.co_tlbc is not None:
            starts = (address + layout.co_code_adaptive, *copies)
            array = self.allocate(struct.pack(f"<{len(starts) + 1}Q", len(starts), *starts))
            self.memory.write_pointer(address + layout.co_tlbc, array)
        return address

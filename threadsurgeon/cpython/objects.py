"""The few kinds of object we read: str, int, dict, bytes, and the attributes of an instance.

Everything read is untrusted: sizes are bounded, text is decoded with replacement, and memory may change under us.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from threadsurgeon.cpython.layout import Layout
from threadsurgeon.cpython.reading import Walk
from threadsurgeon.linux.memory import BadAddress

MAX_TEXT = 4096  # characters: longer names and paths are cut
MAX_BYTES = 1 << 20
MAX_ENTRIES = 1 << 20

MANAGED_DICT = 1 << 4  # Py_TPFLAGS_MANAGED_DICT, 3.11 on
INLINE_VALUES = 1 << 2  # Py_TPFLAGS_INLINE_VALUES, 3.13 on
UNICODE_SUBCLASS = 1 << 28  # Py_TPFLAGS_UNICODE_SUBCLASS
POINTER = 8

_pointer = struct.Struct("<Q").unpack_from
_signed = struct.Struct("<q").unpack_from
_unsigned32 = struct.Struct("<I").unpack_from

Entries = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Type:
    """What an instance's type says about where its attributes are."""

    flags: int
    basicsize: int
    dictoffset: int
    cached_keys: int


class ObjectReader:
    """Reads objects of one target during one look; what many objects share (types, keys) is read once."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        # Since CPython 3.14 a free-threaded build keeps `interned` in a byte of its own, before `kind`.
        self._kind_shift = 8 if layout.free_threaded and layout.version >= (3, 14) else 2
        self._types: dict[int, _Type] = {}
        self._names: dict[int, str] = {}
        self._shared_keys: dict[int, Entries] = {}

    def read_pointer(self, address: int) -> Walk[int]:
        """Return the pointer stored at the address."""
        content = yield (address, POINTER)
        return int(_pointer(content)[0])

    def read_str(self, address: int) -> Walk[str]:
        """Return the text of a compact ``str`` object, cut to MAX_TEXT characters."""
        unicode = self.layout.unicode_object
        header = yield (address, unicode.asciiobject_size)
        (length,) = _signed(header, unicode.length)
        (state,) = _unsigned32(header, unicode.state)
        kind = state >> self._kind_shift & 7
        compact, ascii_only = state >> self._kind_shift + 3 & 1, state >> self._kind_shift + 4 & 1
        if length < 0 or kind not in (1, 2, 4) or not compact:
            raise BadAddress(address, unicode.asciiobject_size)
        if length == 0:
            return ""
        start = address + (unicode.asciiobject_size if ascii_only else unicode.compactunicodeobject_size)
        content = yield (start, min(length, MAX_TEXT) * kind)
        encoding = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[kind]
        text: str = content.decode(encoding, "replace")
        return text if length <= MAX_TEXT else text + "…"

    def read_bytes(self, address: int) -> Walk[bytes]:
        """Return the content of a ``bytes`` object."""
        layout = self.layout.bytes_object
        header = yield (address, layout.ob_sval)
        (size,) = _signed(header, layout.ob_size)
        if not 0 <= size <= MAX_BYTES:
            raise BadAddress(address, layout.ob_sval)
        if size == 0:
            return b""
        content: bytes = yield (address + layout.ob_sval, size)
        return content

    def parse_int(self, content: bytes) -> int:
        """Return the value of an ``int`` of at most two digits (60 bits) from the ``int_size`` bytes at its address."""
        layout = self.layout.long_object
        (tag,) = _signed(content, layout.lv_tag)
        # 3.12 on: the number of digits is above three flag bits; before that the field is ob_size, negative below 0.
        digits = tag >> 3 if self.layout.version >= (3, 12) else tag
        value = 0
        if not 0 <= digits <= 2:
            return -1
        for index in range(digits):
            value |= _unsigned32(content, layout.ob_digit + 4 * index)[0] << 30 * index
        return value

    @property
    def int_size(self) -> int:
        """The bytes that ``parse_int`` needs; no more, since what follows the object may not be mapped."""
        return self.layout.long_object.ob_digit + 8

    def read_dict(self, address: int) -> Walk[Entries]:
        """Return the (key, value) addresses of a dict's items."""
        layout = self.layout.dict_object
        content = yield (address, layout.size)
        keys, values = _pointer(content, layout.ma_keys)[0], _pointer(content, layout.ma_values)[0]
        if values:
            return (yield from self._read_split(keys, values + self.layout.dict_values.values))
        return (yield from self._read_keys(keys))

    def _read_keys(self, keys: int) -> Walk[Entries]:
        """Return the (key, value) addresses of a keys table; the values are NULL where the table is shared."""
        layout = self.layout.dict_keys
        header = yield (keys, layout.dk_indices)
        if layout.dk_log2_index_bytes is not None:
            # 3.11 on: tables whose keys are all str keep no hashes
            assert layout.dk_kind is not None
            index_bytes = 1 << min(header[layout.dk_log2_index_bytes], 40)
            entry_size = 24 if header[layout.dk_kind] == 0 else 16
        else:
            assert layout.dk_size is not None
            (slots,) = _signed(header, layout.dk_size)
            width = 1 if slots <= 0xFF else 2 if slots <= 0xFFFF else 4 if slots <= 0xFFFFFFFF else 8
            index_bytes = slots * width
            entry_size = 24
        (count,) = _signed(header, layout.dk_nentries)
        if not 0 <= count <= MAX_ENTRIES or not 0 <= index_bytes <= 16 * MAX_ENTRIES:
            raise BadAddress(keys, layout.dk_indices)
        if count == 0:
            return []
        content = yield (keys + layout.dk_indices + index_bytes, count * entry_size)
        words = struct.unpack(f"<{len(content) // 8}Q", content)
        if entry_size == 24:
            return list(zip(words[1::3], words[2::3], strict=True))
        return list(zip(words[0::2], words[1::2], strict=True))

    def _read_split(self, keys: int, values: int) -> Walk[Entries]:
        """Return the items of a table whose keys are shared and whose values stand at ``values``."""
        entries = self._shared_keys.get(keys)
        if entries is None:
            entries = self._shared_keys[keys] = yield from self._read_keys(keys)
        if not entries:
            return []
        content = yield (values, len(entries) * POINTER)
        pointers = struct.unpack(f"<{len(entries)}Q", content)
        return [(key, value) for (key, _), value in zip(entries, pointers, strict=True) if value]

    def find_items(self, entries: Entries, *names: str) -> Walk[dict[str, int]]:
        """Return the values' addresses of the items with these ASCII names, by comparing every key in one read."""
        unicode = self.layout.unicode_object
        wanted = {name.encode(): name for name in names}
        found: dict[str, int] = {}
        unknown = [(key, value) for key, value in entries if key and value and key not in self._names]
        longest = max(len(name) for name in wanted)
        # Each key is read at its own length: it may stand at the end of mapped memory.
        headers = yield [(key, unicode.asciiobject_size) for key, _ in unknown]
        sized = []
        for (key, _), header in zip(unknown, headers, strict=True):
            if header is not None:
                (length,) = _signed(header, unicode.length)
                if 0 < length <= longest:
                    sized.append((key, length))
        texts = yield [(key + unicode.asciiobject_size, length) for key, length in sized]
        for (key, _), text in zip(sized, texts, strict=True):
            if text in wanted:
                self._names[key] = wanted[text]
        for key, value in entries:
            name = self._names.get(key)
            if name in names and value:
                found[name] = value
        return found

    def read_attributes(self, address: int, *names: str) -> Walk[dict[str, int]]:
        """Return the addresses of the instance attributes with these names, as far as the instance has them."""
        entries = yield from self._read_instance(address)
        return (yield from self.find_items(entries, *names))

    def _read_instance(self, address: int) -> Walk[Entries]:
        type_address = yield from self.read_pointer(address + self.layout.pyobject.ob_type)
        type_ = yield from self._read_type(type_address)
        if not type_.flags & MANAGED_DICT or self.layout.version < (3, 11):
            if type_.dictoffset <= 0:
                return []
            dictionary = yield from self.read_pointer(address + type_.dictoffset)
            return (yield from self.read_dict(dictionary)) if dictionary else []
        # A managed dict: its pointer stands before the object (right before it in free-threaded builds).
        free_threaded = self.layout.free_threaded
        dictionary = yield from self.read_pointer(address - (1 if free_threaded else 3) * POINTER)
        if self.layout.version >= (3, 13):
            if dictionary:
                return (yield from self.read_dict(dictionary))
            values = address + type_.basicsize
            return (yield from self._read_split(type_.cached_keys, values + self.layout.dict_values.values))
        if self.layout.version == (3, 12) and dictionary & 1:  # tagged: the values instead of a dict, minus one
            values = dictionary + 1
            return (yield from self._read_split(type_.cached_keys, values + self.layout.dict_values.values))
        if self.layout.version == (3, 11):
            values = yield from self.read_pointer(address - 4 * POINTER)
            if values:
                return (yield from self._read_split(type_.cached_keys, values + self.layout.dict_values.values))
        return (yield from self.read_dict(dictionary)) if dictionary else []

    def _read_type(self, address: int) -> Walk[_Type]:
        known = self._types.get(address)
        if known is not None:
            return known
        layout = self.layout.type_object
        content = yield (address, layout.size)
        (flags,) = _pointer(content, layout.tp_flags)
        cached_keys = 0
        if flags & MANAGED_DICT and self.layout.version >= (3, 11):
            cached_keys = yield from self.read_pointer(address + self.layout.heap_type_object.ht_cached_keys)
        type_ = _Type(
            flags=flags,
            basicsize=_signed(content, layout.tp_basicsize)[0],
            dictoffset=_signed(content, layout.tp_dictoffset)[0],
            cached_keys=cached_keys,
        )
        self._types[address] = type_
        return type_

"""The few kinds of object we read: str, int, dict, bytes, and the attributes of an instance.

Everything read is untrusted: sizes are bounded, text is decoded with replacement, and memory may change under us.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from threadsurgeon.cpython.layout import Layout
from threadsurgeon.cpython.reading import Walk
from threadsurgeon.linux.memory import BadAddress

MAX_TEXT = 4096  # characters: longer names and paths are cut
SHORT_TEXT = 48
MAX_NAME = 40  # bytes: keys that are longer are none that we look for
MAX_BYTES = 1 << 20
MAX_ENTRIES = 1 << 20

MANAGED_DICT = 1 << 4  # Py_TPFLAGS_MANAGED_DICT, 3.11 on
INLINE_VALUES = 1 << 2  # Py_TPFLAGS_INLINE_VALUES, 3.13 on
UNICODE_SUBCLASS = 1 << 28  # Py_TPFLAGS_UNICODE_SUBCLASS
POINTER = 8
_PREHEADER = 4 * POINTER  # what may stand before an object of a type with MANAGED_DICT

_pointer = struct.Struct("<Q").unpack_from
_signed = struct.Struct("<q").unpack_from
_unsigned32 = struct.Struct("<I").unpack_from

Entries = list[tuple[int, int]]


class _Type(NamedTuple):
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
        self._names: dict[int | None, bytes | None] = {}
        self._shared_keys: dict[int, Entries] = {}
        self._slots: dict[tuple[int, tuple[str, ...]], dict[str, int]] = {}  # name → number of its slot, from 1

    def read_pointer(self, address: int) -> Walk[int]:
        """Return the pointer stored at the address."""
        content = yield (address, POINTER)
        return int(_pointer(content)[0])

    def read_str(self, address: int) -> Walk[str]:
        """Return the text of a compact ``str`` object, cut to MAX_TEXT characters."""
        unicode = self.layout.unicode_object
        # Most texts are short: what follows the header is read with it, if it is there to be read.
        try:
            header = yield (address, unicode.asciiobject_size + SHORT_TEXT)
        except BadAddress:
            header = yield (address, unicode.asciiobject_size)
        (length,) = _signed(header, unicode.length)
        (state,) = _unsigned32(header, unicode.state)
        kind = state >> self._kind_shift & 7
        compact, ascii_only = state >> self._kind_shift + 3 & 1, state >> self._kind_shift + 4 & 1
        if length < 0 or kind not in (1, 2, 4) or not compact:
            raise BadAddress(address, unicode.asciiobject_size)
        if length == 0:
            return ""
        if ascii_only and unicode.asciiobject_size + length <= len(header):
            return str(header[unicode.asciiobject_size : unicode.asciiobject_size + length], "latin-1")
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

    def read_changing_dict(self, address: int) -> Walk[Entries]:
        """Return the same of a dict that changes all the time.

        Raises:
            BadAddress: it was given a new table meanwhile; what was read may be anything.
        """
        layout = self.layout.dict_object
        before = yield from self.read_pointer(address + layout.ma_keys)
        entries = yield from self.read_dict(address)
        after = yield from self.read_pointer(address + layout.ma_keys)
        if before != after:
            raise BadAddress(before, POINTER)
        return entries

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
        wanted: dict[bytes | None, str] = {name.encode(): name for name in names}
        found: dict[str, int] = {}
        unknown = [key for key, _ in entries if key and key not in self._names]
        if unknown:
            # Each key is read at its own length: it may stand at the end of mapped memory.
            headers = yield [(key, unicode.asciiobject_size) for key in unknown]
            sized = []
            for key, header in zip(unknown, headers, strict=True):
                length = _signed(header, unicode.length)[0] if header is not None else 0
                if 0 < length <= MAX_NAME:
                    sized.append((key, length))  # not known before it is read: another walk may ask for it meanwhile
                else:
                    self._names[key] = None
            texts = yield [(key + unicode.asciiobject_size, length) for key, length in sized]
            for (key, _), text in zip(sized, texts, strict=True):
                self._names[key] = text
        for key, value in entries:
            name = wanted.get(self._names.get(key))
            if name is not None and value:
                found[name] = value
        return found

    def read_attributes(self, address: int, *names: str) -> Walk[dict[str, int]]:
        """Return the addresses of the instance attributes with these names, as far as the instance has them."""
        keys, values, dictionary = yield from self._find_attributes(address)
        if values:
            return (yield from self._read_slots(keys, values, names))
        if not dictionary:
            return {}
        entries = yield from self.read_dict(dictionary)
        return (yield from self.find_items(entries, *names))

    def list_attributes(self, address: int) -> Walk[list[int]]:
        """Return the addresses of all instance attributes."""
        keys, values, dictionary = yield from self._find_attributes(address)
        if values:
            entries = yield from self._read_split(keys, values)
        else:
            entries = (yield from self.read_dict(dictionary)) if dictionary else []
        return [value for key, value in entries if key and value]

    def _find_attributes(self, address: int) -> Walk[tuple[int, int, int]]:
        """Return where an instance keeps its attributes: (keys, values) of a shared table, or a dict; the others are 0."""
        managed = self.layout.version >= (3, 11)
        before = _PREHEADER if managed else 0
        content = yield (address - before, before + self.layout.pyobject.size)
        (type_address,) = _pointer(content, before + self.layout.pyobject.ob_type)
        type_ = self._types.get(type_address)
        if type_ is None:
            type_ = yield from self._read_type(type_address)
        if managed and type_.flags & MANAGED_DICT:
            dictionary, values = self._find_managed(address, content, type_)
        else:
            values = 0
            dictionary = (yield from self.read_pointer(address + type_.dictoffset)) if type_.dictoffset > 0 else 0
        return (type_.cached_keys, values, 0) if values else (0, 0, dictionary)

    def _find_managed(self, address: int, content: bytes, type_: _Type) -> tuple[int, int]:
        """Return (dict, values) of an object that keeps them where the interpreter wants: one of the two is not 0.

        ``content`` is what stands before and at the object's address.
        """
        words = struct.unpack_from(f"<{_PREHEADER // POINTER}Q", content)
        first = self.layout.dict_values.values
        if self.layout.version >= (3, 13):
            # The dict's pointer, right before the object in free-threaded builds; no dict: values behind the object.
            dictionary = words[-1] if self.layout.free_threaded else words[-3]
            return dictionary, 0 if dictionary else address + type_.basicsize + first
        if self.layout.version == (3, 12):  # either of the two; the values' address minus one is odd
            return (0, words[-3] + 1 + first) if words[-3] & 1 else (words[-3], 0)
        return words[-3], words[-4] and words[-4] + first  # 3.11: a pointer each

    def _read_slots(self, keys: int, values: int, names: tuple[str, ...]) -> Walk[dict[str, int]]:
        """Return the attributes with these names of an object that shares its keys with others of its type."""
        slots = self._slots.get((keys, names))
        if slots is None:
            entries = yield from self._read_keys(keys)
            slots = yield from self.find_items([(key, index + 1) for index, (key, _) in enumerate(entries)], *names)
            self._slots[keys, names] = slots
        if not slots:
            return {}
        content = yield (values, max(slots.values()) * POINTER)
        found = {name: _pointer(content, (number - 1) * POINTER)[0] for name, number in slots.items()}
        return {name: value for name, value in found.items() if value}

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

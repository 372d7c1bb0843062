"""Reading str, int, bytes, dicts and attributes: as each CPython found says, and whatever memory holds."""

import random
import struct
import time

import pytest

from threadsurgeon.cpython.objects import MAX_BYTES, MAX_ENTRIES, MAX_TEXT, ObjectReader
from threadsurgeon.cpython.reading import walk_alone, walk_together
from threadsurgeon.linux.memory import BadAddress

NAMES = ("name", "other", "extra", "third", "more", "dumps")


@pytest.fixture
def reader(sampled):
    return ObjectReader(sampled.runtime.layout)


@pytest.fixture
def objects(heap):
    return ObjectReader(heap.layout)


def shown(text):
    """What of a text can be shown: no half surrogate pairs, and not more than a line or fifty."""
    whole = "".join("\N{REPLACEMENT CHARACTER}" if 0xD800 <= ord(letter) < 0xE000 else letter for letter in text)
    return whole if len(text) <= MAX_TEXT else whole[:MAX_TEXT] + "…"


def test_text_is_what_the_interpreter_says(sampled, reader):
    """Empty, each width of characters, NUL, longer than we read, half surrogate pairs."""
    for address, text in sampled.said["text"]:
        assert walk_alone(sampled.memory, reader.read_str(address)) == shown(text)


def test_numbers_are_what_the_interpreter_says(sampled, reader):
    """None, one and two digits; more is not taken for less."""
    for address, number in sampled.said["numbers"]:
        assert reader.parse_int(sampled.memory.read(address, reader.int_size)) == number
    for address in sampled.said["large numbers"]:
        assert reader.parse_int(sampled.memory.read(address, reader.int_size)) == -1


def test_bytes_are_what_the_interpreter_says(sampled, reader):
    """Empty, all values, long."""
    for address, text in sampled.said["bytes"]:
        assert walk_alone(sampled.memory, reader.read_bytes(address)).hex() == text


def test_dicts_are_what_the_interpreter_says(sampled, reader):
    """Combined and split tables, of text and other keys, with deleted entries, resized, with wide indices."""
    for name, (address, items) in sampled.said["dictionaries"].items():
        entries = walk_alone(sampled.memory, reader.read_dict(address))

        assert [list(entry) for entry in entries if all(entry)] == items, name


def test_attributes_are_what_the_interpreter_says(sampled, reader):
    """Ordinary and derived classes, before and after somebody looked at __dict__, replaced, deleted, grown, slots."""
    seen = {}
    for name, (address, _) in sampled.said["instances"].items():
        seen[name] = walk_alone(sampled.memory, reader.read_attributes(address, *NAMES))

    assert seen == {name: attributes for name, (_, attributes) in sampled.said["instances"].items()}


def test_own_objects_are_read(own_memory, own_runtime):
    """This very process, read from outside."""
    reader = ObjectReader(own_runtime.layout)
    word = "".join(["own", " text"])

    assert walk_alone(own_memory, reader.read_str(id(word))) == word
    assert reader.parse_int(own_memory.read(id(MAX_BYTES), reader.int_size)) == MAX_BYTES


@pytest.mark.parametrize("text", ["", "a", "ascii", "ÿÿ", "Ωmega", "😀", "\ud800", "a" * MAX_TEXT, "Ω" * (MAX_TEXT + 1)])
def test_text_of_every_version_is_read(heap, objects, text):
    """As each version lays it out."""
    assert walk_alone(heap.memory, objects.read_str(heap.text(text))) == shown(text)


@pytest.mark.parametrize(
    "changes", [{"length": -1}, {"length": -(2**63)}, {"kind": 0}, {"kind": 3}, {"kind": 7}, {"compact": 0}]
)
def test_impossible_text_is_a_bad_address(heap, objects, changes):
    """A negative length, an unknown width, a str that keeps its text elsewhere."""
    with pytest.raises(BadAddress):
        walk_alone(heap.memory, objects.read_str(heap.text("text", **changes)))


def test_text_of_a_huge_length_is_read_as_far_as_we_read(heap, objects):
    """Nothing is allocated for a length of exabytes."""
    whole = heap.text("x" * MAX_TEXT, length=2**62)
    short = heap.text("x", length=2**62)

    assert walk_alone(heap.memory, objects.read_str(whole)) == "x" * MAX_TEXT + "…"
    with pytest.raises(BadAddress):
        walk_alone(heap.memory, objects.read_str(short))


@pytest.mark.parametrize(
    ("content", "kind"), [(b"\x00\xd8" * 2, 2), (b"\xff" * 4, 2), (b"\xff" * 8, 4), (b"\0\xd8\0\0" * 2, 4)]
)
def test_invalid_characters_are_replaced(heap, objects, content, kind):
    """Half surrogate pairs, and numbers that are no characters."""
    layout = heap.layout.unicode_object
    address = heap.text("Ω" * 4 if kind == 2 else "😀" * 2, length=2)
    heap.memory.write(address + layout.compactunicodeobject_size, content[: 2 * kind])
    text = walk_alone(heap.memory, objects.read_str(address))

    text.encode()
    assert text


@pytest.mark.parametrize("size", [-1, MAX_BYTES + 1, 2**62])
def test_impossible_bytes_are_a_bad_address(heap, objects, size):
    """Negative, or larger than any line table."""
    with pytest.raises(BadAddress):
        walk_alone(heap.memory, objects.read_bytes(heap.bytes(b"content", size)))
    assert heap.memory.largest < 2**12


@pytest.mark.parametrize("value", [0, 1, 2**30 - 1, 2**30, 2**47, 2**60 - 1])
def test_numbers_of_every_version_are_read(heap, objects, value):
    """As each version lays them out; nothing behind the second digit is read, where memory may end."""
    address = heap.number(value)

    assert objects.parse_int(heap.memory.read(address, objects.int_size)) == value


@pytest.mark.parametrize("digits", [3, 2**20, 2**59])
def test_number_of_many_digits_is_none_of_ours(heap, objects, digits):
    """An ident has two digits; a damaged size is not followed."""
    tag = digits << 3 if heap.layout.version >= (3, 12) else digits
    content = heap.struct(objects.int_size, {heap.layout.long_object.lv_tag: tag})

    assert objects.parse_int(bytes(content)) == -1


def test_dict_of_every_version_is_read_by_name(heap, objects):
    """Only the names asked for, as far as the dict has them; deleted entries and unreadable keys do no harm."""
    items = {"first": 0x10, "_name": 0x20, "x": 0x30, "_nome": 0x40, "é": 0x50}
    address = heap.dict(items)
    entries = walk_alone(heap.memory, objects.read_dict(address))

    assert [value for _, value in entries] == list(items.values())
    entries += [(0, 0x60), (0x9999, 0x70), (entries[0][0], 0)]
    assert walk_alone(heap.memory, objects.find_items(entries, "_name", "x", "absent")) == {"_name": 0x20, "x": 0x30}


def test_split_dict_is_read(heap, objects):
    """The keys' own values are NULL; those of the instance stand elsewhere, NULL for an attribute it does not have."""
    layout = heap.layout
    kind = {"kind": 2} if layout.dict_keys.dk_kind is not None else {}
    keys = heap.keys([(heap.text(name), 0) for name in ("one", "two", "three")], **kind)
    values = heap.allocate(bytes(layout.dict_values.values) + struct.pack("<QQQ", 0x10, 0, 0x30))
    fields = {layout.dict_object.ma_keys: keys, layout.dict_object.ma_values: values}
    address = heap.allocate(heap.struct(layout.dict_object.size, fields))
    entries = walk_alone(heap.memory, objects.read_dict(address))

    assert walk_alone(heap.memory, objects.find_items(entries, "one", "two", "three")) == {"one": 0x10, "three": 0x30}


@pytest.mark.parametrize(
    "changes",
    [
        {"count": -1},
        {"count": MAX_ENTRIES + 1},
        {"count": 2**62},
        {"slots": -1, "log2_index_bytes": 255},
        {"slots": 2**62, "log2_index_bytes": 40},
    ],
)
def test_impossible_dict_is_a_bad_address(heap, objects, changes):
    """Sizes that no dict has: refused before anything is allocated."""
    begin = time.monotonic()
    with pytest.raises(BadAddress):
        walk_alone(heap.memory, objects.read_dict(heap.dict({"a": 0x10}, **changes)))

    assert heap.memory.largest < 2**12
    assert time.monotonic() - begin < 1


def test_names_of_the_same_length_are_not_confused(heap, objects):
    """Also not those that continue or begin with the name."""
    entries = [(heap.text(name), index + 1) for index, name in enumerate(["_nam", "_name_", "_nbme", "name", ""])]

    assert walk_alone(heap.memory, objects.find_items(entries, "_name")) == {}


def test_hostile_memory_is_survived(own_memory, own_runtime, heap, objects):
    """Objects full of random bytes: a result or a BadAddress, never another error."""
    dice = random.Random(3)
    items = {"_name": heap.text("name"), "_daemonic": heap.number(1)}
    places = [heap.dict(items), heap.text("text"), heap.bytes(b"bytes"), *items.values()]
    good = {start: bytes(segment) for start, segment in heap.memory.segments.items()}
    addresses = list(good)
    for _ in range(300):
        for start in dice.sample(addresses, 2):
            segment = bytearray(good[start])
            for _ in range(dice.randrange(1, 4)):
                where = dice.randrange(0, max(1, len(segment) - 8), 8)
                word = dice.choice([0, 1, 2**63, 2**64 - 1, dice.choice(addresses), dice.randrange(2**64)])
                segment[where : where + 8] = struct.pack("<Q", word)[: len(segment) - where]
            heap.memory.segments[start] = segment
        fresh = ObjectReader(heap.layout)
        walks = [fresh.read_str(places[1]), fresh.read_bytes(places[2]), fresh.read_dict(places[0])]
        walks += [fresh.read_attributes(place, "_name") for place in places]

        walk_together(heap.memory, walks)
        for start, content in good.items():
            heap.memory.segments[start] = bytearray(content)

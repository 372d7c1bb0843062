"""Run by every CPython found (3.8 syntax): makes objects of many shapes, prints where they are, and waits."""

import dis
import functools
import json
import sys
import textwrap
import types
from pathlib import Path


class Plain:
    pass


class Child(Plain):
    pass


class Slots:
    __slots__ = ("name", "other")


class SlotsAndDict(Slots):
    pass


class Error(ValueError):
    pass


def make(kind, **attributes):
    one = kind()
    for name, value in attributes.items():
        setattr(one, name, value)
    return one


def odd_lines(value, items=(), **rest):
    """Lines that go back and forth."""
    result = [
        value
        for value in items
        if (
            value
            and
            rest
        )
    ]
    print(
        value,

        len(
            result
        ),
        sep=

        "",
    ) if value else None

    try:
        for index in range(
            3
        ):
            print(index)
            with open(
                __file__
            ) as file:
                file.read()
                continue
    except (
        OSError,
        ValueError
    ) as error:
        raise KeyError(
            index
        ) from error
    else:
        return (lambda:
                value)
    finally:
        while value:
            value -= \
                1
    @staticmethod
    @functools.wraps(
        odd_lines
    )
    def decorated(
        one=1,
        two=2
    ):
        yield one
        return (yield
                two)
    return decorated


def dictionaries():
    deleted = {str(number): number for number in range(20)}
    for number in range(0, 20, 3):
        del deleted[str(number)]
    emptied = {"a": 1}
    del emptied["a"]
    popped = dict.fromkeys("abcdef", 1)
    popped.popitem()
    split = make(Plain, one=1, two=2)
    split_and_resized = make(Plain, **{f"x{number}": number for number in range(50)})
    split_and_deleted = make(Plain, one=1, two=2, three=3)
    del split_and_deleted.one
    return {
        "empty": {},
        "emptied": emptied,
        "text": {"a": 1, "b": 2},
        "numbers": {1: "a", 2: "b"},
        "mixed": {"a": 1, 2: "b", None: 3},
        "deleted": deleted,
        "popped": popped,
        "resized": {str(number): number for number in range(300)},
        "large": {number: number for number in range(70000)},
        "split": vars(split),
        "split and resized": vars(split_and_resized),
        "split and deleted": vars(split_and_deleted),
        "module": vars(json),
    }


def instances():
    opened = make(Plain, name="opened", other=1)
    vars(opened)
    replaced = make(Plain, name="gone")
    replaced.__dict__ = {"name": "replaced", "more": 1}
    deleted = make(Plain, name="x", other=2)
    del deleted.name
    cleared = make(Plain, name="x")
    cleared.__dict__.clear()
    grown = make(Plain, **{f"x{number}": number for number in range(40)})
    grown.name = "grown"
    return {
        "plain": make(Plain, name="plain", other=3),
        "unordered": make(Plain, other=3, name="unordered"),
        "child": make(Child, name="child", third=3),
        "without": make(Child),
        "opened": opened,
        "replaced": replaced,
        "deleted": deleted,
        "cleared": cleared,
        "grown": grown,
        "slots": make(Slots, name="in a slot"),
        "slots and dict": make(SlotsAndDict, name="in a slot", extra="in the dict"),
        "error": make(Error, name="of an exception"),
        "function": make(lambda: odd_lines, name="of a function"),
        "module": json,
        "no attributes": 5,
    }


def attributes_of(one):
    # Not by its __dict__: that would make one, and move the attributes there.
    names = ("name", "other", "extra", "third", "more", "dumps")
    return {name: id(getattr(one, name)) for name in names if hasattr(one, name) and not hasattr(type(one), name)}


def all_code(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from all_code(constant)


def lines_of(code):
    """(first offset, end, line) of each stretch of code."""
    if hasattr(code, "co_lines"):
        return list(code.co_lines())
    starts = [*dis.findlinestarts(code), (len(code.co_code), None)]
    return [(start, starts[index + 1][0], line) for index, (start, line) in enumerate(starts[:-1])]


def table_of(code):
    # co_lnotab is made up from 3.10 on, warns from 3.12 on, and is gone from 3.15 on.
    return (code.co_linetable if sys.version_info >= (3, 10) else code.co_lnotab).hex()


def codes():
    statements = ("    a = a.b(a,\n{}1)\n".format("\n" * (number * 7 % 300)) for number in range(60))
    sources = ["def f(a):\n" + "".join(statements), "x = 1\n" + "\n" * 1000 + "y = 2", "(" + "a," * 200 + ")", ""]
    sources += [Path(name).read_text(encoding="utf-8") for name in (textwrap.__file__, __file__)]
    for source in sources:
        yield from all_code(compile(source, "source", "exec"))


TEXTS = ["", "a", "ascii text", "caf\u00e9", "\u00ff" * 10, "\u03a9mega", "\U0001f600", "a\0b", "x" * 4096, "x" * 4097]
TEXTS += ["\u00e9" * 5000, "\u03a9" * 5000, "\U0001f600" * 5000, "\ud800", "a\udcff", "\u03a9\ud800", "\U0001f600\udfff"]
NUMBERS = [0, 1, 255, 257, 2**30 - 1, 2**30, 2**31, 2**47 - 4096, 2**60 - 1]
BYTES = [b"", b"a", bytes(range(256)), b"x" * 100000]


def main():
    kept = [dictionaries(), instances(), 2**60 + len(TEXTS)]
    # Not constants, of which the interpreter might have made other objects.
    texts = ["".join(text) for text in TEXTS]
    print(
        json.dumps(
            {
                "text": [[id(one), one] for one in texts],
                "numbers": [[id(one), one] for one in NUMBERS],
                "large numbers": [id(kept[2])],
                "bytes": [[id(one), one.hex()] for one in BYTES],
                "dictionaries": {n: [id(d), [[id(k), id(d[k])] for k in d]] for n, d in kept[0].items()},
                "instances": {n: [id(i), attributes_of(i)] for n, i in kept[1].items()},
                "lines": [[table_of(code), code.co_firstlineno, lines_of(code)] for code in codes()],
                "code": [id(odd_lines.__code__), odd_lines.__code__.co_name, odd_lines.__code__.co_filename],
            }
        ),
        flush=True,
    )
    sys.stdin.read()
    return kept, texts


if __name__ == "__main__":
    main()

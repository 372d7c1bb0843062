"""The exception table without its handlers, judged by the ``dis`` module of the Python that runs the tests."""

from __future__ import annotations

import dis
import sys
import types

import pytest

from gdb_scripts.exception_table import FIRST_INSTRUMENTED, without_handlers

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no exception tables before 3.11")


def handlers(work, tidy_up):
    try:
        work()
    except KeyError as error:
        try:
            tidy_up(error)
        except ValueError:
            work()
        finally:
            with tidy_up() as result:
                work(result)
    finally:
        work()


def generator(work):
    with work as result:
        yield from result


def many(work):
    exec("try:\n work()\nexcept KeyError:\n work()\n" * 100)
    return [item + 1 for item in work]


def read_targets(code: types.CodeType, table: bytes) -> list[tuple[int, int, int, int, bool]]:
    parse = dis._parse_exception_table
    return [(e.start, e.end, e.target, e.depth, e.lasti) for e in parse(code.replace(co_exceptiontable=table))]


@pytest.mark.parametrize("function", [handlers, generator, many])
def test_no_handler_is_left(function: types.FunctionType) -> None:
    """No entry leads to a handler; what is left are entries as they were, or led to what is around the handler."""
    code = function.__code__
    push = dis.opmap["PUSH_EXC_INFO"]
    table = without_handlers(code.co_exceptiontable, lambda index: code.co_code[2 * index], push)
    before, after = read_targets(code, code.co_exceptiontable), read_targets(code, table)

    assert [entry for entry in before if code.co_code[entry[2]] != push] == [
        entry for entry in after if entry in before
    ]
    for start, end, target, depth, lasti in after:
        assert code.co_code[target] != push
        assert (target, depth, lasti) in [entry[2:] for entry in before]
        assert (start, end) in [entry[:2] for entry in before]


def test_exception_in_a_handler_still_restores_the_previous_one() -> None:
    """Code without a handler that is called in a handler: sys.exc_info() is put back when it is left."""
    source = "try:\n raise KeyError\nexcept KeyError:\n try:\n  raise ValueError\n except ValueError:\n  pass\n"
    code = compile(source, "test", "exec")
    table = without_handlers(
        code.co_exceptiontable, lambda index: code.co_code[2 * index], dis.opmap["PUSH_EXC_INFO"]
    )
    raising = [i.offset for i in dis.get_instructions(code) if i.opname == "RAISE_VARARGS"]
    covered = [[e for e in read_targets(code, table) if e[0] <= offset < e[1]] for offset in raising]

    assert covered[0] == []
    assert [dis.opname[code.co_code[entry[2]]] for entry in covered[1]] == ["COPY"]


def test_traced_code_has_nothing_but_handlers() -> None:
    """Where opcodes stand for others, a target may be a handler: nothing is left."""
    table = without_handlers(handlers.__code__.co_exceptiontable, lambda _: FIRST_INSTRUMENTED, 35)

    assert table == b""

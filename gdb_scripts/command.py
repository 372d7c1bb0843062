r"""Registers a function as a command: one JSON object in, one JSON object out, errors in one line.

MI itself turns every value into text, so arguments and replies travel as JSON: ``-ts-name "{\"tid\": 7}"`` is answered by
``^done,json="{…}"``. gdb 10 and 11 have no MI commands in Python: ``-interpreter-exec console "ts-name {…}"`` it is there, and
the reply is a line of its own on the console, ``~"ts-reply {…}\n"``, before ``^done``.

A failure that is expected is raised as ``gdb.GdbError``, whose text becomes ``^error,msg="…"``; what gdb itself refuses keeps
gdb's words; anything else is a bug of ours and is marked as one.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import gdb

BUG = "bug in gdb_scripts: "

Function = TypeVar("Function", bound=Callable[..., dict[str, Any]])


def command(name: str) -> Callable[[Function], Function]:
    """Register the decorated function; its keyword-only parameters are the command's arguments."""

    def register(function: Function) -> Function:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is not parameter.KEYWORD_ONLY:
                raise TypeError(f"{name}: parameter {parameter.name} must be keyword-only")
        if hasattr(gdb, "MICommand"):
            _MICommand(name, function)
        else:
            _ConsoleCommand(name, function)
        return function

    return register


if hasattr(gdb, "MICommand"):

    class _MICommand(gdb.MICommand):
        def __init__(self, name: str, function: Callable[..., dict[str, Any]]) -> None:
            super().__init__(name)
            self._function = function

        def invoke(self, arguments: list[str]) -> dict[str, Any]:
            return {"json": _answer(self._function, arguments[0] if arguments else "")}

else:

    class _ConsoleCommand(gdb.Command):
        def __init__(self, name: str, function: Callable[..., dict[str, Any]]) -> None:
            super().__init__(name[1:], gdb.COMMAND_NONE)
            self._function = function

        def invoke(self, argument: str, _from_tty: bool) -> None:
            reply = _answer(self._function, argument)
            gdb.write("\n")  # what gdb has begun to say is no part of it
            gdb.write(f"ts-reply {reply}\n")


def _answer(function: Callable[..., dict[str, Any]], arguments: str) -> str:
    try:
        values = json.loads(arguments) if arguments else {}
        inspect.signature(function).bind(**values)
    except (ValueError, TypeError) as error:
        raise gdb.GdbError(f"{BUG}wrong arguments: {error}") from None
    try:
        return json.dumps(function(**values))
    except gdb.GdbError:
        raise
    except gdb.error as error:
        raise gdb.GdbError(_one_line(str(error))) from None
    except Exception as error:
        raise gdb.GdbError(BUG + _one_line(f"{type(error).__name__}: {error}, at {_origin(error)}")) from None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _origin(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"

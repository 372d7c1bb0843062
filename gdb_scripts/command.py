r"""Registers a function as an MI command: one JSON object in, one JSON object out, errors in one line.

MI itself turns every value into text, so arguments and replies travel as JSON: ``-ts-name "{\"tid\": 7}"`` is answered by
``^done,json="{…}"``. A failure that is expected is raised as ``gdb.GdbError``, whose text becomes ``^error,msg="…"``; what gdb
itself refuses keeps gdb's words; anything else is a bug of ours and is marked as one.
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
        _Command(name, function)
        return function

    return register


class _Command(gdb.MICommand):
    def __init__(self, name: str, function: Callable[..., dict[str, Any]]) -> None:
        super().__init__(name)
        self._function = function
        self._signature = inspect.signature(function)

    def invoke(self, arguments: list[str]) -> dict[str, Any]:
        try:
            values = json.loads(arguments[0]) if arguments else {}
            self._signature.bind(**values)
        except (ValueError, TypeError) as error:
            raise gdb.GdbError(f"{BUG}wrong arguments: {error}") from None
        try:
            reply = self._function(**values)
        except gdb.GdbError:
            raise
        except gdb.error as error:
            raise gdb.GdbError(_one_line(str(error))) from None
        except Exception as error:
            raise gdb.GdbError(BUG + _one_line(f"{type(error).__name__}: {error}, at {_origin(error)}")) from None
        return {"json": json.dumps(reply)}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _origin(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"

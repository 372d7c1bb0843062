"""The machine interface's language: how a command is said, and what gdb's lines mean.

pygdbmi parses what is safe to parse: gdb may die in the middle of a line.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from pygdbmi import gdbmiparser

from threadsurgeon.errors import DebuggerFailed

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_RESULT = re.compile(r"(\d+)\^(\w+)")
_REPLY = re.compile(r"^ts-reply (.*)$", re.MULTILINE)
_INTERNAL_ERROR = re.compile(r"^.*internal-error: .*$", re.MULTILINE)


class GdbError(DebuggerFailed):
    """gdb answered ``^error``; ``str(error)`` is what it said."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A traced thread has stopped, or ended: ``reason`` in gdb's words, empty where it gives none."""

    reason: str
    thread: int | None

    @property
    def thread_ended(self) -> bool:
        """Whether it ended, or its whole process."""
        return self.reason.startswith("exited")


class Result(NamedTuple):
    """The head of a result record: whose answer it is, and of which kind (``done``, ``running``, ``error``)."""

    token: int
    kind: str


def phrase(name: str, arguments: dict[str, Any] | None = None, *, through_console: bool = False) -> str:
    """Say a command. ``through_console``: one of ours, to a gdb that knows it only there."""
    # An MI argument is a C string; JSON's escapes for ASCII are valid there.
    argument = "" if arguments is None else json.dumps(arguments)
    if through_console and name.startswith("-ts-"):
        return f"-interpreter-exec console {json.dumps(f'{name[1:]} {argument}')}"
    return f"{name} {json.dumps(argument)}" if argument else name


def read_result(line: str) -> Result | None:
    """Return the head of a result record, None of any other line."""
    match = _RESULT.match(line)
    return None if match is None else Result(int(match[1]), match[2])


def read_answer(line: str, said: str) -> dict[str, Any]:
    """Return what a result record says: the object in ``json`` for commands of ours, gdb's fields for others.

    ``said``: what was printed on the console meanwhile, where our commands answer before gdb 12.

    Raises:
        GdbError: it says that there was an error.
        DebuggerFailed: it makes no sense.
    """
    fields = _parse(line)
    if replies := _REPLY.findall(said):
        fields["json"] = replies[-1]
    result = read_result(line)
    if result is not None and result.kind == "error":
        raise GdbError(str(fields.get("msg", "gdb gives no reason")))
    if "json" not in fields:
        return fields
    try:
        answer = json.loads(fields["json"])
    except (TypeError, ValueError):
        answer = None
    if not isinstance(answer, dict):
        raise DebuggerFailed(f"gdb's answer makes no sense: {line[:200]}")
    return answer


def read_console(line: str) -> str:
    """Return what is printed for people, on the console; nothing of any other line."""
    return _unquote(line) if line.startswith("~") else ""


def read_stop(line: str) -> Stop | None:
    """Return which thread has stopped, if the line says so."""
    if not line.startswith("*stopped"):
        return None
    reason = re.search(r'reason="([^"]*)"', line)
    thread = re.search(r'thread-id="(\d+)"', line)
    return Stop(reason[1] if reason else "", int(thread[1]) if thread else None)


def read_internal_error(line: str) -> str | None:
    """Return the error within gdb itself that the line complains of; gdb is about to end then."""
    complaint = _INTERNAL_ERROR.search(_unquote(line)) if line.startswith("&") else None
    return None if complaint is None else complaint[0]


def _unquote(line: str) -> str:
    # A C string again; one with an escape that JSON does not have is no reply of ours, which is ASCII.
    try:
        return str(json.loads(line[1:]))
    except ValueError:
        return ""


def _parse(line: str) -> dict[str, Any]:
    # pygdbmi never comes back from an array that has no end.
    outside = _STRING.sub("", line)
    if '"' in outside or outside.count("[") != outside.count("]") or outside.count("{") != outside.count("}"):
        raise DebuggerFailed(f"gdb's answer is cut off: {line[:200]}")
    try:
        payload = gdbmiparser.parse_response(line)["payload"]
    except Exception as error:  # of any kind, and none of them is pygdbmi's own
        raise DebuggerFailed(f"gdb's answer cannot be read: {error}") from None
    return payload if isinstance(payload, dict) else {}

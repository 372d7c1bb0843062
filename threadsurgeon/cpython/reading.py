"""Walks: small generators that say which memory they need next, and are run side by side with one system call a step.

A walk yields a range ``(address, size)`` and receives its bytes (BadAddress is raised in it where there are none), or
yields a list of ranges and receives a list of bytes or None. It returns its result. Following one pointer chain reads like
plain code, and following the chains of 1,000 threads costs as many system calls as following the longest.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import islice
from typing import Any, TypeVar

from threadsurgeon.linux.memory import BadAddress, Memory

T = TypeVar("T")
Walk = Generator[Any, Any, T]


def walk_together(memory: Memory, walks: Iterable[Walk[T]]) -> list[T | None]:
    """Run the walks side by side and return their results, None for each that met a BadAddress."""
    results: list[T | None] = []
    pending: list[tuple[int, Walk[T]]] = []
    requests: list[Any] = []
    for index, walk in enumerate(walks):
        results.append(None)
        try:
            requests.append(next(walk))
        except StopIteration as end:
            results[index] = end.value
        except BadAddress:
            pass
        else:
            pending.append((index, walk))
    while pending:
        advancing, pending = pending, []
        asked, requests = requests, []
        for (index, walk), request, answer in zip(advancing, asked, _answer(memory, asked), strict=True):
            try:
                requests.append(walk.throw(BadAddress(*request)) if answer is None else walk.send(answer))
            except StopIteration as end:
                results[index] = end.value
            except BadAddress:
                pass
            else:
                pending.append((index, walk))
    return results


def _answer(memory: Memory, requests: list[Any]) -> list[Any]:
    """Return what each request asks for, by one ``read_many``: bytes or None for a range, a list of those for a list."""
    if list not in map(type, requests):
        return memory.read_many(requests)
    ranges: list[tuple[int, int]] = []
    for request in requests:
        if type(request) is tuple:
            ranges.append(request)
        else:
            ranges += request
    contents = iter(memory.read_many(ranges))
    return [
        next(contents) if type(request) is tuple else list(islice(contents, len(request))) for request in requests
    ]


def walk_alone(memory: Memory, walk: Walk[T]) -> T:
    """Run one walk and return its result.

    Raises:
        BadAddress: it met memory that is not there.
    """
    try:
        request = next(walk)
        while True:
            if type(request) is tuple:
                try:
                    content = memory.read(*request)
                except BadAddress as error:
                    request = walk.throw(error)
                else:
                    request = walk.send(content)
            else:
                request = walk.send(memory.read_many(request))
    except StopIteration as end:
        result: T = end.value
        return result

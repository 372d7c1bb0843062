"""Results as JSON for programs: versioned, and names once published stay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from threadsurgeon.model.threads import Frame, Listing, Thread, Wait

if TYPE_CHECKING:
    from threadsurgeon.model.diagnosis import Diagnosis
    from threadsurgeon.model.locks import WaitGraph
    from threadsurgeon.model.native import NativeCall, NativeStack
    from threadsurgeon.model.operations import Plan, Report

SCHEMA = 1
# Of a Thread, what _shared_facts says; its frames aside, which are many.
_shared_fields = attrgetter(
    "native_name", "main", "daemon", "python", "interpreter", "state", "cpu_percent", "holds_gil", "pool_worker", "activity"
)


def dump_listing(listing: Listing) -> str:
    """Return a listing as JSON text."""
    listed = _dump(
        {
            "schema": SCHEMA,
            "pid": listing.pid,
            "python": {
                "version": listing.python.version,
                "build": listing.python.build,
                "executable": listing.python.executable,
            },
            "gil_holder": listing.gil_holder,
            **({"core": listing.core} if listing.core is not None else {}),
            "warnings": list(listing.warnings),
        }
    )
    return f'{listed[:-1]}, "threads": {_dump_each(listing.threads)}}}'


def _dump_each(threads: Sequence[Thread]) -> str:
    """Encode threads as JSON text; what many of them share, which is most of the text, only once."""
    texts: dict[tuple[Any, ...], str] = {}
    shared = []
    for thread in threads:
        # The stack by its identity: threads at the same place have the same tuple, and the thread keeps it alive.
        key = (id(thread.frames), _shared_fields(thread))
        text = texts.get(key)
        if text is None:
            text = texts[key] = json.dumps({**_shared_facts(thread), "frames": _frames(thread.frames)})[1:-1]
        shared.append(text)
    # Within a text JSON has no quotation mark without a backslash, so only the key itself is found.
    first, *others = json.dumps([{**_own_facts(thread), "shared": None} for thread in threads]).split('"shared": null')
    return first + "".join([text + following for text, following in zip(shared, others, strict=True)])


def dump_thread(thread: Thread) -> str:
    """Return one thread as JSON text."""
    return _dump({"schema": SCHEMA, **thread_to_dict(thread)})


def dump_native_stack(stack: NativeStack) -> str:
    """Return one thread with its native frames as JSON text: as ``dump_thread``, and all its frames once more, merged."""
    return _dump(
        {
            "schema": SCHEMA,
            **thread_to_dict(stack.thread),
            "merged": [_merged_frame(frame) for frame in stack.merged],
            "stopped_seconds": stack.stopped_seconds,
            "debugger": stack.debugger,
            "warnings": list(stack.warnings),
        }
    )


def _merged_frame(frame: Frame | NativeCall) -> dict[str, Any]:
    return {"kind": "python" if isinstance(frame, Frame) else "native", **frame._asdict()}


def dump_plan(plan: Plan) -> str:
    """Return a plan as JSON text."""
    return _dump(
        {
            "schema": SCHEMA,
            "dry_run": True,
            "pid": plan.pid,
            "tid": plan.tid,
            "ident": plan.ident,
            "name": plan.name,
            "exception": plan.exception,
            "techniques": list(plan.techniques),
            "doing": plan.doing,
            "reason": plan.reason,
            "leaves_behind": plan.leaves_behind,
            "stack": _frames(plan.stack),
            "warnings": list(plan.warnings),
            "holds": list(plan.holds),
            "rungs": [
                {"technique": rung.technique, "when": rung.when, "leaves_behind": rung.leaves_behind}
                for rung in plan.rungs
            ],
        }
    )


def dump_report(report: Report) -> str:
    """Return what an operation did and saw as JSON text."""
    return _dump(
        {
            "schema": SCHEMA,
            "pid": report.pid,
            "tid": report.tid,
            "ident": report.ident,
            "name": report.name,
            "outcome": report.outcome.value,
            "technique": report.technique,
            "exception": report.exception,
            "attempts": [
                {"technique": attempt.technique, "outcome": attempt.outcome, "seconds": attempt.seconds}
                for attempt in report.attempts
            ],
            "stopped_seconds": report.stopped_seconds,
            "seconds": report.seconds,
            "process_alive": report.process_alive,
            "stack_before": _frames(report.stack_before),
            "stack_after": _frames(report.stack_after),
            "detail": report.detail,
            "evidence": list(report.evidence),
            "warnings": list(report.warnings),
            "skipped": _frames(report.skipped),
            "cut": list(report.cut),
            "debugger": report.debugger,
        }
    )


def dump_diagnosis(diagnosis: Diagnosis) -> str:
    """Return what ``doctor`` found as JSON text."""
    return _dump(
        {
            "schema": SCHEMA,
            "ok": diagnosis.ok,
            "pid": diagnosis.pid,
            "checks": [
                {"name": check.name, "status": check.status.value, "value": check.value, "remedy": check.remedy}
                for check in diagnosis.checks
            ],
        }
    )


def dump_locks(graph: WaitGraph) -> str:
    """Return who waits for what as JSON text."""
    return _dump(
        {
            "schema": SCHEMA,
            "pid": graph.pid,
            "locks": [{**lock._asdict(), "waiters": list(lock.waiters)} for lock in graph.locks],
            "edges": [edge._asdict() for edge in graph.edges],
            "deadlocks": [
                {"threads": list(deadlock.threads), "locks": list(deadlock.locks), "proven": deadlock.proven}
                for deadlock in graph.deadlocks
            ],
            "advice": [advice._asdict() for advice in graph.advice],
            "warnings": list(graph.warnings),
        }
    )


def thread_to_dict(thread: Thread) -> dict[str, Any]:
    """Return one thread as JSON's own types."""
    return {**_facts(thread), "frames": _frames(thread.frames)}


def _facts(thread: Thread) -> dict[str, Any]:
    """Return all of a thread but its stack."""
    return {**_own_facts(thread), **_shared_facts(thread)}


def _own_facts(thread: Thread) -> dict[str, Any]:
    """Return what differs from thread to thread."""
    return {
        "tid": thread.tid,
        "namespace_tid": thread.namespace_tid,
        "ident": thread.ident,
        "name": thread.name,
        "cpu_seconds": thread.cpu_seconds,
        "waits_for": _wait(thread.waits_for),
    }


def _shared_facts(thread: Thread) -> dict[str, Any]:
    """Return what is the same for most threads of a process."""
    return {
        "native_name": thread.native_name or None,
        "main": thread.main,
        "daemon": thread.daemon,
        "python": thread.python,
        "interpreter": thread.interpreter,
        "state": thread.state or None,
        "cpu_percent": thread.cpu_percent,
        "holds_gil": thread.holds_gil,
        "pool_worker": thread.pool_worker,
        "activity": thread.activity,
    }


def _wait(wait: Wait | None) -> dict[str, Any] | None:
    if wait is None:
        return None
    kind, detail, seconds, remaining, lock, holder, proven = wait
    return {
        "kind": kind,
        "detail": detail,
        "seconds": seconds,
        "remaining_seconds": remaining,
        "lock": lock,
        "holder": holder,
        "proven": proven,
    }


def _frames(frames: tuple[Frame, ...]) -> list[dict[str, Any]]:
    return [{"function": frame.function, "file": frame.file, "line": frame.line} for frame in frames]


def _dump(content: dict[str, Any]) -> str:
    return json.dumps(content)

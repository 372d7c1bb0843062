"""Whether one process can be operated on: facts about it, then the verdict of the code that would do it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from threadsurgeon.doctor.machine import describe_user
from threadsurgeon.errors import NotPython, PermissionDenied, ThreadsurgeonError, UnsupportedPython
from threadsurgeon.inventory import Target
from threadsurgeon.linux.permission import explain_absence
from threadsurgeon.linux.privileges import is_dumpable, read_namespace, read_privileges
from threadsurgeon.linux.process import STATES, Status, read_status
from threadsurgeon.model.diagnosis import Check, CheckStatus
from threadsurgeon.surgery.plan import examine

OK, WARNING, FAILED, SKIPPED = CheckStatus.OK, CheckStatus.WARNING, CheckStatus.FAILED, CheckStatus.SKIPPED
# What another namespace of each kind means for us.
OTHER_NAMESPACE = {
    "pid": "it knows its threads by other ids: use those that threadsurgeon shows",
    "mnt": "it sees other files: they are read as it sees them",
    "user": "our capabilities count there only if it is below ours",
}


def check_target(pid: int) -> Iterator[Check]:
    """Look at a process, and ask the code that would operate on it whether it would."""
    try:
        status = read_status(pid)
    except ThreadsurgeonError as absent:
        error = explain_absence(pid, absent)
        yield Check("process", FAILED, str(error), error.hint or "choose another PID: ps -e")
        return
    yield _check_process(pid, status)
    yield _check_tracer(status)
    yield from _check_protection(pid)
    try:
        target = Target(pid)
    except PermissionDenied as error:
        yield Check("access", FAILED, str(error), error.hint)
        yield from _skip("its memory cannot be read", "python", "operation")
    except (NotPython, UnsupportedPython) as error:
        yield Check("python", FAILED, str(error), error.hint)
        yield from _skip("there is nothing to operate on", "operation")
    except ThreadsurgeonError as error:
        yield Check("process", FAILED, str(error), error.hint)
        yield from _skip("the process is gone", "python", "operation")
    else:
        # The kernel asks the same of who reads memory as of who attaches.
        yield Check("access", OK, "its memory can be read, which takes the same permission as tracing")
        yield _check_python(target)
        yield _check_operation(target)


def _skip(why: str, *names: str) -> Iterator[Check]:
    for name in names:
        yield Check(name, SKIPPED, f"cannot be said: {why}")


def _check_process(pid: int, status: Status) -> Check:
    value = f"{status.name}, {STATES.get(status.state, status.state)}, threads: {status.threads}"
    if status.tgid != pid:
        whose = f"it is a thread of process {status.tgid}"
        return Check("process", FAILED, f"{value}; {whose}", f"threadsurgeon doctor {status.tgid}")
    if status.state in "ZXx":
        return Check("process", FAILED, value, "nothing: it has ended, and its parent has not collected it yet")
    if status.state == "T":
        return Check("process", FAILED, value, f"let it continue first: kill -CONT {pid}")
    if status.state == "D":
        return Check("process", WARNING, f"{value}: its main thread waits for a device or disk", "look again a little later")
    return Check("process", OK, value)


def _check_tracer(status: Status) -> Check:
    if not status.tracer:
        return Check("tracer", OK, "none")
    try:
        name = read_status(status.tracer).name
    except ThreadsurgeonError:
        name = "not to be seen from here"
    value = f"traced by process {status.tracer} ({name})"
    return Check("tracer", FAILED, value, f"end that tracer first: kill {status.tracer}")


def _check_protection(pid: int) -> Iterator[Check]:
    try:
        uids = read_privileges(pid).uids
        dumpable = is_dumpable(pid)
    except ThreadsurgeonError as error:
        yield from _skip(str(error), "owner", "namespaces")
        return
    owner = describe_user(uids[1])
    if len(set(uids)) > 1:
        owner += f", real user {uids[0]}, saved user {uids[2]}"
    words = {True: "its user may trace it", False: "not dumpable: its user may not trace it", None: ""}
    yield Check("owner", OK, "; ".join(filter(None, (owner, words[dumpable]))))
    yield _check_namespaces(pid)


def _check_namespaces(pid: int) -> Check:
    parts = []
    for kind, meaning in OTHER_NAMESPACE.items():
        theirs = read_namespace(pid, kind)
        if theirs is None:
            parts.append(f"{kind}: not to be seen from here")
        elif theirs == read_namespace(os.getpid(), kind):
            parts.append(f"{kind}: ours")
        else:
            parts.append(f"{kind}: another ({meaning})")
    return Check("namespaces", OK, ", ".join(parts))


def _check_python(target: Target) -> Check:
    python = target.python
    build = "" if python.build == "release" else f" ({python.build})"
    value = f"CPython {python.version}{build}, {python.executable}"
    if target.runtime.problem is not None:
        return Check("python", FAILED, f"{value}: {target.runtime.problem}", "it can be listed, and not be operated on")
    return Check("python", OK, f"{value}: its structures are known")


def _check_operation(target: Target) -> Check:
    """Ask as ``cancel`` would, of one thread after the other, until one may be operated on."""
    obstacle: ThreadsurgeonError | None = None
    try:
        sightings = target.see_all()
        workers = [sighting for sighting in sightings if not sighting.thread.main]
        for sighting in workers or sightings:
            try:
                examination = examine(target, sighting, None, allow_main=not workers)
            except ThreadsurgeonError as error:
                obstacle = obstacle or error
            else:
                thread = sighting.thread
                who = f"thread {thread.tid} ({thread.name or thread.native_name})"
                how = " and ".join(examination.techniques)
                if workers:
                    return Check("operation", OK, f"{who} could be made to end by {how}")
                value = f"only the main thread has Python in it: KeyboardInterrupt could be raised there by {how}"
                return Check("operation", WARNING, value, "threadsurgeon cancel --main")
    except ThreadsurgeonError as error:
        obstacle = error
    if obstacle is None:
        return Check("operation", FAILED, "no thread of it has Python in it", f"threadsurgeon list {target.pid}")
    return Check("operation", FAILED, f"it would be refused: {obstacle}", obstacle.hint)

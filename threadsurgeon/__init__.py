"""threadsurgeon: list the threads of a running CPython process, and make one of them end while the process lives on.

The public door. Everything here also works from the command line; results are the named tuples of
``threadsurgeon.model``, and every error is a ``threadsurgeon.errors.ThreadsurgeonError``.

    >>> import threadsurgeon
    >>> for thread in threadsurgeon.list_threads(4711).threads:
    ...     print(thread.tid, thread.name, thread.frames[:1])
    >>> threadsurgeon.cancel(4715).outcome
    <Outcome.ENDED: 'ended'>

Nothing heavy is imported before it is used: the command line starts with this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadsurgeon._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from threadsurgeon.audit import Journal
    from threadsurgeon.model.diagnosis import Diagnosis
    from threadsurgeon.model.locks import WaitGraph
    from threadsurgeon.model.native import NativeStack
    from threadsurgeon.model.operations import Plan, Report, Rung
    from threadsurgeon.model.threads import Listing, Thread
    from threadsurgeon.surgery.ladder import Policy

__all__ = [
    "DEFAULT_TIMEOUT_SECONDS",
    "__version__",
    "cancel",
    "diagnose",
    "find_locks",
    "find_native_stack",
    "find_thread",
    "kill",
    "list_core",
    "list_threads",
    "plan",
]

DEFAULT_TIMEOUT_SECONDS = 5.0
# Who holds the locks that threads wait for takes a second look at all of them: with more threads only find_locks says it.
MAX_NAMED_LOCKS = 1000


def list_threads(pid: int, *, forks: bool = False) -> Listing:
    """Return every OS thread of a CPython process, matched to its Python threads. The process is only looked at.

    Args:
        pid: the process.
        forks: of many threads, let a fork of ours read what the kernel says: quicker, and of no effect in a process that has
            other threads. For callers that do not mind a child for some milliseconds, as the command line.

    Raises:
        ThreadsurgeonError: no such process, not CPython, not supported, or not permitted.
    """
    from threadsurgeon.inventory import Target

    target = Target(pid)
    listing = target.list_threads(forks=forks)
    if len(listing.threads) > MAX_NAMED_LOCKS or not any(thread.waits_for_lock for thread in listing.threads):
        return listing
    from threadsurgeon.locks.naming import name_locks

    return listing._replace(threads=name_locks(target, listing.threads))


def list_core(path: str) -> Listing:
    """Return every thread of a CPython process as its core file shows it, matched to its Python threads.

    Raises:
        ThreadsurgeonError: not a core file, not of CPython, not supported, or not readable enough.
    """
    from threadsurgeon import core_listing

    return core_listing.list_core(path)


def find_thread(tid: int | str, *, pid: int | None = None, core: str | None = None) -> Thread:
    """Return one Python thread with its stack, by TID, or with ``pid`` by Python ident or name; of a core file by any.

    Raises:
        ThreadsurgeonError: no such thread, or its process or core file cannot be looked at.
    """
    if core is not None:
        from threadsurgeon.core_listing import find_in_core

        return find_in_core(core, str(tid))
    from threadsurgeon.inventory import Target
    from threadsurgeon.selection import select_thread

    pid, tid = select_thread(pid, str(tid))
    target = Target(pid)
    thread = target.see(tid).thread
    if not thread.waits_for_lock:
        return thread
    from threadsurgeon.locks.naming import name_locks

    return name_locks(target, [thread])[0]


def find_native_stack(tid: int | str, *, pid: int | None = None) -> NativeStack:
    """Return one thread's native and Python frames in one list. gdb stops that one thread, for some milliseconds.

    Args:
        tid: the thread's kernel id; with ``pid`` also its Python ident or its name.
        pid: the process, where ``tid`` is not a TID.

    Raises:
        Refused: the main thread, which cannot be stopped alone.
        ThreadsurgeonError: no such thread, it cannot be traced, or there is no usable gdb.
    """
    from threadsurgeon.debugger.session import Session
    from threadsurgeon.native_stack import read_native_stack
    from threadsurgeon.selection import select_thread

    process, thread = select_thread(pid, str(tid))
    with Session.start() as session:
        return read_native_stack(session, process, thread)


def find_locks(pid: int) -> WaitGraph:
    """Return which threads of a process wait for what, who holds it, deadlocks, and advice. The process is only looked at.

    Raises:
        ThreadsurgeonError: no such process, not CPython, not supported, or not permitted.
    """
    from threadsurgeon.locks.look import find_wait_graph

    return find_wait_graph(pid)


def diagnose(pid: int | None = None) -> Diagnosis:
    """Say whether operating would work here, and with ``pid`` on that process; what would not is named, with the remedy.

    Tries on a child of ours; the process is only looked at.
    """
    from threadsurgeon import doctor

    return doctor.diagnose(pid)


def plan(
    tid: int | str,
    *,
    pid: int | None = None,
    exception: str | None = None,
    main: bool = False,
    climb: bool = False,
    force: bool = False,
    in_import: bool = False,
) -> Plan:
    """Say what ``cancel`` (or with ``climb`` ``kill``) would do to a thread, and why. The process is only looked at.

    Raises:
        Refused: operating on the thread would harm.
        ThreadsurgeonError: it could not be done.
    """
    from threadsurgeon.selection import select_thread
    from threadsurgeon.surgery.ladder import Policy
    from threadsurgeon.surgery.operation import prepare

    policy = Policy(exception=exception, climb=climb, force=force, allow_main=main, allow_import=in_import)
    return prepare(*select_thread(pid, str(tid)), policy).plan


def cancel(
    tid: int | str,
    *,
    pid: int | None = None,
    exception: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    leave_pending: bool = False,
    main: bool = False,
    journal: Journal | None = None,
) -> Report:
    """Raise an exception in one thread, interrupting what it waits for, and say what was seen afterwards.

    Args:
        tid: the thread's kernel id; with ``pid`` also its Python ident or its name.
        pid: the process, where ``tid`` is not a TID.
        exception: a builtin exception's name. Default: SystemExit, or TimeoutError for a worker of a ThreadPoolExecutor.
        timeout: seconds after which the exception is taken back if the thread has not noticed it.
        leave_pending: do not take it back.
        main: also the main thread, by SIGINT, which raises KeyboardInterrupt there.
        journal: called with an entry before anything is touched, and with one afterwards (``audit.Trail`` writes them to a
            file); where it raises before, nothing is done.

    Raises:
        Refused: it would harm.
        ThreadsurgeonError: it could not be done. The process is as it was.
    """
    from threadsurgeon.surgery.ladder import Policy

    policy = Policy(exception=exception, timeout_seconds=timeout, leave_pending=leave_pending, allow_main=main)
    return _operate("cancel", tid, pid, policy, journal)


def kill(
    tid: int | str,
    *,
    pid: int | None = None,
    exception: str | None = None,
    grace: float = DEFAULT_TIMEOUT_SECONDS,
    main: bool = False,
    force: bool = False,
    in_import: bool = False,
    confirm: Callable[[Rung], bool] | None = None,
    journal: Journal | None = None,
) -> Report:
    """Like ``cancel``, again while code catches the exception, and then by harder techniques, each after the gentler failed.

    Args:
        grace: seconds for each rung.
        force: at the very end also without unwinding; ends threads without Python state, too.
        in_import: also a thread that is inside an import.
        confirm: asked before each of the harder rungs; the default agrees.
        tid: as for ``cancel``.
        pid: as for ``cancel``.
        exception: as for ``cancel``.
        main: as for ``cancel``.
        journal: as for ``cancel``.

    Raises:
        Refused: it would harm.
        ThreadsurgeonError: it could not be done.
    """
    from threadsurgeon.surgery.ladder import Policy, consent_to_all

    policy = Policy(
        exception=exception,
        timeout_seconds=grace,
        climb=True,
        force=force,
        allow_main=main,
        allow_import=in_import,
        confirm=confirm or consent_to_all,
    )
    return _operate("kill", tid, pid, policy, journal)


def _operate(command: str, tid: int | str, pid: int | None, policy: Policy, journal: Journal | None) -> Report:
    from threadsurgeon.audit import Record
    from threadsurgeon.debugger.session import Session
    from threadsurgeon.selection import select_thread
    from threadsurgeon.surgery.operation import prepare

    with Record(journal, command, str(tid), policy) as record:
        process, thread = select_thread(pid, str(tid))
        record.begin(process, thread)
        with Session.start() as session:  # gdb starts while we look at the target
            try:
                report = prepare(process, thread, policy).run(session)
            finally:
                record.debugger = f"gdb {session.version}" if session.version else None
        record.report = report._replace(debugger=record.debugger)
    return record.report

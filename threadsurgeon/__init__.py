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

from typing import TYPE_CHECKING, Any

from threadsurgeon._version import __version__

if TYPE_CHECKING:
    from threadsurgeon.model import Listing, Plan, Report, Thread

__all__ = ["DEFAULT_TIMEOUT_SECONDS", "__version__", "cancel", "find_thread", "kill", "list_threads", "plan"]

DEFAULT_TIMEOUT_SECONDS = 5.0


def list_threads(pid: int) -> Listing:
    """Return every OS thread of a CPython process, matched to its Python threads. The process is only looked at.

    Raises:
        ThreadsurgeonError: no such process, not CPython, not supported, or not permitted.
    """
    from threadsurgeon.inventory import Target

    return Target(pid).list_threads()


def find_thread(tid: int | str, *, pid: int | None = None) -> Thread:
    """Return one Python thread with its stack, by TID, or with ``pid`` by Python ident or name.

    Raises:
        ThreadsurgeonError: no such thread, or its process cannot be looked at.
    """
    from threadsurgeon.inventory import Target
    from threadsurgeon.selection import select_thread

    pid, tid = select_thread(pid, str(tid))
    return Target(pid).see(tid).thread


def plan(tid: int | str, *, pid: int | None = None, exception: str | None = None, main: bool = False) -> Plan:
    """Say what ``cancel`` and ``kill`` would do to a thread, and why. The process is only looked at.

    Raises:
        Refused: operating on the thread would harm.
        ThreadsurgeonError: it could not be done.
    """
    from threadsurgeon.selection import select_thread
    from threadsurgeon.surgery.operation import Operation

    return Operation(*select_thread(pid, str(tid)), exception=exception, allow_main=main).plan


def cancel(
    tid: int | str,
    *,
    pid: int | None = None,
    exception: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    leave_pending: bool = False,
    main: bool = False,
) -> Report:
    """Raise an exception in one thread, interrupting what it waits for, and say what was seen afterwards.

    Args:
        tid: the thread's kernel id; with ``pid`` also its Python ident or its name.
        pid: the process, where ``tid`` is not a TID.
        exception: a builtin exception's name. Default: SystemExit, or TimeoutError for a worker of a ThreadPoolExecutor.
        timeout: seconds after which the exception is taken back if the thread has not noticed it.
        leave_pending: do not take it back.
        main: also the main thread, by SIGINT, which raises KeyboardInterrupt there.

    Raises:
        Refused: it would harm.
        ThreadsurgeonError: it could not be done. The process is as it was.
    """
    return _operate(
        tid, pid, exception=exception, timeout_seconds=timeout, leave_pending=leave_pending, allow_main=main
    )


def kill(
    tid: int | str,
    *,
    pid: int | None = None,
    exception: str | None = None,
    grace: float = DEFAULT_TIMEOUT_SECONDS,
    main: bool = False,
) -> Report:
    """Like ``cancel``, and raise the exception again, for ``grace`` seconds, while code in the thread catches it."""
    return _operate(tid, pid, exception=exception, timeout_seconds=grace, repeat=True, allow_main=main)


def _operate(tid: int | str, pid: int | None, **options: Any) -> Report:
    from threadsurgeon.debugger.session import Session
    from threadsurgeon.selection import select_thread
    from threadsurgeon.surgery.operation import Operation

    process, thread = select_thread(pid, str(tid))
    with Session.start() as session:  # gdb starts while we look at the target
        return Operation(process, thread, **options).run(session)

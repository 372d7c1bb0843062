"""Technique 1, raise: make an exception pending by writing memory. The thread raises it at the next bytecode that looks."""

from __future__ import annotations

import logging

from threadsurgeon.debugger import commands
from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import ThreadsurgeonError
from threadsurgeon.linux.memory import BadAddress, ProcessMemory
from threadsurgeon.surgery.technique import Applied, Effect, Victim

logger = logging.getLogger(__name__)


def raise_async(session: Session, victim: Victim) -> Applied:
    """Do what PyThreadState_SetAsyncExc would do; the thread executes nothing on our behalf.

    Leaves behind: the pending exception, until it is raised or ``withdraw`` takes it back.

    Raises:
        NoSuchProcess: the process ended.
        NoSuchThread: the thread ended, or is not the one that was meant.
        TargetBusy: another tracer has it.
        PermissionDenied: the kernel does not let us.
        DebuggerError: gdb failed.
    """
    with session.custody(victim.pid, victim.tid):
        raised = commands.raise_async(session, victim)
    return Applied(Effect.SET, raised.stopped_seconds, session.version, previous=raised.previous)


def withdraw(session: Session, victim: Victim) -> bool:
    """Take the pending exception back; False if it is not pending (any more). Raises as ``raise_async``."""
    with session.custody(victim.pid, victim.tid):
        return commands.withdraw(session, victim).withdrawn


def withdraw_after_failure(victim: Victim) -> None:
    """Take a pending exception back after a failure or Ctrl-C, with a gdb of its own: the session may be unusable then."""
    try:
        content = ProcessMemory(victim.pid).read(victim.async_exc_address, 8)
        if int.from_bytes(content, "little") == victim.exception:
            with Session.start() as session:
                withdraw(session, victim)
    except BadAddress:
        pass  # the thread is gone
    except ThreadsurgeonError as error:
        logger.error("thread %d: the exception may still be pending: %s", victim.tid, error)

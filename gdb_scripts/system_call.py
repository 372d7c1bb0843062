"""The system call that the stopped thread waits in."""

from __future__ import annotations

from .machine import read_number, read_register, write_registers

EINTR = 4
# What the kernel leaves in rax when it has interrupted a system call that waits: ERESTARTSYS, ERESTARTNOHAND and
# ERESTART_RESTARTBLOCK (linux/errno.h), or EINTR itself. Not ERESTARTNOINTR (513): calls that may never return EINTR, such as
# the futex of a priority-inheriting mutex, upon which glibc aborts the process.
INTERRUPTED = (-512, -514, -516, -EINTR)
SYSCALL_INSTRUCTION = 0x050F  # 0f 05
SYSCALL_SIZE = 2


def waits() -> bool:
    """Say whether the thread was stopped in a system call that waits, and has no result yet."""
    if read_register("orig_rax") < 0 or read_register("rax") not in INTERRUPTED:
        return False
    return read_number(read_register("rip") - SYSCALL_SIZE, SYSCALL_SIZE) == SYSCALL_INSTRUCTION


def interrupt_system_call() -> bool:
    """Make a system call that is still waiting return EINTR. One that has a result keeps it: data would be lost."""
    if not waits():
        return False
    write_registers(rax=-EINTR, orig_rax=-1)  # -1: the kernel shall not start it again
    return True

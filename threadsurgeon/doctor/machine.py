"""What this machine, and whoever started us, allow: the values that decide whether one process may trace another."""

from __future__ import annotations

import os
import platform
import pwd
import sys
from collections.abc import Iterator

from threadsurgeon.linux.permission import YAMA, capability_remedy, find_container, find_filter
from threadsurgeon.linux.privileges import (
    Privileges,
    is_in_user_namespace,
    read_privileges,
    read_ptrace_scope,
    read_security_label,
)
from threadsurgeon.model.diagnosis import Check, CheckStatus

OK, WARNING, FAILED, SKIPPED = CheckStatus.OK, CheckStatus.WARNING, CheckStatus.FAILED, CheckStatus.SKIPPED


def check_machine() -> Iterator[Check]:
    """Look at the machine, and at our own privileges."""
    us = read_privileges(os.getpid())
    yield _check_platform()
    yield _check_user(us)
    yield _check_capabilities(us)
    yield _check_yama(us)
    yield _check_seccomp(us)
    yield _check_confinement()


def _check_platform() -> Check:
    system, machine = platform.system(), platform.machine()
    value = f"{system} {platform.release()}, {machine}, {sys.maxsize.bit_length() + 1}-bit Python {platform.python_version()}"
    if system == "Linux" and machine == "x86_64" and sys.maxsize > 2**32:
        return Check("platform", OK, value)
    return Check("platform", FAILED, value, "run threadsurgeon by a 64-bit Python on Linux on x86-64: it knows no other")


def describe_user(uid: int) -> str:
    """Return a user's name and id."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return str(uid)


def _check_user(us: Privileges) -> Check:
    value = describe_user(us.uids[1])
    if "SUDO_USER" in os.environ:
        value += f", by sudo from {os.environ['SUDO_USER']}"
    return Check("user", OK, value)


def _check_capabilities(us: Privileges) -> Check:
    if us.may_trace_all and not is_in_user_namespace():
        return Check("capabilities", OK, "CAP_SYS_PTRACE: processes of every user")
    if us.may_trace_all:
        value = "CAP_SYS_PTRACE, in a user namespace: it counts only for processes inside it"
        return Check("capabilities", WARNING, value, "for other processes: run threadsurgeon on the host")
    value = f"no CAP_SYS_PTRACE: only processes of user {us.uids[0]} that have no capabilities which we lack"
    return Check("capabilities", WARNING, value, f"for others: {capability_remedy()}")


def _check_yama(us: Privileges) -> Check:
    scope = read_ptrace_scope()
    if scope is None:
        return Check("yama", OK, "this kernel has no Yama, which restricts tracing")
    meaning, remedy = YAMA.get(scope, ("a value that threadsurgeon does not know", "sudo sysctl kernel.yama.ptrace_scope=0"))
    value = f"kernel.yama.ptrace_scope is {scope}: {meaning}"
    if scope in (1, 2) and us.may_trace_all:
        return Check("yama", OK, f"{value}, but for who has CAP_SYS_PTRACE, as we do")
    return Check("yama", OK if scope == 0 else FAILED, value, remedy or None)


def _check_seccomp(us: Privileges) -> Check:
    obstacle = find_filter()
    if obstacle is not None:
        return Check("seccomp", FAILED, obstacle.cause, obstacle.remedy)
    value = "a filter, which lets ptrace and process_vm_readv pass" if us.seccomp else "no filter"
    if us.no_new_privileges:
        value += "; no_new_privs is set: sudo does not work from here"
    return Check("seccomp", OK, value)


def _check_confinement() -> Check:
    label, container = read_security_label(), find_container()
    parts = [
        f"in a container ({container})" if container else None,
        f"confined by a security profile ({label})" if label else None,
    ]
    value = ", ".join(filter(None, parts)) or "none seen: no container, no AppArmor or SELinux profile"
    return Check("confinement", OK, value)

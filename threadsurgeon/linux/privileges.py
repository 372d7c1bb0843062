"""What the kernel goes by when one process wants to trace or read another: users, capabilities, namespaces, Yama, seccomp."""

from __future__ import annotations

import os
from typing import NamedTuple

from threadsurgeon.errors import NoSuchProcess, PermissionDenied

# linux/capability.h, from 0 on.
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO",
    "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME",
    "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
CAP_SYS_PTRACE = 1 << CAPABILITIES.index("SYS_PTRACE")
FIRST_USER_NAMESPACE = "user:[4026531837]"  # PROC_USER_INIT_INO, linux/proc_ns.h


class Privileges(NamedTuple):
    """The credentials of a process: user and group ids are (real, effective, saved), capabilities bit masks.

    ``seccomp``: 0 none, 1 strict, 2 a filter.
    """

    uids: tuple[int, int, int]
    gids: tuple[int, int, int]
    permitted: int
    effective: int
    seccomp: int
    no_new_privileges: bool

    @property
    def may_trace_all(self) -> bool:
        """Whether it has CAP_SYS_PTRACE, which counts for its own user namespace and those below."""
        return bool(self.effective & CAP_SYS_PTRACE)


def read_privileges(pid: int) -> Privileges:
    """Return the credentials of a process.

    Raises:
        NoSuchProcess: there is none.
        PermissionDenied: its ``/proc`` entry is hidden from us.
    """
    fields: dict[str, list[str]] = {}
    for line in read_text(f"/proc/{pid}/status").split("\n"):
        key, _, value = line.partition(":")
        fields[key] = value.split()
    uids, gids = ([int(word) for word in fields[name]] for name in ("Uid", "Gid"))
    return Privileges(
        uids=(uids[0], uids[1], uids[2]),
        gids=(gids[0], gids[1], gids[2]),
        permitted=int(fields["CapPrm"][0], 16),
        effective=int(fields["CapEff"][0], 16),
        seccomp=int(fields.get("Seccomp", ["0"])[0]),
        no_new_privileges=fields.get("NoNewPrivs") == ["1"],
    )


def read_text(path: str) -> str:
    """Return a file below ``/proc/PID``.

    Raises:
        NoSuchProcess: there is no such process.
        PermissionDenied: it is hidden from us.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        raise NoSuchProcess(f"there is no {path}") from None
    except OSError as error:
        raise PermissionDenied(f"{path} cannot be read: {error.strerror}") from None


def read_ptrace_scope() -> int | None:
    """Return ``kernel.yama.ptrace_scope``, None where the kernel has no Yama."""
    try:
        return int(read_text("/proc/sys/kernel/yama/ptrace_scope"))
    except (NoSuchProcess, PermissionDenied, ValueError):
        return None


def read_security_label() -> str | None:
    """Return the AppArmor profile or SELinux context that confines us, None where nothing does."""
    try:
        label = read_text("/proc/self/attr/current").strip("\0\n ")
    except (NoSuchProcess, PermissionDenied):  # no such security module
        return None
    free = label in ("", "unconfined", "kernel") or ":unconfined_t:" in label or label.endswith("(complain)")
    return None if free else label


def read_namespace(pid: int | str, kind: str) -> str | None:
    """Return the name of a namespace of a process (``pid``, ``mnt``, ``user``), None where we may not know."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return None


def is_in_user_namespace() -> bool:
    """Say whether we are in another user namespace than the first, as root of which one is not root outside."""
    return read_namespace("self", "user") not in (FIRST_USER_NAMESPACE, None)  # None: a kernel without them


def is_dumpable(pid: int) -> bool | None:
    """Say whether a process lets its user trace it (prctl(2), PR_SET_DUMPABLE); None where that cannot be told.

    The kernel shows it by the owner of its files in ``/proc``: root, where it does not.
    """
    try:
        owner = os.stat(f"/proc/{pid}/mem").st_uid
    except OSError:
        return None
    user = read_privileges(pid).uids[1]
    return None if user == 0 else owner == user


def name_capabilities(mask: int) -> str:
    """Return the names of the capabilities in a mask, as in ``CAP_NET_ADMIN, CAP_SYS_PTRACE``."""
    known = [f"CAP_{name}" for number, name in enumerate(CAPABILITIES) if mask & 1 << number]
    return ", ".join(known + [str(n) for n in range(len(CAPABILITIES), mask.bit_length()) if mask & 1 << n])

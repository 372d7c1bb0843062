"""Why the kernel does not let us trace or read a process, and what would help.

Goes through what the kernel goes through, in its order (ptrace(2), "Ptrace access mode checking"); reading memory with
process_vm_readv(2) takes the same permission as attaching. Called after a refusal: it finds the cause, it does not predict.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import NamedTuple

from threadsurgeon.errors import PermissionDenied, ThreadsurgeonError
from threadsurgeon.linux.privileges import (
    Privileges,
    is_dumpable,
    is_in_user_namespace,
    name_capabilities,
    read_namespace,
    read_privileges,
    read_ptrace_scope,
    read_security_label,
)

AS_ROOT = "run threadsurgeon as root (sudo), or give it CAP_SYS_PTRACE"
SECCOMP_REMEDY = (
    "run it outside of that sandbox; Docker: docker run --security-opt seccomp=unconfined; "
    "Kubernetes: securityContext: {seccompProfile: {type: Unconfined}}; systemd: no SystemCallFilter="
)
# kernel/security/yama: what each value of kernel.yama.ptrace_scope means, and what helps who lacks CAP_SYS_PTRACE.
YAMA = {
    0: ("a process may trace others of its user", ""),
    1: ("a process may trace only those that it started", "sudo sysctl kernel.yama.ptrace_scope=0, or " + AS_ROOT),
    2: ("only with CAP_SYS_PTRACE", AS_ROOT),
    3: ("nobody may trace, until the next boot", "remove kernel.yama.ptrace_scope from /etc/sysctl.d and boot again"),
}
HIDDEN_REMEDY = "run threadsurgeon as root; /proc may be mounted with hidepid, which shows each user only its own processes"
CONTAINERS = {
    "docker": "docker run --cap-add=SYS_PTRACE …, or in a running container: docker exec --privileged CONTAINER threadsurgeon",
    "podman": "podman run --cap-add=SYS_PTRACE …, or in a running container: podman exec --privileged CONTAINER threadsurgeon",
    "kubernetes": "kubectl debug -it POD --image=IMAGE --target=CONTAINER --profile=sysadmin, or in the container's "
    "securityContext: {capabilities: {add: [SYS_PTRACE]}}",
}

_PTRACE_DETACH = 17
_libc = ctypes.CDLL(None, use_errno=True)


class Obstacle(NamedTuple):
    """What keeps us from a process, with the value found, and what would help."""

    cause: str
    remedy: str


def find_container() -> str | None:
    """Return which of the usual container runtimes we are in, None where nothing shows one."""
    if "KUBERNETES_SERVICE_HOST" in os.environ or os.path.exists("/var/run/secrets/kubernetes.io"):
        return "kubernetes"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    return "docker" if os.path.exists("/.dockerenv") else None


def capability_remedy() -> str:
    """Return how one gets CAP_SYS_PTRACE here."""
    container = find_container()
    if container is not None:
        return CONTAINERS[container]
    if os.geteuid() != 0:
        return AS_ROOT
    return f"in Docker: {CONTAINERS['docker']}; in Kubernetes: {CONTAINERS['kubernetes']}"


def find_obstacle(pid: int) -> Obstacle:
    """Say why we may not trace or read the process.

    Raises:
        NoSuchProcess: it ended.
        PermissionDenied: nothing can be said about it, as its ``/proc`` entry is hidden from us.
    """
    us, target = read_privileges(os.getpid()), read_privileges(pid)
    return _find_missing_right(pid, us, target) or find_filter() or _find_security_module()


def _find_missing_right(pid: int, us: Privileges, target: Privileges) -> Obstacle | None:
    ours, theirs = read_namespace("self", "user"), read_namespace(pid, "user")
    # In a user namespace of our own, capabilities count for what is in it; from the first one they count everywhere.
    outside = is_in_user_namespace() and (theirs is None or theirs != ours)
    if us.may_trace_all and not outside:
        scope = read_ptrace_scope()
        return Obstacle(f"kernel.yama.ptrace_scope is 3: {YAMA[3][0]}", YAMA[3][1]) if scope == 3 else None
    who, remedy = f"we are user {us.uids[0]}", capability_remedy()
    if outside:
        who += " in a user namespace of our own, whose capabilities count only inside it"
        remedy = "run threadsurgeon outside of this user namespace, on the host"
    elif us.uids[1] == 0:
        who += " (root) without CAP_SYS_PTRACE"
    if set(target.uids) != {us.uids[0]}:
        as_root_or = "" if outside or us.uids[1] == 0 else _as_user(target.uids)
        return Obstacle(f"it belongs to {_name_owner(target.uids)}, and {who}", as_root_or or remedy)
    if set(target.gids) != {us.gids[0]}:
        return Obstacle(f"it runs in group {target.gids[1]}, and we in group {us.gids[0]}; {who}", remedy)
    if is_dumpable(pid) is False:
        return Obstacle(f"it is protected (not dumpable: it changed its user, or asked for it with prctl), and {who}", remedy)
    if outside or (theirs is not None and theirs != ours):
        return Obstacle(f"it is in another user namespace, and {who}", remedy)
    more = target.permitted & ~us.permitted
    if more:
        return Obstacle(f"it has capabilities that we lack ({name_capabilities(more)}), and {who}", remedy)
    scope = read_ptrace_scope()
    if scope:
        meaning, yama_remedy = YAMA.get(scope, ("unknown", AS_ROOT))
        return Obstacle(f"kernel.yama.ptrace_scope is {scope}: {meaning}", yama_remedy)
    return None


def _name_owner(uids: tuple[int, int, int]) -> str:
    if len(set(uids)) == 1:
        return f"user {uids[0]}"
    return f"users {uids[0]} (real), {uids[1]} (effective) and {uids[2]} (saved)"


def _as_user(uids: tuple[int, int, int]) -> str:
    """Return the remedy for a process of another user, where we could become that one."""
    if len(set(uids)) == 1 and uids[0] != 0:
        return f"run threadsurgeon as that user (sudo -u '#{uids[0]}' threadsurgeon …), or as root (sudo)"
    return "run threadsurgeon as root (sudo)"


def find_filter() -> Obstacle | None:
    """Say whether system calls that we need are filtered, by calls that the kernel itself would not refuse."""
    process_vm_readv = _libc.process_vm_readv
    if process_vm_readv(os.getpid(), None, 0, None, 0, 0) != 0 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):
        return Obstacle("a seccomp filter forbids process_vm_readv", SECCOMP_REMEDY)
    # Nobody traces itself: ESRCH, unless a filter answers first.
    if _libc.ptrace(_PTRACE_DETACH, os.getpid(), None, None) != 0 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):
        return Obstacle("a seccomp filter forbids ptrace", SECCOMP_REMEDY)
    return None


def _find_security_module() -> Obstacle:
    label = read_security_label()
    if label is not None:
        return Obstacle(
            f"probably the security profile that confines us ({label})",
            "run threadsurgeon unconfined; Docker: docker run --security-opt apparmor=unconfined; SELinux: setsebool "
            "deny_ptrace off; what was denied stands in the kernel's log",
        )
    return Obstacle("none of the usual causes was found", "look into the kernel's log for what denied it: journalctl -k")



def explain_absence(task: int, error: ThreadsurgeonError) -> ThreadsurgeonError:
    """Return the error for a process or thread that ``/proc`` does not show, which is not to say that it does not exist."""
    try:
        os.kill(task, 0)
    except PermissionError:
        return PermissionDenied(f"/proc does not show {task} to us, and it exists", hint=HIDDEN_REMEDY)
    except (ProcessLookupError, OverflowError):
        pass
    return error


def explain_refusal(pid: int, what: str) -> PermissionDenied:
    """Return the error for something that the kernel has refused us, as in ``read process 7``, with the cause found."""
    try:
        obstacle = find_obstacle(pid)
    except PermissionDenied as error:
        return PermissionDenied(f"we may not {what}: {error}", hint=HIDDEN_REMEDY)
    return PermissionDenied(f"we may not {what}: {obstacle.cause}", hint=obstacle.remedy)

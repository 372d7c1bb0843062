"""Why the kernel refuses: the one cause found, with its value, and what would help just there."""

import os

import pytest

from threadsurgeon.errors import NoSuchProcess, PermissionDenied
from threadsurgeon.linux import permission, privileges
from threadsurgeon.linux.permission import Obstacle, explain_absence, explain_refusal, find_obstacle
from threadsurgeon.linux.privileges import CAP_SYS_PTRACE, Privileges, name_capabilities, read_privileges

US, THEM = os.getpid(), 4711
NO_SUCH_ID = 2**22 + 1  # one more than the kernel ever gives (PID_MAX_LIMIT)
FIRST, OTHER = privileges.FIRST_USER_NAMESPACE, "user:[7]"
NET_ADMIN = 1 << 12


def user(uid, *, effective=None, saved=None, gid=None, capabilities=0):
    gid = uid if gid is None else gid
    uids = (uid, uid if effective is None else effective, uid if saved is None else saved)
    return Privileges(uids, (gid, gid, gid), capabilities, capabilities, 0, False)


class Machine:
    """What there is to be seen; everything else allows it."""

    def __init__(self):
        self.us, self.them = user(1000), user(1000)
        self.namespaces = {"self": FIRST, THEM: FIRST}
        self.scope = self.dumpable = self.label = self.filter = self.container = None

    def patch(self, monkeypatch):
        monkeypatch.setattr(permission, "read_privileges", lambda pid: self.us if pid == US else self.them)
        monkeypatch.setattr(permission, "read_namespace", lambda pid, kind: self.namespaces[pid])
        monkeypatch.setattr(permission, "is_in_user_namespace", lambda: self.namespaces["self"] != FIRST)
        monkeypatch.setattr(permission, "is_dumpable", lambda pid: self.dumpable)
        monkeypatch.setattr(permission, "read_ptrace_scope", lambda: self.scope)
        monkeypatch.setattr(permission, "read_security_label", lambda: self.label)
        monkeypatch.setattr(permission, "find_filter", lambda: self.filter)
        monkeypatch.setattr(permission, "find_container", lambda: self.container)


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    machine.patch(monkeypatch)
    return machine


@pytest.mark.parametrize(
    ("ours", "theirs", "cause", "remedy"),
    [
        (user(1000), user(1001), ["user 1001", "user 1000"], ["sudo -u '#1001'", "root"]),
        (user(1000), user(0), ["user 0", "user 1000"], ["as root"]),
        (user(0), user(1001), ["user 1001", "(root) without CAP_SYS_PTRACE"], ["--cap-add=SYS_PTRACE", "kubectl debug"]),
        (user(1000), user(1000, effective=0, saved=0), ["1000 (real)", "0 (effective)"], ["as root"]),
        (user(1000), user(1000, gid=7), ["group 7", "group 1000"], ["CAP_SYS_PTRACE"]),
        (user(1000), user(1000, capabilities=NET_ADMIN), ["CAP_NET_ADMIN"], ["CAP_SYS_PTRACE"]),
    ],
)
def test_privileges_that_differ(machine, monkeypatch, ours, theirs, cause, remedy):
    """Both sides are named with their values; nobody is told to become root who is."""
    machine.us, machine.them = ours, theirs
    monkeypatch.setattr(os, "geteuid", lambda: ours.uids[1])
    obstacle = find_obstacle(THEM)

    assert [words for words in cause if words not in obstacle.cause] == []
    assert [words for words in remedy if words not in obstacle.remedy] == []


@pytest.mark.parametrize(("scope", "remedy"), [(1, "sysctl kernel.yama.ptrace_scope=0"), (2, "as root"), (3, "boot")])
def test_yama(machine, scope, remedy):
    """The value, what it means, and what helps: at 3 that is a boot."""
    machine.scope = scope
    obstacle = find_obstacle(THEM)

    assert f"ptrace_scope is {scope}: " in obstacle.cause
    assert remedy in obstacle.remedy


@pytest.mark.parametrize(("scope", "is_cause"), [(0, False), (1, False), (2, False), (3, True)])
def test_yama_lets_the_capability_pass(machine, scope, is_cause):
    """But at 3 nobody."""
    machine.us, machine.scope = user(0, capabilities=CAP_SYS_PTRACE), scope

    assert ("ptrace_scope" in find_obstacle(THEM).cause) == is_cause


def test_process_that_protects_itself(machine):
    """As one that has changed its user."""
    machine.dumpable = False

    assert "dumpable" in find_obstacle(THEM).cause


@pytest.mark.parametrize("theirs", [FIRST, None])
def test_root_in_a_user_namespace_is_not_root_outside(machine, theirs):
    """Its capabilities count inside only; of what is outside it may not even know the namespace."""
    machine.us = machine.them = user(0, capabilities=CAP_SYS_PTRACE)
    machine.namespaces = {"self": OTHER, THEM: theirs}
    obstacle = find_obstacle(THEM)

    assert "user namespace" in obstacle.cause
    assert "host" in obstacle.remedy


def test_capability_counts_inside_ones_own_namespace(machine):
    """Then it is something else."""
    machine.us, machine.them = user(0, capabilities=CAP_SYS_PTRACE), user(5)
    machine.namespaces = {"self": OTHER, THEM: OTHER}

    assert "none of the usual causes" in find_obstacle(THEM).cause


def test_filter_and_security_profile(machine):
    """What stands in the way of who has every right."""
    machine.us, machine.label = user(0, capabilities=CAP_SYS_PTRACE), "docker-default (enforce)"
    assert "docker-default (enforce)" in find_obstacle(THEM).cause
    machine.filter = Obstacle("a seccomp filter", "another profile")
    assert find_obstacle(THEM) == machine.filter


@pytest.mark.parametrize("container", ["docker", "podman", "kubernetes"])
def test_container_has_its_own_remedy(machine, container):
    """The line that helps in this one."""
    machine.us, machine.them, machine.container = user(0), user(7), container

    assert find_obstacle(THEM).remedy == permission.CONTAINERS[container]


def test_refusal_has_cause_and_remedy(machine):
    """In one line each; where the process is hidden that is said instead."""
    machine.them = user(7)
    error = explain_refusal(THEM, "read process 4711")
    assert str(error).startswith("we may not read process 4711: it belongs to user 7")
    assert "\n" not in str(error) + str(error.hint)


def test_hidden_process(monkeypatch):
    """A /proc with hidepid."""

    def hidden(path):
        raise PermissionDenied(f"{path} cannot be read: Permission denied")

    monkeypatch.setattr(privileges, "read_text", hidden)
    error = explain_refusal(THEM, "look at it")

    assert "Permission denied" in str(error)
    assert "hidepid" in error.hint


def test_what_proc_does_not_show_may_exist(monkeypatch):
    """It is told apart by a signal that is none."""

    def deny(pid, number):
        raise PermissionError

    absent = NoSuchProcess("there is no process")
    assert explain_absence(NO_SUCH_ID, absent) is absent
    assert explain_absence(10**30, absent) is absent
    monkeypatch.setattr(os, "kill", deny)
    assert isinstance(explain_absence(NO_SUCH_ID, absent), PermissionDenied)


def test_what_the_kernel_says_of_ourselves():
    """Our own credentials are those that os tells; a process that is not there has none."""
    us = read_privileges(os.getpid())

    assert us.uids == os.getresuid()
    assert us.gids == os.getresgid()
    with pytest.raises(NoSuchProcess):
        read_privileges(NO_SUCH_ID)


def test_capabilities_have_names():
    """Those of newer kernels have numbers."""
    assert name_capabilities(CAP_SYS_PTRACE | NET_ADMIN) == "CAP_NET_ADMIN, CAP_SYS_PTRACE"
    assert name_capabilities(1 << 60) == "60"
    assert CAP_SYS_PTRACE == 1 << 19  # linux/capability.h


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("unconfined\n", None), ("", None), ("kernel\0", None),
        ("unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023\0", None),
        ("docker-default (enforce)\n", "docker-default (enforce)"), ("/usr/bin/x (complain)", None),
        ("system_u:system_r:container_t:s0:c1,c2\0", "system_u:system_r:container_t:s0:c1,c2"),
    ],
)  # fmt: skip
def test_security_label(monkeypatch, label, expected):
    """Who is confined, and who is not."""
    monkeypatch.setattr(privileges, "read_text", lambda path: label)

    assert privileges.read_security_label() == expected

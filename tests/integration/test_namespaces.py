"""Targets below another root, in namespaces of their own, and of other users: what containers and services look like."""

from __future__ import annotations

import functools
import glob
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.command import run
from tests.zoo.pythons import Python, found
from tests.zoo.victim import waiting

ROOT = Path(__file__).parents[2]
DIRECTORY = os.environ.get("THREADSURGEON_PYTHONS_DIR", "~/.cache/threadsurgeon-pythons")
NOBODY, SOMEBODY = 65534, 65533

# It is given as text: its process may see none of our files.
PROGRAM = """
import json, os, sys, threading, time
ticks, ended = [0], threading.Event()
def work():
    told["tid"] = threading.get_native_id()
    ready.set()
    try:
        time.sleep(100000)
    finally:
        ended.set()
def tick():
    while True:
        ticks[0] += 1
        time.sleep(0.01)
told, ready = {"pid": os.getpid()}, threading.Event()
threading.Thread(target=work, name="worker").start()
threading.Thread(target=tick, daemon=True).start()
ready.wait()
print(json.dumps(told), flush=True)
for line in sys.stdin:
    if line == "quit\\n":
        break
    print(json.dumps({"ticks": ticks[0], "ended": ended.is_set()}), flush=True)
"""

# What a container runtime does: another root directory, a /proc that shows only its own processes.
CONTAINER = """
mount --make-rprivate / && mount --rbind "$0" /mnt && mount -t proc proc /mnt/proc &&
cd /mnt && pivot_root . mnt && cd / && umount -l /mnt && exec "$@"
"""

Start = Callable[..., "Target"]


class Target:
    """The program, wherever it runs; ``pid`` and ``tid`` as seen from here, ``told`` as it sees itself."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.process = subprocess.Popen(
            [*command, "-B", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
            **options,
        )
        self.told = self.read()
        # unshare stays, as the parent; what it starts becomes the program.
        self.pid = next((child.pid for child in psutil.Process(self.process.pid).children()), self.process.pid)
        tids = {self.namespace_tids(int(task))[-1]: int(task) for task in os.listdir(f"/proc/{self.pid}/task")}
        self.tid = tids[self.told["tid"]]

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"the program ended: exit status {self.process.wait(20)}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write("status\n")
        self.process.stdin.flush()
        return self.read()

    def namespace_tids(self, tid: int) -> list[int]:
        """The ids that a thread has, from our namespace inwards."""
        status = Path(f"/proc/{self.pid}/task/{tid}/status").read_text()
        match = re.search(r"^NSpid:\s+(.*)$", status, re.MULTILINE)
        assert match
        return [int(word) for word in match[1].split()]

    def assert_lives_on(self, *, ended: bool) -> None:
        before = self.ask()["ticks"]
        for _ in waiting("it ticks, and its thread is as expected"):
            now = self.ask()
            if now["ticks"] > before + 1 and now["ended"] == ended:
                break
        status = Path(f"/proc/{self.pid}/status").read_text()
        assert "TracerPid:\t0\n" in status

    def finish(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("quit\n")
        self.process.stdin.close()
        assert self.process.wait(20) == 0


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the program by a command; it is gone when the test is."""

    @contextmanager
    def started(command: list[str], **options: Any) -> Iterator[Target]:
        target = Target(command, **options)
        with target.process:
            try:
                yield target
            finally:
                if target.process.poll() is None:
                    target.process.kill()  # with --kill-child that ends the container as well

    with ExitStack() as stack:
        yield lambda command, **options: stack.enter_context(started(command, **options))


def roots() -> list[Any]:
    """Every interpreter below another root directory: the root, and its path there."""
    places = []
    for root in sorted(glob.glob(glob.escape(os.path.expanduser(DIRECTORY)) + "/root-*/usr/bin")):
        for name in sorted(os.listdir(root)):
            if re.fullmatch(r"python3\.\d+d?", name) and os.access(f"{root}/{name}", os.X_OK):
                folder = str(Path(root).parents[1])
                places.append(pytest.param(folder, f"/usr/bin/{name}", id=f"{Path(folder).name}-{name}"))
    reason = f"no other root directory with a Python in {DIRECTORY}"
    return places or [pytest.param("", "", id="none", marks=pytest.mark.skip(reason=reason))]


@pytest.fixture
def as_root(gdb: str) -> None:
    """Skip where we may not make namespaces, or become another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can do this")


@pytest.fixture
def namespaces(as_root: None) -> None:
    """Skip where the kernel or a sandbox around us gives no namespaces."""
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode != 0:
        pytest.skip("no namespaces are to be had here (unshare)")


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(("root", "interpreter"), roots())
def test_below_another_root(root: str, interpreter: str, start: Start) -> None:
    """Paths in the target are not ours: its files are found all the same."""
    target = start(["chroot", root, interpreter])

    assert target.namespace_tids(target.tid) == [target.tid]
    assert_operable(target)


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(("root", "interpreter"), roots())
def test_in_a_container(root: str, interpreter: str, start: Start) -> None:
    """Another root, other mounts, other process ids: both ids of a thread are shown, and ours is the one to use."""
    target = start(
        ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "sh", "-c", CONTAINER, root, interpreter]
    )

    assert target.told["pid"] == 1
    assert target.tid != target.told["tid"]
    assert_operable(target)


@pytest.mark.usefixtures("namespaces")
def test_in_a_pid_namespace(python: Python, start: Start) -> None:
    """The same files, other process ids, on every version: some record the id that the target sees, some none."""
    target = start(["unshare", "--mount-proc", "--pid", "--fork", "--kill-child", python.command])

    assert target.told["pid"] == 1
    assert_operable(target)


def assert_operable(target: Target) -> None:
    """It is listed with the ids of both worlds, its thread can be ended by ours, and it ends well."""
    listing = run("list", str(target.pid), "--json")
    assert listing.returncode == 0, listing.stderr
    facts = json.loads(listing.stdout)
    (thread,) = [thread for thread in facts["threads"] if thread["name"] == "worker"]
    assert (thread["tid"], thread["namespace_tid"]) == (target.tid, target.told["tid"])
    assert [thread["tid"] for thread in facts["threads"] if thread["main"]] == [target.pid]
    assert [frame["function"] for frame in thread["frames"]][:2] == ["work", "run"]
    assert os.path.basename(facts["python"]["executable"]).startswith("python3")

    result = run("cancel", str(target.tid), "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert (report["pid"], report["tid"], report["outcome"]) == (target.pid, target.tid, "ended")
    target.assert_lives_on(ended=True)
    target.finish()


@functools.cache
def operator(uid: int) -> list[str] | None:
    """A Python that this user can start us with: our own may be in a home directory."""
    commands = [sys.executable, *(p.command for p in reversed(found()) if p.version >= (3, 10) and p.is_usual)]
    for command in commands:
        try:
            test = as_user(uid, [command, "-c", "import click, psutil, pygdbmi, rich, threadsurgeon"])
        except OSError:
            continue
        if test.returncode == 0:
            return [command]
    return None


def as_user(uid: int, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run with no privileges at all."""
    path = f"{ROOT}:{sysconfig.get_path('purelib')}"
    return subprocess.run(
        command,
        user=uid,
        group=uid,
        extra_groups=[],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def nobody(as_root: None) -> list[str]:
    """The command of an operator without privileges."""
    command = operator(NOBODY)
    if command is None:
        pytest.skip("no Python that another user may run has what we depend on")
    return command


def test_without_privileges_on_a_process_of_ones_own(nobody: list[str], start: Start) -> None:
    """The same user is enough, where Yama does not forbid it."""
    try:
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except FileNotFoundError:
        scope = 0
    if scope != 0:
        pytest.skip(f"kernel.yama.ptrace_scope is {scope}")
    target = start(nobody, user=NOBODY, group=NOBODY, extra_groups=[])
    listing = as_user(NOBODY, [*nobody, "-m", "threadsurgeon", "list", str(target.pid)])
    result = as_user(NOBODY, [*nobody, "-m", "threadsurgeon", "cancel", "worker", "--pid", str(target.pid), "--json"])

    assert (listing.returncode, listing.stderr) == (0, "")
    assert "worker" in listing.stdout
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads(result.stdout)["outcome"] == "ended"
    target.assert_lives_on(ended=True)
    target.finish()


@pytest.mark.parametrize("owner", [0, SOMEBODY])
@pytest.mark.parametrize("command", ["list", "stack", "cancel", "kill", "attach"])
def test_process_of_another_user_is_refused(command: str, owner: int, nobody: list[str], start: Start) -> None:
    """One line says whose it is, another what would help; the process does not notice."""
    target = start(nobody, user=owner, group=owner, extra_groups=[])
    number = target.pid if command in ("list", "attach") else target.tid
    result = as_user(NOBODY, [*nobody, "-m", "threadsurgeon", command, str(number)])

    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stdout == ""
    error, hint = result.stderr.splitlines()
    assert str(target.pid) in error
    assert "user" in error
    assert "root" in hint
    target.assert_lives_on(ended=False)

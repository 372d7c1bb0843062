"""``doctor`` on real processes and in real confinement: it says what the commands then meet, and nobody is disturbed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.command import run
from tests.integration.test_list import nobody_traced
from tests.integration.test_namespaces import NOBODY, as_root, as_user, namespaces, nobody
from tests.integration.test_refusals import NO_SUCH_ID, program
from tests.zoo.behaviours import Behaviour
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim, waiting
from threadsurgeon.linux import ptrace
from threadsurgeon.surgery.builds import SHOWN

Start = Callable[..., Victim]

ROOT = Path(__file__).parents[2]
FIXTURES = (as_root, namespaces, nobody)  # pytest finds them here

# Runs a command in which the given system calls fail with EPERM, as a container's seccomp profile makes them.
FILTER = """
import ctypes, os, struct, sys
def instruction(code, jump_true, jump_false, value):
    return struct.pack("HBBI", code, jump_true, jump_false, value)
LOAD, JUMP_IF_EQUAL, RETURN, ALLOW, EPERM = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050001
code = instruction(LOAD, 0, 0, 0)
for number in sys.argv[1].split(","):
    code += instruction(JUMP_IF_EQUAL, 0, 1, int(number)) + instruction(RETURN, 0, 0, EPERM)
code += instruction(RETURN, 0, 0, ALLOW)
buffer = ctypes.create_string_buffer(code)
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer)), 0, 0) == 0  # PR_SET_SECCOMP
os.execvp(sys.argv[2], sys.argv[2:])
"""
PTRACE, PROCESS_VM_READV = "101", "310"  # x86-64

# How we are confined; the check that finds it, and words of its cause; whether already looking is refused.
CONFINED = {
    "no CAP_SYS_PTRACE": (
        ["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"],
        ("access", "CAP_SYS_PTRACE"),
        True,
    ),
    "user namespace": (["unshare", "--user", "--map-root-user"], ("access", "user namespace"), True),
    "ptrace filtered": ([sys.executable, "-c", FILTER, PTRACE], ("attach", "seccomp filter forbids ptrace"), False),
    "reading filtered": (
        [sys.executable, "-c", FILTER, PROCESS_VM_READV],
        ("access", "seccomp filter forbids process_vm_readv"),
        True,
    ),
}


def diagnose(*arguments: object, status: int, within: list[str] | None = None, **environment: str) -> dict[str, Any]:
    """Run ``doctor --json``; return its checks by name."""
    result = subprocess.run(
        [*(within or []), sys.executable, "-m", "threadsurgeon", "doctor", "--json", *map(str, arguments)],
        cwd="/",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (status, ""), result.stdout + result.stderr
    content = json.loads(result.stdout)
    assert content["ok"] == (status == 0)
    return {check["name"]: check for check in content["checks"]}


def failed(checks: dict[str, Any]) -> list[str]:
    return [name for name, check in checks.items() if check["status"] == "failed"]


@pytest.mark.usefixtures("gdb")
def test_this_machine() -> None:
    """Where these tests can run, operating works: attached and stopped at a breakpoint for real."""
    checks = diagnose(status=0)

    assert [checks[name]["status"] for name in ("gdb", "attach", "breakpoint", "read-memory")] == ["ok"] * 4
    assert re.search(r"gdb \d+\.\d+", checks["gdb"]["value"])


@pytest.mark.usefixtures("gdb")
@pytest.mark.behaviours("sleep", "regex")
def test_process_that_can_be_operated_on(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """Frozen or not; it is not touched meanwhile, and operating works as was said."""
    victim = stuck(python, behaviour)
    with nobody_traced(victim):
        checks = diagnose(victim.pid, status=0)

    assert f"{python.version[0]}.{python.version[1]}." in checks["python"]["value"]
    assert checks["operation"]["status"] == "ok"
    assert not victim.thread_is_gone()
    result = run("cancel", str(victim.tid))
    assert result.returncode == 0, result.stdout + result.stderr
    victim.assert_lives_on()
    victim.finish()


@pytest.mark.usefixtures("gdb")
def test_free_threaded_build(request: pytest.FixtureRequest, stuck: Start) -> None:
    """What refuses to operate is asked, and answers the same."""
    from tests.zoo.pythons import select

    pythons = [python for python in select(request.config.getoption("--pythons")) if python.free_threaded]
    if not pythons:
        pytest.skip("no free-threaded CPython found")
    victim = stuck(pythons[-1], "sleep")
    may = pythons[-1].version[:2] in SHOWN
    checks = diagnose(victim.pid, status=0 if may else 1)

    assert failed(checks) == ([] if may else ["operation"])
    result = run("cancel", str(victim.tid))
    assert result.returncode == (0 if may else 5), result.stderr
    if not may:
        assert result.stderr.splitlines()[0].removeprefix("Error: ") in checks["operation"]["value"]


@pytest.mark.usefixtures("gdb")
def test_what_is_no_python_process() -> None:
    """Another program, a process that is not there, a zombie."""
    with program("sleep", "1000") as process:
        assert failed(diagnose(process.pid, status=1)) == ["python"]
        assert process.poll() is None
    assert failed(diagnose(NO_SUCH_ID, status=1)) == ["process"]
    with program("true") as process:
        for _ in waiting(f"process {process.pid} is a zombie"):
            if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                break
        assert "process" in failed(diagnose(process.pid, status=1))


@pytest.mark.usefixtures("gdb")
def test_stopped_process(any_python: Python, stuck: Start) -> None:
    """Named with the command that lets it go on; afterwards it works."""
    victim = stuck(any_python, "sleep")
    os.kill(victim.pid, signal.SIGSTOP)
    for _ in waiting("it is stopped"):
        if victim.is_traced_or_stopped():
            break
    checks = diagnose(victim.pid, status=1)
    os.kill(victim.pid, signal.SIGCONT)

    assert failed(checks) == ["process", "operation"]
    assert f"kill -CONT {victim.pid}" in checks["process"]["remedy"]
    for _ in waiting("it goes on"):
        if not victim.is_traced_or_stopped():
            break
    assert failed(diagnose(victim.pid, status=0)) == []
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


@pytest.mark.usefixtures("gdb")
def test_process_that_another_traces(any_python: Python, stuck: Start) -> None:
    """The tracer is named; it is ourselves here."""
    victim = stuck(any_python, "sleep")
    for tid in (victim.pid, victim.tid):
        ptrace._ptrace(ptrace._PTRACE_SEIZE, tid)
    try:
        checks = diagnose(victim.pid, status=1)
    finally:
        for tid in (victim.pid, victim.tid):
            ptrace._ptrace(ptrace._PTRACE_INTERRUPT, tid)
            os.waitpid(tid, ptrace._WALL)
            ptrace._ptrace(ptrace._PTRACE_DETACH, tid)

    assert "tracer" in failed(checks)
    assert str(os.getpid()) in checks["tracer"]["value"]
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


def test_without_gdb(any_python: Python, stuck: Start) -> None:
    """That is said, and everything else is looked at all the same."""
    victim = stuck(any_python, "sleep")
    checks = diagnose(victim.pid, status=1, PATH="/nonexistent")

    assert failed(checks) == ["gdb"]
    assert checks["operation"]["status"] == "ok"
    assert "install gdb" in checks["gdb"]["remedy"]
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


@pytest.mark.usefixtures("as_root", "namespaces")
@pytest.mark.parametrize("confinement", CONFINED)
def test_confinement_is_named(confinement: str, any_python: Python, stuck: Start) -> None:
    """By doctor, and by the commands that it stops; with what helps, and the target as it was."""
    within, (check, words), looking_fails = CONFINED[confinement]
    if within[0] not in (sys.executable,) and not shutil.which(within[0]):
        pytest.skip(f"there is no {within[0]} here")
    victim = stuck(any_python, "sleep")
    checks = diagnose(victim.pid, status=1, within=within)

    assert check in failed(checks)
    assert words in checks[check]["value"]
    assert checks[check]["remedy"]
    for command in ("list", "cancel"):
        result = confined(within, command, victim)
        if command == "list" and not looking_fails:
            assert result.returncode == 0, result.stderr
            continue
        error, hint = result.stderr.splitlines()
        assert result.returncode == 1
        assert words in error
        assert hint == f"Hint: {checks[check]['remedy']}"
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


def confined(within: list[str], command: str, victim: Victim) -> subprocess.CompletedProcess[str]:
    number = victim.pid if command == "list" else victim.tid
    return subprocess.run(
        [*within, sys.executable, "-m", "threadsurgeon", command, str(number)],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_without_privileges(nobody: list[str], any_python: Python, stuck: Start) -> None:
    """On root's process: whose it is, who we are, and what to do; nothing of ours is left behind."""
    victim = stuck(any_python, "sleep")
    result = as_user(NOBODY, [*nobody, "-m", "threadsurgeon", "doctor", str(victim.pid), "--json"])
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}

    assert (result.returncode, result.stderr) == (1, "")
    assert checks["capabilities"]["status"] == "warning"
    assert "access" in failed(checks)
    assert f"belongs to user 0, and we are user {NOBODY}" in checks["access"]["value"]
    assert "root" in checks["access"]["remedy"]
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


def test_process_that_protects_itself(nobody: list[str]) -> None:
    """Once root, now the same user as we are: the kernel takes it for one that may hold secrets of root's."""
    code = f"import os, sys; os.setgid({NOBODY}); os.setuid({NOBODY}); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([*nobody, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", env={}) as target:
        assert target.stdin
        assert target.stdout
        target.stdout.readline()
        result = as_user(NOBODY, [*nobody, "-m", "threadsurgeon", "doctor", str(target.pid), "--json"])
        checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
        target.stdin.close()

        assert target.wait(30) == 0
    assert failed(checks) == ["access"]
    assert "not dumpable" in checks["access"]["value"]
    assert "not dumpable" in checks["owner"]["value"]


@pytest.mark.parametrize("command", ["list", "cancel", "doctor"])
def test_hidden_process(command: str, nobody: list[str], namespaces: None, any_python: Python, stuck: Start) -> None:
    """A /proc that shows each user only its own: the process is not said to be missing."""
    victim = stuck(any_python, "sleep")
    number = victim.tid if command == "cancel" else victim.pid
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    mount = "mount --make-rprivate / && mount -t proc -o hidepid=2 proc /proc && exec \"$@\""
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", *become, *nobody, "-m", "threadsurgeon", command, str(number)],
        cwd="/",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "mount:" in result.stderr:
        pytest.skip(f"no /proc with hidepid is to be had here: {result.stderr}")

    assert result.returncode == 1
    assert f"/proc does not show {number} to us" in result.stdout + result.stderr
    assert "hidepid" in result.stdout + result.stderr
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


def test_process_in_a_container(namespaces: None, any_python: Python) -> None:
    """Its namespaces are told apart from ours, with what follows from it."""
    sleeper = [any_python.command, "-c", "import time; print(flush=True); time.sleep(1000)"]
    command = ["unshare", "--pid", "--mount", "--fork", "--kill-child", *sleeper]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/") as process:
        assert process.stdout
        process.stdout.readline()
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        checks = diagnose(child, status=0)
        process.kill()

    assert "pid: another (it knows its threads by other ids" in checks["namespaces"]["value"]
    assert "mnt: another" in checks["namespaces"]["value"]
    assert "user: ours" in checks["namespaces"]["value"]
    assert checks["operation"]["status"] == "warning"  # it has its main thread only

"""``doctor``: each check by what it finds, and the verdict by all of them."""

import json
import os

import pytest

from tests.unit.test_permission import user
from tests.unit.test_session import UNDEFINED, UNDEFINED_THERE, fake, reply
from threadsurgeon import doctor
from threadsurgeon.debugger import session
from threadsurgeon.doctor import debugger, machine, target
from threadsurgeon.errors import DebuggerMissing, PermissionDenied, Refused
from threadsurgeon.linux.permission import Obstacle
from threadsurgeon.linux.privileges import CAP_SYS_PTRACE
from threadsurgeon.model.diagnosis import Check, CheckStatus, Diagnosis
from threadsurgeon.render import make_console, print_diagnosis
from threadsurgeon.schema import SCHEMA, dump_diagnosis

OK, WARNING, FAILED, SKIPPED = CheckStatus.OK, CheckStatus.WARNING, CheckStatus.FAILED, CheckStatus.SKIPPED
NO_SUCH_ID = 2**22 + 1  # one more than the kernel ever gives (PID_MAX_LIMIT)
PRIVILEGED = user(0, capabilities=CAP_SYS_PTRACE)
CHECKS = (
    Check("one", OK, "as it should be"),
    Check("two", WARNING, "so so", "do this"),
    Check("three", SKIPPED, "not to be made"),
    Check("four", FAILED, "[no] \x1b[31m", "do that"),
)


def by_name(checks):
    return {check.name: check for check in checks}


def test_only_a_failed_check_is_in_the_way():
    """A warning, or a check that could not be made, is not."""
    assert Diagnosis(None, CHECKS[:3]).ok
    assert not Diagnosis(None, CHECKS).ok


def test_json_has_the_published_names():
    """Null where there is nothing to do."""
    content = json.loads(dump_diagnosis(Diagnosis(7, CHECKS)))

    assert (content["schema"], content["ok"], content["pid"]) == (SCHEMA, False, 7)
    assert content["checks"][0] == {"name": "one", "status": "ok", "value": "as it should be", "remedy": None}
    assert [check["status"] for check in content["checks"]] == ["ok", "warning", "skipped", "failed"]


def test_text_has_values_remedies_and_the_verdict(capsys):
    """Nothing in it that a terminal would obey."""
    print_diagnosis(make_console(), Diagnosis(7, CHECKS))
    lines = capsys.readouterr().out.splitlines()

    assert lines[0].split() == ["ok", "one", "as", "it", "should", "be"]
    assert lines[2].strip() == "to do: do this"
    assert "[no] \\x1b[31m" in lines[4]
    assert lines[-1] == "operating would not work on process 7"


@pytest.mark.parametrize(
    ("us", "scope", "status"),
    [
        (user(1000), None, OK), (user(1000), 0, OK), (user(1000), 1, FAILED), (user(1000), 2, FAILED), (user(1000), 3, FAILED),
        (PRIVILEGED, 1, OK), (PRIVILEGED, 2, OK), (PRIVILEGED, 3, FAILED),
    ],
)  # fmt: skip
def test_yama(monkeypatch, us, scope, status):
    """Its value, and a remedy where it is in our way."""
    monkeypatch.setattr(machine, "read_privileges", lambda pid: us)
    monkeypatch.setattr(machine, "read_ptrace_scope", lambda: scope)
    check = by_name(machine.check_machine())["yama"]

    assert check.status is status
    assert scope is None or f"kernel.yama.ptrace_scope is {scope}" in check.value
    assert (check.remedy is not None) == (status is FAILED)


@pytest.mark.parametrize(
    ("us", "inside", "status", "words"),
    [
        (PRIVILEGED, False, OK, "every user"),
        (PRIVILEGED, True, WARNING, "inside"),
        (user(1000), False, WARNING, "only processes of user 1000"),
    ],
)
def test_capabilities(monkeypatch, us, inside, status, words):
    """Whom we may trace."""
    monkeypatch.setattr(machine, "read_privileges", lambda pid: us)
    monkeypatch.setattr(machine, "is_in_user_namespace", lambda: inside)
    check = by_name(machine.check_machine())["capabilities"]

    assert (check.status, words in check.value) == (status, True)


def test_filter(monkeypatch):
    """One that is in our way, and one that is not."""
    monkeypatch.setattr(machine, "read_privileges", lambda pid: PRIVILEGED._replace(seccomp=2, no_new_privileges=True))
    harmless = by_name(machine.check_machine())["seccomp"]
    monkeypatch.setattr(machine, "find_filter", lambda: Obstacle("ptrace is filtered", "let it pass"))
    harmful = by_name(machine.check_machine())["seccomp"]

    assert harmless.status is OK
    assert "sudo does not work" in harmless.value
    assert (harmful.status, harmful.remedy) == (FAILED, "let it pass")


@pytest.mark.parametrize(("system", "processor"), [("Darwin", "x86_64"), ("Linux", "aarch64")])
def test_platform_that_is_not_known(monkeypatch, system, processor):
    """Said first of all."""
    monkeypatch.setattr(machine.platform, "system", lambda: system)
    monkeypatch.setattr(machine.platform, "machine", lambda: processor)
    check = next(machine.check_machine())

    assert (check.name, check.status) == ("platform", FAILED)
    assert processor in check.value


STOPPED = reply({}) + '*stopped,reason="breakpoint-hit",thread-id="1"\n'
ENDED = reply({}) + '*stopped,reason="exited-signalled"\n'


def tracing(**answers):
    with fake(**answers) as gdb:
        return by_name(debugger.check_debugger(gdb))


@pytest.mark.parametrize(
    ("answers", "attach", "breakpoint_", "words"),
    [
        ({"ts_try": STOPPED, "ts_tried": reply({"hit": True})}, OK, OK, "stopped at"),
        ({"ts_try": ENDED, "ts_tried": reply({"hit": False})}, OK, FAILED, "did not stop"),
        ({"ts_try": '{t}^error,msg="Could not insert hardware breakpoint 1."\n'}, OK, FAILED, "Could not insert"),
        ({"ts_try": '{t}^error,msg="ptrace: Operation not permitted."\n'}, FAILED, SKIPPED, "could not attach"),
        ({"ts_try": None}, FAILED, SKIPPED, "did not answer"),
    ],
)
def test_what_gdb_can_do_here(answers, attach, breakpoint_, words):
    """What was tried is told apart from what could not be."""
    checks = tracing(**answers)

    assert [checks[name].status for name in ("gdb", "attach", "breakpoint")] == [OK, attach, breakpoint_]
    assert words in checks["breakpoint"].value
    assert [check.name for check in checks.values() if check.status is FAILED and not check.remedy] == []


def test_gdb_that_is_not_usable():
    """Its version, and how to get another; what needs none is tried all the same."""
    banner = '~"GNU gdb (GDB) 9.2\\n"\n{t}^done\n'
    checks = tracing(ts_about=UNDEFINED, interpreter_exec=UNDEFINED_THERE, gdb_version=banner)

    assert (checks["gdb"].status, "gdb 9.2" in checks["gdb"].value) == (FAILED, True)
    assert "install gdb" in checks["gdb"].remedy
    assert [checks[name].status for name in ("attach", "breakpoint", "read-memory")] == [SKIPPED, SKIPPED, OK]


@pytest.mark.parametrize(
    ("version", "status"),
    [("12.1", OK), ("17.2", OK), ("18.1", OK), ("19.1", WARNING), ("Red Hat Enterprise Linux 10.2-13.el9", OK)],
)
def test_gdb_of_the_future(version, status):
    """It may work: not tried is not broken."""
    check = tracing(ts_about=reply({"gdb": version}), ts_tried=reply({"hit": True}))["gdb"]

    assert (check.status, f"gdb {version}" in check.value) == (status, True)


def test_without_gdb(monkeypatch):
    """Everything else is still looked at."""

    def missing():
        raise DebuggerMissing("there is no gdb on PATH", hint="install gdb")

    monkeypatch.setattr(session, "find_gdb", missing)
    diagnosis = doctor.diagnose(None)
    checks = by_name(diagnosis.checks)

    assert not diagnosis.ok
    assert (checks["gdb"].status, checks["gdb"].remedy) == (FAILED, "install gdb")
    assert checks["read-memory"].status is not SKIPPED


def test_process_that_is_not_there():
    """Nothing more is said about it."""
    (check,) = target.check_target(NO_SUCH_ID)

    assert (check.name, check.status) == ("process", FAILED)
    assert str(NO_SUCH_ID) in check.value


def test_process_that_may_not_be_read(monkeypatch):
    """The cause stands where access does, and what follows from it could not be looked at."""

    def denied(pid):
        raise PermissionDenied("it belongs to user 7", hint="become user 7")

    monkeypatch.setattr(target, "Target", denied)
    checks = by_name(target.check_target(os.getpid()))

    assert (checks["access"].status, checks["access"].remedy) == (FAILED, "become user 7")
    assert (checks["python"].status, checks["operation"].status) == (SKIPPED, SKIPPED)


def test_refusal_is_that_of_the_operation(monkeypatch):
    """The very code that would refuse is asked."""

    def refuse(*arguments, **options):
        raise Refused("it would harm", hint="--not")

    monkeypatch.setattr(target, "examine", refuse)
    checks = by_name(target.check_target(os.getpid()))

    assert checks["python"].status is OK
    assert (checks["operation"].status, checks["operation"].remedy) == (FAILED, "--not")
    assert "it would harm" in checks["operation"].value

"""The session against a scripted gdb: it must get every answer right, and never hang, whatever comes up the pipe."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from threadsurgeon.debugger import session as session_module
from threadsurgeon.debugger.mi import GdbError, Stop
from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import DebuggerDied, DebuggerFailed, DebuggerMissing, Refused

# Answers each command by its name, from a table; "{t}" is the token. A list is written piece by piece, with pauses; None ends
# the fake at once.
FAKE = r"""
import json, os, sys, time
table = json.loads(sys.argv[1])
print("=thread-group-added,id=\"i1\"", flush=True)
print("(gdb) ", flush=True)
for line in sys.stdin:
    token = "".join(c for c in line.split("-")[0])
    name = line[len(token):].split()[0]
    answer = table.get("-python" if '"python ' in line else name, "{t}^done\n(gdb) \n")
    if answer is None:
        os._exit(3)
    for piece in [answer] if isinstance(answer, str) else answer:
        os.write(1, piece.replace("{t}", token).encode("latin-1"))
        time.sleep(0.02)
"""

ABOUT = r'{t}^done,json="{\"gdb\": \"13.1\", \"python\": \"3.11.2\"}"' + "\n(gdb) \n"


def reply(value: Any) -> str:
    return "{t}^done,json=" + json.dumps(json.dumps(value)) + "\n"


@contextmanager
def fake(**answers: str | list[str] | None) -> Iterator[Session]:
    table = {"-ts-about": ABOUT} | {"-" + name.replace("_", "-"): answer for name, answer in answers.items()}
    with Session.start([sys.executable, "-c", FAKE, json.dumps(table)]) as session:
        yield session


def test_reply_is_decoded() -> None:
    """What our commands return arrives as it was: text, numbers, None, control characters."""
    value = {"text": 'quote " backslash \\ newline \n ü \x07', "none": None, "number": 1 << 62, "truth": True}
    with fake(ts_x=reply(value)) as session:
        assert session.command("-ts-x", {"a": 'b"\\'}) == value
        assert session.version == "13.1"


def test_answer_in_pieces() -> None:
    """Only complete lines are looked at."""
    with fake(ts_x=["{t}^done,js", 'on="{\\"a', '\\": 1}"', "\n(gdb) \n"]) as session:
        assert session.command("-ts-x") == {"a": 1}


def test_late_answer_of_another_command_is_not_ours() -> None:
    """An answer counts only with its command's token."""
    with fake(ts_x='1^done,json="{\\"a\\": 0}"\n99^error,msg="no"\n' + reply({"a": 1})) as session:
        assert session.command("-ts-x") == {"a": 1}


@pytest.mark.parametrize("noise", ["\n", "garbage\n", '~"text\\n"\n', "*stopped,frame={\n", "&&&\n", "\xff\xfe\n", "^done\n"])
def test_noise_before_the_answer(noise: str) -> None:
    """Whatever has not our token is passed over."""
    with fake(ts_x=noise + reply({"a": 1})) as session:
        assert session.command("-ts-x") == {"a": 1}


@pytest.mark.parametrize("answer", ['json="{"', 'json="[1]"', 'json=["', 'json="', "a=[", 'a=["b"', "a={", "a", '="', "]["])
def test_senseless_answer(answer: str) -> None:
    """It is an error, not a crash or a hang."""
    with fake(ts_x="{t}^done," + answer + "\n", ts_y=reply({"a": 1})) as session:
        try:
            assert session.command("-ts-x") == {}
        except DebuggerFailed:
            pass

        assert session.command("-ts-y") == {"a": 1}


def test_error() -> None:
    """What gdb says is what the error says; the session goes on."""
    with fake(ts_x='{t}^error,msg="ptrace: No such \\"process\\"."\n', ts_y=reply({"a": 1})) as session:
        with pytest.raises(GdbError, match=r'^ptrace: No such "process"\.$'):
            session.command("-ts-x")

        assert session.command("-ts-y") == {"a": 1}


def test_no_answer_in_time() -> None:
    """The session gives up, ends gdb, and says so from then on."""
    with fake(ts_x="") as session:
        began = time.monotonic()
        with pytest.raises(DebuggerFailed, match="in time"):
            session.command("-ts-x", timeout_seconds=0.1)
        with pytest.raises(DebuggerDied):
            session.command("-ts-x")

    assert time.monotonic() - began < 8  # not until a time limit


def test_gdb_that_does_not_leave_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its input has ended, it was given time: then by force."""
    monkeypatch.setattr(session_module, "LEAVE_SECONDS", 0.2)
    program = "import time\nprint('1^running', flush=True)\ntime.sleep(60)"
    with Session.start([sys.executable, "-c", program]) as session:
        began = time.monotonic()

    assert time.monotonic() - began < 8  # not until a time limit
    with pytest.raises(ProcessLookupError):
        os.kill(session.pid, 0)


@pytest.mark.parametrize("last", ["", "{t}^done,js", "{t}^done,a=["])
def test_gdb_ends_instead_of_answering(last: str) -> None:
    """The end of its output is the end of gdb; what is incomplete then is never parsed."""
    program = FAKE.replace("time.sleep(0.02)", "piece.startswith('{t}^done,json') or name == '-ts-warm-up' or os._exit(3)")
    table = {"-ts-about": ABOUT, "-ts-x": last}
    with Session.start([sys.executable, "-c", program, json.dumps(table)]) as session:
        with pytest.raises(DebuggerDied, match="exit status 3"):
            session.command("-ts-x")
        with pytest.raises(DebuggerDied):
            session.command("-ts-x")


@pytest.mark.parametrize("command_is_read", [True, False])
def test_gdb_says_why_it_ends(command_is_read: bool) -> None:
    """After an error within itself: its words are in ours, also where it ended before we could ask for anything."""
    words = "&" + json.dumps("infrun.c:78: internal-error: keep_going: Assertion `x' failed.\nA problem internal") + "\n"
    program = FAKE.replace("time.sleep(0.02)", "name != '-ts-x' and name != table['last'] or os._exit(1)")
    table = {"-ts-about": ABOUT, "last": "" if command_is_read else "-ts-warm-up"}
    table["-ts-x" if command_is_read else "-ts-warm-up"] = ("" if command_is_read else "{t}^done\n") + words
    with Session.start([sys.executable, "-c", program, json.dumps(table)]) as session:
        session.wait_until_ready()
        if not command_is_read:
            os.waitid(os.P_PID, session.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(DebuggerDied, match=r"exit status 1\): .*infrun\.c:78: internal-error: .*failed\.$"):
            session.command("-ts-x")


def test_gdb_ends_at_once() -> None:
    """As one that does not know our options."""
    with Session.start([sys.executable, "-c", ""]) as session, pytest.raises(DebuggerMissing, match="as soon as"):
        session.command("-ts-x")


def test_gdb_is_not_there() -> None:
    """The reason is the system's, the hint says what to install."""
    with pytest.raises(DebuggerMissing, match="No such file") as caught:
        Session.start(["/nonexistent/gdb"])

    assert "install gdb" in str(caught.value.hint)


UNDEFINED = '{t}^error,msg="Undefined MI command: ts-about",code="undefined-command"\n'
UNDEFINED_THERE = '{t}^error,msg="Undefined command: \\"ts-about\\".  Try \\"help\\"."\n'


@pytest.mark.parametrize(
    ("banner", "message"),
    [
        ("GNU gdb (Ubuntu 9.2-0ubuntu1~20.04.2) 9.2", "gdb 9.2 is too old"),
        ("GNU gdb (GDB) Red Hat Enterprise Linux 8.2-20.el8", "gdb 8.2 is too old"),
        ("GNU gdb (Debian 10.1-1.7) 10.1.90.20210103-git", "gdb 10.1 was built without Python"),
        ("GNU gdb (Ubuntu 12.1-0ubuntu1~22.04) 12.1", "gdb 12.1 was built without Python"),
        ("GNU gdb (GDB; SUSE Linux Enterprise 15) 13.2", "gdb 13.2 was built with Python 3.6, which is too old"),
        ("something else", "this gdb was built without Python"),
    ],
)
def test_unusable_gdb(banner: str, message: str) -> None:
    """One line says what is wrong with it."""
    version = f'~"{banner}\\n"\n~"License GPLv3+\\n"\n' + "{t}^done\n"
    python = '{t}^error,msg="Scripting is not supported"\n' if "without" in message else '~"Python 3.6\\n"\n{t}^done\n'
    answers = {"ts_about": UNDEFINED, "interpreter_exec": UNDEFINED_THERE, "gdb_version": version, "python": python}
    with fake(**answers) as session, pytest.raises(DebuggerMissing, match=message) as caught:
        session.command("-ts-x")

    assert "Python 3.9" in str(caught.value.hint)


def test_gdb_that_should_know_our_commands_is_not_called_too_old() -> None:
    """Something is wrong with the files that it was to load."""
    answers = {"ts_about": UNDEFINED, "interpreter_exec": UNDEFINED_THERE, "python": '~"Python 3.11\\n"\n{t}^done\n'}
    answers["gdb_version"] = '~"GNU gdb (Debian 13.1-3) 13.1\\n"\n{t}^done\n'
    with fake(**answers) as session, pytest.raises(DebuggerMissing, match=r"^gdb 13\.1 cannot load our commands: Undefined"):
        session.command("-ts-x")


@pytest.mark.parametrize("silent", ["gdb_version", "python"])
def test_unusable_gdb_that_falls_silent(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up like any other that does not answer."""
    monkeypatch.setattr(session_module, "READY_SECONDS", 0.5)
    answers = {"ts_about": UNDEFINED, "interpreter_exec": UNDEFINED_THERE, silent: ""}
    with fake(**answers) as session, pytest.raises(DebuggerFailed, match="in time"):
        session.command("-ts-x")


REPLY = {"gdb": "10.1", "text": 'quote " backslash \\ newline \n ü \x07 $x # ~ {', "none": None}
SPOKEN = f"ts-reply {json.dumps(REPLY)}\n"
OTHERS = '~"\\n"\n~"Breakpoint 2, 0x1 in \\303\\274 ()\\n"\n~"ts-reply {}\\n"\n=breakpoint-modified,bkpt={}\n'


@pytest.mark.parametrize("pieces", [[SPOKEN], [SPOKEN[:20], SPOKEN[20:70], SPOKEN[70:]], ["\n", SPOKEN, "Breakpoint 2\n"]])
def test_reply_on_the_console(pieces: list[str]) -> None:
    """gdb before 12 says it there, in one piece or in several, among other things; what it said to another command is past."""
    answer = OTHERS + "".join(f"~{json.dumps(piece)}\n" for piece in pieces) + "{t}^done\n"
    with fake(ts_about=UNDEFINED, ts_warm_up=UNDEFINED, interpreter_exec=answer) as session:
        assert session.command("-ts-x", {"a": 'b"\\'}) == REPLY
        assert session.version == "10.1"


def test_error_on_the_console() -> None:
    """What a command of ours says there is what the error says; gdb's own commands are no matter of the console."""
    with fake(ts_about=UNDEFINED, interpreter_exec="~" + json.dumps(SPOKEN) + "\n{t}^done\n", x=reply({"a": 1})) as session:
        session.wait_until_ready()
        assert session.command("-x") == {"a": 1}

    error = '&"no\\n"\n{t}^error,msg="ptrace: No such \\"process\\"."\n'
    with fake(ts_about=UNDEFINED, interpreter_exec=error) as session, pytest.raises(DebuggerMissing, match="No such"):
        session.command("-ts-x")


def test_warm_up_may_fail() -> None:
    """As where the kernel allows no tracing of siblings: everything works, only slower."""
    with fake(ts_warm_up='{t}^error,msg="ptrace: Operation not permitted."\n', ts_x=reply({})) as session:
        assert session.command("-ts-x") == {}


def test_stops_are_kept_for_who_waits() -> None:
    """Those before the thread was resumed are past; those of other threads are not ours."""
    hit = '*stopped,reason="breakpoint-hit",bkptno="2",frame={addr="0x1"},thread-id="1"\n'
    other = '*stopped,reason="breakpoint-hit",thread-id="2"\n'
    answer = '*stopped,thread-id="1"\n{t}^running\n*running,thread-id="1"\n' + other + hit
    with fake(ts_x=answer) as session:
        session.command("-ts-x", stays_attached=True)

        assert session.wait_for_stop(5) == Stop("breakpoint-hit", 1)
        assert session.wait_for_stop(0.05) is None


def test_waiting_ends_when_told() -> None:
    """The time is not used up then."""
    with fake() as session:
        session.wait_until_ready()
        began = time.monotonic()

        assert session.wait_for_stop(10, until=lambda: time.monotonic() > began + 0.05) is None
        assert time.monotonic() - began < 8  # not until a time limit


def test_gdb_dies_while_we_wait_for_a_stop() -> None:
    """Noticed at once."""
    with fake() as session:
        session.wait_until_ready()
        timer = threading.Timer(0.1, os.kill, (session.pid, signal.SIGKILL))
        timer.start()
        began = time.monotonic()
        with pytest.raises(DebuggerDied):
            session.wait_for_stop(10)

        assert time.monotonic() - began < 8  # not until a time limit
        timer.join()


def test_the_main_thread_is_refused() -> None:
    """Tracing it would stop all threads."""
    with fake() as session, pytest.raises(Refused), session.custody(os.getpid(), os.getpid()):
        pass


def test_start_does_not_wait_for_gdb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our caller looks at the target while gdb starts: one that never says a word is no reason to wait yet."""
    monkeypatch.setattr(Session, "wait_until_ready", lambda self: pytest.fail("waited for gdb"))
    with Session.start([sys.executable, "-c", "import sys; sys.stdin.read()"]) as session:
        assert session.pid > 0


def test_no_child_of_ours_inherits_the_input() -> None:
    """It would keep gdb, and a thread in its hands, from noticing our end."""

    def count_inherited() -> int:
        program = "import os; print(len(os.listdir('/proc/self/fd')))"
        child = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, close_fds=False, check=True)
        return int(child.stdout)

    before = count_inherited()
    with fake() as session:
        session.wait_until_ready()

        assert count_inherited() == before


def test_conversation_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """At debug level, both directions."""
    with caplog.at_level(logging.DEBUG), fake(ts_x=reply({"a": 1})) as session:
        session.command("-ts-x")

    assert "to gdb: 3-ts-x" in caplog.text
    assert "from gdb: 3^done" in caplog.text

"""The audit trail: what stands in it, that it stands there before anything is done, and in whatever way it ends."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading

import pytest

import threadsurgeon
from tests.unit import examples
from threadsurgeon import audit, selection
from threadsurgeon.audit import Record, Trail
from threadsurgeon.debugger import session
from threadsurgeon.errors import LogUnwritable, NoSuchThread, Refused
from threadsurgeon.surgery import operation
from threadsurgeon.surgery.ladder import Policy

NO_SUCH_ID = 2**22 + 1  # one more than the kernel ever gives (PID_MAX_LIMIT)


@pytest.fixture(autouse=True)
def no_system_log(monkeypatch, tmp_path):
    """That of this machine is not told of what did not happen."""
    monkeypatch.setattr(audit, "SYSTEM_LOG", tmp_path / "no-system-log")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_file_is_for_its_owner_only(tmp_path):
    """Whatever the umask."""
    before = os.umask(0)
    try:
        Trail(tmp_path / "log").close()
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_each_entry_is_one_line_at_the_end(tmp_path):
    """What stands there stays, and a hostile name cannot forge a line."""
    (tmp_path / "log").write_text('{"old": 1}\n')
    trail = Trail(tmp_path / "log")
    trail({"name": "x\n{}\u2028\udcff"})
    trail({"second": 2})

    assert read(tmp_path / "log") == [{"old": 1}, {"name": "x\n{}\u2028\udcff"}, {"second": 2}]


def test_many_at_a_time_do_not_mix(tmp_path):
    """Each line is written in one go, at the end as it is then."""
    trails = [Trail(tmp_path / "log") for _ in range(8)]
    threads = [threading.Thread(target=lambda t=t: [t({"text": "x" * 5000}) for _ in range(50)]) for t in trails]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert read(tmp_path / "log") == [{"text": "x" * 5000}] * 400


def make_fifo(path):
    os.mkfifo(path)


def make_link(path):
    (path.parent / "elsewhere").write_text("")
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize("make", [os.mkdir, make_fifo, make_link, lambda path: path.symlink_to("/dev/full")])
def test_what_is_no_file_is_refused(tmp_path, make):
    """A pipe is not waited for, a link not followed."""
    make(tmp_path / "log")

    with pytest.raises(LogUnwritable, match="log' cannot be written to: ") as caught:
        Trail(tmp_path / "log")
    assert "--log" in caught.value.hint


@pytest.mark.parametrize("path", ["", "/nonexistent/log", "/dev/null", "nul\0"])
def test_places_that_cannot_be_written_to(path):
    """Said in one line."""
    with pytest.raises(LogUnwritable) as caught:
        Trail(path)

    assert "\n" not in str(caught.value)


def test_full_disk(tmp_path):
    """Half a line does not count as written."""
    program = (
        "import resource, signal, sys; from threadsurgeon.audit import Trail; from threadsurgeon.errors import LogUnwritable\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"
        "trail = Trail(sys.argv[1])\n"
        "for size in (100, 1):\n"
        "    try: trail({'text': 'x' * size})\n"
        "    except LogUnwritable as error: print(error)\n"
    )
    paths = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", program, str(tmp_path / "log")]
    result = subprocess.run(command, env={"PYTHONPATH": paths}, capture_output=True, text=True, timeout=60, check=True)

    first, second = result.stdout.splitlines()
    assert "no space is left" in first
    assert "cannot be written to" in second


def operate(monkeypatch, journal, what):
    """Kill thread 43 of our own process in name only: ``what`` is what comes of it."""

    class Operation:
        def run(self, gdb):
            return what()

    def prepare(pid, tid, policy):
        return Operation()

    class FakeSession:
        version = "13.1"

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    monkeypatch.setattr(selection, "select_thread", lambda pid, tid: (os.getpid(), os.getpid()))
    monkeypatch.setattr(session.Session, "start", FakeSession)
    monkeypatch.setattr(operation, "prepare", prepare)
    return threadsurgeon.kill("worker", pid=os.getpid(), force=True, exception="KeyError", journal=journal)


def test_intent_stands_before_anything_is_done(monkeypatch):
    """Who, when, what to whom, how far: nothing has happened yet; afterwards what came of it."""
    entries = []

    def act():
        assert [entry["event"] for entry in entries] == ["intent"]
        return examples.REPORT

    report = operate(monkeypatch, entries.append, act)
    intent, result = entries

    assert report.debugger == result["debugger"] == "gdb 13.1"
    assert (intent["command"], intent["asked"]) == ("kill", "worker")
    assert (intent["options"]["force"], intent["options"]["exception"]) == (True, "KeyError")
    assert (intent["who"]["uid"], intent["who"]["pid"]) == (os.getuid(), os.getpid())
    assert intent["process"]["command_line"][0]
    assert (intent["process"]["pid"], intent["thread"]["tid"]) == (os.getpid(), os.getpid())
    assert intent["time"].endswith("Z")
    assert intent["process"]["started"] < intent["time"]
    assert result["operation"] == intent["operation"]
    assert (result["event"], result["outcome"], result["error"]) == ("result", "ended", None)
    assert (result["technique"], result["exception"]) == ("interrupt", "SystemExit")
    assert result["stack_before"] == [str(frame) for frame in examples.FRAMES]
    assert result.keys() >= intent.keys()


@pytest.mark.parametrize(
    ("error", "name", "words"),
    [
        (Refused("it would harm"), "Refused", "it would harm"),
        (NoSuchThread("it ended"), "NoSuchThread", "it ended"),
        (KeyboardInterrupt(), "Interrupted", "SIGINT"),
        (SystemExit(128 + signal.SIGTERM), "Interrupted", "SIGTERM"),
        (ZeroDivisionError("a bug"), "ZeroDivisionError", "a bug"),
    ],
)
def test_failure_stands_there_too(monkeypatch, error, name, words):
    """Refused, failed, interrupted: why, and by which gdb."""
    entries = []

    def act():
        raise error

    with pytest.raises(type(error)):
        operate(monkeypatch, entries.append, act)

    assert [entry["event"] for entry in entries] == ["intent", "result"]
    assert entries[1]["outcome"] is None
    assert entries[1]["error"] == {"type": name, "message": words if name != "Interrupted" else f"by {words}"}
    assert entries[1]["debugger"] == "gdb 13.1"


def test_nothing_is_done_without_the_entry(monkeypatch):
    """A journal that cannot take it keeps the operation from beginning."""

    def unwritable(entry):
        raise LogUnwritable("no space is left")

    with pytest.raises(LogUnwritable):
        operate(monkeypatch, unwritable, lambda: pytest.fail("the operation began"))


def test_result_that_cannot_be_logged_is_returned(monkeypatch, caplog):
    """What was done is done."""
    entries = []

    def full(entry):
        if entries:
            raise LogUnwritable("no space is left")
        entries.append(entry)

    assert operate(monkeypatch, full, lambda: examples.REPORT).outcome is examples.REPORT.outcome
    assert "no space is left" in caplog.text


def test_thread_that_is_not_there_is_logged():
    """Nothing was intended for a certain thread then; that it was tried stands there."""
    entries = []
    with pytest.raises(NoSuchThread):
        threadsurgeon.cancel(NO_SUCH_ID, journal=entries.append)

    assert [(entry["event"], entry["asked"], entry["error"]["type"]) for entry in entries] == [
        ("result", str(NO_SUCH_ID), "NoSuchThread")
    ]


def test_without_a_journal_nothing_is_looked_up():
    """A library user who wants none pays nothing."""
    with Record(None, "cancel", "1", Policy()) as record:
        record.begin(NO_SUCH_ID, NO_SUCH_ID)


def test_system_log_is_told_where_there_is_one(monkeypatch, tmp_path):
    """In one message that every system log takes, without what is long."""
    told = []
    monkeypatch.setattr(audit.syslog, "syslog", lambda priority, text: told.append(text))
    Trail()({"event": "intent"})
    (tmp_path / "no-system-log").write_text("")
    Trail()({"event": "result", "stack_before": ["x"] * 1000, "process": {"pid": 7, "command_line": ["y" * 9000]}})

    (text,) = told
    assert json.loads(text) == {"event": "result", "process": {"pid": 7, "command_line": "(too long)"}}


def test_who_we_are_behind_sudo(monkeypatch):
    """The one who called it, too."""
    monkeypatch.setenv("SUDO_USER", "alice")

    assert audit.describe_us()["sudo_user"] == "alice"

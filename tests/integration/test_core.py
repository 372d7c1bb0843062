"""Core files tell what the process itself said before it was dumped; what is no such file, or too little of one, is said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import threadsurgeon
from tests.integration.command import run
from tests.integration.test_list import printable
from tests.zoo.behaviours import Behaviour
from tests.zoo.patient import patient
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim, waiting
from threadsurgeon.errors import NotPython, ThreadsurgeonError, UnreadableCore
from threadsurgeon.model.threads import Listing

pytestmark = pytest.mark.usefixtures("gdb")


@pytest.fixture
def dump(tmp_path: Path, gdb: str) -> Iterator[Callable[[int], str]]:
    """Write the core of a process of ours, which lives on; 200 MB of it are holes or soon gone."""

    def write(pid: int) -> str:
        path = tmp_path / f"core.{pid}"
        command = ["-ex", "set use-coredump-filter on", "-ex", f"attach {pid}", "-ex", f"generate-core-file {path}"]
        arguments = [gdb, "-nx", "--batch", "-iex", "set auto-solib-add off", "-iex", "set debuginfod enabled off", *command]
        result = subprocess.run([*arguments, "-ex", "detach"], capture_output=True, text=True, timeout=120, check=True)
        assert path.exists(), result.stdout + result.stderr
        return str(path)

    yield write
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.behaviours("sleep", "pool_worker", "unicode_names", "regex")
def test_core_agrees_with_what_the_process_said(
    python: Python, behaviour: Behaviour, stuck: Callable[..., Victim], dump: Callable[[int], str]
) -> None:
    """Threads, idents, names, and stacks, as the victim said and as the living process showed them."""
    victim = stuck(python, behaviour)
    truth = victim.ready if behaviour.freezes else victim.ask("truth")
    living = threadsurgeon.list_threads(victim.pid)

    listing = threadsurgeon.list_core(dump(victim.pid))

    assert listing.pid == victim.pid
    assert (listing.python.version, listing.python.build) == (living.python.version, living.python.build)
    assert [warning for warning in listing.warnings if "truncated" in warning] == []
    seen = {thread.tid: thread for thread in listing.threads}
    assert set(seen) == {thread.tid for thread in living.threads}
    for expected in truth["threads"]:
        thread = seen[expected["tid"]]
        facts = (expected["ident"], printable(expected["name"]), True)
        assert (thread.ident, thread.name, thread.python) == facts
    frames = next(thread.frames for thread in living.threads if thread.tid == victim.tid)
    if seen[victim.tid].frames != frames:  # gcore cannot read stacks with guard pages of glibc 2.42: then it is said
        assert seen[victim.tid].frames == ()
        assert python.name.endswith("sid")
        assert any("no Python frames" in warning for warning in listing.warnings)
    assert [thread.tid for thread in listing.threads if thread.main] == [victim.pid]
    if behaviour.freezes:
        assert listing.gil_holder == victim.tid


ABORTING = """
import os, resource, signal, threading, time
def wait():
    time.sleep(1000)
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
threads = [threading.Thread(target=wait, daemon=True, name="waits %d" % number) for number in range(3)]
for thread in threads:
    thread.start()
os.write(1, b"ready")
os.read(0, 1)
os.kill(os.getpid(), signal.SIGABRT)
"""


def test_core_that_the_kernel_wrote(python: Python, tmp_path: Path) -> None:
    """Of a process that was aborted: every thread with its whole stack, whatever gcore leaves out of them."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    if pattern.startswith("|") or "/" in pattern:
        pytest.skip("cores go elsewhere on this machine")
    command, pipe = [python.command, "-c", ABORTING], subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"ready"
        for _ in waiting("its threads sleep"):
            waits = [thread.waits_for for thread in threadsurgeon.list_threads(process.pid).threads]
            if sum(wait is not None and wait.kind == "sleep" for wait in waits) == 3:
                break
        process.communicate(b"\n", timeout=30)
        if not (cores := list(tmp_path.glob("core*"))):
            pytest.skip("the kernel wrote no core: its size may be limited")
        listing = threadsurgeon.list_core(str(cores[0]))

        assert process.returncode == -signal.SIGABRT
        assert listing.pid == process.pid
        assert listing.warnings == ()
        stacks = {thread.name: [frame.function.rpartition(".")[2] for frame in thread.frames] for thread in listing.threads}
        expected = ["wait", "run", "_bootstrap_inner", "_bootstrap"]
        assert stacks == {"MainThread": ["<module>"], **{f"waits {number}": expected for number in range(3)}}
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.behaviours("native_thread", "subinterpreter")
def test_core_tells_native_threads_and_interpreters_apart(
    python: Python, behaviour: Behaviour, stuck: Callable[..., Victim], dump: Callable[[int], str]
) -> None:
    """As the list of the living process does."""
    victim = stuck(python, behaviour)
    living = threadsurgeon.list_threads(victim.pid)

    listing = threadsurgeon.list_core(dump(victim.pid))

    def facts(of: Listing) -> list[tuple[object, ...]]:
        return [(thread.tid, thread.python, thread.interpreter, thread.name, thread.daemon) for thread in of.threads]

    assert facts(listing) == facts(living)


def test_commands_and_errors(any_python: Python, dump: Callable[[int], str], tmp_path: Path) -> None:
    """JSON as for a living process; by TID, name and ident; each kind of wrong file in one line."""
    with patient(any_python) as process:
        tid = process.get_stuck("read")
        core = dump(process.pid)
        facts = process.release()
        assert (facts["joined"], facts["passed"]) == (True, True)  # a dump is no harm
        listed = run("list", "--core", core, "--json")
        assert (listed.returncode, listed.stderr) == (0, "")
        answer = json.loads(listed.stdout)
        assert answer["core"] == core
        mine = next(thread for thread in answer["threads"] if thread["tid"] == tid)
        assert (mine["state"], mine["cpu_percent"], mine["native_name"]) == (None, None, None)
        if not any_python.name.endswith("sid"):  # gcore leaves the stacks out there, as above
            assert mine["frames"][0]["function"] == "read"
        for designation in (str(tid), hex(mine["ident"]), mine["name"]):
            shown = run("stack", designation, "--core", core, "--json")
            assert json.loads(shown.stdout)["frames"] == mine["frames"], shown.stderr
        unknown = run("stack", "nobody", "--core", core)
        assert (unknown.returncode, unknown.stdout) == (1, "")
        assert "nobody" in unknown.stderr
        assert "--core" in unknown.stderr
        process.process.finish()
    program = tmp_path / "program"
    shutil.copy(any_python.command, program)
    (tmp_path / "text").write_text("no core\n" * 100)
    (tmp_path / "empty").write_bytes(b"")
    for name in ("program", "text", "empty", "absent", ""):
        result = run("list", "--core", str(tmp_path / name))
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: ")
        assert "Traceback" not in result.stderr


def test_core_of_another_program(dump: Callable[[int], str]) -> None:
    """It is said what it is of."""
    with subprocess.Popen(["sleep", "300"]) as process:
        try:
            with pytest.raises(NotPython, match="sleep"):
                threadsurgeon.list_core(dump(process.pid))
        finally:
            process.kill()


def test_truncated_and_damaged_cores(any_python: Python, dump: Callable[[int], str]) -> None:
    """Wherever it ends, and whatever stands in its headers: a listing with a warning, or one clear error."""
    with patient(any_python) as process:
        core = dump(process.pid)
        process.process.finish()
    whole = threadsurgeon.list_core(core)
    messages, listed = [], 0
    # gdb writes the notes last, the kernel first: moved to the front, as there, the rest may be missing from the end.
    move_notes_to_gap(core)
    size = os.path.getsize(core)
    assert threadsurgeon.list_core(core)._replace(core=whole.core) == whole
    for step in range(40, -1, -1):
        os.truncate(core, size * step // 40)
        try:
            listing = threadsurgeon.list_core(core)
        except UnreadableCore as error:
            messages.append(str(error))
        else:
            listed += 1
            assert step == 40 or any("truncated" in warning for warning in listing.warnings)
    assert listed
    assert messages
    assert all("\n" not in message for message in messages)


def move_notes_to_gap(core: str) -> None:
    """Put the notes before the memory, as the kernel does."""
    content = bytearray(Path(core).read_bytes())
    count = struct.unpack_from("<H", content, 56)[0]
    headers = [list(struct.unpack_from("<IIQQQQQQ", content, 64 + 56 * index)) for index in range(count)]
    notes = next(header for header in headers if header[0] == 4)
    text = content[notes[2] : notes[2] + notes[5]]
    first = min(header[2] for header in headers if header[0] == 1)
    del content[notes[2] : notes[2] + notes[5]]
    for header in headers:
        header[2] += len(text) if header is not notes else 0
    notes[2] = first
    content[first:first] = text
    for index, header in enumerate(headers):
        struct.pack_into("<IIQQQQQQ", content, 64 + 56 * index, *header)
    struct.pack_into("<QH", content, 40, 0, 0)  # no sections
    Path(core).write_bytes(content)


def test_replaced_interpreter_is_named(any_python: Python, dump: Callable[[int], str], tmp_path: Path) -> None:
    """A file that is not the one that was mapped is never read in its place: the error names it."""
    with patient(any_python) as process:
        core = dump(process.pid)
        process.process.finish()
    content = Path(core).read_bytes()
    name = os.path.basename(threadsurgeon.list_core(core).python.executable).encode()
    Path(core).write_bytes(content.replace(b"/" + name + b"\0", b"/" + b"python3.".ljust(len(name), b"9") + b"\0"))

    with pytest.raises(UnreadableCore, match="needed to read"):
        threadsurgeon.list_core(core)


def test_errors_are_ours(tmp_path: Path) -> None:
    """Any damaged header is an error of ours."""
    fields = struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + fields
    for position in range(64):
        for value in (0, 1, 0x7F, 0xFF):
            path = tmp_path / "core"
            path.write_bytes(header[:position] + bytes([value]) + header[position + 1 :] + bytes(range(256)) * 4)
            with pytest.raises(ThreadsurgeonError):
                threadsurgeon.list_core(str(path))

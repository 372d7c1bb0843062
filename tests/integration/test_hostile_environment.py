"""A hostile environment: nothing of it reaches gdb, neither files nor variables, of ours or of the target's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.zoo.pythons import Python
from tests.zoo.victim import Victim
from threadsurgeon.debugger.session import Session

Start = Callable[..., Victim]

ROOT = Path(__file__).parents[2]
# Each would leave a trace if anybody read it.
TRAPS = {
    ".gdbinit": "shell touch {mark}\n",
    ".gdbearlyinit": "shell touch {mark}\n",
    ".config/gdb/gdbinit": "shell touch {mark}\n",
    "startup.py": "open({mark!r}, 'w')\n",
    "sitecustomize.py": "open({mark!r}, 'w')\n",
    "usercustomize.py": "open({mark!r}, 'w')\n",
    "json.py": "open({mark!r}, 'w')\n",
    "gdb.py": "open({mark!r}, 'w')\n",
}


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    for name, text in TRAPS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.format(mark=str(tmp_path / f"read-{name.replace('/', '-')}")))
    return tmp_path


def hostile(folder: Path) -> dict[str, str]:
    return {
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / ".config"),
        "PYTHONSTARTUP": str(folder / "startup.py"),
        "PYTHONHOME": str(folder),
        "PYTHONPATH": str(folder),
        "PYTHONINSPECT": "1",
        "DEBUGINFOD_URLS": "http://127.0.0.1:9",
        "GDBHISTFILE": str(folder / "history"),
        "LD_LIBRARY_PATH": str(folder),
    }


def sprung(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith("read-")]


@pytest.mark.usefixtures("gdb")
def test_gdb_has_nothing_of_our_environment(traps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where programs are found, in a working directory of its own."""
    for name, value in hostile(traps).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(traps)
    with Session.start() as session:
        session.wait_until_ready()
        environment = Path(f"/proc/{session.pid}/environ").read_bytes().decode().rstrip("\0").split("\0")
        directory = os.readlink(f"/proc/{session.pid}/cwd")

    # gdb itself sets the size of a terminal that it does not have.
    assert {word.partition("=")[0] for word in environment} <= {"PATH", "LC_ALL", "LINES", "COLUMNS"}
    assert directory == "/"
    assert sprung(traps) == []


@pytest.mark.usefixtures("gdb")
def test_operation_from_a_hostile_place(traps: Path, any_python: Python, stuck: Start) -> None:
    """Its working directory, and the home of who operates, hold traps: none is stepped into."""
    victim = stuck(any_python, "sleep")
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from threadsurgeon.__main__ import main; "
        f"import os; os.chdir({str(traps)!r}); os.environ.update({hostile(traps)!r}); main()"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", program, "cancel", str(victim.tid)],
        env={"PATH": "/usr/bin:/bin"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert result.returncode == 0, result.stderr
    assert sprung(traps) == []
    victim.assert_lives_on()
    victim.finish()


@pytest.mark.usefixtures("gdb")
def test_nothing_is_read_from_the_working_directory_of_the_target(traps: Path, any_python: Python, stuck: Start) -> None:
    """The target sits among the traps; for an auto-load script there is one of its own."""
    program = Path(any_python.command).resolve().name
    (traps / f"{program}-gdb.py").write_text(f"open({str(traps / 'read-auto-load')!r}, 'w')\n")
    code = (
        "import sys, threading, time; t = threading.Thread(target=time.sleep, args=(1000,)); t.start(); "
        "print(t.native_id, flush=True); sys.stdin.read(); t.join()"
    )
    with subprocess.Popen(
        [any_python.command, "-I", "-c", code], cwd=traps, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as target:
        assert target.stdin
        assert target.stdout
        tid = target.stdout.readline().strip()
        result = subprocess.run(
            [sys.executable, "-m", "threadsurgeon", "cancel", tid],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )
        target.stdin.close()
        assert target.wait(30) == 0

    assert result.returncode == 0, result.stderr
    assert sprung(traps) == []

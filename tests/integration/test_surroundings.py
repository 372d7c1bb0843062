"""Our own surroundings, as they should not be: it works, or says in one line that it does not. Nobody is harmed."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.command import ENVIRONMENT, ROOT, WORDS, run
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim

Start = Callable[..., Victim]

COMMAND = " ".join(WORDS)  # for a shell

pytestmark = pytest.mark.usefixtures("gdb")



@pytest.mark.parametrize("files", range(6, 31, 3))
def test_few_files_may_be_open(files: int, any_python: Python, stuck: Start) -> None:
    """It works, or says that it does not: never half."""
    victim = stuck(any_python, "lock")
    result = limited(resource.RLIMIT_NOFILE, files, "cancel", str(victim.tid))

    assert "Traceback" not in result.stderr or "site.py" in result.stderr  # Python itself did not come up
    assert result.returncode in (0, 1), result.stderr
    assert (result.stderr == "") == (result.returncode == 0)
    victim.assert_lives_on(unwound=result.returncode == 0)


@pytest.mark.parametrize("megabytes", [40, 80, 120, 160])
def test_little_memory(megabytes: int, any_python: Python, stuck: Start) -> None:
    """It works, or says that it does not: never half."""
    victim = stuck(any_python, "lock")
    result = limited(resource.RLIMIT_AS, megabytes << 20, "cancel", str(victim.tid))

    assert result.returncode == 0 or result.stderr, result.returncode
    victim.assert_lives_on(unwound=result.returncode == 0)


def limited(what: int, limit: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run our command line with a resource limited, for gdb, too."""
    return subprocess.run(
        [*WORDS, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(what, (limit, limit)),
    )


SURROUNDINGS = {
    "no home": {},
    "home that is not there": {"HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"},
    "no room for temporary files": {"TMPDIR": "/nonexistent", "HOME": "/proc"},
    "language that is not there": {"LANG": "xx_YY.klingon", "LC_ALL": "xx_YY.klingon"},
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
    "odd terminal": {"TERM": "\x1b[31m", "COLUMNS": "-3", "LINES": "x"},
}


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_odd_surroundings(surroundings: str, any_python: Python, stuck: Start) -> None:
    """Neither looking nor operating depends on them."""
    victim = stuck(any_python, "unicode_names")
    for command in ("list", "stack", "cancel"):
        result = run(command, str(victim.pid if command == "list" else victim.tid), **SURROUNDINGS[surroundings])
        assert (result.returncode, result.stderr) == (0, ""), command
        assert str(victim.tid) in result.stdout
    victim.assert_lives_on()
    victim.finish()


def test_working_directory_that_is_gone(any_python: Python, stuck: Start, tmp_path: Path) -> None:
    """As after a deployment."""
    victim = stuck(any_python, "lock")
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"cd {gone} && rmdir {gone} && exec {COMMAND} cancel {victim.tid}"
    result = subprocess.run(["sh", "-c", command], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)

    assert (result.returncode, result.stderr) == (0, "")
    victim.assert_lives_on()
    victim.finish()


def test_read_only_file_system(any_python: Python, stuck: Start) -> None:
    """Nothing needs to be written anywhere."""
    inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    protect = "mount --rbind / /mnt && mount -o remount,bind,ro /mnt && mount --rbind /proc /mnt/proc && exec chroot /mnt"
    if subprocess.run([*inside, f"{protect} true"], capture_output=True).returncode:
        pytest.skip("no file system can be made read-only here (unshare, mount)")
    victim = stuck(any_python, "lock")
    settings = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
    command = f"{protect} env {settings} {COMMAND} cancel {victim.tid}"
    result = subprocess.run([*inside, command], capture_output=True, text=True, timeout=60)

    assert (result.returncode, result.stderr) == (0, "")
    victim.assert_lives_on()
    victim.finish()


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", "2>/dev/full", ">/dev/full 2>/dev/full"])
@pytest.mark.parametrize("exists", [True, False], ids=["works", "fails"])
def test_nobody_hears_of_errors(closed: str, exists: bool, any_python: Python, stuck: Start) -> None:
    """The exit status tells all the same."""
    victim = stuck(any_python, "lock")
    tid = victim.tid if exists else 2**22 + 1
    command = f"exec {COMMAND} cancel {tid} {closed}"
    result = subprocess.run(["sh", "-c", command], env=ENVIRONMENT, capture_output=True, timeout=60)

    assert result.returncode == (0 if exists else 1), result.stderr
    assert b"Traceback" not in result.stderr
    victim.assert_lives_on(unwound=exists)

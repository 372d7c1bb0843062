"""What we run and what we let in: no shell, no program that others could have put there, nothing of our environment."""

import ast
import os
from pathlib import Path

import pytest

from threadsurgeon.debugger import startup
from threadsurgeon.debugger.startup import find_gdb, gdb_arguments
from threadsurgeon.errors import DebuggerMissing
from threadsurgeon.linux import trust
from threadsurgeon.linux.trust import find_who_may_replace

ROOT = Path(__file__).parents[2]
OURS = sorted([*(ROOT / "threadsurgeon").rglob("*.py"), *(ROOT / "gdb_scripts").rglob("*.py")])
SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}
NOBODY = 65534

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def shell_calls(source):
    """The lines that start a shell: os.system and its like, shell=True, gdb's own "shell" and "!" commands."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, whose = getattr(node.func, "attr", getattr(node.func, "id", "")), ast.unparse(node.func).split(".")[0]
        with_shell = any(k.arg == "shell" and getattr(k.value, "value", True) is not False for k in node.keywords)
        texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        gdb_shell = name == "execute" and any(text.startswith(("shell", "!", "pipe", "make")) for text in texts)
        if (name in SHELLS and whose in ("os", "subprocess", "asyncio", name)) or with_shell or gdb_shell:
            yield node.lineno


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_shell_is_used(path):
    """Names of threads and paths of the target never become commands."""
    assert list(shell_calls(path.read_text())) == []


def test_a_shell_would_be_found():
    """The test above can fail."""
    lines = ["os.system(x)", "subprocess.run(x, shell=True)", "gdb.execute('shell ls')", "gdb.execute('detach')", "run([x])"]

    assert list(shell_calls("\n".join(lines))) == [1, 2, 3]


def test_gdb_reads_no_init_files():
    """Neither the system's nor the user's, nor one in the working directory."""
    assert gdb_arguments("/usr/bin/gdb")[1] == "-nx"
    assert "auto-load off" in startup.SETTINGS


@pytest.fixture
def program(tmp_path):
    """A program that is root's, in a folder that is root's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gdb").write_text("#!/bin/sh\n")
    (folder / "gdb").chmod(0o755)
    return folder / "gdb"


@only_root
def test_program_of_root(program):
    """Also below /tmp, where each has its own files."""
    assert find_who_may_replace(str(program)) is None


@only_root
@pytest.mark.parametrize("what", ["program", "folder", "folder above"])
@pytest.mark.parametrize("how", ["given away", "open to everyone"])
def test_program_that_others_can_replace(program, what, how):
    """Itself, or any folder on its way: the one is named that lets them."""
    place = {"program": program, "folder": program.parent, "folder above": program.parents[1]}[what]
    if how == "given away":
        os.chown(place, NOBODY, NOBODY)
    else:
        place.chmod(0o777)

    assert str(place) in find_who_may_replace(str(program))


@only_root
def test_link_is_followed(program, tmp_path):
    """What it leads to counts, and whose link it is."""
    link = tmp_path / "gdb"
    link.symlink_to(program)
    assert find_who_may_replace(str(link)) is None
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    assert str(link) in find_who_may_replace(str(link))
    os.chown(link, 0, 0, follow_symlinks=False)
    program.parent.chmod(0o777)
    assert str(program.parent) in find_who_may_replace(str(link))


@only_root
def test_sticky_folder_is_no_danger(program):
    """As /tmp: everyone may put files there, and nobody can replace another's."""
    program.parent.chmod(0o1777)

    assert find_who_may_replace(str(program)) is None


@only_root
def test_real_root_is_nobody_in_a_user_namespace(program, monkeypatch):
    """Where owners that are not known there are shown as such."""
    os.chown(program, NOBODY, NOBODY)
    monkeypatch.setattr(trust, "is_in_user_namespace", lambda: True)

    assert find_who_may_replace(str(program)) is None


@only_root
def test_root_does_not_run_a_gdb_of_others(program, monkeypatch):
    """It is refused, with what helps; any other user takes what PATH gives, as everywhere."""
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_gdb() == str(program)
    os.chown(program, NOBODY, NOBODY)
    with pytest.raises(DebuggerMissing, match=f"{program} belongs to user {NOBODY}") as caught:
        find_gdb()
    assert "PATH" in caught.value.hint
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert find_gdb() == str(program)

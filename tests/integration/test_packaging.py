"""What users install works like the checkout: from an editable install, a wheel and a source archive, from any directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import threadsurgeon
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim

Start = Callable[..., Victim]

ROOT = Path(__file__).parents[2]
SOURCES = ["pyproject.toml", "README.md", "LICENSE", "threadsurgeon", "gdb_scripts", "tests"]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2]))"


@pytest.fixture(scope="session")
def setuptools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build backend, in a folder of its own: what this environment has may be older than we need."""
    folder = tmp_path_factory.mktemp("setuptools")
    run = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", str(folder), "setuptools>=77"],
        capture_output=True,
        text=True,
    )
    if run.returncode != 0:
        pytest.skip(f"pip cannot bring setuptools: {run.stderr.strip().splitlines()[-1:]}")
    return folder


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: building writes next to them."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="session")
def wheel(setuptools: Path, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", checkout, setuptools, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def archive(setuptools: Path, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", checkout, setuptools, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(params=["editable", "wheel", "sdist"])
def installed(request: pytest.FixtureRequest, setuptools: Path, tmp_path: Path) -> Path:
    """An environment of its own with us in it; returns the folder of its commands."""
    what = {
        "editable": lambda: ["--editable", str(request.getfixturevalue("checkout"))],
        "wheel": lambda: [str(request.getfixturevalue("wheel"))],
        "sdist": lambda: [str(request.getfixturevalue("archive"))],
    }[request.param]()
    folder = tmp_path / "venv"
    quietly(sys.executable, "-m", "venv", "--without-pip", folder)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
    quietly(*pip, "install", "--no-deps", "--no-index", "--no-build-isolation", *what, PYTHONPATH=str(setuptools))
    # What we depend on is taken from here, after the environment's own packages; an editable install here is not taken.
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.mark.usefixtures("gdb")
def test_installed_command_works_from_anywhere(
    installed: Path, checkout: Path, any_python: Python, stuck: Start, tmp_path: Path
) -> None:
    """It says its version, lists, and ends a thread: with the files that were installed, not those of this checkout."""
    victim = stuck(any_python, "sleep")
    code = (
        "import threadsurgeon, threadsurgeon.debugger.startup as startup; "
        "print(threadsurgeon.__file__); print(startup.find_scripts())"
    )
    ours, scripts = command(installed / "python", "-c", code, cwd=tmp_path).splitlines()
    version = command(installed / "threadsurgeon", "--version", cwd=tmp_path)
    listing = json.loads(command(installed / "threadsurgeon", "list", str(victim.pid), "--json", cwd=tmp_path))
    report = json.loads(command(installed / "threadsurgeon", "cancel", str(victim.tid), "--json", cwd=tmp_path))

    for path in (ours, scripts):
        assert Path(path).is_relative_to(installed.parent) or Path(path).is_relative_to(checkout)
    assert python_files(Path(scripts)) == python_files(ROOT / "gdb_scripts")
    assert threadsurgeon.__version__ in version
    assert victim.tid in {thread["tid"] for thread in listing["threads"]}
    assert report["outcome"] == "ended"
    victim.assert_lives_on()
    victim.finish()


def test_wheel_holds_what_is_needed_and_nothing_else(wheel: Path) -> None:
    """All our modules, gdb's scripts, the licence and the mark that we are typed; no tests, and one package at the top."""
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    metadata = f"threadsurgeon-{threadsurgeon.__version__}.dist-info"
    expected = {f"threadsurgeon/{name}" for name in python_files(ROOT / "threadsurgeon")}
    expected |= {f"threadsurgeon/gdb_scripts/{name}" for name in python_files(ROOT / "gdb_scripts")}

    assert {name for name in names if not name.startswith(metadata)} == {
        *expected,
        "threadsurgeon/py.typed",
        "threadsurgeon/tui/app.tcss",
    }
    assert f"{metadata}/licenses/LICENSE" in names
    assert "py3-none-any" in wheel.name


def test_source_archive_holds_the_sources(archive: Path) -> None:
    """What a wheel is built from is in it, the licence too."""
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}

    assert {"pyproject.toml", "README.md", "LICENSE", "threadsurgeon/py.typed"} <= names
    assert {f"threadsurgeon/{name}" for name in python_files(ROOT / "threadsurgeon")} <= names
    assert {f"gdb_scripts/{name}" for name in python_files(ROOT / "gdb_scripts")} <= names


def build(kind: str, checkout: Path, setuptools: Path, folder: Path) -> Path:
    output = quietly(sys.executable, "-c", BUILD, kind, folder, cwd=checkout, PYTHONPATH=str(setuptools))
    return folder / output.splitlines()[-1]


def python_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.py")}


def command(*arguments: str | Path, cwd: Path) -> str:
    """Run as a user would: with nothing of this checkout or this environment in sight."""
    return quietly(*arguments, cwd=cwd, PATH="/usr/bin:/bin", PYTHONPATH="")


def quietly(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> str:
    run = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout

"""Imports point only downwards, as docs/architecture.md draws it, and heavy libraries stay where they belong."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# From the top: each may import what stands below its own line, and what stands beside it on the same line.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"tui"},
    {"render", "schema"},
    {"__init__"},
    {"doctor", "audit"},
    {"surgery", "locks", "native_stack"},
    {"selection", "inventory", "explain", "core_listing"},
    {"cpython", "debugger"},
    {"linux"},
    {"model", "errors", "_version"},
]
ONLY = {
    "click": {"cli"},
    "rich": {"render", "tui"},
    "textual": {"tui"},
    "pygdbmi": {"debugger"},
    "psutil": {"linux", "inventory", "debugger"},
    "gdb": set(),
}
OURS = sorted((ROOT / "threadsurgeon").rglob("*.py"))
SCRIPTS = sorted((ROOT / "gdb_scripts").rglob("*.py"))


def imports(path):
    """The full names of what a file imports, anywhere in it; of ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part(name):
    """The module or package directly below threadsurgeon."""
    return name.split(".")[1] if name.count(".") else "__init__"


def level(name):
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def own_part(path):
    return path.relative_to(ROOT / "threadsurgeon").with_suffix("").parts[0]


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    """To a lower layer, or within the same; and nobody imports the scripts that run inside gdb."""
    known = set().union(*LAYERS)
    imported = {name for name in imports(path) if name.split(".")[0] == "threadsurgeon"}
    parts = {part(name) for name in imported if name != "threadsurgeon"} & (known | {"gdb_scripts"})
    if "threadsurgeon" in imported and "_version" not in parts:
        parts.add("__init__")

    assert own_part(path) in known
    assert "gdb_scripts" not in parts
    assert [name for name in parts if level(name) < level(own_part(path))] == []


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_are_imported_where_they_belong(path):
    """Only what talks to people knows click and rich, only the debugger knows pygdbmi, and none of it knows gdb."""
    used = {name.split(".")[0] for name in imports(path)}

    assert [library for library, users in ONLY.items() if library in used and own_part(path) not in users] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_in_gdb_import_nothing_of_ours(path):
    """They run in another process, with the standard library and gdb only."""
    foreign = {name.split(".")[0] for name in imports(path) if not name.startswith(".")}

    assert foreign - set(sys.stdlib_module_names) <= {"gdb"}


def test_every_layer_is_there():
    """What is drawn exists: a renamed module would not be looked at any more."""
    assert {own_part(path) for path in OURS} == set().union(*LAYERS)

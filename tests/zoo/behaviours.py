"""What each victim file says about itself, read without running it."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass, field
from pathlib import Path

from .pythons import Python

VICTIMS = Path(__file__).parent / "victims"


@dataclass(frozen=True)
class Behaviour:
    """One victim file.

    ``waits_in``  the system calls in which the kernel shows the stuck thread; "running" for one that spins
    ``expected``  which technique leads to which outcome; the technique "" where none is applied, or any
    ``expected_since``  what is also right from a version on
    ``expected_lto``  what is also right on builds that may have inlined the place to raise at
    ``freezes``  holds the GIL: nothing else of the process moves until the victim is ended
    ``moves``  goes from one place to the next, so it is never seen standing still
    ``since``, ``before``  the versions that can behave like this
    ``killed``  the outcome of ``kill``, where that of ``cancel`` is no success
    ``exception``  what ``cancel`` chooses to raise
    ``imports``  the modules it imports
    """

    name: str
    path: Path
    description: str
    waits_in: tuple[str, ...]
    expected: dict[str, str]
    expected_lto: dict[str, str] = field(default_factory=dict)
    expected_since: dict[tuple[int, ...], dict[str, str]] = field(default_factory=dict)
    freezes: bool = False
    moves: bool = False
    slow: bool = False
    since: tuple[int, ...] = (3, 8)
    before: tuple[int, ...] = (4,)
    exception: str = "SystemExit"
    killed: str = ""
    imports: frozenset[str] = frozenset()

    def runs_on(self, python: Python) -> bool:
        return self.since <= python.version < self.before and not self.imports & python.lacks

    @property
    def outcomes(self) -> set[str]:
        return set(self.expected.values())

    @property
    def may_stay(self) -> bool:
        """``cancel`` does not reach it, at least on some builds: no use in waiting long."""
        return "pending" in {*self.outcomes, *self.expected_lto.values()}

    @property
    def spins(self) -> bool:
        return self.waits_in == ("running",)

    def expects(self, python: Python, technique: str | None, outcome: str) -> bool:
        """Is this what the victim's file says about being cancelled?"""
        tables = [self.expected, *(table for since, table in self.expected_since.items() if python.version >= since)]
        if python.may_inline:
            tables.append(self.expected_lto)
        return any(table.get(technique or "") == outcome or table.get("") == outcome for table in tables)


@functools.cache
def all_behaviours() -> dict[str, Behaviour]:
    """Every victim file, by name."""
    files = sorted(VICTIMS.glob("[!_]*.py"))
    return {path.stem: _read(path) for path in files}


def _read(path: Path) -> Behaviour:
    tree = ast.parse(path.read_text())
    facts = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id.lower()
            if name in Behaviour.__dataclass_fields__:
                facts[name] = ast.literal_eval(node.value)
    imports = frozenset(alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names)
    return Behaviour(path.stem, path, ast.get_docstring(tree) or "", imports=imports, **facts)

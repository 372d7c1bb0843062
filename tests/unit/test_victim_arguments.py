"""What travels to gdb has the same names at both ends, which cannot import each other."""

import ast
from dataclasses import fields
from pathlib import Path

from threadsurgeon.debugger.commands import VictimArguments
from threadsurgeon.surgery.technique import Victim

SCRIPT = Path(__file__).parents[2] / "gdb_scripts" / "victim.py"


def test_both_ends_know_the_same_fields():
    """gdb's end takes exactly these, and a technique's own victim sends no more than they."""
    (inside_gdb,) = [
        node for node in ast.parse(SCRIPT.read_text()).body if isinstance(node, ast.ClassDef) and node.name == "Victim"
    ]
    expected = [node.target.id for node in inside_gdb.body if isinstance(node, ast.AnnAssign)]
    victim = Victim(**dict.fromkeys((field.name for field in fields(Victim)), 0))

    assert [field.name for field in fields(VictimArguments)] == expected
    assert victim.as_json() == dict.fromkeys(expected, 0)

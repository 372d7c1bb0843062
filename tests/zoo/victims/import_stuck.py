"""Stuck while a module is imported: the module's import lock is held, and a half-made module is there for all to see."""

import importlib.machinery
import sys
import time

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"interrupt": "ended"}


class Finder:
    stuck = True

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == "slow_module" else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        if self.stuck:
            time.sleep(100000)


def victim():
    import slow_module  # noqa: F401


def aftercare():
    assert "slow_module" not in sys.modules
    FINDER.stuck = False
    import slow_module  # would wait for ever if the import lock were still held

    assert sys.modules["slow_module"] is slow_module


FINDER = Finder()
sys.meta_path.append(FINDER)
_backchannel.run(victim, aftercare=aftercare)

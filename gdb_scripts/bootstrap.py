"""What gdb loads (``-x``): the settings that cannot stand on its command line, then this folder as one package.

gdb before 10 was never tried. Nothing is registered there; the session sees it and says so.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import gdb

PACKAGE = "threadsurgeon_gdb"
OLDEST = 10
MODULES = ("about", "async_exception", "cut_frames", "insist", "interrupt", "native_stack", "terminate", "trial", "warm_up")

SETTINGS = (
    # They would read symbols, and there are none to read. The pipes of a gdb that is killed close only when each of them has
    # had its turn: on a busy machine we would hear of it seconds too late.
    "maintenance set worker-threads 0",
    # The program's signals are the program's business: pass them on, never stop for them. "all" leaves out SIGINT.
    "handle all nostop noprint pass",
    "handle SIGINT nostop noprint pass",
    # With this a SIGSTOP directed at the traced thread is a way to get it back, and the rest of the process never sees it.
    "handle SIGSTOP stop print nopass",
)
# gdb 10.1 asks too early which processor it is on, in non-stop mode: it takes the thread for one of 32 bits.
SETTINGS_BEFORE_12 = ("set architecture i386:x86-64",)


def load_package() -> None:
    """Import this folder under one name of our own, so that no module called ``command`` lands in gdb's ``sys.modules``."""
    sys.dont_write_bytecode = True  # gdb often runs as root, and another Python than the one that owns this folder
    folder = Path(__file__).parent
    spec = importlib.util.spec_from_file_location(PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        raise ImportError(f"no package in {folder}")
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    for module in MODULES:
        importlib.import_module(f"{PACKAGE}.{module}")


for setting in SETTINGS if hasattr(gdb, "MICommand") else SETTINGS + SETTINGS_BEFORE_12:
    gdb.execute(setting, to_string=True)
version = re.search(r"\d+", gdb.VERSION)  # "Red Hat Enterprise Linux 10.2-13.el9"
if version is not None and int(version[0]) >= OLDEST:
    load_package()

"""Write ``threadsurgeon/cpython/tables.py``: the offsets of CPython's structs, as a compiler sees them in its headers.

    python -m tools.gen_layouts [INCLUDE_DIR…]

Looks at the headers that pyenv and the system have, and at the directories named (``…/include/python3.X``). For each
version a small C program prints the offsets; it is compiled for the release and the debug build and, from 3.13 on, for
the free-threaded ones. What ``configure --with-pydebug`` and ``--disable-gil`` change in pyconfig.h is one macro each
(``Py_DEBUG``, ``Py_GIL_DISABLED``), so the headers of a release build serve all of them; headers of a real debug build
are preferred where present. Rows of versions whose headers are not here are kept as they are.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from threadsurgeon.cpython.layout import SECTIONS, Row
from threadsurgeon.cpython.tables import ROWS

TABLES = Path(__file__).parent.parent / "threadsurgeon" / "cpython" / "tables.py"
SUPPORTED_MINORS = range(8, 16)


class Key(NamedTuple):
    """Which build of CPython a row is for."""

    major: int
    minor: int
    debug: bool
    free_threaded: bool


@dataclass(frozen=True, slots=True)
class Struct:
    """A section of the layout in C: the type, and the members that are not called as the layout's field is.

    A member that the version does not have is None; a struct that no header shows has numbers as members. Without a type the
    members are constants.
    """

    c_type: str | None
    members: dict[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Headers:
    """An include directory of one CPython, and what it was configured for."""

    directory: Path
    version: tuple[int, int, int]
    debug: bool
    free_threaded: bool


# One program for all versions: a header that a version lacks is left out, the structs are found wherever they moved to.
_PREAMBLE = """
#define Py_BUILD_CORE 1
#include <stddef.h>
#include <stdio.h>
#include "Python.h"
#include "frameobject.h"
#include "opcode.h"
#include "internal/pycore_gil.h"
#if PY_VERSION_HEX < 0x03090000
#  include "internal/pycore_pystate.h"
#else
#  include "internal/pycore_interp.h"
#  include "internal/pycore_runtime.h"
#endif
#if PY_VERSION_HEX < 0x030b0000
#  include "longintrepr.h"
#else
#  include "internal/pycore_dict.h"
#  include "internal/pycore_frame.h"
#endif
#if PY_VERSION_HEX >= 0x030a0000
#  include "internal/pycore_moduleobject.h"
#endif
#if PY_VERSION_HEX >= 0x030e0000
#  include "internal/pycore_interpframe_structs.h"
#endif
"""


# Private before 3.11, in Objects/dict-common.h: dk_refcnt, dk_size, dk_lookup, dk_usable, dk_nentries (of eight bytes
# each), dk_indices.
_DICT_KEYS_BEFORE_311 = Struct(
    "",
    {
        "dk_size": 8,
        "dk_log2_size": None,
        "dk_log2_index_bytes": None,
        "dk_kind": None,
        "dk_nentries": 32,
        "dk_indices": 40,
    },
)
_DICT_VALUES_BEFORE_311 = Struct("", {"values": 0})  # ma_values was a plain PyObject **
_MODULE_BEFORE_310 = Struct(
    "", {"md_dict": 16}
)  # private before 3.10, in Objects/moduleobject.c: md_dict follows the PyObject


def structs(minor: int, *, free_threaded: bool) -> dict[str, Struct | None]:
    """Say where CPython 3.``minor`` keeps each section of the layout; None for a section it does not have."""

    def since(first: int, member: str) -> str | None:
        return member if minor >= first else None

    def until(last: int, member: str) -> str | None:
        return member if minor <= last else None

    def between(first: int, last: int, member: str) -> str | None:
        return member if first <= minor <= last else None

    return {
        "runtime_state": Struct(
            "_PyRuntimeState",
            {
                "finalizing": "finalizing" if minor == 8 else "_finalizing",
                "interpreters_head": "interpreters.head",
                "ceval_gil": until(11, "ceval.gil"),
                "ceval_eval_breaker": until(8, "ceval.eval_breaker"),
                "ceval_pending_async_exc": until(8, "ceval.pending.async_exc"),
                "ceval_pending_calls_to_do": until(8, "ceval.pending.calls_to_do"),
                "ceval_gil_drop_request": until(8, "ceval.gil_drop_request"),
                "ceval_signals_pending": until(12, "ceval.signals_pending"),
                "ceval_pending_mainthread_calls_to_do": between(12, 12, "ceval.pending_mainthread.calls_to_do"),
            },
        ),
        "gil_runtime_state": Struct("struct _gil_runtime_state", {"enabled": "enabled" if free_threaded else None}),
        "interpreter_state": Struct(
            "PyInterpreterState",
            {
                "threads_head": "threads.head" if minor >= 11 else "tstate_head",
                "imports_modules": "imports.modules" if minor >= 12 else "modules",
                "ceval_gil": since(12, "ceval.gil"),
                "ceval_eval_breaker": between(9, 12, "ceval.eval_breaker"),
                "ceval_pending_async_exc": between(9, 12, "ceval.pending.async_exc"),
                "ceval_pending_calls_to_do": between(9, 12, "ceval.pending.calls_to_do"),
                "ceval_gil_drop_request": between(9, 12, "ceval.gil_drop_request"),
                "ceval_gc_scheduled": between(12, 12, "ceval.gc_scheduled"),
            },
        ),
        "thread_state": Struct(
            "PyThreadState",
            {
                "native_thread_id": since(11, "native_thread_id"),
                "eval_breaker": since(13, "eval_breaker"),
                "status": since(12, "_status"),
                "frame": until(10, "frame"),
                "cframe": between(11, 12, "cframe"),  # 3.10 has one too, which holds use_tracing only
                "current_frame": since(13, "current_frame"),
                "datastack_chunk": since(11, "datastack_chunk"),
                "state": since(13, "state"),
            },
        ),
        "cframe": Struct("_PyCFrame", {}) if 11 <= minor <= 12 else None,
        "frame_object": Struct("PyFrameObject", {}) if minor <= 10 else None,
        "interpreter_frame": Struct(
            "struct _PyInterpreterFrame",
            {
                "executable": "f_executable" if minor >= 13 else "f_code",
                "instr_ptr": "instr_ptr" if minor >= 13 else "prev_instr",
            },
        )
        if minor >= 11
        else None,
        "code_object": Struct(
            "PyCodeObject",
            {
                "filename": "co_filename",
                "name": "co_name",
                "qualname": since(11, "co_qualname"),
                "linetable": "co_linetable" if minor >= 10 else "co_lnotab",
                "firstlineno": "co_firstlineno",
                "co_code_adaptive": since(11, "co_code_adaptive"),
                "co_exceptiontable": since(11, "co_exceptiontable"),
                "co_nlocalsplus": since(11, "co_nlocalsplus"),
                "co_code": until(10, "co_code"),
                "co_tlbc": since(14, "co_tlbc") if free_threaded else None,
            },
        ),
        # Free-threaded: the count of the owning thread; the other threads have another one (PEP 703).
        "pyobject": Struct("PyObject", {"ob_refcnt": "ob_ref_local" if free_threaded else "ob_refcnt"}),
        "type_object": Struct("PyTypeObject", {}),
        "heap_type_object": Struct("PyHeapTypeObject", {}),
        "unicode_object": Struct(
            "PyASCIIObject",
            {
                "asciiobject_size": "sizeof(PyASCIIObject)",
                "compactunicodeobject_size": "sizeof(PyCompactUnicodeObject)",
            },
        ),
        "bytes_object": Struct("PyBytesObject", {"ob_size": "ob_base.ob_size"}),
        "long_object": Struct(
            "PyLongObject",
            {
                "lv_tag": "long_value.lv_tag" if minor >= 12 else "ob_base.ob_size",
                "ob_digit": "long_value.ob_digit" if minor >= 12 else "ob_digit",
            },
        ),
        "dict_object": Struct("PyDictObject", {}),
        "dict_keys": Struct("struct _dictkeysobject", {"dk_size": None}) if minor >= 11 else _DICT_KEYS_BEFORE_311,
        "dict_values": Struct("struct _dictvalues", {}) if minor >= 11 else _DICT_VALUES_BEFORE_311,
        "module_object": Struct("PyModuleObject", {}) if minor >= 10 else _MODULE_BEFORE_310,
        "method_object": Struct("PyMethodObject", {}),
        "cfunction_object": Struct("PyCFunctionObject", {}),
        "gen_object": Struct("PyGenObject", {"gi_frame": until(10, "gi_frame"), "gi_iframe": since(11, "gi_iframe")}),
        "exception_item": Struct("_PyErr_StackItem", {}),
        "opcodes": Struct(
            None,
            {
                "with_except_start": "WITH_EXCEPT_START" if minor >= 9 else "WITH_CLEANUP_START",
                "push_exc_info": since(11, "PUSH_EXC_INFO"),
                "copy": since(11, "COPY"),
                "instrumented_instruction": since(12, "INSTRUMENTED_INSTRUCTION"),
            },
        ),
    }


def find_headers(extra: Iterable[Path]) -> Iterator[Headers]:
    """Yield what pyenv and the system have, and what is in the directories named, of the versions we support."""
    found = [
        *Path.home().glob(".pyenv/versions/3.*/include/python3.*"),
        *Path("/usr/include").glob("python3.*"),
        *extra,
    ]
    for directory in dict.fromkeys(path.absolute() for path in found):
        patchlevel, pyconfig = directory / "patchlevel.h", _read_pyconfig(directory)
        if not patchlevel.is_file() or not (directory / "internal" / "pycore_gil.h").is_file() or pyconfig is None:
            continue  # Debian's python3.Xd is links into python3.X, which may not be installed
        text = patchlevel.read_text()
        numbers = {part: int(number) for part, number in re.findall(r"#define PY_(M\w+)_VERSION\s+(\d+)", text)}
        major, minor, micro = numbers["MAJOR"], numbers["MINOR"], numbers["MICRO"]
        if major == 3 and minor in SUPPORTED_MINORS:
            debug, free_threaded = (f"#define {macro} 1" in pyconfig for macro in ("Py_DEBUG", "Py_GIL_DISABLED"))
            yield Headers(directory, (major, minor, micro), debug, free_threaded)


def _read_pyconfig(directory: Path) -> str | None:
    """Read pyconfig.h; Debian has a switch there, and the real one in a directory of the architecture beside."""
    for path in (directory.parent / "x86_64-linux-gnu" / directory.name / "pyconfig.h", directory / "pyconfig.h"):
        if path.is_file():
            return path.read_text()
    return None


def measure(headers: Headers, *, debug: bool, free_threaded: bool) -> Row:
    """Compile and run the probe for one kind of build.

    Raises:
        RuntimeError: the probe does not compile: a struct or a member is no longer where ``structs`` says.
    """
    sections = structs(headers.version[1], free_threaded=free_threaded)
    row: Row = {}
    expressions: list[str] = []
    for name, section in SECTIONS.items():
        struct = sections[name]
        if struct is None:
            row[name] = None
            continue
        expressions += (_expression(struct, field) for field in section.names)
        row[name] = (0,) * len(section.names)
    values = iter(_run(headers, expressions, debug=debug, free_threaded=free_threaded))
    return {name: None if blank is None else tuple(next(values) for _ in blank) for name, blank in row.items()}


def _expression(struct: Struct, field: str) -> str:
    """Say the C expression for one field; -1 for a field that the version does not have."""
    member = struct.members.get(field, f"sizeof({struct.c_type})" if field == "size" else field)
    if member is None:
        return "-1"
    if struct.c_type is None or isinstance(member, int) or member.startswith("sizeof("):
        return str(member)
    return f"offsetof({struct.c_type}, {member})"


def _run(headers: Headers, expressions: list[str], *, debug: bool, free_threaded: bool) -> list[int | None]:
    body = "".join(f'    printf("%ld\\n", (long)({expression}));\n' for expression in expressions)
    # Debian: `#include <x86_64-linux-gnu/python3.X/pyconfig.h>`, relative to the directory above.
    include = [headers.directory, headers.directory / "internal", headers.directory.parent]
    macros = ["-DPy_DEBUG=1"] * debug + ["-DPy_GIL_DISABLED=1"] * free_threaded
    with tempfile.TemporaryDirectory() as directory:
        source, program = Path(directory, "probe.c"), Path(directory, "probe")
        source.write_text(f"{_PREAMBLE}\nint main(void) {{\n{body}    return 0;\n}}\n")
        # -idirafter: the directory above may be another system's /usr/include, whose libc headers are not ours.
        command: list[str | Path] = [
            "cc",
            "-w",
            "-o",
            program,
            source,
            *macros,
            *(f"-I{path}" for path in include[:2]),
            "-idirafter",
            include[2],
        ]
        compiled = subprocess.run(command, capture_output=True, text=True)
        if compiled.returncode:
            raise RuntimeError(f"the probe does not compile against {headers.directory}:\n{compiled.stderr}")
        output = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return [None if value < 0 else value for value in map(int, output.split())]


def measure_all(found: Iterable[Headers]) -> dict[Key, Row]:
    """Measure every kind of build of every version found.

    Where several headers serve, those configured for that kind of build go before those of a newer patch release.
    """
    found = list(found)
    rows = {}
    for minor in sorted({headers.version[1] for headers in found}):
        of_minor = [headers for headers in found if headers.version[1] == minor]
        for free_threaded in (False, True) if minor >= 13 else (False,):
            for debug in (False, True):
                # Macros can be added to a build's own pyconfig.h, not taken away.
                usable = [h for h in of_minor if h.debug <= debug and h.free_threaded <= free_threaded]
                best = max(
                    usable, key=lambda h: (h.debug == debug, h.free_threaded == free_threaded, h.version), default=None
                )
                if best is not None:
                    rows[Key(3, minor, debug, free_threaded)] = measure(best, debug=debug, free_threaded=free_threaded)
    return rows


def render(rows: dict[Key, Row]) -> str:
    """Write the rows as the text of ``tables.py``."""
    lines = [
        '"""GENERATED by tools/gen_layouts.py (`make layouts`): struct offsets of each CPython, from its headers.',
        "",
        "Rows are (major, minor, debug, free-threaded). A section's numbers are the fields of its class in layout.py,",
        "in that order.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "ROWS: dict[tuple[int, int, bool, bool], dict[str, tuple[int | None, ...] | None]] = {",
    ]
    for key in sorted(rows):
        lines.append(f"    {tuple(key)}: {{")
        lines += (f'        "{name}": {offsets},' for name, offsets in rows[key].items())
        lines.append("    },")
    return "\n".join([*lines, "}", ""])


def main(arguments: list[str] | None = None) -> int:
    """Write the table, and say which versions were measured and which were kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "include_dir", nargs="*", type=Path, help="an include directory of one CPython, such as …/include/python3.14"
    )
    found = sorted(find_headers(parser.parse_args(arguments).include_dir), key=lambda headers: headers.version)
    measured = measure_all(found)
    kept = {Key(*key): row for key, row in ROWS.items() if Key(*key) not in measured}
    TABLES.write_text(render(kept | measured))
    for headers in found:
        print(f"read {'.'.join(map(str, headers.version))} in {headers.directory}")
    for key in sorted(kept):
        print(f"kept 3.{key.minor} debug={key.debug} free_threaded={key.free_threaded}: no headers here")
    return 0


if __name__ == "__main__":
    sys.exit(main())

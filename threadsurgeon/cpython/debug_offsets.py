"""Read where CPython 3.13 and later keeps things from its own ``_Py_DebugOffsets``, at the start of ``_PyRuntime``.

What a target says is untrusted: each value we use is checked here, once, and the walkers can rely on it afterwards.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from threadsurgeon.cpython.layout import SECTIONS, Layout, find_layout
from threadsurgeon.errors import UnsupportedPython
from threadsurgeon.linux.memory import Memory

COOKIE = b"xdebugpy"
_HEAD = struct.Struct("<8sQQ")  # cookie, version, free_threaded

# _Py_DebugOffsets after its head: one word of eight bytes for each field, section after section
# (pycore_runtime.h of 3.13, pycore_debug_offsets.h from 3.14 on). `name:14` is a section or field that 3.14 added.
_SECTIONS = (
    "runtime_state size finalizing interpreters_head",
    "interpreter_state size id next threads_head threads_main:14 gc imports_modules sysdict builtins ceval_gil"
    " gil_runtime_state gil_runtime_state_enabled gil_runtime_state_locked gil_runtime_state_holder"
    " code_object_generation:14 tlbc_generation:14",
    "thread_state size prev next interp current_frame base_frame:15 last_profiled_frame:15 last_profiled_frame_seq:15"
    " thread_id native_thread_id datastack_chunk status"
    " holds_gil:15 gil_requested:15 current_exception:15 exc_state:15",
    "err_stackitem:15 exc_value",
    "interpreter_frame size previous executable instr_ptr localsplus owner stackpointer:14 tlbc_index:14",
    "code_object size filename name qualname linetable firstlineno argcount localsplusnames localspluskinds"
    " co_code_adaptive co_tlbc:14",
    "pyobject size ob_type",
    "type_object size tp_name tp_repr tp_flags tp_basicsize:15 tp_dictoffset:15",
    "heap_type_object:15 size ht_cached_keys",
    "tuple_object size ob_item ob_size",
    "list_object size ob_item ob_size",
    "set_object:14 size used table mask",
    "dict_object size ma_keys ma_values",
    "float_object size ob_fval",
    "long_object size lv_tag ob_digit",
    "bytes_object size ob_size ob_sval",
    "unicode_object size state length asciiobject_size compactunicodeobject_size:15",
    "gc size collecting frame:15 generation_stats_size:15 generation_stats:15",
    "gen_object:14 size gi_name gi_iframe gi_frame_state",
    "llist_node:14 next prev",
    "debugger_support:14 eval_breaker remote_debugger_support remote_debugging_enabled debugger_pending_call"
    " debugger_script_path debugger_script_path_size",
)
_DESCRIBED_MINORS = range(13, 16)

_SIZES = frozenset({"size", "asciiobject_size", "compactunicodeobject_size"})
_LARGE = frozenset({"runtime_state", "interpreter_state"})  # hundreds of kilobytes, with what they embed
_MAX_SIZE, _MAX_LARGE_SIZE = 4096, 16 * 1024 * 1024
# Bytes of a field that is not a word, and its alignment; a code unit has two, a frame's owner and a byte one.
_WIDTHS = {
    "status": 4,
    "locked": 4,
    "owner": 1,
    "firstlineno": 4,
    "co_code_adaptive": 2,
    "state": 4,
    "ob_digit": 4,
    "ob_sval": 1,
}
_RELEASE_LEVELS = {0xA: "alpha", 0xB: "beta", 0xC: "candidate", 0xF: "final"}


class Version(NamedTuple):
    """An exact version, in the words of ``sys.version_info``."""

    major: int
    minor: int
    micro: int
    release_level: str
    serial: int

    def __str__(self) -> str:
        level = {"alpha": "a", "beta": "b", "candidate": "rc"}.get(self.release_level)
        return f"{self.major}.{self.minor}.{self.micro}" + (f"{level}{self.serial}" if level else "")


class DebugOffsets(NamedTuple):
    """What a target says of itself. ``differs`` names the fields that our table has otherwise (``thread_state.next``).

    What the target does not describe (``thread_state.async_exc``) can only come from the table, so a section that
    differs casts doubt on the rest of that section. Sizes are left out: patch releases let structs grow at their end
    (``PyThreadState`` between 3.13.5 and 3.13.18).
    """

    version: Version
    layout: Layout
    differs: tuple[str, ...]


def parse_version(version_hex: int) -> Version:
    """Take PY_VERSION_HEX apart.

    Raises:
        UnsupportedPython: no CPython has such a version.
    """
    level = _RELEASE_LEVELS.get(version_hex >> 4 & 0xF)
    if level is None or version_hex >> 24 != 3:
        raise UnsupportedPython(f"not a version of CPython: {version_hex:#x}")
    return Version(version_hex >> 24, version_hex >> 16 & 0xFF, version_hex >> 8 & 0xFF, level, version_hex & 0xF)


def read_debug_offsets(memory: Memory, runtime_address: int, *, debug: bool) -> DebugOffsets:
    """Read and check the description, and put what it says in the place of what our table says for that version.

    ``debug`` is the kind of build, which the description does not tell.

    Raises:
        UnsupportedPython: the description is impossible, or of a version that we do not know.
    """
    cookie, version_hex, free_threaded = _HEAD.unpack(memory.read(runtime_address, _HEAD.size))
    if cookie != COOKIE:
        raise UnsupportedPython(f"the target does not describe itself: its cookie is {cookie!r}")
    version = parse_version(version_hex)
    if version.release_level in {"alpha", "beta"}:
        raise UnsupportedPython(f"Python {version} is a pre-release: its structs are those of no release")
    if free_threaded not in {0, 1}:
        raise UnsupportedPython(f"the target describes itself impossibly: free_threaded is {free_threaded}")
    table = find_layout((version.major, version.minor), debug=debug, free_threaded=bool(free_threaded))
    if table is None or version.minor not in _DESCRIBED_MINORS:
        raise UnsupportedPython(f"no layout for Python {version}")

    layout, differs = table, []
    for name, values in _read_sections(memory, runtime_address + _HEAD.size, table).items():
        ours = getattr(table, name)
        differs += [f"{name}.{field}" for field in values if field != "size" and values[field] != getattr(ours, field)]
        layout = layout.replace(**{name: ours.replace(**values)})
    return DebugOffsets(version, layout, tuple(differs))


def _read_sections(memory: Memory, address: int, table: Layout) -> dict[str, dict[str, int]]:
    """Return what the target says of the sections and fields that our layout has, each value checked."""
    names = list(described_fields(table.version[1]))
    words = struct.unpack(f"<{len(names)}Q", memory.read(address, 8 * len(names)))
    said: dict[str, dict[str, int]] = {}
    for (section, field), word in zip(names, words, strict=True):
        said.setdefault(section, {})[field] = word

    # Described as part of the interpreter, which embeds the GIL it owns (since 3.12); but for gil_runtime_state_enabled, which
    # is the offset in the GIL itself (3.13 to 3.15) and left to the table.
    interpreter = said["interpreter_state"]
    said["gil_runtime_state"] = {
        "size": table.gil_runtime_state.size,
        "last_holder": interpreter["gil_runtime_state_holder"] - interpreter["gil_runtime_state"],
        "locked": interpreter["gil_runtime_state_locked"] - interpreter["gil_runtime_state"],
    }
    if "debugger_support" in said:
        said["thread_state"]["eval_breaker"] = said["debugger_support"]["eval_breaker"]

    sections = [name for name in SECTIONS if name in said]
    return {name: _check_section(name, said[name], getattr(table, name)) for name in sections}


def described_fields(minor: int) -> Iterator[tuple[str, str]]:
    """Yield (section, field) of ``_Py_DebugOffsets`` of 3.``minor``, in its order."""
    for line in _SECTIONS:
        (section, since), *names = [
            (name, int(first or 13)) for name, _, first in (w.partition(":") for w in line.split())
        ]
        yield from ((section, name) for name, first in names if max(since, first) <= minor)


def _check_section(section: str, said: dict[str, int], ours: Any) -> dict[str, int]:
    size, limit = said["size"], _MAX_LARGE_SIZE if section in _LARGE else _MAX_SIZE
    # What this kind of build does not have is said to be at 0 (co_tlbc).
    known = {name: value for name, value in said.items() if name == "size" or getattr(ours, name, None) is not None}
    for name, value in known.items():
        if name in _SIZES:
            possible = 0 < value <= limit and value % 8 == 0
        else:
            width = _WIDTHS.get(name, 8)
            possible = 0 <= value <= size - width and value % width == 0
        if not possible:
            raise UnsupportedPython(f"the target describes itself impossibly: {section}.{name} is {value}")
    return {name: value for name, value in known.items() if hasattr(ours, name)}

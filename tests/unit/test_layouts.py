"""The table of layouts: complete, plausible, and what the headers found here say."""

import re
import shutil

import pytest

from threadsurgeon.cpython.debug_offsets import described_fields
from threadsurgeon.cpython.layout import SECTIONS, Layout, find_layout
from threadsurgeon.cpython.tables import ROWS
from tools import gen_layouts

BUILDS = [(False, False), (True, False)]
FREE_THREADED_BUILDS = [(False, True), (True, True)]


def layout_of(key):
    return find_layout(key[:2], debug=key[2], free_threaded=key[3])


@pytest.fixture(scope="module")
def headers():
    """Headers of CPythons found on this machine, newest patch release of each version."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here (cc)")
    found = {
        h.version[:2]: h
        for h in sorted(gen_layouts.find_headers([]), key=lambda h: h.version)
        if not h.debug and not h.free_threaded
    }
    if not found:
        pytest.skip("no headers of a CPython from 3.8 to 3.15 here")
    return found


def test_every_version_has_a_row_for_each_kind_of_build():
    """Debug builds of all versions are known, and free-threaded ones since there are any."""
    expected = {(3, minor, *build) for minor in range(8, 16) for build in BUILDS}
    expected |= {(3, minor, *build) for minor in range(13, 16) for build in FREE_THREADED_BUILDS}

    assert set(ROWS) == expected


def test_unknown_versions_have_no_layout():
    """An unknown version is nobody else's layout."""
    assert find_layout((3, 7), debug=False, free_threaded=False) is None
    assert find_layout((3, 99), debug=False, free_threaded=False) is None
    assert find_layout((3, 12), debug=False, free_threaded=True) is None


def test_sections_are_those_of_the_layout():
    """The table can fill every section of a Layout, and no other."""
    assert list(SECTIONS) == list(Layout.names)[3:]


@pytest.mark.parametrize("key", ROWS, ids=str)
def test_rows_fill_their_classes(key):
    """Each section has one number for each field of its class."""
    for section, row in ROWS[key].items():
        assert row is None or len(row) == len(SECTIONS[section].names), section


@pytest.mark.parametrize("key", ROWS, ids=str)
def test_offsets_are_inside_their_structs(key):
    """No offset reaches beyond its struct, and no two fields share a place."""
    for section, offsets_of in vars(layout_of(key)).items():
        if section not in SECTIONS or offsets_of is None:
            continue
        values = vars(offsets_of)
        offsets = [v for name, v in values.items() if v is not None and "size" not in name.removeprefix("dk_log2_")]

        assert len(set(offsets)) == len(offsets), section
        assert all(0 <= offset < values.get("size", 2**16) for offset in offsets), section


@pytest.mark.parametrize("key", ROWS, ids=str)
def test_each_version_has_what_it_keeps_where(key):
    """Exactly one place for the current frame and for the eval breaker, whichever the version uses."""
    layout, minor = layout_of(key), key[1]
    thread, interpreter, runtime = layout.thread_state, layout.interpreter_state, layout.runtime_state
    places = {
        "runtime": runtime.ceval_eval_breaker,
        "interpreter": interpreter.ceval_eval_breaker,
        "thread": thread.eval_breaker,
    }

    assert [name for name, place in places.items() if place is not None] == [
        "runtime" if minor == 8 else "interpreter" if minor <= 12 else "thread"
    ]
    assert [thread.frame, thread.cframe, thread.current_frame].count(None) == 2
    assert (runtime.ceval_gil is None) == (minor >= 12)
    assert (interpreter.ceval_gil is None) == (minor < 12)
    assert (layout.frame_object is None) == (layout.interpreter_frame is not None) == (minor >= 11)
    assert (thread.native_thread_id is None) == (minor < 11)


def test_headers_found_here_say_what_the_table_says(headers):
    """The oldest and the newest version found are measured again; patch releases may differ in the sizes of structs."""
    for version in {min(headers), max(headers)}:
        for debug, free_threaded in BUILDS:
            row = gen_layouts.measure(headers[version], debug=debug, free_threaded=free_threaded)
            measured = {name: SECTIONS[name](*numbers) for name, numbers in row.items() if numbers is not None}

            layout = find_layout(version, debug=debug, free_threaded=free_threaded)
            for name, section in measured.items():
                expected = vars(getattr(layout, name))
                assert {**expected, "size": None} == {**vars(section), "size": None}, (version, debug, name)


def test_headers_found_here_describe_themselves_as_we_read_them(headers):
    """The order of the fields of _Py_DebugOffsets is the one that debug_offsets reads."""
    described = {version[1]: h.directory / "internal" for version, h in headers.items() if version >= (3, 13)}
    if not described:
        pytest.skip("no headers of 3.13 or newer here")
    for minor, directory in described.items():
        name = "pycore_runtime.h" if minor == 13 else "pycore_debug_offsets.h"
        struct = re.search(
            r"typedef struct _Py_DebugOffsets \{(.*?)\} _Py_DebugOffsets;", (directory / name).read_text(), re.S
        )
        order = [
            (section, field)
            for body, section in re.findall(r"struct\s*\w*\s*\{(.*?)\}\s*(\w+);", struct[1], re.S)
            for field in re.findall(r"uint64_t (\w+);", body)
        ]

        assert order == list(described_fields(minor))


def test_the_table_is_as_the_generator_writes_it():
    """Nobody edited the generated file."""
    rows = {gen_layouts.Key(*key): row for key, row in ROWS.items()}

    assert gen_layouts.TABLES.read_text() == gen_layouts.render(rows)


def test_rows_without_headers_here_are_kept(tmp_path, monkeypatch):
    """A machine without any headers writes the same table again."""
    monkeypatch.setattr(gen_layouts, "find_headers", lambda extra: [])
    committed = gen_layouts.TABLES.read_text()
    monkeypatch.setattr(gen_layouts, "TABLES", tmp_path / "tables.py")

    assert gen_layouts.main([]) == 0
    assert (tmp_path / "tables.py").read_text() == committed


def test_a_struct_that_moved_is_said(headers, monkeypatch):
    """A member that the headers do not have stops the generator, with what the compiler says."""
    moved = {name: gen_layouts.Struct("PyThreadState", {"size": "no_such_member"}) for name in SECTIONS}
    monkeypatch.setattr(gen_layouts, "structs", lambda minor, free_threaded: moved)

    with pytest.raises(RuntimeError, match="no_such_member"):
        gen_layouts.measure(headers[max(headers)], debug=False, free_threaded=False)

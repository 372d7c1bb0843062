"""Which files a process has mapped, whatever they are called."""

import ctypes
import io
import mmap
import os
import subprocess
import sys
import threading

import pytest

from threadsurgeon.errors import NoSuchProcess, PermissionDenied
from threadsurgeon.linux import mappings
from threadsurgeon.linux.elf import NotElf
from threadsurgeon.linux.mappings import MappedFile, iterate_images, list_mapped_files

MAPS = b"""55d0c8a00000-55d0c8a01000 r--p 00000000 fe:01 131 /usr/bin/prog
55d0c8a01000-55d0c8a02000 r-xp 00001000 fe:01 131 /usr/bin/prog
55d0c9000000-55d0c9100000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000001000 r--p 00003000 fe:01 132                        /opt/a b/lib x.so
7f0000002000-7f0000003000 rw-s 00000000 00:05 133 /dev/zero (deleted)
7f0000004000-7f0000005000 r--p 00000000 fe:01 134 /lib/gone.so (deleted)
7f0000006000-7f0000007000 rw-s 00000000 00:00 135 /anon_hugepage (deleted)
7f0000008000-7f0000009000 rw-p 00000000 00:00 0
7f000000a000-7f000000b000 r--p 00000000 fe:01 136 /caf\xff.so
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
"""


@pytest.fixture
def fake_maps(monkeypatch):
    """Answer the reading of /proc/PID/maps with a text, or an error."""

    def fake(answer):
        def fake_open(path, mode):
            assert path == "/proc/42/maps"
            if isinstance(answer, Exception):
                raise answer
            return io.BytesIO(answer)

        monkeypatch.setattr(mappings, "open", fake_open, raising=False)

    return fake


def test_each_file_is_listed_once_by_its_lowest_mapping(fake_maps):
    """Blanks, a deleted file and a name that is not UTF-8 included; memory and devices are no files."""
    fake_maps(MAPS)

    assert list_mapped_files(42) == [
        MappedFile(42, "/usr/bin/prog", 0x55D0C8A00000, 0x55D0C8A01000, 0),
        MappedFile(42, "/opt/a b/lib x.so", 0x7F0000000000, 0x7F0000001000, 0x3000, loaded=False),
        MappedFile(42, "/lib/gone.so (deleted)", 0x7F0000004000, 0x7F0000005000, 0, loaded=False),
        MappedFile(42, "/caf\udcff.so", 0x7F000000A000, 0x7F000000B000, 0, loaded=False),
    ]


def test_library_that_is_also_read_as_data_is_listed_where_it_is_loaded(fake_maps):
    """Below, above or right beside the loaded one: what counts is where its code can run."""
    data = "{:x}-{:x} r--p 00000000 fe:01 7 /lib/libpython3.so\n"
    loaded = (
        "7f0000010000-7f0000011000 r--p 00000000 fe:01 7 /lib/libpython3.so\n"
        "7f0000011000-7f0000012000 r-xp 00001000 fe:01 7 /lib/libpython3.so\n"
        "7f0000012000-7f0000013000 rw-p 00002000 fe:01 7 /lib/libpython3.so\n"
    )
    other = "7e0000000000-7e0000001000 r--p 00000000 fe:01 8 /lib/other.so\n"
    expected = MappedFile(42, "/lib/libpython3.so", 0x7F0000010000, 0x7F0000011000, 0)
    for text in (
        loaded,
        data.format(0x100000, 0x103000) + other + loaded,
        data.format(0x7F000000D000, 0x7F0000010000) + loaded,
        loaded + data.format(0x7F0000013000, 0x7F0000016000),
    ):
        fake_maps(text.encode())

        assert [file for file in list_mapped_files(42) if file.path == expected.path] == [expected]


@pytest.mark.parametrize("text", [b"", b"\n\n", b"garbage\n" * 10, b"5-6 r--p 0 fe:01", b"\xff" * 100])
def test_unreadable_lines_are_no_files(fake_maps, text):
    """What is not a line of maps is passed over."""
    fake_maps(text)

    assert list_mapped_files(42) == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [(FileNotFoundError(), NoSuchProcess), (ProcessLookupError(), NoSuchProcess), (PermissionError(), PermissionDenied)],
)
def test_unreadable_maps_are_explained(fake_maps, error, expected):
    """The process is gone, or is not ours."""
    fake_maps(error)

    with pytest.raises(expected, match="42"):
        list_mapped_files(42)


def test_own_process_maps_its_interpreter_and_the_c_library():
    """The images include one with the interpreter, at the address that ctypes knows."""
    images = list(iterate_images(os.getpid()))
    interpreter = next(image for image in images if image.symbol("_PyRuntime") is not None)
    expected = ctypes.cast(ctypes.pythonapi.PyErr_SetNone, ctypes.c_void_p).value

    assert interpreter.symbol("PyErr_SetNone") == expected
    assert interpreter.symbol("no_such_symbol") is None
    variable = ctypes.addressof(ctypes.c_void_p.in_dll(ctypes.pythonapi, "PyExc_OSError"))
    assert any(start <= variable < start + size for start, size in interpreter.writable_ranges())


def test_likely_homes_of_an_interpreter_come_first():
    """libpython before a program, and other libraries last: most processes map many."""
    names = [os.path.basename(image.file.path) for image in iterate_images(os.getpid())]
    libraries = [index for index, name in enumerate(names) if ".so" in name and "python" not in name]

    assert "python" in names[0]
    assert libraries[0] > max(index for index, name in enumerate(names) if name.startswith(("python", "libpython")))


def test_deleted_and_replaced_file_is_still_the_mapped_one(tmp_path):
    """An upgraded library is read as the process has it, not as it now is (needs privileges)."""
    path = tmp_path / "libx.so"
    with open(sys.executable, "rb") as source:
        path.write_bytes(source.read())
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        path.unlink()
        path.write_text("something else")
        mapped = next(f for f in list_mapped_files(os.getpid()) if f.path == f"{path} (deleted)")
        if not os.access(f"/proc/self/map_files/{mapped.start:x}-{mapped.end:x}", os.R_OK):
            pytest.skip("no privilege to read map_files")

        assert mapping[:4] == b"\x7fELF"
        assert mapped.open_elf().loads


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/lib/ld-musl-x86_64.so.1", True),
        ("/usr/lib/libc.musl-x86_64.so.1", True),
        ("/usr/lib/x86_64-linux-musl/libc.so", True),
        ("/lib/x86_64-linux-gnu/libc.so.6", False),
        ("/lib/x86_64-linux-gnu/libc-2.31.so", False),
        ("/opt/musl/app", False),
    ],
)
def test_musl_is_known_by_its_loader(fake_maps, name, expected):
    """It is the C library as well."""
    fake_maps(MAPS + f"7f0000100000-7f0000101000 r-xp 00000000 fe:01 9 {name}\n".encode())

    assert mappings.uses_musl(42) is expected


@pytest.fixture
def without_privileges(monkeypatch):
    """Files are opened by their paths, as where map_files is not to be used."""
    real = mappings.ElfFile

    def open_by_path(path):
        if "/map_files/" in path:
            raise PermissionError(13, "Operation not permitted")
        return real(path)

    monkeypatch.setattr(mappings, "ElfFile", open_by_path)


@pytest.mark.parametrize("name", ["libpython3.12.so.1.0", "python3.12", "libx.so"])
@pytest.mark.usefixtures("without_privileges")
def test_replaced_file_is_not_taken_for_the_mapped_one(tmp_path, monkeypatch, name):
    """Its addresses would be wrong ones. Of an interpreter that is the end, of other libraries it is not."""
    path, other = tmp_path / name, tmp_path / "other"
    image = next(file for file in list_mapped_files(os.getpid()) if file.loaded and ".so" in file.path).path
    with open(image, "rb") as source:
        content = source.read()
    path.write_bytes(content)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE):
        mapped = next(f for f in list_mapped_files(os.getpid()) if f.path == str(path))
        assert mapped.open_elf().loads
        other.write_bytes(content[:64] + bytes([content[64] ^ 1]) + content[65:])
        other.rename(path)
        replaced = next(f for f in list_mapped_files(os.getpid()) if f.path == f"{path} (deleted)")

        with pytest.raises((mappings.ReplacedFile, NotElf)):
            replaced.open_elf()
        if "python" in name:
            with pytest.raises(PermissionDenied, match="was replaced"):
                list(iterate_images(os.getpid()))
        else:
            assert str(path) not in [image.file.path for image in iterate_images(os.getpid())]


def test_mapped_text_file_is_no_image(tmp_path):
    """A data file is passed over by iterate_images, and refused where it is opened."""
    path = tmp_path / "python-data.txt"
    path.write_text("text" * 1000)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        mapped = next(f for f in list_mapped_files(os.getpid()) if f.path == str(path))
        paths = [image.file.path for image in iterate_images(os.getpid())]

        with pytest.raises(NotElf):
            mapped.open_elf()
        assert str(path) not in paths


def test_process_none_of_whose_files_can_be_opened_is_not_permitted(monkeypatch):
    """Nothing found because nothing could be opened is not the same as nothing there."""

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(MappedFile, "open_elf", refuse)

    with pytest.raises(PermissionDenied, match=str(os.getpid())):
        list(iterate_images(os.getpid()))


def test_ended_process_has_no_maps():
    """A child that was collected is gone, and a zombie maps nothing."""
    child = subprocess.Popen(["true"], stdin=subprocess.DEVNULL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert list_mapped_files(child.pid) == []
    child.wait()
    with pytest.raises(NoSuchProcess):
        list_mapped_files(child.pid)


def test_thread_has_the_maps_of_its_process():
    """A TID is as good as the PID here."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert {f.path for f in list_mapped_files(thread.native_id)} == {f.path for f in list_mapped_files(os.getpid())}
    finally:
        end.set()
        thread.join()

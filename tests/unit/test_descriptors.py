"""What descriptors are, against our own, which we know; file locks and clocks of CPUs as well."""

import os
import select
import socket
import subprocess
import sys
import threading
import time

import pytest

from threadsurgeon.linux import file_locks
from threadsurgeon.linux.children import describe_any_child, describe_child
from threadsurgeon.linux.descriptors import Descriptors
from threadsurgeon.linux.file_locks import find_lock_holder
from threadsurgeon.linux.last_run import RunClocks, read_last_run
from threadsurgeon.linux.process import read_status, read_task
from threadsurgeon.linux.sockets import describe_address, read_sockets
from threadsurgeon.linux.unix_peers import find_peer

HERE = os.getpid()


@pytest.fixture
def describe():
    """Describe a descriptor of our own, looking afresh."""
    return lambda number: Descriptors(HERE).describe(number)


def address(sock):
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def families():
    return [socket.AF_INET, socket.AF_INET6] if socket.has_ipv6 else [socket.AF_INET]


@pytest.mark.parametrize("family", families())
def test_tcp_sockets_show_the_far_end_and_the_state(describe, family):
    """Of a listening one, where it listens."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"no {host} here")
    with server, socket.create_connection(server.getsockname()[:2]) as client, server.accept()[0] as accepted:
        assert describe(server.fileno()) == f"{address(server)} (LISTEN)"
        assert describe(client.fileno()) == f"{address(server)} (ESTABLISHED)"
        assert describe(accepted.fileno()) == f"{address(client)} (ESTABLISHED)"
        accepted.close()
        while describe(client.fileno()) == f"{address(server)} (ESTABLISHED)":
            time.sleep(0.001)
        assert describe(client.fileno()) == f"{address(server)} (CLOSE_WAIT)"


def test_ipv4_in_a_socket_for_both_is_shown_as_such(describe):
    """As people know it."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("no sockets for both here")
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0] as accepted:
            assert describe(accepted.fileno()) == f"{address(client)} (ESTABLISHED)"


def test_other_sockets(describe, tmp_path):
    """UDP with its own address or the far one, unix sockets by path or name, and what has neither by its number."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as nameless,
    ):
        udp.bind(("127.0.0.1", 0))
        named.bind(str(tmp_path / "a socket"))
        nameless.bind("")
        assert describe(udp.fileno()) == f"UDP {address(udp)}"
        assert describe(named.fileno()) == f"unix socket {tmp_path}/a socket"
        assert describe(nameless.fileno()) == f"unix socket @{nameless.getsockname()[1:].decode()}"


def test_nameless_unix_socket_shows_what_it_is_connected_to(describe, tmp_path):
    """A client's end has no name: the server's is shown, or who has the other end."""
    here, there = socket.socketpair()
    with here, there, socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        if find_peer(HERE, os.fstat(here.fileno()).st_ino) is None:
            pytest.skip("this kernel does not tell (CONFIG_UNIX_DIAG)")
        server.bind(str(tmp_path / "server"))
        server.listen(1)
        client.connect(str(tmp_path / "server"))
        with server.accept()[0]:
            assert describe(client.fileno()) == f"unix socket {tmp_path}/server"
        assert describe(here.fileno()) == f"unix socket (descriptor {here.fileno()}), connected to this process"
        there.close()
        assert describe(here.fileno()) == f"unix socket (descriptor {here.fileno()})"


def test_peer_of_what_is_no_socket_is_none():
    """Nor is it asked for in another namespace."""
    assert find_peer(HERE, 1) is None
    assert find_peer(2**31 - 1, 1) is None


def test_socket_in_no_table_is_left_out():
    """As one of netlink, or of another namespace."""
    assert read_sockets(HERE, {"1"}) == {}
    assert read_sockets(2**31 - 1, {"1"}) == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x02\0\x15\x38\x0a\0\0\x03" + bytes(8), "10.0.0.3:5432"),
        (b"\x0a\0\x15\x38" + bytes(4) + bytes(15) + b"\x01" + bytes(4), "[::1]:5432"),
        (b"\x01\0/run/a.sock\0rest", "unix socket /run/a.sock"),
        (b"\x01\0\0name", "unix socket @name"),
        (b"\x10\0\0\0", None),
        (b"\x02\0", None),
        (b"", None),
    ],
)
def test_address_structs_are_put_into_words(content, words):
    """Of families that we know."""
    assert describe_address(content) == words


def test_pipe_shows_who_has_the_other_end(describe):
    """We ourselves, or another process; both ends tell of each other."""
    reader, writer = os.pipe()
    try:
        assert describe(reader) == f"pipe (descriptor {reader}), written by this process"
        assert describe(writer) == f"pipe (descriptor {writer}), read by this process"
    finally:
        os.close(reader)
        os.close(writer)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        while (name := read_status(child.pid).name) != "cat":
            time.sleep(0.001)
        number = child.stdout.fileno()
        assert describe(number) == f"pipe (descriptor {number}), written by process {child.pid} ({name})"
        number = child.stdin.fileno()
        assert describe(number) == f"pipe (descriptor {number}), read by process {child.pid} ({name})"
        child.stdin.close()


def test_pipe_that_nobody_writes_to_names_nobody(describe):
    """There is no other end."""
    reader, writer = os.pipe()
    os.close(writer)
    try:
        assert describe(reader) == f"pipe (descriptor {reader})"
    finally:
        os.close(reader)


def test_files_and_others(describe, tmp_path):
    """A file by its path, the kernel's own kinds by their names, and what is closed by its number."""
    path = tmp_path / "file\udcff"
    with open(os.fsencode(path), "wb") as file, select.epoll() as epoll, socket.socket() as watched:
        epoll.register(watched, select.EPOLLIN)
        assert describe(file.fileno()) == str(path).replace("\udcff", "\N{REPLACEMENT CHARACTER}")
        assert describe(epoll.fileno()) == f"eventpoll (descriptor {epoll.fileno()})"
        assert Descriptors(HERE).list_watched(epoll.fileno()) == [watched.fileno()]
        assert Descriptors(HERE).list_watched(file.fileno()) == []
        assert Descriptors(HERE).find_inode(file.fileno()) in (os.fstat(file.fileno()).st_ino, None)
        number = file.fileno()
    assert describe(number) == f"descriptor {number}"


def test_children_are_named():
    """One by its id, or all that there are; one that has gone by its id alone."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        while (name := read_status(child.pid).name) != "cat":
            time.sleep(0.001)
        assert describe_child(read_status(HERE), child.pid) == f"child {child.pid} ({name})"
        assert f"{child.pid} (cat)" in describe_any_child(HERE)
        child.stdin.close()
    assert describe_child(read_status(HERE), child.pid) == f"child {child.pid}"


LOCKS = """\
1: POSIX  ADVISORY  WRITE 500 fd:01:99 0 EOF
2: FLOCK  ADVISORY  WRITE 700 fd:01:1234 0 EOF
2: -> FLOCK  ADVISORY  WRITE 812 fd:01:1234 0 EOF
3: OFDLCK ADVISORY  WRITE -1 fd:01:77 0 EOF
3: -> OFDLCK ADVISORY  WRITE 813 fd:01:77 0 EOF

4: ->
"""


@pytest.mark.parametrize(
    ("pid", "inode", "holder"),
    [(812, 1234, 700), (812, None, 700), (812, 77, None), (813, 77, None), (500, 99, None), (1, None, None)],
)
def test_holder_of_a_file_lock_is_found(monkeypatch, tmp_path, pid, inode, holder):
    """Of the file that is waited for; a lock that belongs to an open file has no process."""
    path = tmp_path / "locks"
    path.write_text(LOCKS)
    monkeypatch.setattr(file_locks, "LOCKS", str(path))

    assert find_lock_holder(pid, inode) == holder
    path.unlink()
    assert find_lock_holder(pid, inode) is None


def test_last_run_grows_with_the_wait_and_never_lies_ahead():
    """A thread that sleeps has last run before it was seen to sleep, on the clock of the CPU it slept in on."""
    if read_last_run(HERE, HERE) is None:
        pytest.skip("this kernel does not tell when a thread last ran")
    done = threading.Event()
    sleeper = threading.Thread(target=done.wait)
    sleeper.start()
    tid = sleeper.native_id
    while read_task(HERE, tid).state != "S":
        time.sleep(0.001)
    seen = time.monotonic()
    time.sleep(0.2)
    processor = read_task(HERE, tid).processor
    began = read_last_run(HERE, tid)
    now = RunClocks({processor}).now(processor)
    done.set()
    sleeper.join()

    assert began is not None
    if now is not None:  # None where that CPU is kept from us
        assert 0.1 < now - began < time.monotonic() - seen + 0.5


def test_clock_of_a_cpu_that_is_not_there_is_none():
    """And our own thread stays where it was allowed to run."""
    before = os.sched_getaffinity(0)

    assert RunClocks({100_000}).now(100_000) is None
    assert os.sched_getaffinity(0) == before


def test_import_of_what_explains_is_light():
    """Sockets, psutil and threads are for those who need them."""
    program = "import sys, threadsurgeon.explain; print(sorted({'socket', 'psutil'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"

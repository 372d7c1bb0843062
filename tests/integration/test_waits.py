"""What threads wait for, against processes that know: every wait at once, on every CPython found."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import threadsurgeon
from tests.integration.command import run
from tests.integration.test_namespaces import NOBODY, Target, as_root, as_user, namespaces, nobody, start
from tests.zoo.behaviours import Behaviour
from tests.zoo.pythons import Python
from tests.zoo.script import Script, script
from tests.zoo.victim import waiting
from threadsurgeon.model.threads import Thread, Wait

__all__ = ["as_root", "namespaces", "nobody", "start"]

TIMEOUT = 3000
CODE = """
import concurrent.futures, fcntl, queue, select, signal, socket, subprocess

TIMEOUT = 3000
def timed(*, by):
    by(timeout=TIMEOUT)

def drain(send):
    while True:
        send(b"x" * 65536)

never = threading.Event()
lock = threading.Lock()
lock.acquire()
condition, semaphore, barrier = threading.Condition(), threading.Semaphore(0), threading.Barrier(2)
items, full = queue.Queue(), queue.Queue(1)
full.put(1)
joined = threading.Thread(target=never.wait, name="joined", daemon=True)
joined.start()

def wait_for_condition():
    with condition:
        condition.wait()

server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
timed_client = socket.create_connection(server.getsockname(), timeout=TIMEOUT)
sender = socket.create_connection(server.getsockname())
far_ends = [server.accept()[0] for _ in range(3)]
lonely = socket.create_server(("127.0.0.1", 0))
crowded = socket.create_server(("127.0.0.1", 0), backlog=0)
crowd = [socket.socket() for _ in range(4)]
for one in crowd:
    one.setblocking(False)
    one.connect_ex(crowded.getsockname())
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
named = socket.socket(socket.AF_UNIX)
named.bind("named.socket")
named.listen(1)

own_pipe, other_pipe, epoll_pipe = os.pipe(), os.pipe(), os.pipe()
full_pipe = os.pipe()
feeder = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child = subprocess.Popen(["sleep", "3000"])
HOLDER = "import fcntl, sys; file = open('locked', 'w'); fcntl.flock(file, 2); print(1, flush=True); sys.stdin.read()"
holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
assert holder.stdout.readline()
locked = open("locked", "w")
os.mkfifo("fifo")
epoll = select.epoll()
epoll.register(epoll_pipe[0], select.EPOLLIN)
poll = select.poll()
poll.register(own_pipe[0], select.POLLIN)
poll.register(server, select.POLLIN)

pool = concurrent.futures.ThreadPoolExecutor(2, "pool")
pool.submit(pow, 2, 3).result()
never_done = concurrent.futures.Future()

def poll_for_long():
    poll.poll(TIMEOUT * 1000)

WAITS = {
    "sleep": lambda: time.sleep(TIMEOUT),
    "lock": lock.acquire,
    "lock for a time": lambda: lock.acquire(timeout=TIMEOUT),
    "event": never.wait,
    "event for a time": lambda: never.wait(TIMEOUT),
    "condition": wait_for_condition,
    "semaphore": semaphore.acquire,
    "barrier": barrier.wait,
    "queue": items.get,
    "queue for a time": lambda: timed(by=items.get),
    "full queue": lambda: full.put(2),
    "join": joined.join,
    "future": never_done.result,
    "recv": lambda: client.recv(1),
    "recv for a time": lambda: timed_client.recv(1),
    "udp": lambda: udp.recvfrom(1),
    "send": lambda: drain(sender.sendall),
    "accept": lonely.accept,
    "unix accept": named.accept,
    "connect": lambda: socket.create_connection(crowded.getsockname()),
    "pipe": lambda: os.read(own_pipe[0], 1),
    "pipe of a child": lambda: os.read(feeder.stdout.fileno(), 1),
    "full pipe": lambda: drain(lambda data: os.write(full_pipe[1], data)),
    "select": lambda: select.select([other_pipe[0]], [], []),
    "select for a time": lambda: select.select([other_pipe[0]], [], [], TIMEOUT),
    "poll": poll_for_long,
    "epoll": epoll.poll,
    "child": child.wait,
    "flock": lambda: fcntl.flock(locked, fcntl.LOCK_EX),
    "fifo": lambda: open("fifo", "rb"),
    "signal": lambda: signal.sigwait([signal.SIGUSR1]),
}
threads = [threading.Thread(target=target, name=name, daemon=True) for name, target in WAITS.items()]
for thread in threads:
    thread.start()
ready(threads)
try:
    while True:
        line = hear()
        if line == "finish":
            break
        say(
            client="%s:%s" % client.getpeername(),
            timed_client="%s:%s" % timed_client.getpeername(),
            lonely="%s:%s" % lonely.getsockname(),
            crowded="%s:%s" % crowded.getsockname(),
            sender="%s:%s" % sender.getpeername(),
            server="%s:%s" % server.getsockname(),
            udp="%s:%s" % udp.getsockname(),
            child=child.pid,
            feeder=feeder.pid,
            holder=holder.pid,
            joined=joined.native_id,
            folder=os.getcwd(),
            fds=[own_pipe[0], other_pipe[0], epoll_pipe[0], full_pipe[1], feeder.stdout.fileno()],
        )
finally:
    for process in (child, feeder, holder):
        process.kill()
        process.wait()
os._exit(0)
"""


@contextlib.contextmanager
def waiters(python: Python) -> Iterator[Script]:
    """Run the script; afterwards it lives, is not traced, and ends well."""
    with script(python, CODE) as process:
        yield process
        process.ask("truth")
        tasks = Path(f"/proc/{process.pid}/task").iterdir()
        assert all("TracerPid:\t0\n" in (task / "status").read_text() for task in tasks)
        process.finish()


def expected_words(truth: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The kind and the exact words for each thread, by its name."""
    own, other, watched, full, fed = truth["fds"]
    folder = truth["folder"]
    return {
        "sleep": ("sleep", "sleeping"),
        "lock": ("lock", "waiting for a Lock that nobody is seen to hold"),
        "lock for a time": ("lock", "waiting for a Lock that nobody is seen to hold"),
        "event": ("event", "waiting for an event"),
        "event for a time": ("event", "waiting for an event"),
        "condition": ("condition", "waiting for a condition"),
        "semaphore": ("semaphore", "waiting for a Semaphore that nobody is seen to hold"),
        "barrier": ("barrier", "waiting for a barrier"),
        "queue": ("queue", "waiting for an item in a queue"),
        "queue for a time": ("queue", "waiting for an item in a queue"),
        "full queue": ("queue", "waiting for room in a queue"),
        "join": ("thread", f"waiting for {truth['joined']} (joined) to end"),
        "future": ("future", "waiting for the result of a future"),
        "pool_0": ("work", "waiting for work: an idle pool worker"),
        "recv": ("receive", f"receiving from {truth['client']} (ESTABLISHED)"),
        "recv for a time": ("readiness", f"waiting for readiness of {truth['timed_client']} (ESTABLISHED)"),
        "udp": ("receive", f"receiving from UDP {truth['udp']}"),
        "send": ("send", f"sending to {truth['sender']} (ESTABLISHED)"),
        "accept": ("accept", f"waiting for a connection at {truth['lonely']} (LISTEN)"),
        "unix accept": ("accept", "waiting for a connection at unix socket named.socket"),
        "connect": ("connect", f"connecting to {truth['crowded']}"),
        "pipe": ("read", f"reading from pipe (descriptor {own}), written by this process"),
        "pipe of a child": ("read", f"reading from pipe (descriptor {fed}), written by process {truth['feeder']} (cat)"),
        "full pipe": ("write", f"writing to pipe (descriptor {full}), read by this process"),
        "select": ("readiness", f"waiting for readiness of pipe (descriptor {other}), written by this process"),
        "select for a time": ("readiness", f"waiting for readiness of pipe (descriptor {other}), written by this process"),
        "poll": (
            "readiness",
            f"waiting for readiness of 2 descriptors: pipe (descriptor {own}), written by this process, "
            f"{truth['server']} (LISTEN)",
        ),
        "epoll": ("readiness", f"waiting for readiness of pipe (descriptor {watched}), written by this process"),
        "child": ("child", f"waiting for child {truth['child']} (sleep)"),
        "flock": ("file-lock", f"waiting for the lock on {folder}/locked, held by process {truth['holder']} "),
        "fifo": ("open", f"opening {folder}/fifo for reading: a FIFO, whose other end nobody has opened"),
        "signal": ("signal", "waiting for a signal"),
    }


def look(process: Script) -> dict[str | None, Thread]:
    return {thread.name: thread for thread in threadsurgeon.list_threads(process.pid).threads}


def wait_of(threads: dict[str | None, Thread], name: str) -> Wait:
    wait = threads[name].waits_for
    assert wait is not None, name
    return wait


def differences(threads: dict[str | None, Thread], expected: dict[str, tuple[str, str]]) -> list[str]:
    """Name every thread of which something else is said."""
    wrong = []
    for name, (kind, words) in expected.items():
        wait = threads[name].waits_for
        said = (wait.kind, re.sub(r"\(python[^)]*\)$|, at 0x\w+$", "", wait.detail)) if wait else None
        if said != (kind, words):
            wrong.append(f"{name}: {said}")
    return wrong


def test_every_wait_is_named(python: Python) -> None:
    """Which address, pipe, child, file, lock: as the process itself knows it, and how much of a timeout is left."""
    with waiters(python) as process:
        expected = expected_words(process.ask("truth"))
        wrong = ["nothing seen"]
        with contextlib.suppress(AssertionError):
            for _ in waiting("every thread waits as it should", 60):
                threads = look(process)
                wrong = differences(threads, expected)
                if not wrong:
                    break
        assert wrong == []

        for name in expected:
            left = wait_of(threads, name).remaining_seconds
            if name == "sleep" or name == "poll" or name.endswith(" for a time"):
                assert left is not None, name
                assert TIMEOUT - 60 < left <= TIMEOUT
            else:
                assert left is None, name


def test_waits_last_as_long_as_they_do(python: Python) -> None:
    """Between two looks the waiting grows by the time between them, and what is left of a timeout shrinks by it."""
    names = ("sleep", "lock", "recv", "event for a time", "select for a time")
    with waiters(python) as process:
        for _ in waiting("all of them wait for a while"):
            threads = look(process)
            if all(t.waits_for and (t.waits_for.seconds or 0) > 0.2 for t in map(threads.__getitem__, names)):
                break
        began = time.monotonic()
        first = look(process)
        seen = time.monotonic()
        for _ in waiting("a second passes"):
            if time.monotonic() > seen + 1:
                break
        asked = time.monotonic()
        second = look(process)
        ended = time.monotonic()
        for name in names:
            before, after = wait_of(first, name), wait_of(second, name)
            assert before.seconds is not None
            assert after.seconds is not None
            # the scheduler's clock leaves out what a hypervisor takes of a CPU
            assert (asked - seen) / 2 < after.seconds - before.seconds < ended - began + 0.1, name
            if before.remaining_seconds is not None:
                assert after.remaining_seconds is not None
                assert (asked - seen) / 2 < before.remaining_seconds - after.remaining_seconds < ended - began + 0.1, name


def test_what_was_long_still_is_stuck(any_python: Python) -> None:
    """Stuck is what has not run for ten seconds in an endless wait: not a sleep, an idle worker or server, or a timeout."""
    with waiters(any_python) as process:
        stuck = ("lock", "queue", "join", "recv", "pipe", "child", "fifo")
        for _ in waiting("they have not run for ten seconds", 60):
            threads = look(process)
            if all((wait_of(threads, name).seconds or 0) >= 10 for name in (*stuck, "sleep", "accept")):
                break
        for name in stuck:
            assert threads[name].activity == "stuck", name
        for name in ("sleep", "lock for a time", "poll"):
            assert threads[name].activity is None, name
        for name in ("accept", "pool_0"):
            assert threads[name].activity == "idle", name


def test_command_line_says_the_same(any_python: Python) -> None:
    """In the table, above a stack, and for programs."""
    with waiters(any_python) as process:
        truth = process.ask("truth")
        words = expected_words(truth)["recv"][1]
        for _ in waiting("the thread receives"):
            if wait_of(look(process), "recv").detail == words:
                break
        tid = look(process)["recv"].tid
        listing, stack = run("list", str(process.pid)), run("stack", str(tid))
        machine = json.loads(run("stack", str(tid), "--json").stdout)

        assert words in listing.stdout
        assert words in stack.stdout
        keys = ["kind", "detail", "seconds", "remaining_seconds", "lock", "holder", "proven"]
        assert list(machine["waits_for"]) == keys
        assert (machine["waits_for"]["kind"], machine["waits_for"]["detail"]) == ("receive", words)


@pytest.mark.behaviours("pydll_sleep")
def test_wait_for_the_gil_is_named(python: Python, behaviour: Behaviour, stuck: Any) -> None:
    """Where one thread keeps the GIL, the others wait for it."""
    victim = stuck(python, behaviour)
    for _ in waiting("the others wait for the GIL"):
        threads = {thread.name: thread for thread in threadsurgeon.list_threads(victim.pid).threads}
        waits = [threads[name].waits_for for name in ("ticker-0", "ticker-1")]  # each wakes every 5 ms, and asks again
        if all(wait is not None and (wait.kind, wait.text) == ("gil", "waiting for the GIL") for wait in waits):
            break
    assert wait_of(threads, "victim").kind == "sleep"
    assert victim.is_traced_or_stopped() == []


@pytest.mark.behaviours("busy_loop")
def test_busy_thread_waits_for_nothing(python: Python, behaviour: Behaviour, stuck: Any) -> None:
    """It runs, or waits for the GIL for an instant."""
    victim = stuck(python, behaviour)
    for _ in waiting("seen while it runs"):
        thread = next(t for t in threadsurgeon.list_threads(victim.pid).threads if t.tid == victim.tid)
        assert thread.waits_for is None or thread.waits_for.kind == "gil"
        if thread.waits_for is None and thread.activity in ("busy", None):  # None where the machine gives it little
            break
    victim.assert_lives_on(unwound=False)


@pytest.mark.behaviours("native_thread", "asyncio_loop", "ctypes_wait")
def test_others_are_named(python: Python, behaviour: Behaviour, stuck: Any) -> None:
    """A thread without Python, an event loop with nothing to do, and a call through ctypes."""
    victim = stuck(python, behaviour)
    thread = next(t for t in threadsurgeon.list_threads(victim.pid).threads if t.tid == victim.tid)
    expected = {"native_thread": "signal", "asyncio_loop": "event-loop", "ctypes_wait": "signal"}[behaviour.name]

    assert thread.waits_for is not None
    assert thread.waits_for.kind == expected
    assert thread.activity == ("idle" if behaviour.name == "asyncio_loop" else None)


def test_stopped_process_is_said_to_be(any_python: Python, stuck: Any) -> None:
    """Until somebody continues it, whatever it was in."""
    victim = stuck(any_python, "sleep")
    victim.process.send_signal(19)
    try:
        for _ in waiting("all threads are stopped"):
            threads = threadsurgeon.list_threads(victim.pid).threads
            if all(thread.waits_for and thread.waits_for.kind == "stopped" for thread in threads):
                break
    finally:
        victim.process.send_signal(18)
    for _ in waiting("it sleeps again"):
        wait = next(t for t in threadsurgeon.list_threads(victim.pid).threads if t.tid == victim.tid).waits_for
        if wait is not None and wait.kind == "sleep":
            break
    victim.assert_lives_on(unwound=False)


CHILDREN = """
import os, subprocess, sys
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
print(child.pid, os.getpid(), flush=True)
child.wait()
"""


@pytest.mark.usefixtures("namespaces")
def test_child_in_a_namespace_has_the_id_that_we_see(any_python: Python) -> None:
    """The target knows its child by another id than the rest of the machine."""
    command = ["unshare", "--mount-proc", "--pid", "--net", "--fork", "--kill-child", any_python.command, "-c", CHILDREN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as outer:
        try:
            assert outer.stdout
            inner_child, inner_pid = outer.stdout.readline().split()
            assert inner_pid == "1"
            (pid,) = children(outer.pid)
            (child,) = children(pid)
            for _ in waiting("it waits for its child"):
                wait = threadsurgeon.list_threads(pid).threads[0].waits_for
                if wait is not None and wait.kind == "child":
                    break
            assert str(child) != inner_child
            assert wait is not None
            assert wait.detail == f"waiting for child {child} (cat)"
        finally:
            outer.kill()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_without_privileges_all_is_said_of_ones_own_process(nobody: list[str], start: Any) -> None:
    """What the kernel lets a user list it lets the same user explain."""
    target: Target = start([*nobody], user=NOBODY, group=NOBODY, extra_groups=[])
    for _ in waiting("it sleeps"):
        listing = as_user(NOBODY, [*nobody, "-m", "threadsurgeon", "list", str(target.pid), "--json"])
        assert listing.returncode == 0, listing.stderr
        (thread,) = [thread for thread in json.loads(listing.stdout)["threads"] if thread["tid"] == target.tid]
        if thread["waits_for"] and thread["waits_for"]["kind"] == "sleep":
            break
    assert 0 < thread["waits_for"]["remaining_seconds"] <= 100000
    assert thread["waits_for"]["seconds"] is not None
    target.assert_lives_on(ended=False)

"""A real server: gunicorn with one worker of two threads, both stuck in a request, one of them holding the GIL."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import threadsurgeon
from tests.zoo.victim import waiting
from threadsurgeon.model.operations import Outcome
from threadsurgeon.model.threads import Thread

pytest.importorskip("flask")
pytest.importorskip("gunicorn")

APPLICATION = """
import os, re, threading
from flask import Flask, jsonify

app = Flask(__name__)
LOCK = threading.Lock()
LOCK.acquire()

@app.get("/who")
def who():
    pool = [thread.ident for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]
    return jsonify(pid=os.getpid(), pool=sorted(filter(None, pool)))  # one that is just being started has no ident yet

@app.get("/lock")
def stuck_on_lock():
    with LOCK:
        return "never"

@app.get("/regex")
def stuck_in_regex():
    return str(re.match("(a+)+b", "a" * 64))
"""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket: no port to be taken by somebody else."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=90)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(90)
        self.sock.connect(str(self.path))


class Server:
    """Gunicorn, running."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "socket"
        (directory / "application.py").write_text(APPLICATION)
        self.log = directory / "log"
        options = ["--worker-class=gthread", "--workers=1", "--threads=2", "--timeout=300", "--graceful-timeout=5"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *options, f"--bind=unix:{self.socket}", "application:app"],
                cwd=directory,
                stdout=log,
                stderr=log,
            )

    def get(self, path: str) -> tuple[int, bytes]:
        connection = UnixConnection(self.socket)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def who(self) -> dict[str, Any]:
        status, body = self.get("/who")
        assert status == 200, body
        answer: dict[str, Any] = json.loads(body)
        return answer

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.get("/who")[0] == 200
        except OSError:
            return False


class Client(threading.Thread):
    """Asks for one page, and keeps the answer's status."""

    def __init__(self, server: Server, path: str) -> None:
        super().__init__(daemon=True)
        self.server, self.path, self.status = server, path, 0
        self.start()

    def run(self) -> None:
        try:
            self.status = self.server.get(self.path)[0]
        except OSError:
            self.status = -1


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="gunicorn-") as directory:
        server = Server(Path(directory))
        try:
            for _ in waiting("gunicorn answers", 60, pause=0.05):
                if server.is_up():
                    break
            yield server
        finally:
            worker_pids = children(server.process.pid)
            server.process.kill()  # the worker notices that its parent is gone, unless it is frozen
            server.process.wait()
            for process in worker_pids:
                process.kill()


def children(pid: int) -> list[Any]:
    import psutil

    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def stuck_in(pid: int, function: str) -> Thread:
    """Wait until a pool thread is in this function, and there for good."""
    previous = None
    for _ in waiting(f"a thread of {pid} in {function}", 30, pause=0.02):
        for thread in threadsurgeon.list_threads(pid).threads:
            if any(frame.function.endswith(function) for frame in thread.frames):
                if previous == thread.frames:
                    return thread
                previous = thread.frames
    raise AssertionError


@pytest.mark.usefixtures("gdb")
def test_two_stuck_requests_become_errors_and_the_server_serves_on(server: Server) -> None:
    """Both clients get a 500, everybody else is served again, by the same process and the same two threads."""
    pid = server.who()["pid"]
    on_lock = Client(server, "/lock")
    lock_thread = stuck_in(pid, "stuck_on_lock")
    before = server.who()  # the second thread of the pool is there by now
    in_regex = Client(server, "/regex")
    regex_thread = stuck_in(pid, "stuck_in_regex")

    assert len(before["pool"]) == 2
    assert lock_thread.pool_worker
    assert regex_thread.pool_worker
    assert {lock_thread.ident, regex_thread.ident} == set(before["pool"])
    assert threadsurgeon.list_threads(pid).gil_holder == regex_thread.tid

    for thread in (regex_thread, lock_thread):
        report = threadsurgeon.cancel(thread.tid, pid=pid)
        assert report.outcome is Outcome.UNWOUND, report.detail
        assert report.exception != "SystemExit"
    for client in (in_regex, on_lock):
        client.join(60)
        assert client.status == 500

    assert [server.who() for _ in range(4)] == [before] * 4
    log = server.log.read_text()
    assert "in stuck_on_lock" in log
    assert "in stuck_in_regex" in log
    server.process.terminate()
    assert server.process.wait(60) == 0

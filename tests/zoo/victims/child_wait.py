"""Waiting for a child process: the lock around waitpid must be given back, and the child stays the parent's to reap."""

import subprocess

import _backchannel

WAITS_IN = ("wait4", "waitid")
EXPECTED = {"interrupt": "ended"}

CHILD = subprocess.Popen(["cat"], stdin=subprocess.PIPE)  # ends when its input does, so it cannot outlive this process


def victim():
    CHILD.wait()


def aftercare():
    assert CHILD.poll() is None
    CHILD.stdin.close()
    assert CHILD.wait(timeout=10) == 0


_backchannel.run(victim, aftercare=aftercare)

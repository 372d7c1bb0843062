"""Waiting for bytes from a silent peer."""

import socket

import _backchannel

WAITS_IN = ("recvfrom",)
EXPECTED = {"interrupt": "ended"}

HERE, THERE = socket.socketpair()


def victim():
    HERE.recv(1)


def aftercare():
    THERE.send(b"x")
    assert HERE.recv(1) == b"x"


_backchannel.run(victim, aftercare=aftercare)

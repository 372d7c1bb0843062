"""A server that nobody calls."""

import socket

import _backchannel

WAITS_IN = ("accept4", "accept")
EXPECTED = {"interrupt": "ended"}

SERVER = socket.socket(socket.AF_UNIX)


def victim():
    SERVER.accept()


SERVER.bind("")  # an address of the kernel's choosing, in no file system
SERVER.listen(1)
_backchannel.run(victim)

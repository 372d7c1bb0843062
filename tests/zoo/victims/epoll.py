"""In epoll_wait(2), on a pipe that stays empty."""

import os
import select

import _backchannel

WAITS_IN = ("epoll_wait", "epoll_pwait")
EXPECTED = {"interrupt": "ended"}

READ, WRITE = os.pipe()


def victim():
    with select.epoll() as epoll:
        epoll.register(READ, select.EPOLLIN)
        epoll.poll()


_backchannel.run(victim)

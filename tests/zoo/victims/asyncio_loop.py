"""An event loop in a thread, awaiting what never comes: it must close its loop on the way out."""

import asyncio

import _backchannel

WAITS_IN = ("epoll_wait", "epoll_pwait")
EXPECTED = {"interrupt": "ended"}


async def forever():
    await asyncio.get_running_loop().create_future()


def victim():
    asyncio.run(forever())


_backchannel.run(victim)

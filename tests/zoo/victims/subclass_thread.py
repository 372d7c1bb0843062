"""A Thread subclass with slots and many attributes, renamed while it runs: its dictionary is not the usual shape."""

import threading

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"interrupt": "ended"}

RELEASE = threading.Event()


class Slotted(threading.Thread):
    __slots__ = ("body", "first", "second")


class Overgrown(Slotted):
    def __init__(self, body):
        for i in range(200):
            setattr(self, "before_%d" % i, i)
        super().__init__()
        self.body = body
        self.daemon = True
        for i in range(200):
            setattr(self, "after_%d" % i, i)
            delattr(self, "before_%d" % i)

    def run(self):
        self.name = "victim, renamed"
        self.body()


def victim():
    RELEASE.wait()


def start(body):
    Slotted(target=RELEASE.wait, name="slotted").start()
    Overgrown(body).start()


_backchannel.run(victim, start, aftercare=RELEASE.set)

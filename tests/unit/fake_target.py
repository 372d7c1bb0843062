"""A target and sightings of one thread in it, as the planner and the judge see them."""

import struct
from types import SimpleNamespace

from tests.unit import examples
from tests.unit.examples import replace
from tests.unit.fake_memory import FakeMemory
from threadsurgeon.cpython.frames import RawFrame
from threadsurgeon.cpython.layout import find_layout
from threadsurgeon.cpython.threads import Interpreter, ThreadState
from threadsurgeon.inventory import Sighting
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.linux.process import Status
from threadsurgeon.model.threads import Frame

GIL, RUNTIME = 0x6000, 0x10000
INTERPRETER = Interpreter(0x5000, 0, GIL, 0)
POOL = "/usr/lib/python3.12/concurrent/futures/thread.py"
THREAD = replace(examples.WAITING, pool_worker=False, holds_gil=False)


def status(**changes):
    facts = {
        "name": "python3", "state": "S", "tgid": 4711, "tracer": 0, "uid": 0, "namespace_pids": (4711,), "threads": 3,
        "kernel_thread": False,
    }  # fmt: skip
    return Status(**{**facts, **changes})


def sighting(*functions, pending=0, minor=12, free_threaded=False, **changes):
    """The thread in some functions, innermost first; each is ``name``, or ``name@address`` for a frame elsewhere."""
    raw, frames = [], []
    for number, function in enumerate(reversed(functions)):
        name, _, place = function.partition("@")
        address = int(place, 16) if place else 0x1000 * (number + 1)
        raw.insert(0, RawFrame(address, hash(name) & 0xFFFFFFF, 4))
        frames.insert(0, Frame(name, POOL if name in ("run", "_worker") else "/app/main.py", 1))
    layout = find_layout((3, minor), debug=False, free_threaded=free_threaded).thread_state
    content = bytearray(layout.size)
    content[layout.async_exc : layout.async_exc + 8] = struct.pack("<Q", pending)
    native = THREAD.tid if layout.native_thread_id is not None else None
    state = ThreadState(0x7000, INTERPRETER, THREAD.ident, native, bytes(content))
    changes.setdefault("pool_worker", "_worker" in functions)
    return Sighting(replace(THREAD, frames=tuple(frames), **changes), state, tuple(raw))


class FakeTarget:
    """Shows the sightings one after the other, the last one for ever; an exception among them is raised."""

    def __init__(self, *sightings, minor=12, free_threaded=False, problem=None):
        layout = find_layout((3, minor), debug=False, free_threaded=free_threaded)
        self.pid, self.start_time = 4711, 100
        self.runtime = SimpleNamespace(layout=layout, problem=problem, version=f"3.{minor}.0", address=RUNTIME)
        self.memory = FakeMemory({RUNTIME: bytes(layout.runtime_state.size)})
        self.sightings = list(sightings)
        self.work_items = {}
        self.gil_holder = None
        self.looks = 0

    def see(self, tid, *, state=None):
        self.looks += 1
        now = self.sightings.pop(0) if len(self.sightings) > 1 else self.sightings[0]
        if isinstance(now, Exception):
            raise now
        return now

    def read_first_local(self, frame):
        if frame.address not in self.work_items:
            raise BadAddress(frame.address, 8)
        return self.work_items[frame.address]

    def find_gil_holder(self):
        return self.gil_holder

"""Joins the OS threads of a process with its Python threads into one list: the look plane.

Nothing is stopped, traced or written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from threadsurgeon.cpython.frames import TAG_MASK, RawFrame
from threadsurgeon.cpython.interior import Interior, choose_states, is_pool_worker
from threadsurgeon.cpython.runtime import Runtime, find_runtime
from threadsurgeon.cpython.stacks import Stack
from threadsurgeon.cpython.thread_objects import ThreadObject
from threadsurgeon.cpython.threads import (
    Interpreter,
    ThreadState,
    list_interpreters,
    list_thread_states,
    read_main_ident,
    refresh_thread_state,
)
from threadsurgeon.errors import (
    NativeThread,
    NoSuchProcess,
    NoSuchThread,
    NotPython,
    PermissionDenied,
    UnreadableTarget,
    UnsupportedPython,
)
from threadsurgeon.explain import Subject, explain_waits
from threadsurgeon.linux.cpu_shares import CpuShares
from threadsurgeon.linux.mappings import iterate_images
from threadsurgeon.linux.memory import BadAddress, ProcessMemory
from threadsurgeon.linux.process import (
    STATES,
    Status,
    SystemCall,
    Task,
    iterate_tasks,
    read_status,
    read_task,
    read_wait,
)
from threadsurgeon.linux.pthread import find_tid_offset, read_tids
from threadsurgeon.linux.task_reader import MIN_THREADS, TaskReader
from threadsurgeon.model.threads import Frame, Listing, Python, Thread, Wait


class Sighting(NamedTuple):
    """One Python thread at one moment: what people see of it, and where its state is."""

    thread: Thread
    state: ThreadState
    raw_frames: tuple[RawFrame, ...]


class Target:
    """A running CPython process, ready to be looked at."""

    def __init__(self, pid: int) -> None:
        """Find the interpreter in the process.

        Raises:
            ThreadsurgeonError: with the cause found (no such process, not Python, not supported, not permitted).
        """
        self.pid = pid
        self.status = _check_process(pid)
        self.start_time = read_task(pid, pid).start_time
        self.memory = ProcessMemory(pid)
        try:
            self.runtime: Runtime = find_runtime(self.memory, iterate_images(pid))
            self._interior = Interior(self.memory, self.runtime)
        except NotPython as error:
            raise NotPython(f"process {pid} ({self.status.name}) is not Python: {error}", hint=error.hint) from None
        except (PermissionDenied, BadAddress) as error:
            raise explain_permission(pid, error) from None
        self._tid_offset: int | None = None
        self._known: tuple[list[Interpreter], dict[int, int]] = ([], {})

    @property
    def python(self) -> Python:
        """Which Python the target runs."""
        try:
            executable = os.readlink(f"/proc/{self.pid}/exe")
        except OSError:
            executable = self.runtime.image.file.path
        return Python(self.runtime.version, self.runtime.build, executable)

    def check_is_same(self) -> None:
        """Make sure that the PID still means this process.

        Raises:
            NoSuchProcess: it ended.
        """
        try:
            same = read_task(self.pid, self.pid).start_time == self.start_time
        except NoSuchThread:
            same = False
        if not same:
            raise NoSuchProcess(f"process {self.pid} ended")

    def list_threads(self, *, forks: bool = False) -> Listing:
        """Return every thread of the process. ``forks``: a second process of ours may do part of the reading.

        Raises:
            NoSuchProcess: it ended meanwhile.
            UnreadableTarget: its structures changed under every try to read them.
        """
        try:
            return self._list_threads(forks)
        except BadAddress as error:
            self.check_is_same()
            raise UnreadableTarget(f"process {self.pid} became another program while it was read: {error}") from None

    def _list_threads(self, forks: bool) -> Listing:
        cpu_shares = CpuShares(self.pid)
        interpreters, states, tids = self._list_states()
        with TaskReader(self.pid, forks=forks and len(states) >= MIN_THREADS) as reader:
            stacks = self._interior.read_stacks(states)
            cpu_shares.watch()
            by_tid = choose_states(states, tids, stacks)
            main_ident = read_main_ident(self.memory, self.runtime)
            holders = self._interior.find_holders(interpreters)
            names = self._interior.read_names(interpreters)
            tasks, calls = reader.finish()
        self.check_is_same()
        seen = [(task, tid, by_tid.get(tid)) for task in tasks for tid in (self._find_namespace_tid(task),)]
        waits = self._explain([(task, state) for task, _, state in seen], stacks, calls)
        cpu_percent = cpu_shares.finish([task.tid for task in tasks])
        threads = []
        for task, namespace_tid, state in seen:
            percent, wait = cpu_percent.get(task.tid), waits.get(task.tid)
            if state is None:
                threads.append(self._describe(task, namespace_tid, main_ident, percent, waits_for=wait))
            else:
                known = names.get((state.interpreter.id, state.ident))
                frames = stacks[state.address].frames
                holds_gil = state.address in holders
                threads.append(
                    self._describe(task, namespace_tid, main_ident, percent, state, known, frames, holds_gil, wait)
                )
        threads.sort(key=lambda thread: (not thread.main, thread.tid))
        holding = [thread.tid for thread in threads if thread.holds_gil]
        return Listing(
            pid=self.pid,
            python=self.python,
            threads=tuple(threads),
            gil_holder=holding[0] if holding else None,
            warnings=(self.runtime.problem,) if self.runtime.problem else (),
        )

    def see_all(self) -> list[Sighting]:
        """Return every Python thread, by TID, with where its state and its frames are. CPU shares are not measured.

        Raises:
            NoSuchProcess: it ended meanwhile.
        """
        interpreters, states, tids = self._list_states()
        stacks = self._interior.read_stacks(states)
        by_tid = choose_states(states, tids, stacks)
        main_ident = read_main_ident(self.memory, self.runtime)
        holders = self._interior.find_holders(interpreters)
        names = self._interior.read_names(interpreters)
        sightings = []
        for task in iterate_tasks(self.pid):
            namespace_tid = self._find_namespace_tid(task)
            state = by_tid.get(namespace_tid)
            if state is None:
                continue
            known, stack = names.get((state.interpreter.id, state.ident)), stacks[state.address]
            holds_gil = state.address in holders
            thread = self._describe(task, namespace_tid, main_ident, None, state, known, stack.frames, holds_gil)
            sightings.append(Sighting(thread, state, tuple(stack.raw)))
        return sightings

    def see(self, tid: int, *, state: ThreadState | None = None) -> Sighting:
        """Return one Python thread; quick where its ``state`` is known from an earlier look.

        Raises:
            NoSuchThread: it ended.
            NativeThread: it has no Python state (any more).
            NoSuchProcess: the process ended.
        """
        task = read_task(self.pid, tid)
        namespace_tid = self._find_namespace_tid(task)
        fresh = self._find_state(namespace_tid) if state is None else refresh_thread_state(self.memory, self.runtime, state)
        if fresh is None:
            raise NativeThread(
                f"thread {tid} ({task.native_name}) of process {self.pid} has no Python state: it is a native thread",
                hint=f"the threads of the process: threadsurgeon list {self.pid}",
            )
        stack = self._interior.read_stacks([fresh])[fresh.address]
        names = self._interior.read_names([fresh.interpreter], only=fresh.ident) if state is None else {}
        thread = self._describe(
            task,
            namespace_tid,
            read_main_ident(self.memory, self.runtime),
            None,
            fresh,
            names.get((fresh.interpreter.id, fresh.ident)),
            stack.frames,
            fresh.address in self._interior.find_holders([fresh.interpreter]),
        )
        if state is None:
            call = read_wait(self.pid, tid)
            waits = self._explain([(task, fresh)], {fresh.address: stack}, {tid: call} if call is not None else {})
            thread = thread._replace(waits_for=waits.get(tid))
        return Sighting(thread, fresh, tuple(stack.raw))

    def read_first_local(self, frame: RawFrame) -> int:
        """Return the address of the object in a frame's first local variable: a method's ``self``.

        Raises:
            BadAddress: the frame is gone.
        """
        layout = self.runtime.layout
        if layout.frame_object is not None:
            offset = layout.frame_object.f_localsplus
        else:
            assert layout.interpreter_frame is not None
            offset = layout.interpreter_frame.localsplus
        return int.from_bytes(self.memory.read(frame.address + offset, 8), "little") & TAG_MASK

    def sample_gil(self) -> list[int]:
        """Return who holds a GIL at this moment, as TIDs that the target itself sees; one read for each GIL.

        Only threads are told that were there at the last look at all of them.
        """
        interpreters, tids = self._known
        return [tids[holder] for holder in self._interior.find_holders(interpreters) if holder in tids]

    def find_gil_holder(self) -> Thread | None:
        """Return the thread that holds a GIL at this moment, None while it is free, or where no living thread holds it."""
        interpreters, states, tids = self._list_states()
        holders = self._interior.find_holders(interpreters)
        for state in states:
            if state.address in holders and state.address in tids:
                for task in iterate_tasks(self.pid):
                    if self._find_namespace_tid(task) == tids[state.address]:
                        return self.see(task.tid, state=state).thread
        return None

    def _find_state(self, namespace_tid: int) -> ThreadState | None:
        _, states, tids = self._list_states()
        candidates = [state for state in states if tids.get(state.address) == namespace_tid]
        return choose_states(candidates, tids, self._interior.read_stacks(candidates)).get(namespace_tid)

    def _list_states(self) -> tuple[list[Interpreter], list[ThreadState], dict[int, int]]:
        """Return the interpreters, the thread states, and the TIDs that the target itself sees by the states' addresses."""
        interpreters = list_interpreters(self.memory, self.runtime)
        states = list_thread_states(self.memory, self.runtime, interpreters)
        tids = self._find_tids(states)
        self._known = (interpreters, tids)
        return interpreters, states, tids

    def _find_namespace_tid(self, task: Task) -> int:
        if len(self.status.namespace_pids) == 1:
            return task.tid
        try:  # a container: the target knows its threads by other ids
            return read_status(task.tid).namespace_pid
        except NoSuchProcess:
            return -1

    def _describe(
        self,
        task: Task,
        namespace_tid: int,
        main_ident: int,
        cpu_percent: float | None,
        state: ThreadState | None = None,
        known: ThreadObject | None = None,
        frames: tuple[Frame, ...] = (),
        holds_gil: bool = False,
        waits_for: Wait | None = None,
    ) -> Thread:
        return Thread(
            tid=task.tid,
            namespace_tid=namespace_tid,
            start_time=task.start_time,
            native_name=task.native_name,
            state=STATES.get(task.state, task.state),
            cpu_seconds=task.cpu_seconds,
            cpu_percent=cpu_percent,
            main=task.tid == self.pid or (state is not None and state.ident == main_ident),
            python=state is not None,
            ident=state.ident if state else None,
            name=known.name if known else None,
            daemon=known.daemon if known else None,
            interpreter=state.interpreter.id if state else None,
            holds_gil=holds_gil,
            pool_worker=is_pool_worker(frames),
            frames=frames,
            waits_for=waits_for,
        )

    def _explain(
        self, threads: Iterable[tuple[Task, ThreadState | None]], stacks: dict[int, Stack], calls: dict[int, SystemCall]
    ) -> dict[int, Wait]:
        """Return what the threads wait for, by TID."""
        subjects = [
            Subject(task, stacks[state.address].frames, state.interpreter.gil) if state else Subject(task)
            for task, state in threads
        ]
        return explain_waits(self.status, self.memory, subjects, calls, self.runtime.layout.gil_runtime_state.size)

    def _find_tids(self, states: list[ThreadState]) -> dict[int, int]:
        if states and states[0].native_thread_id is not None:
            return {state.address: state.native_thread_id for state in states if state.native_thread_id}
        if self._tid_offset is None:
            main_ident = read_main_ident(self.memory, self.runtime)
            self._tid_offset = find_tid_offset(self.memory, main_ident, self.status.namespace_pid)
        by_ident = read_tids(self.memory, [state.ident for state in states], self._tid_offset)
        return {state.address: by_ident[state.ident] for state in states if state.ident in by_ident}


def _check_process(pid: int) -> Status:
    try:
        status = read_status(pid)
    except NoSuchProcess as absent:
        from threadsurgeon.linux.permission import explain_absence

        raise explain_absence(pid, absent) from None
    if status.tgid != pid:
        raise NoSuchProcess(
            f"{pid} is not a process but a thread of process {status.tgid}",
            hint=f"threadsurgeon list {status.tgid}",
        )
    if status.state in "ZXx":
        raise NotPython(
            f"process {pid} ({status.name}) is a zombie: it has ended, and its parent has not collected it yet"
        )
    if status.kernel_thread:
        raise NotPython(f"process {pid} ({status.name}) is a kernel thread")
    return status


def explain_permission(pid: int, error: Exception) -> Exception:
    """Return the error with the cause found: the process ended, or why the kernel does not let us."""
    try:
        current = read_status(pid)
    except NoSuchProcess as gone:
        return gone
    if current.state in "ZXx":
        return NoSuchProcess(f"process {pid} ended while we looked at it")
    if not isinstance(error, PermissionDenied):
        return UnsupportedPython(f"process {pid} maps an interpreter that cannot be read: {error}")
    from threadsurgeon.linux.permission import explain_refusal  # seldom needed, and every listing would wait for it

    return explain_refusal(pid, f"look at process {pid} ({current.name})")

"""Joins the OS threads of a process with its Python threads into one list: the look plane.

Nothing is stopped, traced or written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from threadsurgeon.cpython.frames import TAG_MASK, FrameReader, RawFrame
from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.cpython.reading import walk_together
from threadsurgeon.cpython.runtime import Runtime, find_runtime
from threadsurgeon.cpython.thread_objects import ThreadObject, read_thread_objects
from threadsurgeon.cpython.threads import (
    Gil,
    Interpreter,
    ThreadState,
    list_interpreters,
    list_thread_states,
    read_gil,
    read_main_ident,
    read_thread_state,
)
from threadsurgeon.errors import NoSuchProcess, NoSuchThread, NotPython, PermissionDenied, UnsupportedPython
from threadsurgeon.linux.mappings import iterate_images
from threadsurgeon.linux.memory import BadAddress, ProcessMemory
from threadsurgeon.linux.process import (
    STATES,
    CpuClock,
    Status,
    Task,
    iterate_tasks,
    list_tids,
    read_status,
    read_task,
)
from threadsurgeon.linux.pthread import find_tid_offset, read_tids
from threadsurgeon.model import Frame, Listing, Python, Thread

# A running thread changes its frames while we read them; a stack that was torn is read again this often.
STACK_TRIES = 4
# CPU shares are measured over at least this long: the kernel accounts a running thread's time at each tick of 1 to 10 ms.
CPU_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Sighting:
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
            self.objects = ObjectReader(self.runtime.layout)
            self._frames = FrameReader(self.memory, self.objects, self.runtime.symbol("PyCode_Type"))
        except (PermissionDenied, BadAddress) as error:
            raise explain_permission(self.status, pid, error) from None
        self._tid_offset: int | None = None

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

    def list_threads(self) -> Listing:
        """Return every thread of the process.

        Raises:
            NoSuchProcess: it ended meanwhile.
            UnreadableTarget: its structures changed under every try to read them.
        """
        clock = CpuClock(self.pid, list_tids(self.pid))
        interpreters = list_interpreters(self.memory, self.runtime)
        states = list_thread_states(self.memory, self.runtime, interpreters)
        stacks = self._read_stacks(states)
        main_ident = read_main_ident(self.memory, self.runtime)
        gils = self._read_gils(interpreters)
        names = self._read_names(interpreters)
        tids = self._find_tids(states, main_ident)
        by_tid = {tids[state.address]: state for state in states if state.address in tids}
        holders = {gil.holder for gil in gils}
        threads = []
        for task in iterate_tasks(self.pid):
            thread = self._describe_task(task)
            state = by_tid.get(thread.namespace_tid)
            if state is not None:
                thread = _describe_python(
                    thread,
                    state,
                    names.get((state.interpreter.id, state.ident)),
                    [frame for frame, _ in stacks[state.address]],
                    main_ident,
                    state.address in holders,
                )
            threads.append(thread)
        self.check_is_same()
        threads = _measure_cpu(clock, threads)
        threads.sort(key=lambda thread: (not thread.main, thread.tid))
        holding = [thread.tid for thread in threads if thread.holds_gil]
        return Listing(
            pid=self.pid,
            python=self.python,
            threads=tuple(threads),
            gil_holder=holding[0] if holding else None,
            warnings=(self.runtime.problem,) if self.runtime.problem else (),
        )

    def see(self, tid: int, *, state: ThreadState | None = None) -> Sighting:
        """Return one Python thread; quick where its ``state`` is known from an earlier look.

        Raises:
            NoSuchThread: it ended, or has no Python state (any more).
            NoSuchProcess: the process ended.
        """
        thread = self._describe_task(read_task(self.pid, tid))
        main_ident = read_main_ident(self.memory, self.runtime)
        fresh = self._find_state(thread.namespace_tid, main_ident) if state is None else self._refresh(state)
        if fresh is None:
            raise NoSuchThread(f"thread {tid} of process {self.pid} has no Python state")
        stack = self._read_stacks([fresh])[fresh.address]
        gil = read_gil(self.memory, self.runtime.layout.gil_runtime_state, fresh.interpreter.gil)
        names = self._read_names([fresh.interpreter], only=fresh.ident) if state is None else {}
        thread = _describe_python(
            thread,
            fresh,
            names.get((fresh.interpreter.id, fresh.ident)),
            [frame for frame, _ in stack],
            main_ident,
            gil.holder == fresh.address,
        )
        return Sighting(thread, fresh, tuple(raw for _, raw in stack))

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

    def read_gil(self, interpreter: Interpreter) -> Gil:
        """Return who holds the interpreter's GIL at this moment."""
        return read_gil(self.memory, self.runtime.layout.gil_runtime_state, interpreter.gil)

    def find_gil_holder(self) -> Thread | None:
        """Return the thread that holds a GIL at this moment, None while it is free, or where no living thread holds it."""
        interpreters = list_interpreters(self.memory, self.runtime)
        states = list_thread_states(self.memory, self.runtime, interpreters)
        holders = {gil.holder for gil in self._read_gils(interpreters)}
        tids = self._find_tids(states, read_main_ident(self.memory, self.runtime))
        by_namespace = {thread.namespace_tid: thread for thread in map(self._describe_task, iterate_tasks(self.pid))}
        for state in states:
            thread = by_namespace.get(tids.get(state.address, -1))
            if state.address in holders and thread is not None:
                stack = self._read_stacks([state])[state.address]
                return replace(thread, python=True, holds_gil=True, frames=tuple(frame for frame, _ in stack))
        return None

    def _refresh(self, state: ThreadState) -> ThreadState | None:
        try:
            fresh = read_thread_state(self.memory, self.runtime, state.interpreter, state.address)
        except BadAddress:
            return None
        return fresh if fresh is not None and fresh.ident == state.ident else None

    def _find_state(self, namespace_tid: int, main_ident: int) -> ThreadState | None:
        interpreters = list_interpreters(self.memory, self.runtime)
        states = list_thread_states(self.memory, self.runtime, interpreters)
        tids = self._find_tids(states, main_ident)
        return next((state for state in states if tids.get(state.address) == namespace_tid), None)

    def _describe_task(self, task: Task) -> Thread:
        namespace_tid = task.tid
        if len(self.status.namespace_pids) > 1:  # a container: the target knows its threads by other ids
            try:
                namespace_tid = read_status(task.tid).namespace_pid
            except NoSuchProcess:
                namespace_tid = -1
        return Thread(
            tid=task.tid,
            namespace_tid=namespace_tid,
            start_time=task.start_time,
            native_name=task.native_name,
            state=STATES.get(task.state, task.state),
            cpu_seconds=task.cpu_seconds,
            cpu_percent=None,
            main=task.tid == self.pid,
        )

    def _find_tids(self, states: list[ThreadState], main_ident: int) -> dict[int, int]:
        """Return the TID that the target itself sees, by the address of the thread state."""
        if states and states[0].native_thread_id is not None:
            return {state.address: state.native_thread_id for state in states if state.native_thread_id}
        if self._tid_offset is None:
            self._tid_offset = find_tid_offset(self.memory, main_ident, self.status.namespace_pid)
        by_ident = read_tids(self.memory, [state.ident for state in states], self._tid_offset)
        return {state.address: by_ident[state.ident] for state in states if state.ident in by_ident}

    def _read_gils(self, interpreters: list[Interpreter]) -> list[Gil]:
        layout = self.runtime.layout.gil_runtime_state
        gils = []
        for address in {interpreter.gil for interpreter in interpreters if interpreter.gil}:
            try:
                gils.append(read_gil(self.memory, layout, address))
            except BadAddress:
                continue
        return gils

    def _read_names(
        self, interpreters: list[Interpreter], *, only: int | None = None
    ) -> dict[tuple[int, int], ThreadObject]:
        true_address = self.runtime.symbol("_Py_TrueStruct")
        return {
            (interpreter.id, ident): thread
            for interpreter in interpreters
            for ident, thread in read_thread_objects(
                self.memory, self.objects, interpreter, true_address, only=only
            ).items()
        }

    def _read_stacks(self, states: list[ThreadState]) -> dict[int, list[tuple[Frame, RawFrame]]]:
        """Return each thread's frames, innermost first, by the address of its thread state."""
        stacks: dict[int, list[tuple[Frame, RawFrame]]] = {state.address: [] for state in states}
        waiting = states
        for _ in range(STACK_TRIES):
            raw = walk_together(self.memory, (self._frames.walk_frames(state.content) for state in waiting))
            resolved = self._frames.resolve(stack or [] for stack in raw)
            torn = []
            for state, raw_stack, stack in zip(waiting, raw, resolved, strict=True):
                if raw_stack is None or stack is None:
                    torn.append(state)
                else:
                    stacks[state.address] = list(zip(stack, raw_stack, strict=True))
            waiting = [fresh for fresh in map(self._refresh, torn) if fresh is not None]
            if not waiting:
                break
        return stacks


def _measure_cpu(clock: CpuClock, threads: list[Thread]) -> list[Thread]:
    time.sleep(max(0.0, clock.since + CPU_SECONDS - time.monotonic()))
    return [replace(thread, cpu_percent=clock.percent(thread.tid)) for thread in threads]


def _describe_python(
    thread: Thread,
    state: ThreadState,
    thread_object: ThreadObject | None,
    frames: list[Frame],
    main_ident: int,
    holds_gil: bool,
) -> Thread:
    return replace(
        thread,
        python=True,
        ident=state.ident,
        name=thread_object.name if thread_object else None,
        daemon=thread_object.daemon if thread_object else None,
        main=thread.main or state.ident == main_ident,
        interpreter=state.interpreter.id,
        holds_gil=holds_gil,
        pool_worker=is_pool_worker(frames),
        frames=tuple(frames),
    )


def is_pool_worker(frames: Iterable[Frame]) -> bool:
    """Say whether the stack is that of a worker of ``concurrent.futures.ThreadPoolExecutor``."""
    return any(frame.function == "_worker" and frame.file.endswith("concurrent/futures/thread.py") for frame in frames)


def _check_process(pid: int) -> Status:
    status = read_status(pid)
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


def explain_permission(status: Status, pid: int, error: Exception) -> Exception:
    """Return the error with the cause found: the process ended, is another user's, or is protected."""
    try:
        current = read_status(pid)
    except NoSuchProcess as gone:
        return gone
    if current.state in "ZXx":
        return NoSuchProcess(f"process {pid} ended while we looked at it")
    if not isinstance(error, PermissionDenied):
        return UnsupportedPython(f"process {pid} maps an interpreter that cannot be read: {error}")
    uid = os.geteuid()
    if uid not in (0, status.uid):
        return PermissionDenied(
            f"process {pid} belongs to user {status.uid}, and we are user {uid}",
            hint="run threadsurgeon as that user, or as root",
        )
    return PermissionDenied(str(error), hint="run threadsurgeon as root, or with CAP_SYS_PTRACE (in a container too)")

"""``stack --native``: one thread's native and Python frames, as of one moment.

gdb stops that one thread. While it stands still its registers, the used part of its stack and its Python frames are read;
then it goes on, and the copy is unwound. Nothing is changed in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from threadsurgeon.cpython.eval_loop import EvalLoop, find_eval_loop
from threadsurgeon.cpython.runs import Run, merge, read_runs
from threadsurgeon.debugger.native_stack import hold_still, let_be
from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import NativeThread, NoSuchThread, Refused, TargetBusy
from threadsurgeon.inventory import Sighting, Target
from threadsurgeon.linux.function_names import FunctionNames
from threadsurgeon.linux.mappings import iterate_images
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.linux.process import read_thread_status
from threadsurgeon.linux.stack_copy import MAX_COPY, StackCopy, copy_stack
from threadsurgeon.linux.unwind import RIP, RSP, CannotUnwind, CodeMap, EndOfStack, Registers, as_registers, walk
from threadsurgeon.linux.unwind import NativeFrame as Unwound
from threadsurgeon.model.native import NativeCall, NativeStack
from threadsurgeon.model.threads import Frame, Thread

MAX_NATIVE_FRAMES = 20_000
# A thread may be where nothing can be followed for a moment: in the kernel's own code that is mapped into it (vDSO).
TRIES = 3
PAUSE_SECONDS = 0.003


@dataclass(frozen=True, slots=True)
class _Moment:
    """All that is read while the thread stands still."""

    registers: Registers
    copy: StackCopy
    frames: tuple[Frame, ...]
    runs: list[Run]


def read_native_stack(session: Session, pid: int, tid: int) -> NativeStack:
    """Return the thread's native and Python frames, innermost first. Native threads have only the former.

    Raises:
        Refused: the main thread.
        TargetBusy: it is stopped, or traced by another.
        ThreadsurgeonError: no such thread, not permitted, no usable gdb.
    """
    return _Reader(session, Target(pid), tid).read()


class _Reader:
    def __init__(self, session: Session, target: Target, tid: int) -> None:
        _refuse(target.pid, tid)
        self._session = session
        self._target = target
        self._tid = tid
        self._thread, self._sighting = _see(target, tid)
        # Files are opened before the stop: a library may be gone after it.
        self._code_map = CodeMap(iterate_images(target.pid))
        self._eval_loop = EvalLoop(())
        if target.runtime.layout.frame_object is not None:
            self._eval_loop = find_eval_loop(target.memory, target.runtime, self._code_map)
        self._names = FunctionNames(self._code_map, target.memory)
        self._stopped_seconds = 0.0

    def read(self) -> NativeStack:
        for last in (*[False] * (TRIES - 1), True):
            moment = self._stop()
            merged, warnings = self._merge(moment)
            if not warnings or last:
                break
            time.sleep(PAUSE_SECONDS)
        return NativeStack(
            thread=self._thread._replace(frames=moment.frames),
            merged=tuple(merged),
            stopped_seconds=round(self._stopped_seconds, 6),
            debugger=f"gdb {self._session.version}",
            warnings=tuple(warnings),
        )

    def _stop(self) -> _Moment:
        session, target, tid = self._session, self._target, self._tid
        with session.custody(target.pid, tid):
            still = hold_still(session, target.pid, tid, self._thread.start_time)
            try:
                registers = as_registers(still.registers)
                copy = copy_stack(target.memory, still.registers[RSP])
                frames, runs = self._read_python(still.thread_pointer)
            except BadAddress as error:
                raise TargetBusy(
                    f"thread {tid} is at a place where its stack cannot be read: {error}", hint="try again"
                ) from None
            finally:
                self._stopped_seconds += let_be(session, target.pid, tid)
        return _Moment(registers, copy, frames, runs)

    def _read_python(self, thread_pointer: int) -> tuple[tuple[Frame, ...], list[Run]]:
        if self._sighting is None:
            return (), []
        sighting = self._target.see(self._tid, state=self._sighting.state)
        if sighting.state.ident != thread_pointer:
            raise NoSuchThread(f"thread {self._tid} is not the Python thread {sighting.state.ident:#x} any more")
        frames = sighting.thread.frames
        layout = self._target.runtime.layout
        return frames, read_runs(self._target.memory, layout, sighting.state.address, frames, sighting.raw_frames)

    def _merge(self, moment: _Moment) -> tuple[list[Frame | NativeCall], list[str]]:
        warnings: list[str] = []
        native = self._unwind(moment, warnings)
        merged, left = merge(native, moment.runs, moment.copy, self._target.runtime.layout, self._eval_loop)
        if left:
            frames = [frame for run in left for frame in run.frames]
            warnings.append(f"between which native frames the {len(frames)} outermost Python frames are is not known")
            merged += [_UNKNOWN, *frames] if merged and merged[-1] != _UNKNOWN else frames
        return merged, warnings

    def _unwind(self, moment: _Moment, warnings: list[str]) -> Iterator[tuple[Unwound, NativeCall]]:
        reached = moment.registers[RIP]
        try:
            for frame in walk(moment.registers, self._code_map, moment.copy, MAX_NATIVE_FRAMES):
                image = frame.code.image
                yield frame, NativeCall(self._names.find(frame.code), image.file.path, frame.pc - image.bias)
                reached = frame.pc
        except EndOfStack:
            pass
        except CannotUnwind as error:
            if moment.copy.is_full:
                warnings.append(f"only the innermost {MAX_COPY >> 10} KiB of the native stack were read, to {reached:#x}")
            else:
                warnings.append(f"the native stack cannot be followed further: {error}")


_UNKNOWN = NativeCall(None, None, None)


def _refuse(pid: int, tid: int) -> None:
    if pid == tid:
        raise Refused(
            f"thread {tid} is the main thread: to trace it would stop the whole process",
            hint=f"its Python frames need no stop: threadsurgeon stack {tid}",
        )
    status = read_thread_status(tid)
    if status.state in "Tt":
        raise TargetBusy(f"process {pid} is stopped", hint=f"let it continue first: kill -CONT {pid}")


def _see(target: Target, tid: int) -> tuple[Thread, Sighting | None]:
    try:
        sighting = target.see(tid)
    except NativeThread:
        for thread in target.list_threads().threads:
            if thread.tid == tid:
                return thread, None
        raise NoSuchThread(f"thread {tid} ended") from None
    return sighting.thread, sighting

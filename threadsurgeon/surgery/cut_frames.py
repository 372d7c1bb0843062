"""Technique 3, cut: remove the native frames above the innermost Python frame, and raise there.

For threads in C code that never checks for signals. From the eval loop's view the call that it made returns with an exception
set; Python unwinds by itself from there. The removed frames never learn of it: what references, buffers and locks of their own
they held stay held. It is only done at a moment at which none of them is halfway through what other threads share.

All that takes time is looked up before the thread is stopped (``survey``). Then gdb holds the thread, we unwind its stack
from outside, and gdb changes where it goes on; it does the rest by itself after the detach.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field

from threadsurgeon.cpython.eval_loop import EXECUTABLE, EvalLoop, find_eval_loop, runs_innermost_frame
from threadsurgeon.cpython.threads import Interpreter, read_gil
from threadsurgeon.debugger.cut_frames import Hand, Seen
from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import Refused, UnsupportedPython
from threadsurgeon.inventory import Target
from threadsurgeon.linux.eh_frame import BadUnwindInfo
from threadsurgeon.linux.function_names import FunctionNames
from threadsurgeon.linux.mappings import iterate_images
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.linux.perf import perf_events_in_use
from threadsurgeon.linux.unwind import (
    CALLEE_SAVED,
    RIP,
    RSP,
    CannotUnwind,
    CodeMap,
    NativeFrame,
    as_registers,
    walk,
)
from threadsurgeon.surgery.builds import refuse_technique
from threadsurgeon.surgery.error_contract import find_contract
from threadsurgeon.surgery.interrupt import RAISE, refuse_shadow_stack
from threadsurgeon.surgery.return_chain import Chain, Pieces, find_pieces
from threadsurgeon.surgery.safe_moment import Danger, SafetyRules, is_libc
from threadsurgeon.surgery.technique import Applied, Effect, Victim

logger = logging.getLogger(__name__)

TAKE_GIL = "PyEval_RestoreThread"
TRIES = 60
# A thread that is in danger at each of so many looks is watched by hardware breakpoints until that function returns. Not
# before: should gdb be killed while they are set, the thread runs into one, and the process dies.
UNARMED_TRIES = 40
MOST_BREAKPOINTS = 4  # the processor's
# A thread that runs is looked at more often than once, and cut when its stack is no deeper than at any look before: when it is
# not inside one of the functions that its C code calls over and over, and that may have no name.
LEAST_LOOKS, MOST_LOOKS = 3, 8
DANGER_SECONDS, PASSING_SECONDS = 0.1, 0.001
DIRECTION_FLAG = 1 << 10
SYSCALL_INSTRUCTION = b"\x0f\x05"


@dataclass(frozen=True, slots=True)
class Site:
    """All that can be known of the process beforehand."""

    target: Target
    interpreter: Interpreter
    code_map: CodeMap
    names: FunctionNames
    eval_loop: EvalLoop
    rules: SafetyRules
    pieces: Pieces
    raise_: int
    take_gil: int
    contracts: dict[int, int | None] = field(default_factory=dict)


def survey(target: Target, interpreter: Interpreter) -> Site:
    """Look up everything that a cut needs, without touching the target. What is mapped later is not known to it.

    Raises:
        Refused: it would harm this build.
        UnsupportedPython: something that is needed is not there.
        NoSuchProcess: the process ended.
    """
    runtime = target.runtime
    refuse_technique(target, "cut")
    code_map = CodeMap(iterate_images(target.pid))
    eval_loop = find_eval_loop(target.memory, runtime, code_map)
    if not eval_loop.parts:
        raise UnsupportedPython("the eval loop of this Python cannot be found")
    names = FunctionNames(code_map, target.memory)
    image = runtime.image
    # Not in a library that the target may unload.
    lasting = [image, *(other for other in code_map.images if is_libc(other))]
    executable = [
        (load.address + each.bias, load.memory_size) for each in lasting for load in each.elf.loads if load.flags & EXECUTABLE
    ]
    return Site(
        target=target,
        interpreter=interpreter,
        code_map=code_map,
        names=names,
        eval_loop=eval_loop,
        rules=SafetyRules(runtime, target.memory, code_map, names),
        pieces=find_pieces(target.memory, executable),
        raise_=runtime.symbol(RAISE),
        take_gil=runtime.symbol(TAKE_GIL),
    )


@dataclass(frozen=True, slots=True)
class _Stack:
    """The native frames down to the eval loop that runs the innermost Python frame, innermost first; that one is the last."""

    frames: tuple[NativeFrame, ...]
    system_call: int | None
    backwards: bool

    @property
    def dropped(self) -> tuple[NativeFrame, ...]:
        """Those above the eval loop."""
        return self.frames[:-1]


def cut(session: Session, victim: Victim, site: Site, deadline_seconds: float) -> Applied:
    """Remove the native frames above the thread's innermost Python frame and raise there.

    The effect is ``CUT``, or ``NO_CHECK`` where the thread turned out to run bytecode. An exception that is pending already is
    taken back when it is raised.

    Leaves behind: what the removed frames held.

    Raises:
        Refused: there was no safe moment, or something about its stack makes it impossible; it goes on as it was.
        Otherwise as ``raise_async``.
    """
    refuse_shadow_stack(victim)
    with perf_events_in_use(), session.custody(victim.pid, victim.tid):
        hand = Hand(session, victim)
        seen = hand.hold()
        try:
            made = Cutter(victim, site, hand, seen).perform(time.monotonic() + deadline_seconds)
        except (Refused, BadAddress):
            hand.let_go()
            raise
        times = hand.let_go()
    return Applied(
        Effect.NO_CHECK if made is None else Effect.CUT,
        times.stopped_seconds,
        session.version,
        in_system_call=None if made is None else made.in_system_call,
        armed_seconds=times.armed_seconds,
        cut=() if made is None else made.frames,
    )


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut that was made: the removed native frames, innermost first, and whether they waited in a system call."""

    frames: tuple[str, ...]
    in_system_call: bool


class Cutter:
    """Cuts one thread that is held. It is still held afterwards, and raises as soon as it is let go."""

    def __init__(self, victim: Victim, site: Site, hand: Hand, seen: Seen) -> None:
        self._victim = victim
        self._site = site
        self._hand = hand
        self._seen = seen
        self._looks = 0
        self._shallowest = 1 << 30

    def perform(self, deadline: float) -> Cut | None:
        """Look, run a little where that is needed, look again, and cut; None where the thread runs bytecode.

        Raises:
            Refused: there was no safe moment, or something about its stack makes it impossible.
            BadAddress: its memory cannot be read.
        """
        why, in_bytecode, in_danger, tries = "no time", 0, 0, 0
        while tries < TRIES and time.monotonic() < deadline:
            tries += 1
            watched: list[int] = []
            try:
                stack = self._unwind()
                danger = self._site.rules.find_danger(stack.dropped, stack.system_call)
                if not stack.dropped:
                    why, in_bytecode = "it runs bytecode", in_bytecode + 1
                    if in_bytecode == TRIES // 4:
                        return None
                elif danger is not None:
                    why, in_danger = f"it is in {danger.what}", in_danger + 1
                    if in_danger > UNARMED_TRIES:
                        if self._comes_back(danger, deadline):
                            return self._redirect(self._unwind())
                        watched = self._returns(stack, danger.index)
                elif stack.backwards:
                    why = "it copies backwards"
                elif self._is_good_moment(stack) or in_danger > UNARMED_TRIES:
                    return self._redirect(stack)
            except CannotUnwind as error:
                why = str(error)
            self._run(watched, DANGER_SECONDS if watched else PASSING_SECONDS, deadline)
        raise Refused(f"no safe moment to cut thread {self._victim.tid} in {tries} tries: {why}", hint="try again")

    def _is_good_moment(self, stack: _Stack) -> bool:
        if stack.system_call is not None:
            return True
        self._looks += 1
        depth = len(stack.dropped)
        shallow = depth <= self._shallowest
        self._shallowest = min(depth, self._shallowest)
        return depth == 1 or (shallow and self._looks >= LEAST_LOOKS) or self._looks >= MOST_LOOKS

    def _run(self, addresses: list[int], seconds: float, deadline: float) -> None:
        """Let it run for a while, and again where it got no processor meanwhile."""
        before = self._seen
        while True:
            self._seen = self._hand.run(addresses, seconds)
            if self._seen != before or before.original_rax >= 0 or time.monotonic() >= deadline:
                break

    def _comes_back(self, danger: Danger, deadline: float) -> bool:
        """Say whether the thread has come back to where it is without entering what is dangerous: so it is not in that."""
        free = MOST_BREAKPOINTS - 1
        for first in range(0, len(danger.entries), free):
            before = self._seen
            self._run([before.registers[RIP], *danger.entries[first : first + free]], DANGER_SECONDS, deadline)
            here = all(self._seen.registers[register] == before.registers[register] for register in (RIP, RSP))
            if not here or self._seen == before:  # the same in all: it may not have run at all
                return False
        return bool(danger.entries)

    def _returns(self, stack: _Stack, index: int) -> list[int]:
        """Return where the frame at the index returns to, and those outside of it, as many as can be watched."""
        callers = stack.frames[index + 1 : index + 1 + MOST_BREAKPOINTS]
        return list(dict.fromkeys(frame.pc for frame in callers))

    def _unwind(self) -> _Stack:
        """Return the native frames of the stopped thread.

        Raises:
            CannotUnwind: they cannot be followed down to the eval loop that runs the innermost Python frame.
        """
        site, memory = self._site, self._site.target.memory
        frames: list[NativeFrame] = []
        for frame in walk(as_registers(self._seen.registers), site.code_map, memory):
            frames.append(frame)
            try:
                found = frame.code in site.eval_loop and runs_innermost_frame(
                    frame, memory, site.target.runtime.layout, self._victim.thread_state
                )
            except BadAddress:
                raise CannotUnwind("its Python frames cannot be read") from None
            if found:
                return _Stack(tuple(frames), self._system_call(frames[0].pc), bool(self._seen.flags & DIRECTION_FLAG))
        raise CannotUnwind("no eval loop on its stack")

    def _system_call(self, pc: int) -> int | None:
        if self._seen.original_rax < 0:
            return None
        try:
            before = self._site.target.memory.read(pc - 2, 2)
        except BadAddress:
            return None
        return self._seen.original_rax if before == SYSCALL_INSTRUCTION else None

    def _redirect(self, stack: _Stack) -> Cut:
        """Cut now.

        Raises:
            Refused: it cannot be told how the removed call is to report its failure, or the stack is not as expected.
        """
        site, victim = self._site, self._victim
        holds_gil = self._holds_gil()
        keep, result = self._find_cut(stack, holds_gil=holds_gil)
        caller = stack.frames[keep]
        saved = [caller.registers[register] for register in CALLEE_SAVED]
        stack_pointer, now = caller.registers[RSP], stack.frames[0].registers[RSP]
        if None in saved or stack_pointer is None or now is None:
            raise Refused(f"the registers of the code at {caller.pc:#x} cannot be restored")
        slot = stack_pointer - 8
        if int.from_bytes(site.target.memory.read(slot, 8), "little") != caller.pc:
            raise Refused(f"the return address at {slot:#x} is not {caller.pc:#x}")
        chain = Chain(site.pieces, [register or 0 for register in saved], slot)
        if not holds_gil:
            chain.call(site.take_gil, victim.thread_state)
        chain.call(site.raise_, victim.exception)
        address, content = chain.build(result, now)
        self._hand.redirect(address, content, site.pieces.pop_saved)
        return Cut(tuple(self._describe(frame) for frame in stack.frames[:keep]), stack.system_call is not None)

    def _find_cut(self, stack: _Stack, *, holds_gil: bool) -> tuple[int, int]:
        """Return the index of the frame that is to see its call fail, and what the call is to return."""
        keep = len(stack.frames) - 1
        result = self._contract(stack, keep)
        # The eval loop may call a helper whose result is of a kind of its own: the helper's own callee may be clearer. Only
        # with the GIL: further in it might be the helper itself that is about to take the GIL back.
        while result is None and holds_gil and keep > max(1, len(stack.frames) - 3):
            keep -= 1
            if stack.frames[keep].code.image.file.start != self._site.target.runtime.image.file.start:
                break
            result = self._contract(stack, keep)
        if result is None:
            called = self._describe(stack.dropped[-1])
            raise Refused(f"how {called} tells of an error to the eval loop at {stack.frames[-1].pc:#x} is not known")
        return keep, result

    def _contract(self, stack: _Stack, index: int) -> int | None:
        return_address = stack.frames[index].pc
        contracts = self._site.contracts
        if return_address not in contracts:
            function = self._site.names.find(stack.frames[index - 1].code)
            contract = find_contract(self._hand.disassemble, return_address, function, self._name_at)
            logger.debug("%s is to return %s to %#x", function, contract, return_address)
            contracts[return_address] = contract
        return contracts[return_address]

    def _name_at(self, address: int) -> str | None:
        try:
            code = self._site.code_map.find(address)
        except BadUnwindInfo:
            return None
        if code is not None and code.start == address:
            return self._site.names.find(code)
        # A stub of the procedure linkage table: jmp *x(%rip), in later versions of it behind an endbr64.
        try:
            stub = self._site.target.memory.read(address, 16)
            jump = stub.find(b"\xff\x25", 0, 8)
            if jump < 0:
                return None
            slot = address + jump + 6 + int.from_bytes(stub[jump + 2 : jump + 6], "little", signed=True)
            code = self._site.code_map.find(int.from_bytes(self._site.target.memory.read(slot, 8), "little"))
        except (BadAddress, BadUnwindInfo):
            return None
        return None if code is None else self._site.names.find(code)

    def _holds_gil(self) -> bool:
        runtime = self._site.target.runtime
        gil = read_gil(self._site.target.memory, runtime.layout.gil_runtime_state, self._site.interpreter.gil)
        return gil.holder == self._victim.thread_state

    def _describe(self, frame: NativeFrame) -> str:
        image = frame.code.image
        name = self._site.names.find(frame.code) or hex(frame.pc - image.bias)
        return f"{name} ({os.path.basename(image.file.path)})"

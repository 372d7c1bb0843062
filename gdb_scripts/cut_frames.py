"""``-ts-hold`` and what follows: hold one thread, tell its registers, let it run a bit, and at last change where it goes on.

What to change is for the session to decide, which can unwind; here a thread is only held, looked at, and let go.
"""

from __future__ import annotations

from typing import Any

import gdb

from .command import command
from .guard import select_thread
from .held import Held, in_hand, keep
from .machine import read_register, write_registers
from .system_call import EINTR, INTERRUPTED
from .victim import Victim

# By their DWARF numbers: threadsurgeon/linux/unwind.py.
REGISTERS = ("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)), "rip")
MOST_INSTRUCTIONS = 48
BLOCK_ENDS = ("jmp", "ret", "hlt", "ud2", "(bad)")


@command("-ts-hold")
def hold(*, victim: dict[str, Any]) -> dict[str, Any]:
    """Attach to the thread and keep it stopped."""
    keep(Held(Victim(**victim)))
    return look()


@command("-ts-run-to")
def run_to(*, addresses: list[int]) -> dict[str, Any]:
    """Let the held thread run to one of the addresses."""
    with in_hand() as held:
        if addresses:
            held.watch(addresses)
        held.run()
    return {}


@command("-ts-look")
def look() -> dict[str, Any]:
    """Take the breakpoints away from the stopped thread, and tell its registers."""
    with in_hand() as held:
        if not gdb.selected_inferior().threads():
            return {"exited": True, **held.release()}
        held.disarm()
        select_thread()
        frame = gdb.newest_frame()
        mask = (1 << 64) - 1
        return {
            "exited": False,
            "registers": [int(frame.read_register(name)) & mask for name in REGISTERS],
            "original_rax": int(frame.read_register("orig_rax")),
            "flags": int(frame.read_register("eflags")),
        }


@command("-ts-disassemble")
def disassemble(*, address: int) -> dict[str, Any]:
    """Return instructions, each as address and text, from that address to the next unconditional jump or return."""
    with in_hand():
        architecture = gdb.newest_frame().architecture()
        instructions: list[tuple[int, str]] = []
        while len(instructions) < MOST_INSTRUCTIONS and not (instructions and instructions[-1][1].startswith(BLOCK_ENDS)):
            for instruction in architecture.disassemble(address, count=8):
                text = str(instruction["asm"])
                instructions.append((int(instruction["addr"]), text))
                address = int(instruction["addr"]) + int(instruction["length"])
                if text.startswith(BLOCK_ENDS):
                    break
    return {"instructions": instructions}


@command("-ts-redirect")
def redirect(*, stack: int, content: str, program_counter: int) -> dict[str, Any]:
    """Put the content at the address, make that the stack pointer, and have it go on at the program counter, once it runs.

    The content must lie below what the thread uses of its stack, red zone included: until its registers are set nothing has
    changed that it could notice, should gdb be killed.
    """
    with in_hand() as held:
        select_thread()
        inferior = gdb.selected_inferior()
        inferior.write_memory(stack, bytes.fromhex(content))
        if bytes(inferior.read_memory(stack, len(content) // 2)).hex() != content:
            raise gdb.GdbError("what was written to the stack is not there")
        # With orig_rax as it was the kernel would go back to the call instruction, from wherever the thread then is.
        registers = {"orig_rax": -1, "rsp": stack, "rip": program_counter}
        if read_register("orig_rax") >= 0 and read_register("rax") in INTERRUPTED:
            registers = {"rax": -EINTR, **registers}
        held.victim.withdraw()
        write_registers(**registers)
    return {}


@command("-ts-let-go")
def let_go() -> dict[str, Any]:
    """Let the thread go on from where it is to go on."""
    with in_hand() as held:
        return held.release()

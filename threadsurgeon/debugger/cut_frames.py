"""The commands of technique 3, between which the thread stays stopped while our side decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from threadsurgeon.debugger.commands import VictimArguments, explain
from threadsurgeon.debugger.mi import GdbError
from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import NoSuchThread


@dataclass(frozen=True, slots=True)
class Seen:
    """A stopped thread: its registers by DWARF number, ``orig_rax`` and the flags."""

    registers: tuple[int, ...]
    original_rax: int
    flags: int


@dataclass(frozen=True, slots=True)
class Times:
    """How long the thread was stopped, all stops added, and how long it ran with hardware breakpoints set."""

    stopped_seconds: float
    armed_seconds: float


class Hand:
    """The hand that holds one thread, inside ``session.custody``."""

    def __init__(self, session: Session, victim: VictimArguments) -> None:
        self._session = session
        self._victim = victim

    def hold(self) -> Seen:
        """Attach and keep the thread stopped."""
        return self._seen(self._send("-ts-hold", {"victim": self._victim.as_json()}))

    def look(self) -> Seen:
        """Look at a thread that is stopped, and held by another command. Takes the breakpoints away.

        Raises:
            NoSuchThread: it ended.
        """
        return self._seen(self._send("-ts-look", {}))

    def run(self, addresses: Sequence[int], seconds: float) -> Seen:
        """Let the thread run for so long, or until it comes to one of the addresses; it is stopped again then.

        Raises:
            NoSuchThread: it ended.
        """
        self._send("-ts-run-to", {"addresses": list(addresses)})
        if self._session.wait_for_stop(seconds) is None:
            self._session.interrupt()
        return self.look()

    def disassemble(self, address: int) -> list[tuple[int, str]]:
        """Return instructions, each as address and text, from that address to the next unconditional jump or return."""
        reply = self._send("-ts-disassemble", {"address": address})
        return [(int(where), str(text)) for where, text in reply["instructions"]]

    def redirect(self, stack: int, content: bytes, program_counter: int) -> None:
        """Have the thread go on elsewhere, with another stack, once it is let go. Leaves behind: just that."""
        arguments = {"stack": stack, "content": content.hex(), "program_counter": program_counter}
        self._send("-ts-redirect", arguments)

    def let_go(self) -> Times:
        """Detach, and let the thread go on."""
        return Times(**self._send("-ts-let-go", {}, stays_attached=False))

    def _seen(self, reply: dict[str, Any]) -> Seen:
        if reply["exited"]:
            raise NoSuchThread(f"thread {self._victim.tid} ended by itself")
        return Seen(tuple(reply["registers"]), reply["original_rax"], reply["flags"])

    def _send(self, name: str, arguments: dict[str, Any], *, stays_attached: bool = True) -> dict[str, Any]:
        try:
            return self._session.command(name, arguments, stays_attached=stays_attached)
        except GdbError as error:
            raise explain(str(error), self._victim.pid, self._victim.tid) from None

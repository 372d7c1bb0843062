"""What would be done to a thread, what was done, and what was seen afterwards."""

from enum import Enum
from typing import NamedTuple

from threadsurgeon.model.threads import Frame


class Outcome(str, Enum):
    """What was seen after operating. Not being able to operate is an exception instead (see ``errors``)."""

    ENDED = "ended"
    UNWOUND = "unwound"
    SURVIVED = "survived"
    PENDING = "pending"
    TARGET_DIED = "target-died"

    @property
    def exit_status(self) -> int:
        """The exit status that tells a shell this outcome."""
        return {"ended": 0, "unwound": 0, "survived": 3, "pending": 4, "target-died": 6}[self.value]

    @property
    def is_success(self) -> bool:
        """Whether the thread no longer does what it did, and the process lives."""
        return self.exit_status == 0


class Attempt(NamedTuple):
    """One technique, tried once."""

    technique: str
    outcome: str
    seconds: float


class Rung(NamedTuple):
    """One technique that an operation may use: when it does, and what the technique may leave behind."""

    technique: str
    when: str
    leaves_behind: str


class Plan(NamedTuple):
    """What would be done to a thread and why (``--dry-run``); made by looking only.

    ``techniques`` are tried first; ``rungs`` are all that the operation may climb to, those included.
    """

    pid: int
    tid: int
    ident: int | None
    name: str | None
    exception: str
    techniques: tuple[str, ...]
    doing: str
    reason: str
    leaves_behind: str
    stack: tuple[Frame, ...]
    warnings: tuple[str, ...] = ()
    rungs: tuple[Rung, ...] = ()
    holds: tuple[str, ...] = ()


class Report(NamedTuple):
    """What was done to a thread and what was seen afterwards, from outside.

    ``stopped_seconds`` is how long the victim was stopped by us, all stops added; no other thread is ever stopped.
    ``skipped``: the frames whose ``except``, ``finally`` and ``with`` blocks were left out. ``cut``: the native frames that
    were removed, innermost first. ``debugger``: which gdb did it, as in ``gdb 13.1``; None where none was needed.
    """

    pid: int
    tid: int
    ident: int | None
    name: str | None
    outcome: Outcome
    technique: str | None
    exception: str
    attempts: tuple[Attempt, ...]
    stopped_seconds: float
    seconds: float
    process_alive: bool
    stack_before: tuple[Frame, ...]
    stack_after: tuple[Frame, ...]
    detail: str
    evidence: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    skipped: tuple[Frame, ...] = ()
    cut: tuple[str, ...] = ()
    debugger: str | None = None

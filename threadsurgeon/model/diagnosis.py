"""Whether operating would work."""

from enum import Enum
from typing import NamedTuple


class CheckStatus(str, Enum):
    """How a check of ``doctor`` came out. ``skipped``: it could not be made, and says why."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Check(NamedTuple):
    """One thing that operating depends on: the value found, and what would help where it is not as it should be."""

    name: str
    status: CheckStatus
    value: str
    remedy: str | None = None


class Diagnosis(NamedTuple):
    """Whether operating would work here, and with ``pid`` on that process; checks in the order in which to mend them."""

    pid: int | None
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether operating would work."""
        return all(check.status is not CheckStatus.FAILED for check in self.checks)

"""How long a process did not run: reads the gaps that heartbeat.c notes, less those that the whole machine had."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

CAPACITY = 65535  # as in heartbeat.c
SIZE = 8 + CAPACITY * 16


def compile_library(folder: Path) -> Path | None:
    """Compile heartbeat.c; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return None
    library = folder / "heartbeat.so"
    source = Path(__file__).with_name("heartbeat.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-lpthread"], check=True)
    return library


@dataclass(frozen=True)
class Gaps:
    """The file that the heartbeats of one process write to."""

    path: Path
    heartbeats: int = 1

    @classmethod
    def create(cls, path: Path, heartbeats: int = 1) -> Gaps:
        """Make the file, with room for so many heartbeats."""
        with path.open("wb") as file:
            file.truncate(SIZE * heartbeats)
        return cls(path, heartbeats)

    def between(self, start_seconds: float, end_seconds: float) -> list[tuple[float, float]]:
        """Read the gaps that touch a stretch of time.monotonic()."""
        found = []
        data = self.path.read_bytes()
        for number in range(self.heartbeats):
            (count,) = struct.unpack_from("Q", data, number * SIZE)
            times = struct.unpack_from(f"{2 * count}Q", data, number * SIZE + 8)
            for start, end in zip(times[::2], times[1::2], strict=True):
                if end / 1e9 > start_seconds and start / 1e9 < end_seconds:
                    found.append((start / 1e9, end / 1e9))
        return found


def longest_pause(target: Gaps, control: Gaps, start_seconds: float, end_seconds: float) -> float:
    """Return the longest gap of the target, less the time in which the control process did not run either."""
    stalls = control.between(start_seconds, end_seconds)
    pauses = [0.0]
    for start, end in target.between(start_seconds, end_seconds):
        stalled = (min(end, stall_end) - max(start, stall_start) for stall_start, stall_end in stalls)
        pauses.append(end - start - max(0.0, *stalled, 0.0))
    return max(pauses)

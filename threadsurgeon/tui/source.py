"""Source lines of frames, from the files as the target sees them."""

from __future__ import annotations

import os
import stat

# No source file that a person would look into is larger.
MOST_BYTES = 2 * 1024 * 1024


class Source:
    """Reads lines of the target's source files, each file once. A file that cannot be read has no lines."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._files: dict[str, list[str]] = {}

    def line(self, file: str, number: int | None) -> str:
        """Return one line without what surrounds it; empty where there is none."""
        if file not in self._files:
            self._files[file] = self._read(file)
        lines = self._files[file]
        return lines[number - 1].strip() if number is not None and 0 < number <= len(lines) else ""

    def _read(self, file: str) -> list[str]:
        # A target in a container or a chroot has other files by the same names.
        start = f"/proc/{self._pid}/{'root' if file.startswith('/') else 'cwd'}"
        try:
            # The name comes from the target: opening a FIFO or a device of that name must neither wait nor do anything.
            descriptor = os.open(f"{start}/{file}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except (OSError, ValueError):
            return []
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > MOST_BYTES:
                return []
            return os.read(descriptor, MOST_BYTES).decode(errors="replace").splitlines()
        except OSError:
            return []
        finally:
            os.close(descriptor)

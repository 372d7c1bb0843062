"""gdb's two pipes: a line in, a line out, each wait for one with a deadline. The end of its output is the end of gdb."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import time

from threadsurgeon.errors import DebuggerFailed

logger = logging.getLogger(__name__)

MAX_LINE = 1 << 24


class EndOfOutput(Exception):
    """gdb has ended, or is about to."""


class Channel:
    """The pipes of a gdb that was started with both."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input = process.stdin
        self._output = process.stdout
        self._poll = select.poll()
        self._poll.register(process.stdout, select.POLLIN)
        self._buffer = b""

    def send(self, line: str) -> None:
        """Write a line.

        Raises:
            EndOfOutput: nobody reads it any more.
        """
        logger.debug("to gdb: %s", line)
        try:
            self._input.write(f"{line}\n".encode())
            self._input.flush()
        except (BrokenPipeError, ValueError):
            raise EndOfOutput from None

    def read_line(self, deadline: float) -> str:
        """Return the next complete line; what is incomplete at the end of gdb's output is never looked at.

        Raises:
            TimeoutError: there was none in time.
            EndOfOutput: there will be none.
            DebuggerFailed: a line without end.
        """
        while b"\n" not in self._buffer:
            remaining = deadline - time.monotonic()
            if self._output.closed:
                raise EndOfOutput
            if remaining <= 0 or not self._poll.poll(max(1, remaining * 1000)):
                raise TimeoutError
            self._read_more()
            if len(self._buffer) > MAX_LINE:
                raise DebuggerFailed("gdb talks without end")
        line, _, self._buffer = self._buffer.partition(b"\n")
        text = line.decode(errors="replace").rstrip("\r")
        logger.debug("from gdb: %s", text)
        return text

    def _read_more(self) -> None:
        data = os.read(self._output.fileno(), 65536)
        if not data:
            raise EndOfOutput
        self._buffer += data

    def end_input(self) -> None:
        """Tell gdb that there is no more to do: it detaches and ends."""
        try:
            self._input.close()
        except OSError:
            pass

    def close(self) -> None:
        """Read no more."""
        self._output.close()

"""``python -m threadsurgeon``, and the ``threadsurgeon`` command."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run the command line."""
    try:
        status = _list_plainly(sys.argv[1:])
        if status is None:
            status = _run_command_line()
    except KeyboardInterrupt:  # before or after the command proper
        status = 130
    # Nothing is left to tidy up but memory, and the kernel is faster at that: 10 ms after listing 1,000 threads.
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # our parent closed it
                stream.flush()
        except OSError:
            pass
    os._exit(status)


def _list_plainly(arguments: list[str]) -> int | None:
    """Answer ``list --json PID``, what programs ask most, without click: importing it takes longer than the look.

    None for everything else, and where the answer is an error: the command line then says it.
    """
    if sys.stdout is None or len(arguments) != 3 or arguments[0] != "list" or "--json" not in arguments[1:]:
        return None
    pid = arguments[2] if arguments[1] == "--json" else arguments[1]
    if not (pid.isascii() and pid.isdecimal() and 0 < len(pid) < 8):
        return None
    gc.disable()  # whatever is made from here on is needed to the end
    from threadsurgeon import list_threads
    from threadsurgeon.errors import ThreadsurgeonError
    from threadsurgeon.schema import dump_listing

    try:
        text = dump_listing(list_threads(int(pid), forks=True))
    except (ThreadsurgeonError, OSError):
        gc.enable()
        return None
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"Error: the result cannot be written: {error.strerror}\n")
        return 1
    return 0


def _run_command_line() -> int:
    from threadsurgeon.cli import cli

    try:
        cli(prog_name="threadsurgeon")
    except SystemExit as end:
        if isinstance(end.code, int):
            return end.code
        if end.code is not None:
            sys.stderr.write(f"{end.code}\n")
            return 1
    return 0


if __name__ == "__main__":
    main()

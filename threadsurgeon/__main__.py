"""``python -m threadsurgeon``, and the ``threadsurgeon`` command."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line."""
    from threadsurgeon.cli import cli

    try:
        cli(prog_name="threadsurgeon")
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        # Nothing is left to tidy up but memory, and the kernel is faster at that: 10 ms after listing 1,000 threads.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)


if __name__ == "__main__":
    main()

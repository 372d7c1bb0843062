"""``python -m threadsurgeon``, and the ``threadsurgeon`` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from threadsurgeon.cli import cli

    cli(prog_name="threadsurgeon")


if __name__ == "__main__":
    main()

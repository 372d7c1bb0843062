"""The live view of ``threadsurgeon attach PID``: what to show; how it is shown is textual's business."""

from __future__ import annotations


def run(pid: int) -> None:
    """Show the threads of a process until the user leaves.

    Raises:
        ThreadsurgeonError: the process cannot be looked at; the terminal was not touched then.
    """
    from threadsurgeon.tui.app import LiveView
    from threadsurgeon.tui.process import Process

    LiveView(Process(pid)).run()

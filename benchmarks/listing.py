"""Measures how long it takes to list all threads with their Python stacks, from command line to exit."""

from __future__ import annotations

import json
from collections.abc import Callable

from benchmarks.processes import Run, Target, run, running_target, tool

SIZES = (4, 100, 1_000, 5_000, 10_000)
QUICK_SIZES = (4, 100)


def commands(target: Target, *, behind_lock: bool = False) -> dict[str, list[str]]:
    """Name the tools, none of which stops the target, and how each is run."""
    pid = str(target.pid)
    what = "locks" if behind_lock else "list"
    wanted = {
        f"threadsurgeon {what} --json": ("threadsurgeon", [what, pid, "--json"]),
        "py-spy dump --nonblocking": ("py-spy", ["dump", "--nonblocking", "--pid", pid]),
        "pystack remote --no-block": ("pystack", ["remote", "--no-block", pid]),
    }
    found = {shown: (tool(name), arguments) for shown, (name, arguments) in wanted.items()}
    return {shown: [path, *arguments] for shown, (path, arguments) in found.items() if path}


def threads_listed(shown: str, ran: Run) -> int:
    """Count the threads in what a tool printed: a fast answer that leaves threads out is no answer."""
    if shown.startswith("threadsurgeon locks"):
        return len({edge["waiter"] for edge in json.loads(ran.output)["edges"]})
    if shown.startswith("threadsurgeon"):
        return len(json.loads(ran.output)["threads"])
    return sum(line.startswith(("Thread ", "Traceback for thread ")) for line in ran.output.splitlines())


def measure(
    rounds: int, quick: bool, progress: Callable[[str], None], *, behind_lock: bool = False
) -> list[dict[str, object]]:
    """Run every tool on the same target in turn; one that fails at a size is not asked there again.

    ``behind_lock``: the target's threads wait for one lock, and ours says for whose.
    """
    rows = []
    for size in QUICK_SIZES if quick else SIZES:
        with running_target(size, behind_lock=behind_lock) as target:
            tools = commands(target, behind_lock=behind_lock)
            runs: dict[str, list[Run]] = {shown: [] for shown in tools}
            for number in range(rounds):
                for shown, command in tools.items():
                    if any(earlier.status != 0 for earlier in runs[shown]):
                        continue
                    progress(f"listing {size} threads, round {number + 1}: {shown}")
                    runs[shown].append(run(command))
            for shown, ran in runs.items():
                rows.append(
                    {
                        "tool": shown,
                        "threads": size,
                        "seconds": [one.seconds for one in ran],
                        "outcome": ran[-1].outcome,
                        "complaint": ran[-1].complaint,
                        "listed": threads_listed(shown, ran[-1]) if ran[-1].status == 0 else 0,
                        "target_lives": target.process.poll() is None,
                    }
                )
    return rows

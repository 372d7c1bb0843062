"""Turns the raw results into benchmarks/README.md."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.processes import TIME_LIMIT

METHOD = f"""\
## Method

One run of `make bench` makes all of this, the tools taking turns, so that whatever else the machine does hits all.
Times are medians, from starting the command to its end: starting Python and gdb is part of it. No run gets more than
{TIME_LIMIT:.0f} s. The target is a CPython process whose threads sleep in `time.sleep`, with small stacks.

*Pause* is what the other threads feel: the longest time in which a thread of the target that needs no GIL (C, woken
every 0.2 ms, real-time priority where that is allowed) did not run, less the time in which a second, idle process did
not run either. Its noise is a few tenths of a millisecond; gaps below 1 ms count as 0. *Before* is the same over the
0.4 s before the command. *Victim stopped* is what `threadsurgeon` itself reports.

*Others ever traced / stopped* comes from runs of their own, because looking takes time too: `TracerPid` and `State` in
`/proc/PID/task/TID/status` of the victim, the main thread and about twenty others, read over and over during the
operation. That the victim itself was seen traced shows that the looking was fast enough; where it was not, it says so.

What differs besides the time: py-spy and pystack only list threads. gdb, memray and pyrasite are here as what attaching
to the whole process costs: gdb attaches and leaves again, pyrasite runs a script that does next to nothing, memray
starts to track allocations. None of them ends a thread.

pyrasite and memray need a gdb that can call functions on the machine: gdb 13.1 cannot on some ("Couldn't
write extended state status"), pyrasite's script then does not run, and `memray attach` ended its target; gdb 17.2 can.
`threadsurgeon` makes no such calls, and works with either.

The raw results are in [results.json](results.json).
"""


def machine() -> dict[str, str]:
    """Say what all of this ran on."""
    models = [line.partition(":")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    gdb = subprocess.run(["gdb", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[0]
    facts = {
        "date": dt.date.today().isoformat(),
        "machine": f"{len(os.sched_getaffinity(0))} CPUs, {(models or [platform.machine()])[0].strip()}",
        "system": f"Linux {platform.release()}, {' '.join(platform.libc_ver())}",
        "python": f"CPython {platform.python_version()}, for the tools and the target",
        "gdb": gdb,
        "load average": f"{os.getloadavg()[0]:.1f} before the first measurement",
    }
    for name in ("threadsurgeon", "py-spy", "pystack", "memray", "pyrasite"):
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
    return facts


def milliseconds(seconds: list[float]) -> str:
    """Show the median of some durations."""
    if not seconds:
        return "?"
    value = statistics.median(seconds) * 1000
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Lay cells out as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def listing_table(rows: list[dict[str, Any]]) -> str:
    """One row a tool, one column a size."""
    sizes = sorted({row["threads"] for row in rows})
    lines = []
    for tool in dict.fromkeys(row["tool"] for row in rows):
        cells = [f"`{tool}`"]
        for size in sizes:
            row = next(row for row in rows if row["tool"] == tool and row["threads"] == size)
            if row["outcome"] != "ok":
                cells.append(f"**{row['outcome']}** after {milliseconds(row['seconds'][-1:])}")
            elif row["listed"] < size:
                cells.append(f"{milliseconds(row['seconds'])}, **{row['listed']:,} listed**")
            else:
                cells.append(milliseconds(row["seconds"]))
        lines.append(cells)
    return table(["threads", *(f"{size:,}" for size in sizes)], lines)


def complaints(rows: list[dict[str, Any]]) -> str:
    """Quote what the tools that failed said."""
    said = {(row["tool"], row["complaint"]) for row in rows if row["complaint"]}
    return "".join(f"\n- `{tool}` said: `{complaint[:200]}`" for tool, complaint in sorted(said)) + "\n" * bool(said)


def operating_row(row: dict[str, Any]) -> list[str]:
    """Show one tool among so many threads."""
    runs, watched = row["runs"], row["watched"]
    good = [one for one in runs if one["outcome"] == "ok"]
    shown = good or runs
    ended = sum(one["victim_gone"] for one in runs)
    stopped = [one["report"]["stopped_seconds"] for one in shown if one.get("report")]
    ours = row["tool"].startswith("threadsurgeon")
    died = sum(not one["target_lives"] for one in runs)
    seen = "not tried"
    if watched:
        seen = f"{watched['others_traced']} / {watched['others_stopped']} of {watched['others_watched']}"
        if ours and not watched["victim_seen_traced"]:
            seen += " (missed the victim too)"
    result = f"ended {ended} of {len(runs)}" if ours else ("ok" if good else runs[-1]["outcome"])
    if died:
        result += f", **target died** {died} of {len(runs)} times"
    return [
        f"{row['threads']:,}",
        f"`{row['tool']}`",
        milliseconds([one["seconds"] for one in shown]),
        milliseconds([one["pause"] for one in shown if "pause" in one]),
        milliseconds([one["pause_without"] for one in shown if "pause_without" in one]),
        milliseconds(stopped) if ours else "with all others",
        seen,
        result,
    ]


def write(results: dict[str, Any]) -> str:
    """Write the whole page."""
    head = ["threads", "command", "wall", "pause", "before", "victim stopped", "others ever traced / stopped", "result"]
    quick = "A quick run: few rounds, small sizes. Not for quoting.\n\n" if results["quick"] else ""
    return (
        f"# Benchmarks\n\n{quick}Written by `make bench`; do not edit.\n\n"
        + table(["", ""], [[name, value] for name, value in results["machine"].items()])
        + f"\n## Listing all threads\n\nNone of these stops the target. Medians of {results['rounds']}.\n\n"
        + listing_table(results["listing"])
        + complaints(results["listing"])
        + "\n## Who waits for whom\n\nThe same, of threads that all wait for one lock: `locks` says who holds it, the others"
        + " show stacks.\n\n"
        + listing_table(results["waiting"])
        + complaints(results["waiting"])
        + "\n## Operating on one thread\n\n`threadsurgeon cancel` ends a thread in `time.sleep`; the others attach and"
        + f" leave. Medians of {results['rounds']}, of the others 2.\n\n"
        + table(head, [operating_row(row) for row in results["operating"]])
        + complaints([{"tool": row["tool"], **one} for row in results["operating"] for one in row["runs"]])
        + "\n"
        + METHOD
    )

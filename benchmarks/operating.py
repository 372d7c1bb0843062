"""Measures an operation on one thread: how long it takes, how long the victim is stopped, what all others feel."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.heartbeat import Gaps, longest_pause
from benchmarks.processes import Run, Target, run, running_target, tool

SIZES = (4, 1_000, 5_000)
QUICK_SIZES = (4, 100)
WATCHED = 20
OURS = "threadsurgeon cancel"
PYRASITE = "pyrasite (an empty script)"


def command(shown: str, target: Target, folder: Path) -> list[str]:
    """How each tool is run: ours ends one thread, the others do as little as they can after attaching."""
    pid = str(target.pid)
    name, arguments = {
        OURS: ("threadsurgeon", ["cancel", str(target.tids[-1]), "--json"]),
        "gdb -p PID -batch": ("gdb", ["-p", pid, "-batch"]),
        "memray attach": ("memray", ["attach", "--method", "gdb", "-f", "-o", str(folder / "memray.bin"), pid]),
        PYRASITE: ("pyrasite", [pid, str(folder / "payload.py")]),
    }[shown]
    return [tool(name) or name, *arguments]


TOOLS = {
    OURS: "threadsurgeon",
    "gdb -p PID -batch": "gdb",
    "memray attach": "memray",
    PYRASITE: "pyrasite",
}


class Onlooker(threading.Thread):
    """Reads the state of the victim, the main thread and some others, round after round, as fast as it can.

    Not of all of them: a round over thousands takes longer than the victim is stopped, and would see nothing.
    """

    def __init__(self, target: Target, victim: int | None) -> None:
        super().__init__(daemon=True)
        self.target, self.victim = target, victim
        others = [tid for tid in target.tids if tid != victim]
        self.others = [target.pid, *others[:: max(1, len(others) // WATCHED)]]
        self.sweeps = 0
        self.traced: set[int] = set()
        self.stopped: set[int] = set()
        self.victim_seen_traced = False
        self._enough = threading.Event()

    def run(self) -> None:
        """Look until told that it is enough."""
        tasks = Path(f"/proc/{self.target.pid}/task")
        while not self._enough.is_set():
            for tid in [*self.others, *([self.victim] if self.victim else [])]:
                with contextlib.suppress(OSError):
                    self._look(tid, (tasks / str(tid) / "status").read_text())
            self.sweeps += 1

    def _look(self, tid: int, status: str) -> None:
        traced = "\nTracerPid:\t0\n" not in status
        stopped = "\nState:\tt" in status or "\nState:\tT" in status
        if tid == self.victim:
            self.victim_seen_traced |= traced
            return
        if traced:
            self.traced.add(tid)
        if stopped:
            self.stopped.add(tid)

    def finish(self) -> None:
        """Tell it, and wait until it has ended."""
        self._enough.set()
        self.join()


def report_of(ran: Run) -> dict[str, object]:
    """Read what threadsurgeon says about its own operation."""
    with contextlib.suppress(ValueError):
        said = json.loads(ran.output)
        return {key: said[key] for key in ("outcome", "technique", "stopped_seconds", "seconds")}
    return {}


def operate(
    shown: str, size: int, folder: Path, library: Path | None, control: Gaps, *, watched: bool
) -> dict[str, object]:
    """Run one tool once on a target of its own: timed, or else watched, because looking takes time too."""
    gaps = Gaps.create(folder / "gaps") if library else None
    proof = folder / "payload-ran"  # pyrasite ends with 0 whatever gdb did
    proof.unlink(missing_ok=True)
    (folder / "payload.py").write_text(f"open({str(proof)!r}, 'w').close()\n")
    with running_target(size, library=library, gaps=gaps) as target:
        victim = target.tids[-1] if shown == OURS else None
        onlooker = Onlooker(target, victim)
        if watched:
            onlooker.start()
            time.sleep(0.2)
        ran = run(command(shown, target, folder))
        time.sleep(0.1)
        facts: dict[str, object] = {
            "seconds": ran.seconds,
            "outcome": "failed: the script did not run" if shown == PYRASITE and not proof.exists() else ran.outcome,
            "complaint": ran.complaint,
            "victim_gone": not Path(f"/proc/{target.pid}/task/{target.tids[-1]}").exists(),
            "target_lives": target.process.poll() is None,
        }
        if shown == OURS:
            facts["report"] = report_of(ran)
        if watched:
            onlooker.finish()
            facts |= {
                "sweeps": onlooker.sweeps,
                "others_watched": len(onlooker.others),
                "others_traced": len(onlooker.traced),
                "others_stopped": len(onlooker.stopped),
                "victim_seen_traced": onlooker.victim_seen_traced,
            }
        elif gaps:
            facts["pause"] = longest_pause(gaps, control, ran.start, ran.end)
            before = ran.start - 0.4  # the target had settled by then, and nothing was done to it
            facts["pause_without"] = longest_pause(gaps, control, before, ran.start)
        return facts


def measure(
    rounds: int, quick: bool, folder: Path, library: Path | None, control: Gaps, progress: Callable[[str], None]
) -> list[dict[str, object]]:
    """Run every tool in turn, each on a fresh target; other people's twice at most, and not again after a failure."""
    rows: list[dict[str, object]] = []
    for size in QUICK_SIZES if quick else SIZES:
        found: dict[str, list[dict[str, object]]] = {shown: [] for shown, name in TOOLS.items() if tool(name)}
        for number in range(rounds):
            for shown, runs in found.items():
                if shown != OURS and (number > 1 or any(one["outcome"] != "ok" for one in runs)):
                    continue
                progress(f"operating among {size} threads, round {number + 1}: {shown}")
                runs.append(operate(shown, size, folder, library, control, watched=False))
        for shown, runs in found.items():
            progress(f"looking at all of {size} threads meanwhile: {shown}")
            healthy = shown == OURS or all(one["outcome"] == "ok" for one in runs)
            watched = operate(shown, size, folder, library, control, watched=True) if healthy else None
            rows.append({"tool": shown, "threads": size, "runs": runs, "watched": watched})
    return rows

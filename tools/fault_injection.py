"""Kills gdb, or us, at random moments of operations, and looks each time what became of the process that was operated on.

    python tools/fault_injection.py [--runs 500] [--seed 1] [--pythons 3.8,3.15] [--only kill/cut] [--jobs 2]

Each run is one sacrificial process with one stuck thread, and one ``threadsurgeon cancel`` or ``kill`` of it. SIGKILL
goes to gdb or to that command, at a moment that is uniform over the operation's length, or (every other run) over the time
in which the thread is traced. Afterwards the process must live, with no thread traced or stopped; the thread, if it is
still there, must pass every function that may have had a breakpoint; its lock must be free; other threads must tick; and
the process must end in order. The same seed tries the same cases at the same fractions of their lengths.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.zoo.patient import Patient, patient  # noqa: E402
from tests.zoo.pythons import Python, found, select  # noqa: E402
from threadsurgeon.errors import ThreadsurgeonError  # noqa: E402
from threadsurgeon.inventory import Target  # noqa: E402

# (command, what it comes to) → its options, and the ways to be stuck that lead there.
OPERATIONS: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("cancel", "raise"): ((), ("busy",)),
    ("cancel", "interrupt"): ((), ("read",)),
    ("cancel", "withdraw"): (("--timeout", "1.5"), ("sum", "call")),
    ("kill", "raise"): ((), ("busy",)),
    ("kill", "interrupt"): ((), ("read",)),
    ("kill", "cut"): (("--grace", "1.2"), ("sum", "call")),
    ("kill", "insist"): (("--grace", "1.2"), ("swallow",)),
    ("kill", "terminate"): (("--grace", "0.3", "--force", "--yes"), ("deaf",)),
}
WHO = ("gdb", "us")
MOMENTS = ("any", "traced")
PATIENCE_SECONDS = 60.0
RELEASED_SECONDS = 20.0
LOOK_SECONDS = 0.0002
SENT = re.compile(r'to gdb: (\d+)(?:-interpreter-exec console ")?-?([\w-]+)')


@dataclass(frozen=True)
class Case:
    """What is to be tried. ``fraction``: of the operation's length, or of the time in which the thread is traced."""

    number: int
    python: Python
    command: str
    technique: str
    kind: str
    who: str
    moment: str
    fraction: float

    def __str__(self) -> str:
        at = f"{self.fraction:.3f} of {'the operation' if self.moment == 'any' else 'the time traced'}"
        return f"run {self.number}: {self.python}, {self.command} of {self.kind} ({self.technique}), {self.who} killed at {at}"


@dataclass(frozen=True)
class Length:
    """How long one takes that nobody disturbs, and from when to when gdb is there."""

    seconds: float
    gdb_from: float
    gdb_to: float
    traced_seconds: float


@dataclass(frozen=True)
class Result:
    """What was seen. ``harm``: empty where the target is well. ``phase``: the last that was heard of gdb."""

    case: Case
    harm: str
    left: str
    phase: str

    @property
    def at_breakpoint(self) -> bool:
        """Whether gdb died before it had fetched the SIGTRAP of a breakpoint: the kernel then delivers it.

        Or the thread came to a breakpoint before anybody could clear its debug registers: see docs/findings.md.
        """
        return self.case.who == "gdb" and self.harm.startswith(f"died: exit status {-signal.SIGTRAP}")


class Operating:
    """Our command at work. Everything it starts carries a mark in its environment."""

    def __init__(self, subject: Patient, case: Case, log: Path) -> None:
        self._mark = f"/nonexistent/{uuid.uuid4()}"
        self._log = log
        options = OPERATIONS[case.command, case.technique][0]
        self._status = os.open(f"/proc/{subject.pid}/task/{subject.tid}/status", os.O_RDONLY)
        self.began = time.monotonic()
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "threadsurgeon", "-vv", case.command, str(subject.tid), "--json", *options],
                env={"PATH": f"{os.environ.get('PATH', os.defpath)}:{self._mark}", "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def close(self) -> None:
        """Make sure that it is over."""
        os.close(self._status)
        self.process.kill()
        self.process.wait()

    def is_traced(self) -> bool:
        """Whether the thread is traced at this moment."""
        try:
            return b"TracerPid:\t0\n" not in os.pread(self._status, 4096, 0)
        except ProcessLookupError:
            return False

    def find_gdb(self) -> int | None:
        """Return gdb's id once it was started."""
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            for child in children:
                if Path(f"/proc/{child}/comm").read_text() == "gdb\n":
                    return int(child)
        except OSError:
            pass
        return None

    def wait_for(self, moment: float) -> bool:
        """Wait until so long after the start; False if it was over sooner."""
        while (remaining := self.began + moment - time.monotonic()) > 0:
            if self.process.poll() is not None:
                return False
            time.sleep(min(remaining, 0.01))
        return self.process.poll() is None

    def wait_until_traced(self) -> bool:
        """Wait for the first time; False if it was over without."""
        while not self.is_traced():
            if self.process.poll() is not None:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def measure(self) -> Length:
        """Watch it to its end."""
        gdb_from, gdb_to, first, last = 0.0, 0.0, 0.0, 0.0
        while self.process.poll() is None:
            now = time.monotonic() - self.began
            if self.find_gdb() is not None:
                gdb_from, gdb_to = gdb_from or now, now
            if self.is_traced():
                first, last = first or now, now
            time.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - self.began
        return Length(seconds, gdb_from, gdb_to, max(last - first, 0.002))

    def left_behind(self) -> list[str]:
        """Every process that it started and that is still there, by its command line."""
        lines = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (folder / "environ").read_bytes():
                    state = re.search(r"State:\t(.)", (folder / "status").read_text())
                    where = (folder / "wchan").read_text() + " " + (folder / "syscall").read_text().strip()
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:40]
                    lines.append(f"{folder.name} {state and state[1]} {where} {line}")
            except OSError:
                continue
        return lines

    def last_phase(self) -> str:
        """Say from our log what gdb was told last, and whether it had answered."""
        text = self._log.read_text(errors="replace")
        sent = SENT.findall(text)
        if not sent:
            return "before gdb"
        token, command = sent[-1]
        if int(token) <= 2:
            return "gdb starts"
        return f"{command} {'answered' if f'from gdb: {token}^' in text else 'begun'}"


class Lengths:
    """Measures each kind of operation once, however many ask."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], Length] = {}
        self._lock = threading.Lock()

    def find(self, case: Case) -> Length:
        """Return the length of one such operation."""
        key = (case.python.name, case.command, case.technique, case.kind)
        with self._lock:
            if key not in self._known:
                with tempfile.TemporaryDirectory() as directory, patient(case.python) as subject:
                    subject.get_stuck(case.kind)
                    operating = Operating(subject, case, Path(directory, "log"))
                    try:
                        self._known[key] = operating.measure()
                    finally:
                        operating.close()
            return self._known[key]


def plan(runs: int, seed: int, pythons: Sequence[Python], only: str = "") -> list[Case]:
    """Return the runs: every operation on every interpreter in turn, each with either one killed, at either kind of moment."""
    cases = [
        (python, command, technique, who, moment)
        for moment in MOMENTS
        for who in WHO
        for command, technique in OPERATIONS
        if f"{command}/{technique}".startswith(only)
        for python in pythons
    ]
    if not cases:
        raise SystemExit("nothing to try: no such interpreter or operation")
    chosen: list[Case] = []
    randomness = random.Random(seed)
    while len(chosen) < runs:
        randomness.shuffle(cases)
        for python, command, technique, who, moment in cases[: runs - len(chosen)]:
            kind = randomness.choice(OPERATIONS[command, technique][1])
            fraction = randomness.random()
            chosen.append(Case(len(chosen), python, command, technique, kind, who, moment, fraction))
    return chosen


def representatives() -> list[Python]:
    """An old interpreter, a new one, a new one that is linked as one whole, and a debug build."""
    pythons = [python for python in found() if python.is_usual]
    shared = [python for python in pythons if python.shared and not python.debug]
    whole = [python for python in pythons if python.may_inline]
    debug = [python for python in pythons if python.debug]
    return list(dict.fromkeys([*pythons[:1], *shared[-1:], *whole[-1:], *debug[-1:]]))


def run(case: Case, lengths: Lengths) -> Result:
    """Try one."""
    length = lengths.find(case)
    with tempfile.TemporaryDirectory() as directory, patient(case.python) as subject:
        subject.get_stuck(case.kind)
        operating = Operating(subject, case, Path(directory, "log"))
        status, overdue, phase = -1, "", ""
        try:
            struck = strike(operating, case, length)
            status = operating.process.wait(PATIENCE_SECONDS)
            phase = operating.last_phase() if struck else "was over sooner"
            deadline = time.monotonic() + RELEASED_SECONDS
            while (left_behind := operating.left_behind()) and time.monotonic() < deadline:
                time.sleep(0.01)
            overdue = f"left behind: {left_behind}; " if left_behind else ""
        except subprocess.TimeoutExpired:
            overdue, phase = "our command hangs; ", operating.last_phase()
        finally:
            operating.close()
        try:
            harm, left = examine(subject, case, status)
        except (AssertionError, OSError) as error:  # of the zoo: no answer, or ended; it says how
            harm, left = " ".join(str(error).split())[:300] or type(error).__name__, ""
        return Result(case, overdue + harm, left, phase)


def strike(operating: Operating, case: Case, length: Length) -> bool:
    """Wait for the moment and send SIGKILL; False if all was over by then."""
    if case.moment == "traced":
        if not operating.wait_until_traced():
            return False
        until = time.monotonic() - operating.began + case.fraction * length.traced_seconds
    else:
        first, last = (length.gdb_from, length.gdb_to) if case.who == "gdb" else (0.0, length.seconds)
        until = first + case.fraction * (last - first)
    if not operating.wait_for(until):
        return False
    number = operating.process.pid if case.who == "us" else operating.find_gdb()
    if number is None:
        return False
    try:
        os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def examine(subject: Patient, case: Case, status: int) -> tuple[str, str]:
    """Return what is wrong with the process, or nothing, and what became of the thread."""
    deadline = time.monotonic() + RELEASED_SECONDS
    while traced := subject.traced_or_stopped():
        if time.monotonic() > deadline:
            return f"threads {traced} are still traced or stopped", ""
        time.sleep(0.002)
    died = subject.process.process.poll()
    if died is not None:
        return f"died: exit status {died}; {subject.process.stderr[-300:]}", ""
    pending = is_pending(subject)
    facts = subject.release()
    unwound = case.technique != "terminate" or facts["tidied"]  # a thread that was terminated leaves its lock, as documented
    expected = {"joined": True, "free": unwound, "ticked": True, "tidied": unwound}
    wrong = {name: facts[name] for name, value in expected.items() if facts[name] != value}
    if wrong:
        return f"afterwards {json.dumps(wrong)}", ""
    subject.process.finish()
    if pending and case.who == "gdb" and status != 0:
        return "the exception was left pending", ""
    return "", "went on" if facts["passed"] else "ended"


def is_pending(subject: Patient) -> bool:
    """Say whether an exception still waits to be raised in the thread."""
    try:
        target = Target(subject.pid)
        offset = target.runtime.layout.thread_state.async_exc
        return target.see(subject.tid).state.content[offset : offset + 8] != bytes(8)
    except ThreadsurgeonError:
        return False  # it is gone


def summarise(results: Sequence[Result]) -> str:
    """Return the tables: survivors by operation and by interpreter, then what gdb was at when the blow fell."""
    lines = ["| operation | gdb killed | we killed |", "|---|---|---|"]
    for command, technique in OPERATIONS:
        of = [r for r in results if (r.case.command, r.case.technique) == (command, technique)]
        lines.append(f"| `{command}`, {technique} | " + " | ".join(_ratio(of, who) for who in WHO) + " |")
    lines.append("| all | " + " | ".join(_ratio(results, who) for who in WHO) + " |")
    lines += ["", "| interpreter | gdb killed | we killed |", "|---|---|---|"]
    for name in dict.fromkeys(sorted(r.case.python.name for r in results)):
        of = [r for r in results if r.case.python.name == name]
        lines.append(f"| {name} | " + " | ".join(_ratio(of, who) for who in WHO) + " |")
    phases = Counter((r.case.who, r.phase) for r in results)
    lines += ["", "| killed | the last that we told gdb | runs |", "|---|---|---|"]
    lines += [f"| {who} | {phase} | {count} |" for (who, phase), count in sorted(phases.items())]
    left = Counter(r.left for r in results if not r.harm)
    lines += ["", "the thread: " + ", ".join(f"{what} {count}" for what, count in sorted(left.items()))]
    return "\n".join(lines)


def _ratio(results: Sequence[Result], who: str) -> str:
    of = [result for result in results if result.case.who == who]
    return f"{sum(not result.harm for result in of)} of {len(of)}"


def try_all(cases: Sequence[Case], jobs: int, *, quiet: bool = False) -> list[Result]:
    """Try them, so many at a time, and tell of each harm at once."""
    lengths = Lengths()
    results = []
    with ThreadPoolExecutor(jobs) as pool:
        for result in pool.map(lambda case: run(case, lengths), cases):
            results.append(result)
            if result.harm and not quiet:
                print(f"HARM: {result.case}; {result.phase}: {result.harm}", flush=True)
    return results


def main() -> None:
    """Try, tell, and fail if one was harmed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=112)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pythons", default="", help="those that match, such as 3.8,3.14 (default: one of each kind)")
    parser.add_argument("--only", default="", metavar="COMMAND/TECHNIQUE", help="such as kill/cut")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    pythons = [p for p in select(options.pythons) if p.is_usual] if options.pythons else representatives()
    began = time.monotonic()
    results = try_all(plan(options.runs, options.seed, pythons, options.only), options.jobs)
    print(summarise(results))
    harmed = sum(bool(result.harm) for result in results)
    trapped = sum(result.at_breakpoint for result in results)
    print(f"\n{len(results)} runs, {harmed} harmed ({trapped} at a breakpoint when gdb died)", end=", ")
    print(f"seed {options.seed}, {time.monotonic() - began:.0f} s")
    sys.exit(harmed > 0)


if __name__ == "__main__":
    main()

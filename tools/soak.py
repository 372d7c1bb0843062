"""Ends one thread of one process after the other while that process is busy, and looks whether it stays well.

    python tools/soak.py [--operations 1000] [--seed 1] [--pythons 3.8,3.14] [--jobs 2]

The process meanwhile starts and ends threads, loads and unloads a library, forks, collects garbage, and sends signals to
each of its own threads, those included that are operated on. ``cancel`` and ``kill`` come in random order, each through
whichever technique the thread calls for, in between operations that are given up on: a thread that cannot be reached in
the time is left alone, and has to go on as if nothing had been. After each the thread must be joinable, its ``finally``
must have run, its lock must be free, and other threads must tick; at last the process must end with status 0.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.zoo.patient import CODE, Patient  # noqa: E402
from tests.zoo.pythons import Python, select  # noqa: E402
from tests.zoo.script import script  # noqa: E402
from threadsurgeon.debugger.session import Session  # noqa: E402
from threadsurgeon.errors import DebuggerError, ThreadsurgeonError  # noqa: E402
from threadsurgeon.model.operations import Outcome, Report  # noqa: E402
from threadsurgeon.surgery.ladder import Policy  # noqa: E402
from threadsurgeon.surgery.operation import Operation  # noqa: E402

# What keeps the process busy. The main thread's end is the sign to stop.
LOAD = """
import _ctypes, ctypes, gc, glob, signal, sysconfig
signal.signal(signal.SIGUSR1, lambda number, frame: None)
signal.signal(signal.SIGALRM, lambda number, frame: None)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
tgkill = ctypes.CDLL(None).syscall
libraries = sorted(glob.glob(sysconfig.get_config_var("DESTSHARED") + "/_lsprof*.so")) or ["libBrokenLocale.so.1"]

def start_and_end():
    for thread in [threading.Thread(target=time.sleep, args=(0.001,)) for _ in range(3)]:
        thread.start()

def load_and_unload():
    _ctypes.dlclose(_ctypes.dlopen(libraries[0], 2))

def fork():
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)

def collect():
    for _ in range(20):
        ring = []
        ring.append(ring)
    gc.collect()

def signal_all():
    for name in os.listdir("/proc/self/task"):
        tgkill(234, os.getpid(), int(name), signal.SIGUSR1)  # tgkill: harmless where the thread has ended

def forever(work, pause):
    while threading.main_thread().is_alive():
        work()
        time.sleep(pause)

def ring():
    try:
        forever(signal_all, 0.05)
    finally:  # the interpreter's end takes its handlers away
        signal.setitimer(signal.ITIMER_REAL, 0)

threading.Thread(target=ring).start()
for work, pause in [(start_and_end, 0.02), (load_and_unload, 0.01), (fork, 0.1), (collect, 0.02)]:
    threading.Thread(target=forever, args=(work, pause)).start()
"""

# (command, the way to be stuck) → how often among a hundred.
MIXTURE = {
    ("cancel", "busy"): 20,
    ("cancel", "read"): 20,
    ("cancel", "sum"): 10,  # given up on
    ("kill", "busy"): 15,
    ("kill", "read"): 15,
    ("kill", "sum"): 12,
    ("kill", "swallow"): 8,
}
UNREACHABLE = ("cancel", "sum")
SECONDS, SHORT_SECONDS = 5.0, 1.2
CPU_SECONDS = 3000
# A gdb does not last for ever in practice either; starting one for each operation would be most of the time.
OPERATIONS_PER_GDB = 50
# Until then the process still grows by itself: caches, arenas of its allocators, stacks of its threads.
WARM_UP = 0.2
MOST_SHOWN = 20


@dataclass
class Course:
    """What happened to one process."""

    python: Python
    done: int = 0
    techniques: Counter[str] = field(default_factory=Counter)
    given_up: int = 0
    missed: list[str] = field(default_factory=list)
    harm: list[str] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def kib_per_operation(self) -> float:
        """How much the process grew, once it had warmed up."""
        tail = self.resident[int(len(self.resident) * WARM_UP) :]
        return (tail[-1] - tail[0]) / max(1, len(tail) - 1) if tail else 0.0

    def __str__(self) -> str:
        ended = ", ".join(f"{name} {count}" for name, count in sorted(self.techniques.items()))
        stop = statistics.median(self.stops) * 1000 if self.stops else 0.0
        return (
            f"{self.python}: {self.done} operations in {self.seconds:.0f} s; ended by {ended}; given up {self.given_up}, "
            f"missed {len(self.missed)}, harmed {len(self.harm)}; {self.resident[0] if self.resident else 0} to "
            f"{self.resident[-1] if self.resident else 0} KiB, {self.kib_per_operation:+.2f} per operation; "
            f"median stop {stop:.1f} ms"
        )


def soak(python: Python, operations: int, seed: int) -> Course:
    """Operate that often on one process, unless it is harmed."""
    course = Course(python)
    randomness = random.Random(seed)
    began = time.monotonic()
    try:
        with script(python, LOAD + CODE, cpu_seconds=CPU_SECONDS) as process:
            patient = Patient(python, process)
            try:
                while course.done < operations:
                    with Session.start() as session:
                        for _ in range(min(OPERATIONS_PER_GDB, operations - course.done)):
                            (command, kind) = randomness.choices(list(MIXTURE), list(MIXTURE.values()))[0]
                            if not operate(session, patient, command, kind, course):
                                break
                process.finish()
            except (AssertionError, OSError) as error:  # of the zoo: it does not answer, or ended, or not in order
                what = " ".join(str(error).split())[:400] or type(error).__name__
                course.harm.append(f"operation {course.done}: {what}; exit status {process.process.poll()}")
                course.harm += describe_tasks(process.pid)
    except AssertionError as error:
        course.harm.append(f"did not start: {error}")
    course.seconds = time.monotonic() - began
    return course


def describe_tasks(pid: int) -> list[str]:
    """Say what the kernel knows of each thread of a process that does not answer."""
    lines = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        try:
            status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
            facts = [status["State"], f"traced by {status['TracerPid']}", f"pending {status['SigPnd']} {status['ShdPnd']}"]
            lines.append(f"    {task.name}: {', '.join(facts)}, {(task / 'syscall').read_text().strip()}")
        except OSError:
            continue
    return lines


def operate(session: Session, patient: Patient, command: str, kind: str, course: Course) -> bool:
    """Operate on one thread, and note what was seen; False if gdb is no longer of use."""
    course.done += 1
    patient.get_stuck(kind)
    reachable = (command, kind) != UNREACHABLE
    seconds = SECONDS if command == "cancel" and reachable else SHORT_SECONDS
    policy = Policy(timeout_seconds=seconds, climb=command == "kill")
    report: Report | None = None
    usable = True
    try:
        report = Operation(patient.pid, patient.tid, policy).run(session)
        result = f"{report.outcome.value}: {report.detail}"
        course.stops.append(report.stopped_seconds)
    except ThreadsurgeonError as error:
        result = f"{type(error).__name__}: {error}"
        usable = not isinstance(error, DebuggerError)
    ended = report is not None and report.outcome is Outcome.ENDED
    facts = patient.join() if ended else release(patient, kind)
    wrong = {name: facts[name] for name in ("joined", "free", "ticked", "tidied") if not facts[name]}
    if ended and facts["passed"]:
        wrong["passed"] = True
    if wrong:
        course.harm.append(f"operation {course.done}, {command} of {kind}, {result}: {wrong}")
    if report is not None and ended:
        course.techniques[report.technique or "nothing"] += 1
    elif reachable:
        course.missed.append(f"operation {course.done}, {command} of {kind}: {result}")
    else:
        course.given_up += 1
    course.resident.append(patient.resident_kib())
    return usable


def release(patient: Patient, kind: str) -> dict[str, bool]:
    """End a thread that was not ended, without a debugger; the next one is to get stuck again."""
    control = os.open(f"/proc/{patient.pid}/cwd/control", os.O_WRONLY)
    try:
        os.pwrite(control, b"\1", 0)
        if kind in ("read", "swallow") and patient.is_there():  # what nobody reads would be there for the next one
            patient.process.tell("let go")
        return patient.join()
    finally:
        os.pwrite(control, b"\0", 0)
        os.close(control)


def soak_all(pythons: Sequence[Python], operations: int, seed: int, jobs: int) -> list[Course]:
    """Soak so many at a time, and tell of each at once."""
    courses = []
    with ThreadPoolExecutor(jobs) as pool:
        for course in pool.map(lambda python: soak(python, operations, seed), pythons):
            courses.append(course)
            missed = course.missed[:MOST_SHOWN] + ["…"] * (len(course.missed) > MOST_SHOWN)
            print("\n    ".join([str(course), *missed, *(f"HARM: {harm}" for harm in course.harm)]), flush=True)
    return courses


def main() -> None:
    """Soak, tell, and fail if one was harmed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pythons", default="", help="those that match, such as 3.8,3.14 (default: all with a GIL)")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    pythons = [python for python in select(options.pythons) if python.is_usual]
    if not pythons:
        raise SystemExit("no such interpreter")
    courses = soak_all(pythons, options.operations, options.seed, options.jobs)
    sys.exit(any(course.harm for course in courses))


if __name__ == "__main__":
    main()

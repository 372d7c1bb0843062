"""One listing, plan and report, to be shown in each of our ways."""

from threadsurgeon.model.operations import Attempt, Outcome, Plan, Report
from threadsurgeon.model.threads import Frame, Listing, Python, Thread

FRAMES = (Frame("wait", "/usr/lib/python3.12/threading.py", 359), Frame("new", "/app/main.py", None))
MAIN = Thread(
    tid=4711,
    namespace_tid=4711,
    start_time=100,
    native_name="python3",
    state="sleeping",
    cpu_seconds=1.25,
    cpu_percent=0.0,
    main=True,
    python=True,
    ident=0x7F0000000001,
    name="MainThread",
    daemon=False,
    interpreter=0,
    frames=(Frame("main", "/app/main.py", 10),),
)
WAITING = Thread(
    tid=4712,
    namespace_tid=4712,
    start_time=101,
    native_name="python3",
    state="running",
    cpu_seconds=61.0,
    cpu_percent=99.6,
    main=False,
    python=True,
    ident=0x7F0000000002,
    name="worker",
    daemon=True,
    interpreter=0,
    holds_gil=True,
    pool_worker=True,
    frames=FRAMES,
)
NATIVE = Thread(
    tid=4713,
    namespace_tid=4713,
    start_time=102,
    native_name="gmain",
    state="sleeping",
    cpu_seconds=0.0,
    cpu_percent=None,
    main=False,
)
LISTING = Listing(4711, Python("3.12.1", "release", "/usr/bin/python3.12"), (MAIN, WAITING, NATIVE), 4712)
PLAN = Plan(
    pid=4711,
    tid=4712,
    ident=0x7F0000000002,
    name="worker",
    exception="TimeoutError",
    techniques=("raise", "interrupt"),
    doing="running, at wait (/usr/lib/python3.12/threading.py:359)",
    reason="it runs",
    leaves_behind="nothing",
    stack=FRAMES,
    warnings=("mind the gap",),
)
REPORT = Report(
    pid=4711,
    tid=4712,
    ident=0x7F0000000002,
    name="worker",
    outcome=Outcome.ENDED,
    technique="interrupt",
    exception="SystemExit",
    attempts=(Attempt("raise", "not noticed", 0.1), Attempt("interrupt", "ended", 0.2)),
    stopped_seconds=0.0123,
    seconds=0.5,
    process_alive=True,
    stack_before=FRAMES,
    stack_after=(),
    detail="the thread is gone; it was in wait",
    evidence=("the process lives", "the GIL goes round"),
)


def replace(record, **changes):
    """Return the record with other values in some fields."""
    return record._replace(**changes)

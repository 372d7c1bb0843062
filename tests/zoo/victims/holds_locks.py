"""Stuck while it holds locks in one of many ways, which it tells: what a thread that is ended leaves behind."""

import contextlib
import os
import threading

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"interrupt": "ended"}

LOCK, RLOCK = "_thread.lock", "_thread.RLock"
GATE = threading.Lock()  # the main thread holds it: here the victim gets stuck

SCENARIOS = {}
_truths = {}  # by scenario
_mine = threading.local()


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def tell(blocks=(), locks=(), handling=(), generators=(), waits=False, unused=None):
    """Say what is true now. Blocks: (function, type, object); locks: (type, object, times)."""
    _mine.truth.update(
        told=True,
        blocks=[[function, kind, id(one)] for function, kind, one in blocks],
        locks=[[kind, id(one), times] for kind, one, times in locks],
        handling=list(handling),
        generators=list(generators) or [None] * len(blocks),
        waits=waits,
    )


def stuck(*arguments, **more):
    tell(*arguments, **more)
    GATE.acquire()


@scenario
def spins():
    """In one block all the while, in another one at times."""
    lock, other = threading.Lock(), threading.Lock()
    number = 0
    with lock:
        tell([("spins", LOCK, other), ("spins", LOCK, lock)], [(LOCK, lock, 1)])
        while True:
            with other:
                number += 1


@scenario
def runs_through():
    """In a block now and then; what is never taken stands in the same places of the stack: exits of others' locks."""
    mine, others, rlock = threading.Lock(), threading.Lock(), threading.RLock()
    others.acquire()
    tell([("runs_through", LOCK, mine)])
    number = 0
    while True:
        with mine:
            number += 1
        others.__exit__
        rlock.__exit__
        for _ in "xy":
            with mine:
                number += 1
            (others.__exit__, rlock.__exit__)
        try:
            with mine:
                pass
        finally:
            [rlock.__exit__ for _ in "x"]


@scenario
def one():
    lock = threading.Lock()
    with lock:
        stuck([("one", LOCK, lock)], [(LOCK, lock, 1)])


@scenario
def two_in_one_line():
    first, second = threading.Lock(), threading.RLock()
    with first, second as taken:
        stuck(
            [("two_in_one_line", RLOCK, second), ("two_in_one_line", LOCK, first)],
            [(RLOCK, second, 1), (LOCK, first, 1)],
            unused=taken,
        )


@scenario
def nested_functions():
    outer, inner = threading.Lock(), threading.Lock()

    def deeper():
        with inner:
            stuck([("deeper", LOCK, inner), ("nested_functions", LOCK, outer)], [(LOCK, inner, 1), (LOCK, outer, 1)])

    with outer:
        deeper()


@scenario
def reentered():
    lock = threading.RLock()
    with lock:
        with lock:
            with lock:
                stuck([("reentered", RLOCK, lock)] * 3, [(RLOCK, lock, 3)])


@scenario
def condition():
    one = threading.Condition()
    with one:
        stuck([("condition", "threading.Condition", one)], [(RLOCK, one._lock, 1)])


@scenario
def condition_with_plain_lock():
    one = threading.Condition(threading.Lock())
    with one:
        stuck([("condition_with_plain_lock", "threading.Condition", one)], [(LOCK, one._lock, 1)])


class OwnCondition(threading.Condition):
    pass


@scenario
def subclass():
    one = OwnCondition()
    with one:
        stuck([("subclass", "__main__.OwnCondition", one)], [(RLOCK, one._lock, 1)])


@scenario
def waits_on_condition():
    """The lock is given up, and another thread has it."""
    one = threading.Condition(threading.Lock())
    with one:
        will_wait([("waits_on_condition", "threading.Condition", one)], one._lock)
        one.wait()


@scenario
def waits_with_the_lock():
    lock = threading.Lock()
    one = threading.Condition(lock)
    with lock:
        will_wait([("waits_with_the_lock", LOCK, lock)], lock)
        one.wait()


@scenario
def waits_on_condition_with_rlock():
    one = threading.Condition()
    with one:
        with one:
            will_wait([("waits_on_condition_with_rlock", "threading.Condition", one)] * 2, one._lock)
            one.wait()


def will_wait(blocks, lock):
    """Say what is true while the victim waits, and let another thread have the lock meanwhile."""

    def take():
        lock.acquire()
        truth["told"] = True
        threading.Event().wait()

    tell(blocks, waits=True)
    truth = _mine.truth
    truth["told"] = False
    threading.Thread(target=take, name="taker", daemon=True).start()


@scenario
def semaphore():
    one = threading.BoundedSemaphore(2)
    with one:
        stuck([("semaphore", "threading.BoundedSemaphore", one)])


@scenario
def file():
    with open(os.devnull) as one:
        stuck([("file", "_io.TextIOWrapper", one)])


@scenario
def in_a_loop():
    locks = [threading.Lock() for _ in range(4)]
    for index, lock in enumerate(locks):
        with lock:
            if index == 2:
                stuck([("in_a_loop", LOCK, lock)], [(LOCK, lock, 1)])


@scenario
def left():
    """Nothing any more; what is on the stack is what was there."""
    first, second = threading.Lock(), threading.RLock()
    with first:
        pass
    with second:
        with first:
            pass
    first.acquire()
    stuck()


@scenario
def left_by_exception():
    lock = threading.Lock()
    try:
        with lock:
            raise KeyError
    except KeyError:
        pass
    lock.acquire()
    stuck()


@scenario
def entering():
    """It waits for the lock: it does not have it."""
    lock = threading.Lock()
    lock.acquire()
    tell()
    with lock:
        raise AssertionError


@scenario
def released_inside():
    lock = threading.Lock()
    with lock:
        lock.release()
        stuck([("released_inside", LOCK, lock)])


@scenario
def acquired():
    """Without ``with``: an RLock that is a local variable tells its owner, a lock tells nothing."""
    lock, rlock = threading.Lock(), threading.RLock()
    lock.acquire()
    rlock.acquire()
    rlock.acquire()
    stuck([], [(RLOCK, rlock, 2)])


class Worker:
    def __init__(self):
        self.name = "worker"
        self.lock = threading.RLock()
        self.free = threading.RLock()

    def works(self):
        self.lock.acquire()
        stuck([], [(RLOCK, self.lock, 1)])


@scenario
def acquired_attribute():
    Worker().works()


@scenario
def of_another_thread():
    rlock = threading.RLock()
    thread = threading.Thread(target=rlock.acquire)
    thread.start()
    thread.join()
    stuck()


@contextlib.contextmanager
def holding(lock):
    with lock:
        yield lock


@contextlib.contextmanager
def holding_twice(manager, second):
    with manager as taken:
        with second:
            yield taken


@scenario
def generator_based():
    lock = threading.Lock()
    manager = holding(lock)
    with manager:
        stuck(
            [("generator_based", LOCK, lock), ("generator_based", "contextlib._GeneratorContextManager", manager)],
            [(LOCK, lock, 1)],
            generators=["holding", None],
        )


@scenario
def generators_nested():
    first, second = threading.Lock(), threading.RLock()
    inner = holding(first)
    manager = holding_twice(inner, second)
    with manager:
        stuck(
            [
                ("generators_nested", RLOCK, second),
                ("generators_nested", LOCK, first),
                ("generators_nested", "contextlib._GeneratorContextManager", inner),
                ("generators_nested", "contextlib._GeneratorContextManager", manager),
            ],
            [(RLOCK, second, 1), (LOCK, first, 1)],
            generators=["holding_twice", "holding", "holding_twice", None],
        )


@scenario
def in_a_generator():
    lock = threading.Lock()

    def numbers():
        with lock:
            yield 1
            stuck([("numbers", LOCK, lock)], [(LOCK, lock, 1)])
            yield 2

    for _ in numbers():
        pass


@scenario
def in_except():
    lock = threading.Lock()
    try:
        raise KeyError
    except KeyError as error:
        with lock:
            stuck([("in_except", LOCK, lock)], [(LOCK, lock, 1)], ["in_except"], unused=error)


@scenario
def in_finally_with_exception():
    lock = threading.Lock()
    with lock:
        try:
            raise KeyError
        finally:
            stuck([("in_finally_with_exception", LOCK, lock)], [(LOCK, lock, 1)], ["in_finally_with_exception"])


@scenario
def in_finally():
    """Without an exception nothing tells it from other code."""
    lock = threading.Lock()
    try:
        lock.acquire()
    finally:
        stuck()


class Slow:
    def __enter__(self):
        return self

    def __exit__(self, *exception):
        stuck([], [], ["exits_by_exception"] if exception[0] else [])


@scenario
def exits_by_exception():
    with Slow():
        raise KeyError


@scenario
def exits():
    with Slow():
        pass


class Plain:
    def __enter__(self):
        self.lock = threading.Lock()
        self.lock.acquire()
        return self

    def __exit__(self, *exception):
        self.lock.release()


@scenario
def own_class():
    one = Plain()
    with one:
        stuck([("own_class", "__main__.Plain", one)])


class Odd:
    __enter__ = staticmethod(lambda: None)
    __exit__ = staticmethod(lambda *exception: None)


@scenario
def exit_is_no_method():
    with Odd():
        stuck([("exit_is_no_method", "function", Odd.__exit__)])


@scenario
def handled_before():
    try:
        raise KeyError
    except KeyError:
        pass
    stuck()


@scenario
def mixed(*arguments, **more):
    """Blocks within blocks, with variables that inner functions share."""
    first, second, third = threading.Lock(), threading.RLock(), threading.Lock()

    def shares():
        return first, third, arguments, more

    try:
        for _ in range(2):
            with first:
                try:
                    with second:
                        while True:
                            try:
                                raise KeyError
                            except ValueError:
                                pass
                            except KeyError:
                                try:
                                    with third:
                                        [
                                            stuck(
                                                [("mixed", LOCK, third), ("mixed", RLOCK, second), ("mixed", LOCK, first)],
                                                [(LOCK, third, 1), (RLOCK, second, 1), (LOCK, first, 1)],
                                                ["mixed"],
                                            )
                                            for _ in "x"
                                        ]
                                finally:
                                    shares()
                finally:
                    shares()
    finally:
        shares()


def perform(name):
    _mine.truth = _truths[name] = {"tid": threading.get_native_id(), "told": False}
    SCENARIOS[name]()


def victim():
    perform(os.environ.get("SCENARIO", "one"))


def more():
    return {"truths": _truths, "own": id(_backchannel.OWN_LOCK)}


GATE.acquire()
if "ALL" in os.environ:
    for name in sorted(set(SCENARIOS) - {"one", "spins", "runs_through"}):
        threading.Thread(target=perform, args=(name,), name=name, daemon=True).start()
_backchannel.run(victim, more=more)

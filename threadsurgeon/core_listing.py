"""The threads of a process as its core file shows them: the same readers as for a living one, over another memory."""

from __future__ import annotations

import os

from threadsurgeon.cpython.interior import Interior, choose_states, is_pool_worker
from threadsurgeon.cpython.runtime import find_runtime
from threadsurgeon.cpython.threads import list_interpreters, list_thread_states, read_main_ident
from threadsurgeon.errors import AmbiguousThread, NoSuchThread, NotPython, UnreadableCore, UnreadableTarget
from threadsurgeon.linux.core_file import CoreFile
from threadsurgeon.linux.mappings import resembles_interpreter
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.model.threads import Listing, Python, Thread

MOST_NAMED = 3


def list_core(path: str) -> Listing:
    """Return every thread that the process had when its core was written.

    Raises:
        UnreadableCore: it is no core file, or too much of it, or of the files that were mapped, is missing.
        NotPython: there was no CPython in it.
        UnsupportedPython: there was one that we do not know.
    """
    core = CoreFile(path)
    try:
        return _list(core)
    except NotPython as error:
        raise _explain_absence(core, error) from None
    except (BadAddress, UnreadableTarget) as error:
        missing = f"it lacks {core.missing} bytes at its end" if core.missing else "not enough was dumped"
        raise UnreadableCore(
            f"the Python structures in {path} cannot be read ({missing}): {error}",
            hint="before the next dump: ulimit -c unlimited, and 0x33 in /proc/PID/coredump_filter",
        ) from None


def find_in_core(path: str, designation: str) -> Thread:
    """Return the thread of a core file with that TID, Python ident or name.

    Raises:
        NoSuchThread: there is none.
        AmbiguousThread: more than one has that name.
        ThreadsurgeonError: as ``list_core``.
    """
    threads = list_core(path).threads
    number = int(designation, 0) if designation.isascii() and designation[:1].isdigit() and designation.isalnum() else None
    matches = [t for t in threads if t.tid == number] or [
        t for t in threads if (number is not None and t.ident == number) or t.name == designation
    ]
    if not matches:
        raise NoSuchThread(
            f"{path} has no thread with the TID, ident or name {designation!r}", hint=f"threadsurgeon list --core {path}"
        )
    if len(matches) > 1:
        tids = ", ".join(str(thread.tid) for thread in matches[:10])
        raise AmbiguousThread(f"{len(matches)} threads of {path} are named {designation!r}", hint=f"choose one: {tids}")
    return matches[0]


def _list(core: CoreFile) -> Listing:
    runtime = find_runtime(core, core.images)
    interior = Interior(core, runtime)
    interpreters = list_interpreters(core, runtime)
    states = list_thread_states(core, runtime, interpreters)
    by_ident = {thread.pthread: thread.tid for thread in core.threads}
    tids = {state.address: by_ident[state.ident] for state in states if state.ident in by_ident}
    stacks = interior.read_stacks(states)
    by_tid = choose_states(states, tids, stacks)
    main_ident = read_main_ident(core, runtime)
    holders = interior.find_holders(interpreters)
    names = interior.read_names(interpreters)
    threads = []
    for seen in core.threads:
        leader = seen.tid == core.pid
        thread = Thread(
            tid=seen.tid,
            namespace_tid=seen.tid,
            start_time=0,
            native_name=core.name if leader else "",
            state="",
            cpu_seconds=None if leader else seen.cpu_seconds,  # the kernel notes the whole process's with the leader
            cpu_percent=None,
            main=leader,
        )
        state = by_tid.get(seen.tid)
        if state is not None:
            known = names.get((state.interpreter.id, state.ident))
            frames = stacks[state.address].frames
            thread = thread._replace(
                main=leader or state.ident == main_ident,
                python=True,
                ident=state.ident,
                name=known.name if known else None,
                daemon=known.daemon if known else None,
                interpreter=state.interpreter.id,
                holds_gil=state.address in holders,
                pool_worker=is_pool_worker(frames),
                frames=frames,
            )
        threads.append(thread)
    threads.sort(key=lambda thread: (not thread.main, thread.tid))
    return Listing(
        pid=core.pid,
        python=Python(runtime.version, runtime.build, runtime.image.file.path),
        threads=tuple(threads),
        gil_holder=next((thread.tid for thread in threads if thread.holds_gil), None),
        warnings=tuple(filter(None, (runtime.problem, *_warn(core, threads)))),
        core=core.path,
    )


def _warn(core: CoreFile, threads: list[Thread]) -> list[str]:
    warnings = []
    bare = [str(thread.tid) for thread in threads if thread.python and not thread.frames]
    if bare:
        # gcore of gdb 13 gives up a stack at its guard pages where those are part of its mapping (glibc 2.42, Linux 6.13),
        # says "Memory read failed for corefile section", and leaves zeroes.
        warnings.append(
            f"no Python frames are found for {', '.join(bare[:MOST_NAMED])}{' and others' if len(bare) > MOST_NAMED else ''}: "
            "they had none, or their stacks are not in the core (gcore may leave them out, and says so)"
        )
    if core.missing:
        warnings.append(f"the core file is truncated: {core.missing} bytes are missing at its end, and threads may be, too")
    if core.unused:
        shown = "; ".join(f"{path} ({why})" for path, why in sorted(core.unused.items())[:MOST_NAMED])
        more = len(core.unused) - MOST_NAMED
        warnings.append(f"mapped files that are not used: {shown}{f'; and {more} more' if more > 0 else ''}")
    return warnings


def _explain_absence(core: CoreFile, error: NotPython) -> UnreadableCore | NotPython:
    """Say whether the process was not Python, or only what it ran is not here any more."""
    for path, why in sorted(core.unused.items()):
        if resembles_interpreter(path):
            return UnreadableCore(
                f"{path}, which process {core.pid} ran, is needed to read {core.path}: {why}",
                hint=f"look at it on the machine it comes from, or put the very same file at {path}",
            )
    name = core.name or os.path.basename(core.path)
    return NotPython(f"{core.path} is not of a Python process ({name}): {error}", hint=error.hint)

"""What a shell offers where a PID or a TID is due: Python processes and their threads, whatever they are called."""

from __future__ import annotations

from collections.abc import Callable

from tests.integration.command import run
from tests.integration.test_refusals import program
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim

Start = Callable[..., Victim]


def complete(*words: str) -> dict[str, str]:
    """What zsh would offer for the last word, with its explanation."""
    typed = {"COMP_WORDS": " ".join(["threadsurgeon", *words]), "COMP_CWORD": str(len(words))}
    result = run(_THREADSURGEON_COMPLETE="zsh_complete", **typed)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) % 3 == 0, result.stdout  # kind, value, explanation
    return dict(zip(lines[1::3], lines[2::3], strict=True))


def test_pid_of_a_python_process(any_python: Python, stuck: Start) -> None:
    """With its command; not that of another program."""
    victim = stuck(any_python, "sleep")
    with program("sleep", "1000") as other:
        for command in ("list", "attach", "doctor"):
            offered = complete(command, "")
            assert "sleep.py" in offered[str(victim.pid)]
            assert str(other.pid) not in offered
    assert str(victim.pid) in complete("cancel", "--pid", "")


def test_tid_of_a_thread(any_python: Python, stuck: Start) -> None:
    """Of every Python process; with --pid of that one; as far as it is typed."""
    victim, other = stuck(any_python, "unicode_names"), stuck(any_python, "sleep")
    for command in ("stack", "cancel", "kill"):
        offered = complete(command, "")
        assert {str(victim.tid), str(other.tid)} <= offered.keys()
        assert str(victim.pid) in offered[str(victim.tid)]
    one = complete("kill", "--pid", str(victim.pid), "")
    typed = complete("kill", str(victim.tid))

    assert str(victim.tid) in one
    assert str(other.tid) not in one
    assert all(tid.startswith(str(victim.tid)) for tid in typed)
    assert str(victim.tid) in typed
    assert all(text.isprintable() for text in [*one.values(), *typed.values()])

"""Names that a target chose to be shown, or to be read by us: text of any kind stays text."""

import ctypes
import json
import os
import threading

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fuzzing import tries
from tests.unit.test_render import SEQUENCE, all_shown, named, on_terminal, piped
from threadsurgeon.linux.process import list_tids, read_status, read_task
from threadsurgeon.schema import dump_listing

# What markup, terminals, JSON and emoji tables react to, surrogates included; and anything else.
PIECES = [*"[]/\\\x07\r\n\ud800", "[bold", "[/]", "[/bold]", "@click=x", ":warning:", "\x1b[", "\x1b]8;;"]
ODD = st.characters(categories=["Cc", "Cf", "Cs", "Zl"])
NAMES = st.lists(st.sampled_from(PIECES) | st.text(max_size=3) | ODD, max_size=8)


def shown(text):
    """The text as it is shown: what does not print is spelt out."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


@tries(30)
@given(NAMES.map("".join))
def test_names_are_shown_and_not_obeyed(on_terminal, piped, name):
    """No sequence that is not ours reaches a terminal, no line break a pipe, and markup is text."""
    ours = set(SEQUENCE.findall(all_shown(on_terminal, "name")))
    terminal, pipe = all_shown(on_terminal, name), all_shown(piped, name)

    assert set(SEQUENCE.findall(terminal)) <= ours
    for text in (SEQUENCE.sub("", terminal), pipe):
        assert [letter for letter in text if not letter.isprintable() and letter != "\n"] == []
    # rich's markup takes a backslash before a bracket for its own, also where that is no tag.
    assert pipe.replace("\\", "").count(shown(name).replace("\\", "")) >= 20


@tries(100)
@given(NAMES.map("".join))
def test_names_in_json_come_back_as_they_were(name):
    """Whatever they are; and JSON is ASCII, which every terminal and every encoding has."""
    text = dump_listing(named(name))

    assert text.isascii()
    assert text.isprintable()
    threads = json.loads(text)["threads"]
    expected = json.loads(json.dumps(name))  # the two halves of a surrogate pair, side by side, are one letter in JSON
    assert threads[1]["name"] == threads[1]["frames"][0]["function"] == expected
    assert threads[2]["native_name"] == (expected or None)  # a core that does not tell leaves it empty


@tries(200)
@given(st.binary(max_size=15).filter(lambda name: b"\0" not in name))
def test_kernel_names(name):
    """A thread calls itself what it likes: brackets, line breaks, what looks like other fields, bytes that are no text."""
    found = []

    def look():
        ctypes.CDLL(None).prctl(15, ctypes.c_char_p(name), 0, 0, 0)  # PR_SET_NAME
        tid = threading.get_native_id()
        found.extend([tid in list_tids(os.getpid()), read_task(os.getpid(), tid), read_status(tid)])

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    listed, task, status = found

    assert listed
    assert task.native_name == name.decode(errors="replace")
    assert task.state == "R"
    assert task.start_time > 0
    assert (status.tgid, status.tracer, status.state) == (os.getpid(), 0, "R")


__all__ = ["on_terminal", "piped"]

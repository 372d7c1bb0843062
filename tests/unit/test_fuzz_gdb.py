"""Answers that no gdb gives: the session gets an answer or an error of ours out of them, and never hangs."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fuzzing import tries
from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import DebuggerError

# Answers our first two commands when it has read them, then says once what the file holds, and ends.
FAKE = """
read about; printf '1^done,json="{}"\\n2^done,json="{}"\\n'
read warm_up; read command; cat "$1"
"""
TOKEN = 3
ANSWERS = [
    json.dumps(json.dumps({"result": "raised", "stopped_seconds": 0.001, "hit": None, "skipped": [[1, 2, 3]]})),
    '"{\\"state\\": \\"running\\"}"',
    '"{\\"a\\": \\"\\\\\\"\\"}"',
]
LINES = [
    *(f"{TOKEN}^done,json={answer}" for answer in ANSWERS),
    f'{TOKEN}^error,msg="mismatch: thread 5 \\"x\\" ended"',
    f"{TOKEN}^running",
    '*stopped,reason="breakpoint-hit",frame={addr="0x1",args=[{name="a",value="b"}]},thread-id="1",stopped-threads=["1"]',
    '=thread-exited,id="1",group-id="i1"',
    '~"0x00 in ?? ()\\n"',
    "(gdb) ",
]
SINGLE = [bytes([letter]) for letter in b'"\\[]{},=^\n\r\0\xff']
PIECES = st.sampled_from([*SINGLE, b"3^done", b"3^error", b"*stopped"])


@st.composite
def outputs(draw):
    """A few lines as gdb writes them, with pieces taken out, put in twice, or put in from elsewhere."""
    text = b"\n".join(line.encode() for line in draw(st.lists(st.sampled_from(LINES), min_size=1, max_size=4))) + b"\n"
    for _ in range(draw(st.integers(0, 6))):
        first = draw(st.integers(0, len(text)))
        last = draw(st.integers(first, min(len(text), first + 12)))
        piece = draw(PIECES | st.just(text[first:last] * 2) | st.just(b"") | st.binary(max_size=6))
        text = text[:first] + piece + text[last:]
    return text


def answer_to(output):
    """Return what a session makes of an output, and whether gdb is gone afterwards."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(output)
        with Session.start(["sh", "-c", FAKE, "sh", file.name]) as session:
            process = session._process
            try:
                return session.command("-ts-x", {"a": 1})
            finally:
                session.close()
                assert process.poll() is not None


@tries(150)
@given(outputs())
def test_output_that_makes_no_sense(output):
    """It is an answer, which is an object, or an error."""
    try:
        answer = answer_to(output)
    except DebuggerError:
        return
    assert isinstance(answer, dict)


def test_usual_answers_get_through():
    """What is mutated above is understood where it is not."""
    assert answer_to(LINES[0].encode() + b"\n")["skipped"] == [[1, 2, 3]]
    assert answer_to(LINES[5].encode() + b"\n" + LINES[2].encode() + b"\n") == {"a": '"'}


@pytest.mark.parametrize("depth", [100, 3000])
def test_deep_answer(depth):
    """Lists in lists, as deep as you like: no more than an error."""
    output = f"{TOKEN}^done,json=\"{'[' * depth}{']' * depth}\",a={'[' * depth}{']' * depth}\n".encode()
    with pytest.raises(DebuggerError):
        answer_to(output)



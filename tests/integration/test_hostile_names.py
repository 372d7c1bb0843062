"""Names that are meant to harm: whoever chose them, a terminal sees nothing but text."""

from __future__ import annotations

import json
import os
import re
import subprocess

from tests.integration.command import ENVIRONMENT, ROOT, WORDS, run
from tests.zoo.pythons import Python
from tests.zoo.script import Script, script

NAMES = r"""
import ctypes
prctl = ctypes.CDLL(None).prctl
HOSTILE = "[bold]x[/]\x1b[2J\x1b]0;title\x07\r\n\x9b31m\u202e[link=http://x]"
more = {"threading": threading, "time": time, "prctl": prctl, "ctypes": ctypes}
source = "def wait(name):\n    prctl(15, ctypes.c_char_p(name), 0, 0, 0)\n    told.append(1)\n    time.sleep(1000)\n"
told = more["told"] = []
exec(compile(source, "/tmp/" + HOSTILE + ".py", "exec"), more)
wait = more["wait"]
if hasattr(wait.__code__, "replace"):
    wait.__code__ = wait.__code__.replace(co_name=HOSTILE)
kernel = [b"\x1b[31m[red]", b"\xff\xfe\n) R 1 2 3", b"[/]\r\x07"]
threads = [threading.Thread(target=wait, args=(name,), name=HOSTILE * 40, daemon=True) for name in kernel]
for thread in threads:
    thread.start()
while len(told) < len(threads):
    time.sleep(0.001)
ready(threads)
hear()
os._exit(0)
"""


def test_names_that_are_meant_to_harm(python: Python) -> None:
    """Of threads, functions and files, in Python and in the kernel: nothing of it reaches a terminal or a pipe as it is."""
    with script(python, NAMES) as process:
        texts = [run(*arguments).stdout for arguments in every_command(process)]
        texts += [on_terminal(*arguments) for arguments in every_command(process)]

        for text in texts:
            assert "title" in text or "x[" in text
            plain = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", text)  # what rich sends to a terminal
            assert not re.search("\x1b\\[2J|\x1b\\]", text)
            assert [letter for letter in plain if not letter.isprintable() and letter not in "\r\n"] == []
        for arguments in every_command(process):
            loaded = json.loads(run(*arguments, "--json").stdout)
            assert "\x1b[2J" in json.dumps(loaded, ensure_ascii=False).replace("\\u001b", "\x1b")
        process.tell("finish")
        assert process.process.wait(20) == 0


def every_command(process: Script) -> list[tuple[str, ...]]:
    tid = str(process.tids[0])
    return [("list", str(process.pid)), ("stack", tid), ("cancel", tid, "--dry-run")]


def on_terminal(*arguments: str) -> str:
    """Return what our command line writes to a terminal."""
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as reader:
        environment = {**ENVIRONMENT, "TERM": "xterm-256color", "COLUMNS": "200"}
        words = [*WORDS, *arguments]
        with subprocess.Popen(words, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            content = b""
            try:
                while data := reader.read(65536):
                    content += data
            except OSError:  # EIO: the last writer is gone
                pass
        assert process.returncode == 0, content
    return content.decode()

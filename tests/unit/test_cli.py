"""The command line: what is passed on, what is printed where, and the exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import threadsurgeon
from tests.unit import examples
from tests.unit.examples import replace
from threadsurgeon import errors
from threadsurgeon.cli import cli
from threadsurgeon.cli.look import SORT_KEYS
from threadsurgeon.model.native import NativeStack
from threadsurgeon.model.operations import Outcome
from threadsurgeon.surgery.ladder import HARD, RUNGS

ROOT = Path(__file__).parents[2]
COMMANDS = ["list", "stack", "cancel", "kill", "attach", "doctor"]
STATUSES = {"ended": 0, "unwound": 0, "survived": 3, "pending": 4, "target-died": 6}  # docs/architecture.md
ERRORS = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, errors.ThreadsurgeonError)
]


class Calls:
    """What the public functions were called with; they answer with the examples."""

    def __init__(self, monkeypatch):
        self.calls = []
        self.consent = None  # what `kill` may ask before a harder rung
        self.answers = {
            "list_threads": examples.LISTING,
            "list_core": examples.LISTING,
            "find_thread": examples.WAITING,
            "find_native_stack": NativeStack(examples.WAITING, (), 0.001, "gdb 13.1"),
            "plan": examples.PLAN,
            "cancel": examples.REPORT,
            "kill": examples.REPORT,
        }
        for name in self.answers:
            monkeypatch.setattr(threadsurgeon, name, self._function(name))

    def _function(self, name):
        def function(*arguments, **options):
            self.consent = options.pop("confirm", None)
            options.pop("journal", None)
            self.calls.append((name, *arguments, options))
            if isinstance(self.answers[name], Exception):
                raise self.answers[name]
            return self.answers[name]

        return function


@pytest.fixture
def calls(monkeypatch):
    return Calls(monkeypatch)


def run(*arguments, **options):
    return CliRunner(**options).invoke(cli, arguments, catch_exceptions=False)


CANCEL = {"pid": None, "exception": None, "timeout": 5.0, "leave_pending": False, "main": False}
KILL = {"pid": None, "exception": None, "grace": 5.0, "main": False, "force": False, "in_import": False}
KILL_PLAN = {"pid": None, "exception": None, "main": False, "climb": True, "force": False, "in_import": False}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list", "42"], ("list_threads", 42, {"forks": True})),
        (["attach", "42"], ("list_threads", 42, {"forks": True})),
        (["stack", "43", "--native"], ("find_native_stack", "43", {"pid": None})),
        (["stack", "w", "--core", "c"], ("find_thread", "w", {"pid": None, "core": "c"})),
        (["list", "--core", "c"], ("list_core", "c", {})),
        (["stack", "43"], ("find_thread", "43", {"pid": None, "core": None})),
        (["stack", "a name", "-p", "42"], ("find_thread", "a name", {"pid": 42, "core": None})),
        (["cancel", "43"], ("cancel", "43", CANCEL)),
        (
            ["cancel", "w", "--pid", "42", "-e", "KeyError", "--timeout", "0.5", "--leave-pending"],
            ("cancel", "w", {"pid": 42, "exception": "KeyError", "timeout": 0.5, "leave_pending": True, "main": False}),
        ),
        (["cancel", "43", "-e", ""], ("cancel", "43", {**CANCEL, "exception": ""})),
        (["kill", "43"], ("kill", "43", KILL)),
        (["kill", "43", "--grace", "9", "-e", "OSError"], ("kill", "43", {**KILL, "exception": "OSError", "grace": 9.0})),
        (["kill", "43", "--force", "--in-import"], ("kill", "43", {**KILL, "force": True, "in_import": True})),
        (["kill", "43", "--main"], ("kill", "43", {**KILL, "main": True})),
        (["cancel", "43", "--dry-run"], ("plan", "43", {"pid": None, "exception": None, "main": False})),
        (["kill", "43", "--dry-run", "-e", "KeyError"], ("plan", "43", {**KILL_PLAN, "exception": "KeyError"})),
    ],
)
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_arguments_are_passed_on(calls, arguments, expected, more):
    """To the one public function that does it; with --dry-run to none that touches anything."""
    result = run(*arguments, *([] if arguments[0] == "attach" else more))

    assert (result.exit_code, result.stderr) == (0, "")
    assert calls.calls == [expected]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(["list", "1"], "threads"), (["stack", "1"], "frames"), (["cancel", "1"], "outcome"), (["kill", "1"], "outcome"),
     (["kill", "1", "--dry-run"], "techniques")],
)  # fmt: skip
def test_json_is_one_object(calls, arguments, name):
    """In one line, and nothing else."""
    result = run(*arguments, "--json")

    assert result.stdout.count("\n") == 1
    assert name in json.loads(result.stdout)


@pytest.mark.parametrize("command", ["cancel", "kill"])
@pytest.mark.parametrize("as_json", [[], ["--json"]])
@pytest.mark.parametrize("outcome", Outcome)
def test_outcome_is_the_exit_status(calls, command, as_json, outcome):
    """As published; the report is printed in any case."""
    calls.answers[command] = replace(examples.REPORT, outcome=outcome)
    result = run(command, "43", *as_json)

    assert result.exit_code == STATUSES[outcome.value]
    assert outcome.value in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    "arguments", [["list", "1"], ["attach", "1"], ["stack", "1"], ["cancel", "1"], ["kill", "1", "--json"]]
)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_errors_are_one_line_and_a_hint(calls, arguments, error):
    """On standard error; standard output stays empty for programs that read it."""
    for name in calls.answers:
        calls.answers[name] = error("it [is] so", hint="do that")
    result = run(*arguments)

    assert result.exit_code == (5 if error is errors.Refused else 1)
    assert (result.stdout, result.stderr) == ("", "Error: it [is] so\nHint: do that\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"], ["list", "-1"], ["list", "0"], ["list", "word"], ["list", "1", "2"], ["list", "1.5"], ["list", "9" * 30],
        ["list", "9" * 300], ["list", "9" * 5000], ["list", "1", "--sort", "size"], ["attach", "0"], ["stack"], ["cancel"],
        ["cancel", "1", "--pid", "0"], ["cancel", "1", "--pid", "x"], ["cancel", "1", "--pid", "9" * 300],
        ["cancel", "1", "--timeout", "0"], ["cancel", "1", "--timeout", "soon"], ["cancel", "1", "--grace", "1"],
        ["list", "1", "--core", "c"], ["stack", "1", "--core", "c", "--native"], ["cancel", "1", "-e"], ["cancel", "-5"],
        ["kill", "1", "--grace", "-1"], ["kill", "1", "--timeout", "1"], ["surgery"],
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)  # fmt: skip
def test_bad_input_is_a_usage_error(calls, arguments):
    """Click's own status, and nobody was called."""
    result = run(*arguments)

    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert (result.stdout, calls.calls) == ("", [])


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], *([command, "--help"] for command in COMMANDS)])
def test_help_is_there_for_every_command(arguments):
    """With the exit statuses where there are some."""
    result = run(*arguments)

    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    assert arguments[0] != "cancel" or "5 refused" in result.stdout


def test_every_command_is_in_the_help():
    """And in these tests."""
    assert set(cli.commands) >= set(COMMANDS)
    assert all(name in run("--help").stdout for name in cli.commands)


def test_version_is_ours():
    """That of the package."""
    assert run("--version").stdout.strip().endswith(threadsurgeon.__version__)


@pytest.mark.parametrize(
    ("key", "expected"),
    [("tid", [4711, 4712, 4713]), ("cpu", [4712, 4711, 4713]), ("name", [4711, 4712, 4713]), ("state", [4712, 4711, 4713])],
)
def test_threads_are_sorted(calls, key, expected):
    """Main thread first; busiest first; native ones last by name; running ones first."""
    threads = tuple(reversed(examples.LISTING.threads))
    calls.answers["list_threads"] = replace(examples.LISTING, threads=threads)
    result = run("list", "1", "--json", "--sort", key)

    assert [thread["tid"] for thread in json.loads(result.stdout)["threads"]] == expected
    assert key in SORT_KEYS


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("more", [[], ["--json"], ["--stacks"]])
def test_terminal_that_knows_few_characters_gets_those(calls, encoding, more):
    """A name that its encoding lacks is no traceback."""
    strange = replace(examples.WAITING, name="Ω😀\udcff\ud800")
    calls.answers["list_threads"] = replace(examples.LISTING, threads=(strange,))
    result = run("list", "1", *more, charset=encoding)

    assert (result.exit_code, result.stderr) == (0, "")
    assert "4712" in result.stdout


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "program",
    [
        "import threadsurgeon",
        "import threadsurgeon.cli as c; c.cli(['--help'], standalone_mode=False)",
        "import threadsurgeon.cli as c; c.cli(['kill', '--help'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(program):
    """Every command has to wait for it, and help needs none of it."""
    shown = python("-c", f"{program}\nimport sys; print('IMPORTED', *sys.modules)").stdout.rpartition("IMPORTED")[2]

    assert "threadsurgeon" in shown.split()
    assert {name.split(".")[0] for name in shown.split()} & {"pygdbmi", "rich", "psutil"} == set()


def test_shell_completion_works():
    """As ``eval "$(_THREADSURGEON_COMPLETE=bash_source threadsurgeon)"`` in a shell's start file."""
    result = python("-m", "threadsurgeon", _THREADSURGEON_COMPLETE="zsh_source")
    typed = {"COMP_WORDS": "threadsurgeon ca", "COMP_CWORD": "1"}
    words = python("-m", "threadsurgeon", _THREADSURGEON_COMPLETE="bash_complete", **typed)

    assert (result.returncode, result.stderr) == (0, "")
    assert "#compdef threadsurgeon" in result.stdout
    assert "cancel" in words.stdout


@pytest.mark.parametrize(
    ("arguments", "agreed"),
    [([], ["cut", "insist"]), (["--force"], ["cut", "insist"]), (["--force", "--yes"], ["cut", "insist", "terminate"])],
)
def test_command_without_a_terminal_is_the_consent(calls, arguments, agreed):
    """But not to ending a thread without unwinding: that takes a yes."""
    run("kill", "43", *arguments)

    assert agreed == [rung for rung in HARD if calls.consent(RUNGS[rung])]

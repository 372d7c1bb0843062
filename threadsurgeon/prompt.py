"""The small prompt of ``threadsurgeon attach``: the commands of the command line, for one process."""

from __future__ import annotations

import shlex

import click

from threadsurgeon.errors import ThreadsurgeonError
from threadsurgeon.linux.process import is_alive
from threadsurgeon.render import print_error

HELP = """list [--stacks] [--sort cpu]   list the threads again
stack TID                      show one thread's Python stack
cancel TID                     raise an exception in one thread (cancel --help)
kill TID                       the same, again while code catches it (kill --help)
quit                           leave; the process goes on"""


class Prompt:
    """Reads commands and runs those of the command line with the process filled in."""

    def __init__(self, pid: int, commands: click.Group) -> None:
        self._pid = str(pid)
        self._commands = commands

    def run(self) -> None:
        """Take commands until ``quit``, the end of the input, or the end of the process."""
        try:
            import readline  # noqa: F401 - line editing and history, where Python has it
        except ImportError:
            pass
        click.echo("commands: list, stack TID, cancel TID, kill TID, help, quit")
        while is_alive(int(self._pid)):
            try:
                words = shlex.split(input(f"threadsurgeon {self._pid}> "))
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:  # as in other prompts: the line is dropped
                click.echo()
                continue
            except ValueError as error:  # an open quotation mark
                click.echo(f"Error: {error}", err=True)
                continue
            if words[:1] in (["quit"], ["exit"], ["q"]):
                return
            if words:
                self._run(words)
        click.echo(f"process {self._pid} has ended")

    def _run(self, words: list[str]) -> None:
        name, *arguments = words
        if name == "list":
            arguments.insert(0, self._pid)
        elif name in ("stack", "cancel", "kill"):
            arguments += ["--pid", self._pid]
        else:
            if name not in ("help", "?"):
                click.echo(f"Error: no such command: {name}", err=True)
            click.echo(HELP)
            return
        try:
            self._commands.main([name, *arguments], prog_name="", standalone_mode=False)
        except ThreadsurgeonError as error:
            print_error(error)
        except click.ClickException as error:
            error.show()
        except (SystemExit, KeyboardInterrupt, click.exceptions.Abort, click.exceptions.Exit):
            pass

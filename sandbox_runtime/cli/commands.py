"""The command line: the group `sandbox-runtime`, and where each of its commands is."""

from __future__ import annotations

import importlib
import os
import sys
from typing import NoReturn

import click

from sandbox_runtime.cli.failures import INTERRUPTED, USAGE, reader_is_gone, say
from sandbox_runtime.cli.loading import begin_loading

_HOMES = {
    "bench": ("bench", "bench"),
    "code": ("programs", "run_code"),
    "demo": ("checks", "demo"),
    "doctor": ("checks", "doctor"),
    "exec": ("programs", "execute"),
    "kernel": ("kernel", "kernel"),
    "run": ("programs", "run"),
    "serve": ("serve", "serve_sandboxes"),
}


class _Commands(click.Group):
    """A group that loads a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _HOMES:
            return None
        module, name = _HOMES[cmd_name]
        command = getattr(importlib.import_module(f"sandbox_runtime.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _HOMES and not name.startswith("-"):
            import difflib  # only for who mistyped

            guesses = difflib.get_close_matches(name, _HOMES, n=1)
            what = f"did you mean {guesses[0]!r}?" if guesses else f"there are {', '.join(_HOMES)}"
            ctx.fail(f"no such command {name!r}; {what}")
        return super().resolve_command(ctx, args)


_HELP = """Run untrusted code in a real sandbox: no network, no host files, no rights.

\b
Exit status: that of the program, or
  2     a mistake in the command line
  124   the deadline (--timeout) ended the program
  125   the sandbox failed, not the program
  126   the program cannot be executed
  127   the program was not found
  128+N signal N ended it (130: Ctrl-C)
"""


def main() -> NoReturn:
    """The entry point: answers mistakes in one line, and never with a traceback of ours."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:  # closed; a pipe of ours must not become somebody's standard output
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))
    begin_loading()
    try:
        status = cli(prog_name="sandbox-runtime", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = USAGE
    except click.ClickException as error:
        say(error.format_message())
        status = USAGE
    except (click.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except BrokenPipeError:
        status = reader_is_gone()
    except BaseExceptionGroup as group:  # as trio hands on a Ctrl-C
        if group.split(KeyboardInterrupt)[1] is not None:
            raise
        status = INTERRUPTED
    sys.exit(status)


@click.group(cls=_Commands, help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sandbox-runtime", message="%(prog)s %(version)s")
def cli() -> None:
    """See `_HELP`."""

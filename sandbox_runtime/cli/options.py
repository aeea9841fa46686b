"""The options that `run`, `exec` and `code` have in common."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sandbox_runtime.cli.copies import parse_in, parse_out
from sandbox_runtime.cli.values import Seconds, make_figures, parse_env, parse_memory, parse_timeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_runtime.cli.copies import CopyIn, CopyOut


@dataclass(frozen=True, slots=True)
class Options:
    """The values of these options."""

    copy_in: tuple[CopyIn, ...]
    copy_out: tuple[CopyOut, ...]
    deadline_s: float | None
    env: dict[str, str]
    cwd: str | None
    require: tuple[str, ...]
    memory_bytes: int | None
    as_json: bool
    no_stdin: bool


figures_option = click.option(
    "--figures",
    metavar="DIR",
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    callback=make_figures,
    help="A directory, made if it is missing, for the figures that the code shows.",
)
"""For commands that run code in a context."""


def shared_options(command: Callable[..., int]) -> Callable[..., int]:
    """Adds the options to a command, and gives it their values as one."""
    with_input = click.option(
        "--no-stdin",
        is_flag=True,
        help="Leave our standard input alone. Otherwise what is piped to us is read to its end "
        "and given to the program.",
    )
    return with_input(sandbox_options(command))


def sandbox_options(command: Callable[..., int]) -> Callable[..., int]:
    """The same for a command whose program has no standard input."""

    @click.option(
        "--in",
        "copy_in",
        metavar="HOSTPATH[:SANDBOXPATH]",
        multiple=True,
        callback=parse_in,
        help="Copy a file or directory in before the start; to /workspace/NAME by default, "
        "relative paths start at /workspace. Repeatable.",
    )
    @click.option(
        "--out",
        "copy_out",
        metavar="SANDBOXPATH[:HOSTPATH]",
        multiple=True,
        callback=parse_out,
        help="Copy a file or directory out at the end, also when the program failed; to ./NAME "
        "by default. Repeatable.",
    )
    @click.option(
        "--timeout",
        "deadline_s",
        metavar="SECONDS",
        type=Seconds(),
        callback=parse_timeout,
        help="End the program and all it started after this time.",
    )
    @click.option(
        "--env",
        metavar="NAME=VALUE",
        multiple=True,
        callback=parse_env,
        help="Set a variable. Nothing of this environment is handed on by itself. Repeatable.",
    )
    @click.option("--cwd", metavar="DIR", help="Where it runs inside; /workspace by default.")
    @click.option(
        "--memory",
        "memory_bytes",
        metavar="SIZE",
        callback=parse_memory,
        help="How much memory it may use, e.g. 512M; 2G by default.",
    )
    @click.option(
        "--require",
        metavar="PROTECTION",
        multiple=True,
        help="Refuse to run without this one too; `doctor` lists them. Repeatable.",
    )
    @click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print one JSON object at the end: output, results, cost, protections.",
    )
    @functools.wraps(command)
    def with_options(**values: Any) -> int:
        values.setdefault("no_stdin", True)
        options = Options(**{field.name: values.pop(field.name) for field in fields(Options)})
        return command(options, **values)

    return with_options

"""The options of `serve`, each with its environment variable, and what they come to."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sandbox_runtime.cli.failures import OWN_FAILURE, USAGE, say
from sandbox_runtime.cli.loading import end_loading
from sandbox_runtime.cli.values import (
    SecondsRange,
    Whole,
    parse_addresses,
    parse_domain,
    parse_memory,
    parse_mode,
    parse_origins,
    parse_size,
)
from sandbox_runtime.errors import InvalidArgumentError, SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_runtime.control.lifecycle import ServeSettings
    from sandbox_runtime.interpreters.pool_sizes import PoolSize

PORT = 3000
_VISIBLE = r"[\x21-\x7e]{16,4096}"
_WITHOUT_EFFECT = (
    "CLEANUP_INTERVAL_MS",
    "TEMP_FILE_MAX_AGE_MS",
)


def _option(*names: str, variable: str, help: str, **more: Any) -> Any:  # noqa: A002 - as click has it
    return click.option(*names, envvar=variable.split(), show_envvar=True, help=help, **more)


_OPTIONS = [
    # No variable: what is inherited must not make this server one that somebody owns.
    click.option(
        "--until-stdin-ends",
        is_flag=True,
        help="End as soon as the standard input does, a pipe of the program that starts the "
        "server for itself; the directory of the Unix socket is removed then if it is empty.",
    ),
    _option(
        "--host",
        variable="SANDBOX_HOST",
        default="127.0.0.1",
        show_default=True,
        help="The address of the port. One that other machines can reach needs a token.",
    ),
    _option(
        "--port",
        variable="SANDBOX_PORT",
        type=Whole(0, 65535),
        help=f"The TCP port, 0 for any; {PORT} by default, or none if --unix is given.",
    ),
    _option("--unix", variable="SANDBOX_UNIX", metavar="PATH", help="Listen on a Unix socket."),
    _option(
        "--unix-mode",
        variable="SANDBOX_UNIX_MODE",
        metavar="MODE",
        default="600",
        show_default=True,
        callback=parse_mode,
        help="Who may connect to it, as permissions of a file.",
    ),
    _option(
        "--token-file",
        variable="SANDBOX_TOKEN_FILE",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="A file with the token that every request must bear. The variable SANDBOX_TOKEN may "
        "hold the token itself.",
    ),
    _option(
        "--allow-unauthenticated",
        variable="SANDBOX_ALLOW_UNAUTHENTICATED",
        is_flag=True,
        help="Serve other machines without a token.",
    ),
    _option(
        "--allow-origin",
        variable="SANDBOX_ALLOW_ORIGIN",
        metavar="ORIGIN",
        multiple=True,
        callback=parse_origins,
        help="Web pages from there may use a server without a token, e.g. https://app.example.com, "
        "or * for all. Repeatable.",
    ),
    _option(
        "--allow-host",
        variable="SANDBOX_ALLOW_HOST",
        metavar="NAME",
        multiple=True,
        help="A name by which clients call a server without a token, or * for any. Repeatable. "
        "Without, these are localhost and, where other machines can reach the server, addresses "
        "and names without a dot.",
    ),
    _option(
        "--network",
        variable="SANDBOX_NETWORK",
        type=click.Choice(["loopback", "host", "auto"]),
        default="loopback",
        show_default=True,
        help="What sandboxes can reach: themselves, or what this machine reaches; auto is the "
        "latter where the code inside can be kept from the control port.",
    ),
    _option(
        "--preview-domain",
        variable="SANDBOX_PREVIEW_DOMAIN",
        metavar="DOMAIN",
        callback=parse_domain,
        help="Exposed ports are reached by names below it: {port}-{sandbox}-{token}.DOMAIN.",
    ),
    _option(
        "--memory",
        variable="SANDBOX_MEMORY",
        metavar="SIZE",
        callback=parse_memory,
        help="How much memory a sandbox may use, e.g. 512M; 2G by default.",
    ),
    _option(
        "--cpu-percent",
        variable="SANDBOX_CPU_PERCENT",
        type=Whole(1, 100_000),
        help="How much processor time a sandbox may use, in hundredths of one processor; needs "
        "control groups. No bound by default.",
    ),
    _option(
        "--require",
        variable="SANDBOX_REQUIRE",
        metavar="PROTECTION",
        multiple=True,
        help="Refuse to serve without this protection too; `doctor` lists them. Repeatable.",
    ),
    _option(
        "--mountable",
        variable="SANDBOX_MOUNTABLE",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, resolve_path=True),
        multiple=True,
        help="A directory that clients may have shown in a sandbox, read-only. Repeatable.",
    ),
    _option(
        "--listenable",
        variable="SANDBOX_LISTENABLE",
        metavar="ADDRESS",
        multiple=True,
        callback=parse_addresses,
        help="An address of this machine on which clients may have exposed ports listened on, "
        "e.g. 0.0.0.0. Repeatable.",
    ),
    _option(
        "--max-sandboxes",
        variable="SANDBOX_MAX_SANDBOXES",
        type=Whole(1),
        default=100,
        show_default=True,
        help="How many sandboxes there may be.",
    ),
    _option(
        "--max-sessions",
        variable="SANDBOX_MAX_SESSIONS",
        type=Whole(1),
        default=256,
        show_default=True,
        help="How many sessions a sandbox may have.",
    ),
    _option(
        "--max-processes",
        variable="SANDBOX_MAX_PROCESSES",
        type=Whole(1),
        default=128,
        show_default=True,
        help="How many background processes of a sandbox may run.",
    ),
    _option(
        "--max-contexts",
        variable="SANDBOX_MAX_CONTEXTS",
        type=Whole(1),
        default=64,
        show_default=True,
        help="How many contexts a sandbox may have.",
    ),
    _option(
        "--python-pool",
        variable="SANDBOX_PYTHON_POOL PYTHON_POOL_MIN_SIZE",
        type=Whole(0, 1000),
        default=1,
        show_default=True,
        help="How many Python contexts each sandbox keeps ready.",
    ),
    _option(
        "--node-pool",
        variable="SANDBOX_NODE_POOL JAVASCRIPT_POOL_MIN_SIZE",
        type=Whole(0, 1000),
        default=1,
        show_default=True,
        help="How many for JavaScript and TypeScript together.",
    ),
    _option(
        "--ready-sandboxes",
        variable="SANDBOX_READY_SANDBOXES",
        type=Whole(0, 64),
        default=1,
        show_default=True,
        help="How many sandboxes to keep ready, each with a shell, once a client has made one. "
        "With 0 all is made when it is asked for, also shells.",
    ),
    _option(
        "--command-timeout-ms",
        variable="SANDBOX_COMMAND_TIMEOUT_MS COMMAND_TIMEOUT_MS",
        type=Whole(1),
        help="The time limit of commands that state none; by default what clients of each "
        "generation expect.",
    ),
    _option(
        "--code-timeout-ms",
        variable="SANDBOX_CODE_TIMEOUT_MS INTERPRETER_EXECUTION_TIMEOUT_MS",
        type=Whole(1),
        help="Likewise, of runs of code.",
    ),
    _option(
        "--max-body",
        variable="SANDBOX_MAX_BODY",
        metavar="SIZE",
        default="128M",
        show_default=True,
        callback=parse_size,
        help="How large the body of a request may be, unless its endpoint streams it.",
    ),
    _option(
        "--max-output",
        variable="SANDBOX_MAX_OUTPUT",
        metavar="SIZE",
        default="16M",
        show_default=True,
        callback=parse_size,
        help="How much of each output stream of a command its answer keeps.",
    ),
    _option(
        "--request-memory",
        variable="SANDBOX_REQUEST_MEMORY",
        metavar="SIZE",
        default="512M",
        show_default=True,
        callback=parse_size,
        help="How much all requests together may hold of bodies, output and logs.",
    ),
    _option(
        "--log-space",
        variable="SANDBOX_LOG_SPACE",
        metavar="SIZE",
        default="4G",
        show_default=True,
        callback=parse_size,
        help="How much disk (in TMPDIR) the logs of all background processes may take.",
    ),
    _option(
        "--grace",
        "grace_s",
        variable="SANDBOX_GRACE_S",
        metavar="SECONDS",
        type=SecondsRange(0, 3600),
        default=5.0,
        show_default=True,
        help="How long requests may go on when the server is told to end.",
    ),
    _option(
        "--log-level",
        variable="SANDBOX_LOG_LEVEL",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="info",
        show_default=True,
        help="The least that is logged.",
    ),
    _option(
        "--log-format",
        variable="SANDBOX_LOG_FORMAT",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="key=value for people, or an object a line.",
    ),
    _option(
        "--log-commands",
        variable="SANDBOX_LOG_COMMANDS",
        is_flag=True,
        help="Log commands too. They may hold secrets.",
    ),
]


def _serve_options(command: Callable[..., int]) -> Callable[..., int]:
    """Adds the options to a command, which gets their values as one dictionary."""

    @functools.wraps(command)
    def with_options(**values: Any) -> int:
        return command(values)

    for option in reversed(_OPTIONS):
        with_options = option(with_options)
    return with_options


@click.command(
    "serve",
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] [--]",
    short_help="Serve sandboxes over HTTP.",
)
@click.argument("command", metavar="[COMMAND [ARGS]...]", nargs=-1, type=click.UNPROCESSED)
@_serve_options
def serve_sandboxes(values: dict[str, Any]) -> int:
    """Serve sandboxes over HTTP until a signal (SIGTERM, Ctrl-C) ends it.

    COMMAND is a program of yours that runs beside the server and outside of every sandbox, as in
    a container; the end of the server is its end.

    The server logs on standard error, a line `ready` when it can be asked. It ends with status 0
    when it was told to.
    """
    return _serve(values)


def _make_undumpable() -> None:
    """Closes this process's memory and descriptors to others of its user (PR_SET_DUMPABLE)."""
    import prctl

    prctl.set_dumpable(0)


def _serve(values: dict[str, Any]) -> int:
    """Serves until a signal ends it, and gives our exit status."""
    for number in (signal.SIGTERM, signal.SIGINT):  # PID 1 would not hear them while it loads
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end_early)
    from sandbox_runtime.control.descriptors import raise_descriptor_limit
    from sandbox_runtime.control.owner import take_owner
    from sandbox_runtime.launching import launch

    _make_undumpable()
    descriptors = raise_descriptor_limit()
    try:
        owner = take_owner() if values["until_stdin_ends"] else None
        with contextlib.closing(launch()) as launched:  # which begins while the rest is loaded
            import trio

            from sandbox_runtime.control.journal import open_journal
            from sandbox_runtime.control.lifecycle import run_server

            settings = _settings(values)
            open_journal(values["log_level"], values["log_format"])
            end_loading()
            run = functools.partial(run_server, descriptors=descriptors, owner=owner)
            trio.run(run, settings, launched)
    except InvalidArgumentError as error:
        say(str(error))
        return USAGE
    except SandboxError as error:
        say(str(error))
        return OWN_FAILURE
    return 0


def _pools(python_min: int, node_min: int) -> dict[str, PoolSize]:
    """The pools' sizes, of which the options say the smallest."""
    from sandbox_runtime.errors import InvalidArgumentError
    from sandbox_runtime.interpreters.pool_sizes import pool_sizes_of

    given = {
        "PYTHON_POOL_MIN_SIZE": str(python_min),
        "JAVASCRIPT_POOL_MIN_SIZE": str(node_min),
    }
    try:
        return pool_sizes_of({**os.environ, **given})
    except InvalidArgumentError as error:
        raise click.UsageError(str(error)) from None


def _end_early(_number: int, _frame: object) -> None:
    sys.exit(0)


def _settings(values: dict[str, Any]) -> ServeSettings:
    import msgspec

    from sandbox_runtime.control.lifecycle import ServeSettings
    from sandbox_runtime.server.app import AppSettings
    from sandbox_runtime.server.browsers import BrowserPolicy
    from sandbox_runtime.server.hosting import HostSettings
    from sandbox_runtime.server.previews import PreviewSettings
    from sandbox_runtime.settings import Limits

    for name in _WITHOUT_EFFECT:
        _check_count(name)
    limits = Limits(cpu_percent=values["cpu_percent"])
    if values["memory"] is not None:
        limits = msgspec.structs.replace(limits, memory_bytes=values["memory"])
    host = HostSettings(
        limits=limits,
        network=values["network"],
        require=values["require"],
        command_timeout_s=_seconds(values["command_timeout_ms"]),
        code_timeout_s=_seconds(values["code_timeout_ms"]),
        output_limit_bytes=values["max_output"],
        log_space_bytes=values["log_space"],
        pools=_pools(values["python_pool"], values["node_pool"]),
        warm_up=True,
        ready_sandboxes=values["ready_sandboxes"],
        most_sandboxes=values["max_sandboxes"],
        most_sessions=values["max_sessions"],
        most_processes=values["max_processes"],
        most_contexts=values["max_contexts"],
        mountable=values["mountable"],
        listenable=values["listenable"],
    )
    port = values["port"]
    return ServeSettings(
        host=values["host"],
        port=PORT if port is None and values["unix"] is None else port,
        unix=values["unix"],
        unix_mode=values["unix_mode"],
        allowed_hosts=values["allow_host"],
        allow_unauthenticated=values["allow_unauthenticated"],
        grace_s=values["grace_s"],
        app=AppSettings(
            host=host,
            token=_token(values["token_file"]),
            browsers=BrowserPolicy(origins=values["allow_origin"]),
            body_limit_bytes=values["max_body"],
            memory_bytes=values["request_memory"],
            log_commands=values["log_commands"],
            previews=None
            if values["preview_domain"] is None
            else PreviewSettings(domain=values["preview_domain"]),
        ),
        companion=values["command"],
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _check_count(name: str) -> None:
    """Variables of the original that mean nothing here are still checked: a typo is a typo."""
    value = os.environ.get(name, "")
    if value and not value.isdecimal():
        raise InvalidArgumentError(name, f"{value!r} is not a whole number")


def _token(path: Path | None) -> str | None:
    source, text = "SANDBOX_TOKEN", os.environ.get("SANDBOX_TOKEN") or None
    if path is not None:
        source = "--token-file"
        try:
            text = path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError as error:
            raise InvalidArgumentError(source, f"{str(path)!r}: {error.strerror}") from None
    if text is not None and re.fullmatch(_VISIBLE, text) is None:
        raise InvalidArgumentError(
            source,
            "a token is 16 to 4096 visible ASCII characters; make one with `openssl rand -hex 32`",
        )
    return text

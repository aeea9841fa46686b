"""`sandbox-runtime kernel`: kernels for notebooks."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from sandbox_runtime.choices import LANGUAGES, Network
from sandbox_runtime.cli.failures import OWN_FAILURE, say
from sandbox_runtime.cli.loading import end_loading
from sandbox_runtime.cli.values import Seconds, parse_env, parse_memory, parse_timeout
from sandbox_runtime.errors import InvalidArgumentError, SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox_runtime.jupyter.options import KernelOptions

_MODULES = {"jupyter_client", "zmq"}
_CHOSEN = (
    "network",
    "memory_bytes",
    "cell_timeout_s",
    "preload",
    "env",
    "read_only",
    "notebook_directory",
    "require",
)


def _sandbox_options(command: Callable[..., int]) -> Callable[..., int]:
    """Adds what can be chosen of a kernel's sandbox, and gives it to the command as one value."""

    @click.option(
        "--network",
        type=click.Choice(get_args(Network)),
        default="loopback",
        show_default=True,
        help="What cells reach: nothing but their own machine, or what this one reaches.",
    )
    @click.option(
        "--memory",
        "memory_bytes",
        metavar="SIZE",
        callback=parse_memory,
        help="How much memory cells may use, e.g. 512M; 2G by default.",
    )
    @click.option(
        "--cell-timeout",
        "cell_timeout_s",
        metavar="SECONDS",
        type=Seconds(),
        callback=parse_timeout,
        help="Interrupt each cell after this time; never by default.",
    )
    @click.option(
        "--preload",
        metavar="NAME",
        help="What Python has imported already: data (the default), notebook, bare.",
    )
    @click.option(
        "--env",
        metavar="NAME=VALUE",
        multiple=True,
        callback=parse_env,
        help="Set a variable; it can be read in the kernelspec. Repeatable.",
    )
    @click.option(
        "--read-only",
        "read_only",
        metavar="DIR",
        multiple=True,
        type=click.Path(exists=True, file_okay=False, resolve_path=True),
        help="Show a directory of this machine at the same path, read-only. Repeatable.",
    )
    @click.option(
        "--notebook-directory",
        is_flag=True,
        help="Show the notebook's own directory likewise, and start cells there.",
    )
    @click.option(
        "--require",
        metavar="PROTECTION",
        multiple=True,
        help="Run no cell without this one too; `doctor` lists them. Repeatable.",
    )
    @functools.wraps(command)
    def with_options(**values: Any) -> int:
        return command(chosen={name: values.pop(name) for name in _CHOSEN}, **values)

    return with_options


def _options(language: str, chosen: dict[str, Any]) -> KernelOptions:
    from sandbox_runtime.jupyter.options import KernelOptions

    return KernelOptions(language=language, **chosen)


def _check_names(preload: str | None, require: Sequence[str]) -> None:
    """Refuses names that every cell of the kernel would fail for."""
    from sandbox_runtime.interpreters.preloads import PRELOADS, known_preload
    from sandbox_runtime.report import PROTECTIONS

    known_preload(preload, PRELOADS)
    for name in require:
        if name not in PROTECTIONS:
            known = ", ".join(PROTECTIONS)
            raise InvalidArgumentError("require", f"{name!r} is no protection; known: {known}")


def _need_jupyter() -> None:
    try:
        import jupyter_client  # noqa: F401
        import zmq  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in _MODULES:
            raise
        message = f"kernels need the module {error.name}: pip install jupyter-client pyzmq"
        raise click.ClickException(message) from None


@click.group(short_help="Run the cells of notebooks (Jupyter, VS Code) in a sandbox.")
def kernel() -> None:
    """Kernels for notebooks: cells run in a sandbox of their own.

    \b
    sandbox-runtime kernel install
    sandbox-runtime kernel install --language typescript
    sandbox-runtime kernel install --name offline-lab --notebook-directory --memory 4G
    """  # noqa: D301 - click's mark of a paragraph that is not wrapped


@kernel.command(short_help="Let notebooks find a kernel.")
@click.option(
    "--language",
    "languages",
    type=click.Choice(tuple(LANGUAGES)),
    multiple=True,
    help="What it speaks; python by default. Repeatable: one kernel each.",
)
@click.option("--name", help="What it is called by programs; sandbox-LANGUAGE by default.")
@click.option("--display-name", "title", help="What people see; 'Python (sandbox)' by default.")
@click.option("--user", is_flag=True, help="For this user, which is the default.")
@click.option("--sys-prefix", is_flag=True, help="For the Python environment that this is in.")
@click.option(
    "--prefix",
    metavar="DIR",
    type=click.Path(file_okay=False, resolve_path=True),
    help="In DIR/share/jupyter/kernels.",
)
@_sandbox_options
def install(
    chosen: dict[str, Any],
    languages: tuple[str, ...],
    name: str | None,
    title: str | None,
    prefix: str | None,
    *,
    user: bool,
    sys_prefix: bool,
) -> int:
    """Let Jupyter, VS Code and others find a kernel whose cells run in a sandbox.

    Options are written into its kernelspec and hold for every notebook that uses it.
    """
    _need_jupyter()
    from sandbox_runtime.jupyter import kernelspecs

    if user + sys_prefix + (prefix is not None) > 1:
        raise click.UsageError("give one of --user, --sys-prefix and --prefix")
    languages = languages or ("python",)
    if len(set(languages)) > 1 and (name or title):
        raise click.UsageError("--name and --display-name are for one --language")
    place = kernelspecs.environment_prefix() if sys_prefix else prefix
    try:
        _check_names(chosen["preload"], chosen["require"])
        for language in dict.fromkeys(languages):
            done = kernelspecs.install(
                _options(language, chosen), name=name, title=title, prefix=place
            )
            print(f"{done.name}: {done.title}, in {done.directory}")
    except InvalidArgumentError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        say(f"{error.filename}: {error.strerror}; try --user, --sys-prefix or --prefix DIR")
        return OWN_FAILURE
    return 0


@kernel.command("list", short_help="Say which kernels notebooks find.")
def list_kernels() -> int:
    """Print the name, the language and the directory of every kernel of ours."""
    _need_jupyter()
    from sandbox_runtime.jupyter import kernelspecs

    for one in kernelspecs.installed():
        print(f"{one.name}\t{one.language}\t{one.directory}")
    return 0


@kernel.command(short_help="Let notebooks find a kernel no more.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def remove(names: tuple[str, ...]) -> int:
    """Remove kernels of ours by their names; those of others are left alone."""
    _need_jupyter()
    from sandbox_runtime.jupyter import kernelspecs

    try:
        for name in names:
            print(f"removed {kernelspecs.remove(name)}")
    except InvalidArgumentError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        say(f"{error.filename}: {error.strerror}")
        return OWN_FAILURE
    return 0


@kernel.command(short_help="Be a kernel; notebooks start it.")
@click.option(
    "-f",
    "--connection-file",
    "connection_file",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to listen, as the front end has written it.",
)
@click.option(
    "--language", type=click.Choice(tuple(LANGUAGES)), default="python", show_default=True
)
@_sandbox_options
def start(chosen: dict[str, Any], connection_file: Path, language: str) -> int:
    """Serve a notebook until it asks for the end; kernelspecs have this command."""
    _need_jupyter()
    import trio

    from sandbox_runtime.jupyter.connection import read_connection
    from sandbox_runtime.jupyter.kernel import serve

    end_loading()
    try:
        trio.run(serve, _options(language, chosen), read_connection(connection_file))
    except InvalidArgumentError as error:
        raise click.UsageError(str(error)) from None
    except (SandboxError, OSError) as error:
        say(str(error))
        return OWN_FAILURE
    return 0

"""The commands that run something in a fresh sandbox: `run`, `exec` and `code`."""

from __future__ import annotations

import errno
import os
import shlex
from typing import TYPE_CHECKING

import click

from sandbox_runtime.choices import LANGUAGES, MOST_BRANCHES
from sandbox_runtime.cli.options import figures_option, sandbox_options, shared_options
from sandbox_runtime.cli.script import language_of, load_code, load_script
from sandbox_runtime.cli.standard_input import piped_input
from sandbox_runtime.errors import InvalidArgumentError, NotStartedError

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_runtime.cli.options import Options
    from sandbox_runtime.cli.outcomes import Outcome
    from sandbox_runtime.cli.printing import Streams
    from sandbox_runtime.sandbox import Sandbox


@click.command(short_help="Run a Python or shell script in a fresh sandbox.")
@click.argument("file", metavar="FILE")
@click.argument("args", metavar="[ARGS]...", nargs=-1)
@click.option(
    "--language",
    type=click.Choice(["python", "shell"]),
    help="What FILE is; by default its ending (.py, .sh) or #! line says so.",
)
@click.option("--plain", is_flag=True, help="Run Python as `python FILE` does, not in a context.")
@figures_option
@shared_options
def run(
    options: Options,
    file: str,
    args: tuple[str, ...],
    language: str | None,
    figures: Path | None,
    *,
    plain: bool,
) -> int:
    """Run FILE with ARGS in a fresh sandbox; `-` reads it from standard input.

    Options are ours, before FILE and after it; what stands behind `--` is the script's own. The
    script is copied to /workspace and its exit status becomes ours.

    Python runs in a code context, the interpreter that `Sandbox.run_code` offers: the value of
    the last expression is printed, figures are seen (--figures keeps them), top-level `await`
    works, --json has every result in all its formats. Otherwise it is a script: sys.argv,
    __file__, sys.stdin, threads and atexit are as usual, an error is a traceback on stderr and
    status 1, sys.exit gives its status. Warming the interpreter takes a second or so; with --plain
    the script runs as `python FILE` instead, which starts at once and shows nothing by itself.

    A script with a #! line runs as that says, another shell script by bash.
    """
    script = load_script(file, language, plain=plain)
    stdin = b"" if file == "-" else piped_input(options)

    from sandbox_runtime.cli.run import run_process, supervise
    from sandbox_runtime.cli.script_context import run_in_context

    async def start(sandbox: Sandbox, streams: Streams) -> Outcome:
        await sandbox.files.write(script.path, script.content, mode=0o755)
        if script.source is not None:
            argv = [script.path, *args]
            return await run_in_context(
                sandbox, script.source, argv, options, stdin, streams, figures
            )
        argv = [*script.interpreter, script.path, *args]
        return await run_process(sandbox, argv, options, stdin, streams)

    return supervise(options, start)


_EXEC_HELP = """Run a program with its arguments, or a line of shell text, in a fresh sandbox.

\b
sandbox-runtime exec -- sort -n < numbers.txt
sandbox-runtime exec --in src --out build.log -c 'make -C src > build.log'
"""


@click.command(
    "exec",
    context_settings={"allow_interspersed_args": False},
    help=_EXEC_HELP,
    options_metavar="[OPTIONS] [--]",
    short_help="Run one command in a fresh sandbox.",
)
@click.argument("command", metavar="COMMAND [ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("-c", "text", metavar="TEXT", help="Shell text for bash; ARGS are $1, $2 and so on.")
@shared_options
def execute(options: Options, command: tuple[str, ...], text: str | None) -> int:
    """See `_EXEC_HELP`."""
    from sandbox_runtime.programs import check_argv, check_text

    argv = list(command)
    try:
        if text is not None:
            check_text("-c", text)
            argv = ["bash", "-c", text, "bash", *command]
        check_argv("COMMAND", argv)
    except InvalidArgumentError as error:
        raise click.UsageError(str(error)) from None
    stdin = piped_input(options)

    from sandbox_runtime.cli.run import run_process, supervise

    async def start(sandbox: Sandbox, streams: Streams) -> Outcome:
        try:
            return await run_process(sandbox, argv, options, stdin, streams)
        except NotStartedError as error:
            if error.errno != errno.ENOENT or error.subject != argv[0] or " " not in argv[0]:
                raise
            remedy = f"It is one name with its blanks; for shell text say -c {shlex.quote(argv[0])}"
            raise NotStartedError(error.step, error.errno, error.subject, remedy=remedy) from None

    return supervise(options, start)


_CODE_HELP = """Run code in an interpreter in a fresh sandbox, or talk with it.

\b
sandbox-runtime code -c '6 * 7'
sandbox-runtime code --figures plots analysis.py
sandbox-runtime code --language javascript -c '[1, 2].map((n) => n * 2)'
sandbox-runtime code load.py --branch 'frame.mean()' --branch 'frame.median()'
sandbox-runtime code        # >>>

FILE, `-` (standard input) or TEXT is one cell: the value of its last expression is
printed, top-level `await` works, an error is a traceback on stderr and status 1.

Without code, on a terminal, cells are typed and keep their state. Ctrl-C interrupts the
cell that runs, Ctrl-D ends. --timeout is the time of each cell then. A line with a colon
in front is about branches: `:branch` goes on in a copy of the state, `:help` says the rest.
"""


@click.command("code", help=_CODE_HELP, short_help="Run code in Python, JavaScript or TypeScript.")
@click.argument("file", metavar="[FILE]", required=False)
@click.option("-c", "text", metavar="TEXT", help="The code itself.")
@click.option(
    "--language",
    type=click.Choice(tuple(LANGUAGES)),
    help="Of the code; by default the ending of FILE says so (.js, .ts), else it is python.",
)
@click.option(
    "--branch",
    "branches",
    metavar="TEXT",
    multiple=True,
    help="A cell that runs after the code in a copy of its state, beside the other branches; "
    "shown in their order. Python only. Repeatable.",
)
@click.option(
    "--ready-branches",
    type=click.IntRange(0, MOST_BRANCHES),
    default=0,
    metavar="N",
    help="In a dialogue, keep N copies of the state ready, so that `:branch` is there at once.",
)
@figures_option
@sandbox_options
def run_code(
    options: Options,
    file: str | None,
    text: str | None,
    language: str | None,
    branches: tuple[str, ...],
    ready_branches: int,
    figures: Path | None,
) -> int:
    """See `_CODE_HELP`."""
    if file is not None and text is not None:
        raise click.UsageError("give the code by -c or as FILE, not both")
    chosen = language_of(file, language)
    if branches and chosen != "python":
        raise click.UsageError(f"--branch: contexts of {chosen} cannot be branched")
    if ready_branches and chosen != "python":
        raise click.UsageError(f"--ready-branches: contexts of {chosen} cannot be branched")
    if len(branches) > MOST_BRANCHES:
        raise click.UsageError(f"--branch: {len(branches)} are more than {MOST_BRANCHES}")
    if file is None and text is None:
        if os.isatty(0):
            if branches:
                raise click.UsageError("--branch needs code to run first: -c, FILE or -")
            return _talk(options, chosen, figures, ready_branches)
        file = "-"
    if ready_branches:
        what = "leave out the code" if text or file != "-" else "standard input is no terminal"
        raise click.UsageError(f"--ready-branches is for a dialogue: {what}")
    source = load_code(file, chosen) if file is not None else text or ""

    from sandbox_runtime.cli.code import run_cell
    from sandbox_runtime.cli.run import supervise

    async def start(sandbox: Sandbox, streams: Streams) -> Outcome:
        return await run_cell(sandbox, source, chosen, options, streams, figures, branches=branches)

    return supervise(options, start)


def _talk(options: Options, language: str, figures: Path | None, ready_branches: int) -> int:
    if options.as_json:
        raise click.UsageError("--json needs code to run: -c, FILE or -")

    from sandbox_runtime.cli.dialogue import Dialogue
    from sandbox_runtime.cli.run import supervise

    dialogue = Dialogue(language, options, figures, ready_branches=ready_branches)
    return supervise(options, dialogue.hold, interrupt=dialogue.interrupt)

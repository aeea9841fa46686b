"""The commands that show what this machine offers: `doctor` and `demo`."""

from __future__ import annotations

from pathlib import Path

import click

from sandbox_runtime.cli.failures import OWN_FAILURE, reader_is_gone, say
from sandbox_runtime.errors import SandboxError


@click.command(short_help="Say what a sandbox protects here, and how to get the rest.")
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
def doctor(*, as_json: bool) -> int:
    """Make a sandbox and say what it protects from here, and how to get the rest.

    The status is 0 if all that is required is there, else 1.
    """
    import trio

    from sandbox_runtime import doctor as clinic

    diagnosis = trio.run(clinic.examine)
    try:
        print(diagnosis.json() if as_json else diagnosis.text(), flush=True)
    except BrokenPipeError:
        return reader_is_gone()
    return 0 if diagnosis.ok else 1


@click.command(short_help="Analyse real data as an agent would, then try to break out.")
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    help="Where the chart is put; ./demo-output by default.",
)
def demo(out: Path) -> int:
    """Analyse real data as an agent would, then try to break out in three ways.

    The status is 1 if an attack succeeds.
    """
    from sandbox_runtime import demo as show

    try:
        return show.main(out)
    except BrokenPipeError:  # click would make it a 1, which means something here
        return reader_is_gone()
    except (SandboxError, OSError) as error:
        say(str(error))
        return OWN_FAILURE

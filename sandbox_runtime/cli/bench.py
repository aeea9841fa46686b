"""`sandbox-runtime bench`: measuring, comparing two runs, holding one to targets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sandbox_runtime.cli.failures import OWN_FAILURE, say
from sandbox_runtime.errors import InvalidArgumentError, SandboxError

if TYPE_CHECKING:
    from sandbox_runtime.bench.results import Results, ScenarioResult

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(
    invoke_without_command=True,
    short_help="Measure what people wait for, beside what they would use instead.",
)
@click.option("--quick", is_flag=True, help="Few rounds: about two minutes in all.")
@click.option(
    "--scenario", "only", metavar="NAME", multiple=True, help="Only this one; may be repeated."
)
@click.option(
    "--server",
    "servers",
    metavar="URL",
    multiple=True,
    help="Another server of the wire, measured beside ours; may be repeated.",
)
@click.option("--json", "json_path", metavar="FILE", type=_FILE, help="Keep the results.")
@click.option("--html", "html_path", metavar="FILE", type=_FILE, help="Make a page of them.")
@click.option("--check", "targets_path", metavar="FILE", type=_FILE, help="Hold them to targets.")
@click.option("--from", "earlier", metavar="FILE", type=_FILE, help="Kept results, not measured.")
@click.pass_context
def bench(
    context: click.Context,
    only: tuple[str, ...],
    servers: tuple[str, ...],
    json_path: Path | None,
    html_path: Path | None,
    targets_path: Path | None,
    earlier: Path | None,
    *,
    quick: bool,
) -> int:
    """Measure ours and every peer that is installed, in interleaved rounds of one run.

    The table goes to standard output, progress to standard error. With --check the status is 1
    if a target is missed.
    """
    if context.invoked_subcommand is not None:
        return 0
    from sandbox_runtime.bench import page, results, table, targets

    try:
        goals = targets.read_targets(targets_path) if targets_path else ()
        found = results.load(earlier) if earlier else _measure(only, servers, quick=quick)
        if json_path is not None:
            results.save(found, json_path)
        if html_path is not None:
            html_path.write_text(page.page(found))
    except InvalidArgumentError as error:
        raise click.UsageError(str(error)) from None
    except (SandboxError, OSError) as error:
        say(str(error))
        return OWN_FAILURE
    if earlier:
        for scenario in found.scenarios:
            print("\n".join(table.scenario_lines(scenario)), end="\n\n")
    print("\n".join(table.heading(found)))
    verdicts = [targets.judge(found, goal) for goal in goals]
    if verdicts:
        print("\n" + "\n".join(table.verdict_lines(verdicts)))
    return 1 if any(verdict.state == "missed" for verdict in verdicts) else 0


def _measure(only: tuple[str, ...], servers: tuple[str, ...], *, quick: bool) -> Results:
    import trio

    from sandbox_runtime.bench import run, table

    terminal = sys.stderr.isatty()

    def progress(title: str, done: int, of: int) -> None:
        if terminal:
            end = "\r\033[K" if done == of else "\r"
            print(f"\r\033[K{title}: {done} of {of}", end=end, file=sys.stderr, flush=True)

    def show(result: ScenarioResult) -> None:
        print("\n".join(table.scenario_lines(result)), end="\n\n", flush=True)

    async def measure() -> Results:
        return await run.run(
            quick=quick,
            only=only,
            servers=servers,
            command=["sandbox-runtime", *sys.argv[1:]],
            on_scenario=show,
            on_progress=progress,
        )

    return trio.run(measure)


@bench.command(short_help="What has become slower between two kept results.")
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
def compare(before: Path, after: Path) -> int:
    """Compare two files of results; the status is 1 if something has become slower.

    Ratios are compared where there is a peer, since they carry over from one machine to another.
    A change counts if it is more than noise: beyond 10 %, and the intervals do not touch.
    """
    from sandbox_runtime.bench import compare as comparing
    from sandbox_runtime.bench import results, table

    try:
        changes = comparing.compare(results.load(before), results.load(after))
    except InvalidArgumentError as error:
        raise click.UsageError(str(error)) from None
    print("\n".join(table.change_lines(changes)))
    return 1 if any(change.verdict == "slower" for change in changes) else 0


@bench.command(short_help="The JSON Schema of kept results.")
def schema() -> int:
    """Print the JSON Schema of a file of results."""
    import json

    from sandbox_runtime.bench import results

    print(json.dumps(results.schema(), indent=1))
    return 0

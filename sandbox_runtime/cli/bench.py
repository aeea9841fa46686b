"""`sandbox-runtime bench`: measuring, comparing two runs, holding one to targets."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sandbox_runtime.cli.failures import OWN_FAILURE, reader_is_gone, say
from sandbox_runtime.errors import InvalidArgumentError, SandboxError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_runtime.bench.results import Results, ScenarioResult
    from sandbox_runtime.bench.run import Plan
    from sandbox_runtime.bench.targets import Target, Verdict

_FILE = click.Path(dir_okay=False, path_type=Path)


class _Processors(click.ParamType[frozenset[int]]):
    """Numbers with commas and hyphens between them, as taskset(1) takes them."""

    name = "processors"

    def convert(self, value: Any, param: Any, ctx: Any) -> frozenset[int]:
        if isinstance(value, frozenset):
            return value
        found: set[int] = set()
        try:
            for part in value.split(","):
                first, _, last = part.partition("-")
                found |= set(range(int(first), int(last or first) + 1))
        except ValueError:
            self.fail(f"{value!r} is no list of processors, as 0 or 0-1,3", param, ctx)
        return frozenset(found)


@click.group(
    invoke_without_command=True,
    short_help="Measure what people wait for, beside what they would use instead.",
)
@click.option("--quick", is_flag=True, help="Few rounds and small sizes: about a minute in all.")
@click.option(
    "--scenario", "only", metavar="NAME", multiple=True, help="Only this one; may be repeated."
)
@click.option(
    "--peer", "peers", metavar="NAME", multiple=True, help="Only this peer; may be repeated."
)
@click.option("--list", "listing", is_flag=True, help="List the scenarios, and measure nothing.")
@click.option(
    "--server",
    "servers",
    metavar="URL",
    multiple=True,
    help="Another server of the wire, measured beside ours; may be repeated.",
)
@click.option(
    "--start-server",
    "commands",
    metavar="COMMAND",
    multiple=True,
    help="The same, started by a command; {port} in it stands for a free one.",
)
@click.option(
    "--e2b", metavar="URL", multiple=True, help="A server of E2B's protocol; key in E2B_API_KEY."
)
@click.option("--native", metavar="COMMAND", help="Measures the jail natively: benches/native.")
@click.option("--alive", type=int, help="How many live at once where memory is measured; 0: none.")
@click.option("--storm-count", type=int, help="How many sandboxes a storm asks for; 0: no storms.")
@click.option("--storm-concurrency", type=int, help="How many of them at once at most.")
@click.option("--storm-delay-ms", type=int, help="Between two of the staggered storm.")
@click.option("--array-mb", type=int, help="What the branched context holds; 0: no branch.")
@click.option("--tree", type=int, help="How many processes the killed tree has; 0: none.")
@click.option("--pin", type=_Processors(), help="Run on these processors only, as 0 or 0-1.")
@click.option("--json", "json_path", metavar="FILE", type=_FILE, help="Keep the results.")
@click.option("--html", "html_path", metavar="FILE", type=_FILE, help="Make a page of them.")
@click.option(
    "--markdown", "markdown_path", metavar="FILE", type=_FILE, help="The same, with a picture."
)
@click.option("--check", "targets_path", metavar="FILE", type=_FILE, help="Hold them to targets.")
@click.option(
    "--attempts",
    type=click.IntRange(1, 10),
    default=1,
    show_default=True,
    help="With --check: measure what misses again, so often at most; what noise explains is none.",
)
@click.option("--from", "earlier", metavar="FILE", type=_FILE, help="Kept results, not measured.")
@click.pass_context
def bench(context: click.Context, /, **options: Any) -> int:
    """Measure ours and every peer that is installed, in interleaved rounds of one run.

    The table goes to standard output, progress to standard error. With --check the status is 1
    if a target is missed by more than its named limit excuses.
    """
    if context.invoked_subcommand is not None:
        return 0
    from sandbox_runtime.bench import results, table, targets

    try:
        goals = targets.read_targets(options["targets_path"]) if options["targets_path"] else ()
        plan = _plan(options)
        if options["listing"]:
            return _list(plan)
        _check_files(options)
        earlier = options["earlier"]
        found = results.load(earlier) if earlier else _measure(plan, goals)
        verdicts = [targets.judge(found, goal) for goal in goals]
        _write(found, verdicts, options)
    except InvalidArgumentError as error:
        raise click.UsageError(str(error)) from None
    except BrokenPipeError:  # click would make it a 1, which means something here
        return reader_is_gone()
    except (SandboxError, OSError) as error:
        say(str(error))
        return OWN_FAILURE
    if earlier:
        for scenario in found.scenarios:
            print("\n".join(table.scenario_lines(scenario)), end="\n\n")
    print("\n".join(table.heading(found)))
    if verdicts:
        print("\n" + "\n".join(table.verdict_lines(verdicts)))
    return 1 if targets.fails(verdicts, surely=options["attempts"] > 1) else 0


def _plan(options: dict[str, Any]) -> Plan:
    from sandbox_runtime.bench.plan import FULL, QUICK
    from sandbox_runtime.bench.run import Plan

    sizes = QUICK if options["quick"] else FULL
    names = [field.name for field in dataclasses.fields(sizes)]
    given = {name: options[name] for name in names if options[name] is not None}
    sizes = dataclasses.replace(sizes, **given)
    sizes.check()
    return Plan(
        quick=options["quick"],
        sizes=sizes,
        only=options["only"],
        peers=options["peers"],
        servers=options["servers"],
        commands=options["commands"],
        e2b=options["e2b"],
        native=shlex.split(options["native"] or ""),
        attempts=options["attempts"],
        processors=options["pin"] or frozenset(),
        command=["sandbox-runtime", *sys.argv[1:]],
    )


def _list(plan: Plan) -> int:
    import trio

    from sandbox_runtime.bench import run

    for name, title in trio.run(run.known, plan):
        print(f"{name:<24} {title}")
    return 0


def _check_files(options: dict[str, Any]) -> None:
    """Refuses files that cannot be written, before minutes are spent on what they would hold."""
    for option in ("json", "html", "markdown"):
        path: Path | None = options[f"{option}_path"]
        if path is None:
            continue
        if not path.parent.is_dir():
            raise click.UsageError(f"--{option}: there is no directory {path.parent}; make it")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise click.UsageError(f"--{option}: {path} cannot be written by this user")


def _write(found: Results, verdicts: Sequence[Verdict], options: dict[str, Any]) -> None:
    """What was asked to be kept."""
    from sandbox_runtime.bench import charts, headlines, markdown, page, results

    if options["json_path"] is not None:
        results.save(found, options["json_path"])
    if options["html_path"] is not None:
        options["html_path"].write_text(page.page(found, verdicts))
    path = options["markdown_path"]
    if path is not None:
        picture = charts.overview(headlines.headlines(found))
        if picture:
            path.with_suffix(".svg").write_text(picture)
        shown = path.with_suffix(".svg").name if picture else ""
        path.write_text(markdown.page(found, verdicts, picture=shown))


def _measure(plan: Plan, goals: Sequence[Target]) -> Results:
    import trio

    from sandbox_runtime.bench import run, table, targets

    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def progress(title: str, done: int, of: int) -> None:
        if terminal:
            end = "\r\033[K" if done == of else "\r"
            print(f"\r\033[K{title}: {done} of {of}", end=end, file=sys.stderr, flush=True)

    def show(result: ScenarioResult) -> None:
        print("\n".join(table.scenario_lines(result)), end="\n\n", flush=True)

    def unsettled(result: ScenarioResult) -> bool:
        return targets.is_missed_by(goals, result)

    async def measure() -> Results:
        return await run.run(plan, on_scenario=show, on_progress=progress, unsettled=unsettled)

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

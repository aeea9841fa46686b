"""The benchmark harness: its arithmetic, its documents, and a real run of a short scenario."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from sandbox_runtime.bench import (
    compare,
    fingerprint,
    markdown,
    page,
    plan,
    results,
    rounds,
    run,
    samples,
    spawned,
    storms,
    table,
    targets,
)
from sandbox_runtime.bench.arriving import contexts_of_arrivals
from sandbox_runtime.bench.rounds import Candidate, Scenario, Stopwatch
from sandbox_runtime.bench.starting import Startable
from sandbox_runtime.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox_runtime.bench.rounds import Once

ROOT = Path(__file__).parent.parent
seconds = st.floats(min_value=1e-7, max_value=1e3)


@given(st.lists(seconds, min_size=1, max_size=40))
def test_a_summary_is_ordered(values: list[float]) -> None:
    found = samples.summarize(values)
    assert found is not None
    assert found.min <= found.low <= found.median <= found.high <= max(values)
    assert found.median <= found.p95 <= found.p99 <= max(values)


@given(st.lists(seconds, min_size=1, max_size=30), st.floats(min_value=0.1, max_value=10))
def test_a_ratio_is_the_factor_between_two_series(values: list[float], factor: float) -> None:
    found = samples.ratio([value * factor for value in values], values)
    assert found is not None
    assert found.value == pytest.approx(factor)
    assert found.low <= found.value * 1.000001
    assert found.value <= found.high * 1.000001


def test_failures_are_counted_and_in_no_other_figure() -> None:
    found = samples.summarize([1.0, None, 1.0])
    assert found is not None
    assert (found.count, found.failures, found.median) == (2, 1, 1.0)
    assert samples.summarize([None]) is None


def _candidate(name: str, took_s: float, *, ours: bool = False, fails: bool = False) -> Candidate:
    async def once(stopwatch: Stopwatch) -> None:
        await trio.lowlevel.checkpoint()
        if fails:
            raise OSError("not today")
        stopwatch.record(took_s)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Once]:
        yield once

    return Candidate(name=name, open=opened, ours=ours)


async def _run(*candidates: Candidate) -> results.ScenarioResult:
    scenario = Scenario(name="given", title="given times", candidates=candidates)
    return await rounds.run_scenario(scenario, rounds=5)


async def test_the_ratio_is_ours_by_the_peer() -> None:
    measured = (await _run(_candidate("ours", 0.5, ours=True), _candidate("peer", 1.0))).measured
    assert measured[0].ratio is None
    assert measured[1].ratio == samples.Ratio(value=0.5, low=0.5, high=0.5)


async def test_a_peer_that_fails_is_a_row_that_says_why() -> None:
    measured = (
        await _run(_candidate("ours", 0.5, ours=True), _candidate("x", 1, fails=True))
    ).measured
    assert measured[1].summary is None
    assert measured[1].failure == "OSError: not today"


def _document(*scenarios: results.ScenarioResult) -> results.Results:
    return results.Results(
        format=results.FORMAT,
        command="sandbox-runtime bench",
        started="2026-01-01T00:00:00+00:00",
        fingerprint=fingerprint.take(("seccomp: full",)),
        overhead_s=1e-6,
        scenarios=scenarios,
    )


async def test_who_only_fails_is_not_asked_for_ever() -> None:
    asked = 0

    async def refuses(_stopwatch: Stopwatch) -> None:
        nonlocal asked
        asked += 1
        await trio.lowlevel.checkpoint()
        raise OSError("never")

    peer = Candidate(name="x", open=lambda: contextlib.nullcontext(refuses))
    scenario = Scenario(name="given", title="given times", candidates=(peer,))
    measured = (await rounds.run_scenario(scenario, rounds=20)).measured[0]
    assert asked == rounds.HOPELESS_FAILURES
    assert measured.series == (None,) * 20


async def test_a_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    document = _document(await _run(_candidate("ours", 0.5, ours=True)))
    results.save(document, tmp_path / "a.json")
    assert results.load(tmp_path / "a.json") == document


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 1}', b"\xff"])
def test_what_is_no_document_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=r"a\.json: is no results"):
        results.load(tmp_path / "a.json")


def test_a_document_of_another_version_is_refused(tmp_path: Path) -> None:
    results.save(msgspec.structs.replace(_document(), format=99), tmp_path / "a.json")
    with pytest.raises(InvalidArgumentError, match="format 99"):
        results.load(tmp_path / "a.json")


async def test_what_became_slower_is_marked_and_noise_is_not() -> None:
    before = _document(await _run(_candidate("ours", 0.5, ours=True), _candidate("peer", 1.0)))
    slower = _document(await _run(_candidate("ours", 0.7, ours=True), _candidate("peer", 1.0)))
    noise = _document(await _run(_candidate("ours", 0.52, ours=True), _candidate("peer", 1.0)))
    assert {one.figure: one.verdict for one in compare.compare(before, slower)} == {
        "ours": "slower",
        "ours / peer": "slower",
    }
    assert {one.verdict for one in compare.compare(before, noise)} == {"same"}
    assert {one.verdict for one in compare.compare(slower, before)} == {"faster"}


async def test_targets_are_met_missed_or_unmeasured() -> None:
    document = _document(await _run(_candidate("ours", 0.5, ours=True), _candidate("peer", 1.0)))

    def state(**fields: object) -> str:
        target = msgspec.convert({"scenario": "given", **fields}, targets.Target)
        return targets.judge(document, target).state

    assert state(peer="peer", bound=0.6) == "met"
    assert state(peer="peer", bound=0.4) == "missed"
    assert state(peer="nobody", bound=0.4) == "unmeasured"
    assert state(bound=499.0) == "missed"
    assert state(bound=501.0) == "met"
    assert state(bound=400.0, allowed=600.0, limit="it is slow") == "limited"
    assert state(bound=400.0, allowed=450.0, limit="it is slow") == "missed"
    assert state(bound=1.0, figure="success", relation=">=") == "met"


def test_what_noise_explains_is_no_miss_where_one_must_be_sure() -> None:
    verdict = targets.Verdict(
        target=targets.Target(scenario="x", bound=1.0), value=1.1, state="missed", sure=False
    )
    assert targets.fails([verdict])
    assert not targets.fails([verdict], surely=True)
    assert targets.fails([msgspec.structs.replace(verdict, sure=True)], surely=True)


async def test_a_round_of_many_is_compared_by_the_time_of_all_together() -> None:
    def many(name: str, took_s: list[float], *, ours: bool = False) -> Candidate:
        async def once(stopwatch: Stopwatch) -> None:
            await trio.lowlevel.checkpoint()
            for one in took_s:
                stopwatch.record(one)
            stopwatch.wall_s = max(took_s)

        return Candidate(
            name=name, open=lambda: contextlib.nullcontext(once), ours=ours, values=len(took_s)
        )

    measured = await _run(many("ours", [0.1, 0.1, 0.5], ours=True), many("peer", [1.0, 1.0, 1.0]))
    document = _document(measured)

    def value(**fields: object) -> float | None:
        target = msgspec.convert({"scenario": "given", "bound": 1, **fields}, targets.Target)
        return targets.judge(document, target).value

    assert value(peer="peer") == pytest.approx(0.1)
    assert value(peer="peer", figure="per_s") == pytest.approx(0.5)
    assert value(figure="per_s") == pytest.approx(6)


async def test_users_who_arrive_at_a_started_server_each_have_a_context() -> None:
    server = Startable(name="ours", protections="")
    scenario = Scenario(name="x", title="x", candidates=(contexts_of_arrivals(server, 3),))
    found = await rounds.run_scenario(scenario, rounds=1, warm_up=0)
    row = found.measured[0]
    assert row.summary is not None, row.failure
    assert (row.summary.count, row.summary.failures) == (3, 0)
    assert row.per_s is not None
    assert row.per_s == pytest.approx(3 / max(one for one in row.series if one))


async def test_a_throughput_is_told_of_what_was_moved() -> None:
    scenario = Scenario(
        name="given",
        title="given",
        candidates=(_candidate("ours", 0.5, ours=True),),
        size_bytes=50_000_000,
    )
    document = _document(await rounds.run_scenario(scenario, rounds=3))
    target = msgspec.convert(
        {"scenario": "given", "figure": "mb_per_s", "relation": ">=", "bound": 90}, targets.Target
    )
    assert targets.judge(document, target).value == pytest.approx(100)
    assert table.throughput(document.scenarios[0], document.scenarios[0].measured[0]) == "100 MB/s"


def test_what_excuses_a_target_must_be_named(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('[[target]]\nscenario = "x"\nbound = 1\nallowed = 2')
    with pytest.raises(InvalidArgumentError, match=r"x: `allowed` needs a `limit`"):
        targets.read_targets(tmp_path / "t.toml")


async def test_a_storm_has_a_value_for_each_and_tells_what_failed() -> None:
    sizes = dataclasses.replace(plan.QUICK, storm_count=6, storm_delay_ms=1)
    asked = 0

    async def one() -> float:
        nonlocal asked
        asked += 1
        fails = asked % 3 == 0
        await trio.lowlevel.checkpoint()
        if fails:
            raise spawned.PeerFailedError("no room")
        return 0.001

    for mode in storms.MODES:
        asked = 0
        storm = storms.of_ours(mode, sizes, one, "ours", "all")
        scenario = Scenario(name="storm", title="storm", candidates=(storm,), warm_up=0)
        row = (await rounds.run_scenario(scenario, rounds=2)).measured[0]
        assert row.summary is not None
        assert (row.summary.count, row.summary.failures) == (8, 4)
        assert row.per_s is not None


async def test_everybody_begins_a_round_in_turn() -> None:
    order: list[str] = []

    def candidate(name: str) -> Candidate:
        async def once(stopwatch: Stopwatch) -> None:
            await trio.lowlevel.checkpoint()
            order.append(name)
            stopwatch.record(1.0)

        return Candidate(name=name, open=spawned.opened(once))

    scenario = Scenario(name="x", title="x", candidates=(candidate("a"), candidate("b")), warm_up=0)
    await rounds.run_scenario(scenario, rounds=2)
    assert order == ["a", "b", "b", "a"]


def test_what_people_ask_for_is_taken_apart() -> None:
    assert run.named("original=http://localhost:1/") == ("original", "http://localhost:1/")
    assert run.named("http://localhost/?a=b") == ("http://localhost/?a=b",) * 2


async def test_the_document_says_where_a_peer_does_better() -> None:
    document = _document(await _run(_candidate("ours", 2.0, ours=True), _candidate("peer", 1.0)))
    text = markdown.page(document)
    assert "| given times | peer | 2 s | 1 s | 2x slower |" in text
    assert "2x slower" in page.page(document)


def test_the_targets_that_are_published_name_scenarios_that_there_are() -> None:
    argv = [sys.executable, "-P", "-m", "sandbox_runtime", "bench", "--list", "--native", "x"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    known = {line.split()[0] for line in done.stdout.splitlines()}
    for name in ("targets.toml", "regressions.toml"):
        found = targets.read_targets(ROOT / "benches" / name)
        assert found
        assert {target.scenario for target in found} <= known


@pytest.mark.parametrize(
    "text",
    ["target = 1", "[[target]]\nscenario = 'x'", "=", "[[target]]\nbound=1\nscenario='x'\nwat=1"],
)
def test_a_file_of_targets_is_checked(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(InvalidArgumentError, match=r"t\.toml"):
        targets.read_targets(tmp_path / "t.toml")


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]


async def test_the_page_needs_no_script_and_no_other_file() -> None:
    hostile = _candidate("<script>alert(1)</script>", 1.0)
    tags = _Tags()
    tags.feed(page.page(_document(await _run(_candidate("ours", 0.5, ours=True), hostile))))
    assert "svg" in tags.names
    assert "script" not in tags.names
    assert tags.links == []


def test_a_quick_run_measures_ours_beside_its_peers(tmp_path: Path) -> None:
    argv = [sys.executable, "-P", "-m", "sandbox_runtime", "bench", "--quick"]
    argv += ["--scenario", "session-builtin", "--json", str(tmp_path / "r.json")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "`true` in a live session" in done.stdout
    measured = results.load(tmp_path / "r.json").scenarios[0].measured
    assert [row.candidate for row in measured] == ["ours: session", "bash -c true"]
    assert all(row.summary is not None and row.summary.failures == 0 for row in measured)


def test_an_unknown_scenario_is_an_error_that_lists_the_known() -> None:
    argv = [sys.executable, "-P", "-m", "sandbox_runtime", "bench", "--scenario", "nonsense"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "fresh-jail" in done.stderr


def test_an_unknown_peer_is_an_error_that_lists_the_known() -> None:
    argv = [sys.executable, "-P", "-m", "sandbox_runtime", "bench", "--peer", "frob"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "bubblewrap" in done.stderr


@pytest.mark.parametrize("option", ["--json", "--html", "--markdown"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    tmp_path: Path, option: str
) -> None:
    argv = [sys.executable, "-P", "-m", "sandbox_runtime", "bench", "--quick"]
    argv += [option, str(tmp_path / "nowhere" / "file")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{option}: there is no directory" in done.stderr


def test_the_published_schema_is_the_documents() -> None:
    published = json.loads((ROOT / "docs" / "bench-schema.json").read_text())
    assert published == json.loads(json.dumps(results.schema()))


def test_the_numbers_of_the_readme_are_those_of_the_results() -> None:
    def told(path: Path) -> str:
        text = path.read_text()
        return text[text.index(markdown.BEGIN) : text.index(markdown.END)]

    assert told(ROOT / "README.md") == told(ROOT / "docs" / "results.md")

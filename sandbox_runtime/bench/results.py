"""What a run of the harness found: the document behind the table, the page and the comparison.

`schema()` describes it as JSON Schema; `docs/bench-schema.json` is that, and a test holds the two
together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from sandbox_runtime.bench.fingerprint import Fingerprint, Load
from sandbox_runtime.bench.samples import Ratio, Summary
from sandbox_runtime.errors import InvalidArgumentError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 2

Unit = Literal["seconds", "bytes"]
"""What a scenario's figures are in; less is better."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate of one scenario.

    Attributes:
        candidate: Its name, unique in the scenario.
        version: Of the program behind it; empty if it has none of its own.
        protections: What confined the code, in words.
        summary: The figures; None if every attempt failed.
        ratio: Ours by this one, of the same rounds; None for ours, and where nothing compares.
        failure: Why the first failed attempt failed; empty if none did.
        per_s: How many of a storm's were done in a second, the median of the rounds; None if it is
            no storm.
        series: Every measurement in order; None is a failure.
    """

    candidate: str
    version: str
    protections: str
    summary: Summary | None
    ratio: Ratio | None = None
    failure: str = ""
    per_s: float | None = None
    series: tuple[float | None, ...] = ()


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that is not on this machine.

    Attributes:
        candidate: Its name.
        remedy: How to get it, or why it cannot run here.
    """

    candidate: str
    remedy: str


class ScenarioResult(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario.

    Attributes:
        scenario: Its name.
        title: What somebody waits for.
        unit: What the figures are in.
        rounds: How many times each candidate was measured.
        size_bytes: What each measurement moves, for a throughput; 0 if it moves nothing.
        measured: Ours first, then the peers.
        missing: What would have been measured too.
        load: What else the machine did meanwhile.
    """

    scenario: str
    title: str
    unit: Unit
    rounds: int
    size_bytes: int
    measured: tuple[Measured, ...]
    missing: tuple[Missing, ...]
    load: Load


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run.

    Attributes:
        format: Version of this document.
        command: What made it.
        started: When, ISO 8601, UTC.
        fingerprint: Where.
        overhead_s: What the harness itself adds to every measurement (median of an empty one).
        scenarios: What was measured.
    """

    format: int
    command: str
    started: str
    fingerprint: Fingerprint
    overhead_s: float
    scenarios: tuple[ScenarioResult, ...]


def schema() -> dict[str, Any]:
    """JSON Schema of a results document."""
    return msgspec.json.schema(Results)


def save(results: Results, path: Path) -> None:
    """Writes the document."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def load(path: Path) -> Results:
    """Reads a document.

    Raises:
        InvalidArgumentError: It is missing, or not one of ours.
    """
    try:
        results = msgspec.json.decode(path.read_bytes(), type=Results)
    except OSError as error:
        raise InvalidArgumentError(str(path), error.strerror or "cannot be read") from error
    except msgspec.MsgspecError as error:
        raise InvalidArgumentError(str(path), f"is no results of a benchmark: {error}") from error
    if results.format != FORMAT:
        raise InvalidArgumentError(
            str(path), f"has format {results.format}, this version reads {FORMAT}; measure again"
        )
    return results

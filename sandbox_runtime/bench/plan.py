"""How large a run is."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox_runtime.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes that somebody may choose.

    Attributes:
        alive: How many of a kind live at once where their memory is measured; 0 skips that.
        storm_count: How many sandboxes a storm asks for; 0 skips storms.
        storm_concurrency: How many of them at most at once, in the burst and the staggered one.
        storm_delay_ms: Between two of the staggered one.
        array_mb: What the context that branches holds; 0 skips that.
        tree: How many processes the tree has that is killed; 0 skips that.
    """

    alive: int
    storm_count: int
    storm_concurrency: int
    storm_delay_ms: int
    array_mb: int
    tree: int

    def check(self) -> None:
        """Refuses what cannot be.

        Raises:
            InvalidArgumentError: A size is out of its range.
        """
        for field, least, most in (
            ("alive", 0, 1000),
            ("storm_count", 0, 1000),
            ("storm_concurrency", 1, 1000),
            ("storm_delay_ms", 0, 10_000),
            ("array_mb", 0, 4000),
            ("tree", 0, 5000),
        ):
            value = getattr(self, field)
            if not least <= value <= most:
                raise InvalidArgumentError(
                    field.replace("_", "-"), f"must be {least} to {most}, not {value}"
                )


FULL = Sizes(
    alive=200,
    storm_count=50,
    storm_concurrency=50,
    storm_delay_ms=200,
    array_mb=500,
    tree=1000,
)
"""A full run's."""

QUICK = Sizes(
    alive=20,
    storm_count=10,
    storm_concurrency=10,
    storm_delay_ms=50,
    array_mb=0,
    tree=200,
)
"""A quick run's: it has no array."""

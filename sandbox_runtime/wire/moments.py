"""Moments as the wire writes them."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_moment(seconds: float | None = None) -> str:
    """A moment as ISO 8601 in UTC with milliseconds, `2025-10-01T12:00:00.000Z`.

    Args:
        seconds: Since 1970; now by default.
    """
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"

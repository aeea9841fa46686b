"""What the messages have in common."""

from __future__ import annotations

from typing import Annotated

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of the messages of the wire: camel case, unknown fields are ignored."""


class OwnMessage(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """Base of the requests that only our clients send: unknown fields are refused."""


Text = Annotated[str, msgspec.Meta(min_length=1)]
"""Text that is there."""

Env = dict[str, str | None]
"""Variables; null leaves one as it is, as newer clients send it."""

MOST_MS = 2**53
"""The longest time limit, in milliseconds."""

Milliseconds = Annotated[float, msgspec.Meta(gt=0, le=MOST_MS)]
"""A time limit."""

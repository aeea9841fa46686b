"""Jupyter's messages: requests that come in, replies and publications that go out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from jupyter_client.session import Session

if TYPE_CHECKING:
    from sandbox_runtime.jupyter.channels import Channel
    from sandbox_runtime.jupyter.connection import Channels, Connection

PROTOCOL = "5.4"

Content = dict[str, Any]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a front end asks for.

    Attributes:
        kind: The type of its message.
        content: What it says.
        message: All of it, which replies refer to.
        sender: Where the reply goes.
        channel: What it came by.
    """

    kind: str
    content: Content
    message: Content
    sender: list[bytes]
    channel: Any

    def text(self, name: str) -> str:
        """A field that is text; empty if it is not."""
        value = self.content.get(name)
        return value if isinstance(value, str) else ""

    def flag(self, name: str, *, default: bool) -> bool:
        """A field that is yes or no."""
        value = self.content.get(name)
        return value if isinstance(value, bool) else default

    def number(self, name: str, default: int) -> int:
        """A field that is a whole number."""
        value = self.content.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else default


class Messages:
    """Signs and sends, receives and checks."""

    def __init__(self, connection: Connection, channels: Channels) -> None:
        self._session = Session(
            key=connection.key.encode(),
            signature_scheme=connection.signature_scheme,
            username="kernel",
        )
        self._publication = channels.publication

    @property
    def session_id(self) -> str:
        """What tells this kernel from its predecessors."""
        return str(self._session.session)

    def read(self, channel: Channel, frames: list[bytes]) -> Request | None:
        """The request in a message; None if it is none, or not signed as it should be."""
        try:
            sender, rest = self._session.feed_identities(frames)
            message = self._session.deserialize(rest)
            kind, content = message["msg_type"], message["content"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return None
        if not isinstance(kind, str) or not isinstance(content, dict):
            return None
        return Request(kind=kind, content=content, message=message, sender=sender, channel=channel)

    async def reply(self, request: Request, content: Content) -> None:
        """Answers a request."""
        kind = request.kind.removesuffix("_request") + "_reply"
        message = self._session.msg(kind, {"status": "ok"} | content, parent=request.message)
        channel: Channel = request.channel
        await channel.send(self._session.serialize(message, request.sender))

    async def publish(self, kind: str, content: Content, cause: Request | None) -> None:
        """Tells all front ends; `cause` is the request that it comes of."""
        parent = None if cause is None else cause.message
        message = self._session.msg(kind, content, parent=parent)
        topic = f"kernel.{self.session_id}.{kind}".encode()
        await self._publication.send(self._session.serialize(message, topic))

    async def welcome(self, subscription: bytes) -> None:
        """Tells a front end that from here on it hears everything."""
        content = {"subscription": subscription.decode(errors="replace")}
        message = self._session.msg("iopub_welcome", content)
        await self._publication.send(self._session.serialize(message, subscription or None))

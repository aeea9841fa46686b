"""What a server loads once nobody asks for anything, and what it does if that fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.server import app
from sandbox_runtime.server.hosting import HostSettings, open_host

if TYPE_CHECKING:
    import pytest


async def test_a_topic_that_cannot_be_loaded_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left to the request that asks for it."""
    monkeypatch.setattr(app, "_LATER", ["of_no_kind", "files"])
    with caplog.at_level(logging.ERROR):
        async with open_host(HostSettings()) as host:
            await app._load_when_idle(host)
    assert "of_no_kind" in caplog.text
    assert app._LATER == ["of_no_kind", "files"]


async def test_no_sandbox_is_made_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_LATER", [])
    async with open_host(HostSettings()) as host:
        await host.delete("default")
        with trio.fail_after(10):
            await app._load_when_idle(host)
        assert host.sandboxes == []

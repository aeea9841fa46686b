"""Fixtures that several files use: a runtime, a sandbox in it, a session in that.

Each test has its own: a runtime starts in about 15 ms, a sandbox in 4 ms. Tests of hypothesis
open theirs for each example.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from sandbox_runtime import Runtime, Sandbox, Session, open_runtime, open_sandbox
from sandbox_runtime.client.local import LocalServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# Where the tests run in the background SIGINT may be ignored, and programs would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# An example takes as long as the machine is busy. No database: root and users share this directory.
# CI takes the same examples each time, so that a failure there is of the change it tests.
settings.register_profile("real", deadline=None, database=None, derandomize="CI" in os.environ)
settings.load_profile("real")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A control process that the tests of a file share; each has a sandbox of its own in it."""
    server = LocalServer()
    try:
        yield f"unix:{server.path}"
    finally:
        server.close()


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    """A runtime that ends with the test."""
    async with open_runtime() as runtime:
        yield runtime


@pytest.fixture
async def sandbox(runtime: Runtime, request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """A sandbox, with what the test's `sandbox_options` say, or all as usual."""
    mark = request.node.get_closest_marker("sandbox_options")
    async with open_sandbox(runtime=runtime, **(mark.kwargs if mark else {})) as sandbox:
        yield sandbox


@pytest.fixture
async def session(sandbox: Sandbox) -> Session:
    """A session of that sandbox."""
    return await sandbox.create_session()

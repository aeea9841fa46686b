"""The document of the API is what the server serves, and the server does what it says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_runtime.server.app import document

if TYPE_CHECKING:
    from server.conftest import Client

WRITTEN = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_written_document_is_the_generated_one() -> None:
    """`REGENERATE=1` writes it."""
    if os.environ.get("REGENERATE"):
        WRITTEN.write_bytes(document())
    assert WRITTEN.read_bytes() == document()


def test_the_server_serves_its_document(api: Client) -> None:
    assert api.get("/openapi.json").body == document()

"""The published TypeScript clients of the wire drive a running server."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent / "wire_client"

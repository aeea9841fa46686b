"""With a token, only who has it is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox_runtime.server.app import AppSettings

if TYPE_CHECKING:
    from server.conftest import Client

SETTINGS = AppSettings(token="secret-ü")


def bearer(token: str) -> str:
    return f"Bearer {token}".encode().decode("latin-1")


@pytest.mark.parametrize(
    "given", ["", "secret-ü", "Basic secret-ü", bearer("secret"), bearer("secret-üü")]
)
def test_d37_without_the_right_token_nothing_is_answered(api: Client, given: str) -> None:
    reply = api.get("/api/ping", Authorization=given)
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert reply.json["error"] == "Unauthorized"


def test_the_right_token_opens(api: Client) -> None:
    assert api.get("/api/ping", Authorization=bearer("secret-ü")).status == 200


def test_browsers_ask_what_they_may_without_a_token(api: Client) -> None:
    assert api.send("OPTIONS", "/api/ping").status == 200

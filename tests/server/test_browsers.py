"""A server without a token answers programs, and no web page that the operator does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox_runtime.server.app import AppSettings
from sandbox_runtime.server.browsers import BrowserPolicy, is_local_name

if TYPE_CHECKING:
    from server.conftest import Client

SETTINGS = AppSettings(
    browsers=BrowserPolicy(origins=("https://app.example.com",), hosts=("front.example.com",))
)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example.com",
        "https://app.example.com.evil.example.com",
        "https://app.example.com:8443",
        "http://localhost.evil.example.com",
        "http://8080-default-token.localhost:3000",
        "http://localhost:8080",
        "http://127.0.0.1",
        "null",
        "http://[",
        "",
    ],
)
def test_a_strange_page_is_refused_and_told_nothing(api: Client, origin: str) -> None:
    for method in ("POST", "OPTIONS"):
        reply = api.send(method, "/api/session/create", {"id": "page"}, Origin=origin)
        assert (reply.status, reply.json["code"]) == (403, "FORBIDDEN")
        assert "--allow-origin" in reply.json["suggestion"]
    assert "page" not in api.get("/api/session/list").json["sessions"]


def test_a_page_of_the_servers_own_is_refused_too(api: Client) -> None:
    """A program in a sandbox made it: nothing else here shows pages, but the proxy."""
    for mode in ("cors", "no-cors"):
        reply = api.get("/api/session/list", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode=mode)
        assert reply.status == 403


def test_who_types_an_address_is_answered(api: Client) -> None:
    for site in ("none", "cross-site"):
        reply = api.get("/api/ping", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate")
        assert reply.status == 200


def test_pages_that_the_operator_knows_are_answered(api: Client) -> None:
    reply = api.post("/api/session/create", {"id": "known"}, Origin="https://app.example.com")
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:3000", "127.0.0.1.nip.io"])
def test_a_name_that_was_led_here_is_refused(api: Client, host: str) -> None:
    reply = api.get("/api/ping", Host=host)
    assert reply.status == 403
    assert "--allow-host" in reply.json["suggestion"]


@pytest.mark.parametrize(
    "host", ["localhost:3000", "LOCALHOST.", "127.0.0.1", "[::1]:3000", "front.example.com:80"]
)
def test_the_servers_own_names_are_answered(api: Client, host: str) -> None:
    assert api.get("/api/ping", Host=host).status == 200


def test_which_pages_may_use_a_program_is_the_programs_matter(api: Client) -> None:
    reply = api.get("/proxy/8080/", Origin="https://evil.example.com")
    assert reply.json["error"] == "Port 8080 is not exposed"


def test_no_other_name_is_this_machines() -> None:
    assert is_local_name("127.1.2.3")
    assert not any(map(is_local_name, ("", "10.0.0.1", "x.localhost", "localhost.x", "[")))

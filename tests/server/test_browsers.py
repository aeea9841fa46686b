"""A server without a token answers programs, and no web page that the operator does not know."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from sandbox_runtime.server.app import AppSettings
from sandbox_runtime.server.browsers import BrowserPolicy, check_browser, is_local_name
from sandbox_runtime.server.faults import ForbiddenError
from sandbox_runtime.server.http import Headers

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


@pytest.mark.parametrize("site", ["Same-Origin", "cross-site, none", "something-new"])
def test_a_page_is_a_page_however_its_site_is_written(api: Client, site: str) -> None:
    reply = api.get("/api/session/list", Sec_Fetch_Site=site, Sec_Fetch_Mode="cors")
    assert reply.status == 403


def test_each_of_several_fields_counts(api: Client) -> None:
    none = b"Sec-Fetch-Site: none\r\n"
    page = b"Sec-Fetch-Site: same-origin\r\n"
    assert ask_raw(api, b"/api/ping", none) == 200
    assert ask_raw(api, b"/api/ping", none + page) == 403
    known = b"Origin: https://app.example.com\r\n"
    assert ask_raw(api, b"/api/ping", known) == 200
    assert ask_raw(api, b"/api/ping", known + b"Origin: https://evil.example.com\r\n") == 403


def test_a_host_in_the_target_is_looked_at_too(api: Client) -> None:
    assert ask_raw(api, b"http://localhost:3000/api/ping") == 200
    assert ask_raw(api, b"http://evil.example.com/api/ping") == 403
    assert ask_raw(api, b"http://evil.example.com?localhost/api/ping") == 403


def ask_raw(api: Client, target: bytes, fields: bytes = b"") -> int:
    """The status of the answer to a request that no client library would send."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as client:
        client.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n")
        return int(client.recv(4096).split()[1])


REACHED = BrowserPolicy(hosts=("front.example.com",), below=("preview.test",), is_reached=True)


@pytest.mark.parametrize(
    "host",
    [
        *("192.0.2.7:3000", "[2001:db8::1]:3000", "localhost", "sandbox", "my_app-sandbox-1:3000"),
        *("4f2a9c81d3e0", "front.example.com", "preview.test", "8080-x.preview.test:3000", ""),
    ],
)
def test_a_server_that_others_reach_is_called_by_addresses_and_plain_names(host: str) -> None:
    check_browser(Headers(((b"Host", host.encode()),)), REACHED)


@pytest.mark.parametrize(
    "host",
    [
        *(
            "rebound.evil.com:3000",
            "192.0.2.7.nip.io",
            "evil.com.",
            "a.localhost",
            "evilpreview.test",
        ),
        *("x@y", "[::1].evil.com", "192.0.2.7:3000:evil.com"),
    ],
)
def test_a_server_that_others_reach_refuses_a_name_that_was_led_there(host: str) -> None:
    with pytest.raises(ForbiddenError) as refused:
        check_browser(Headers(((b"Host", host.encode()),)), REACHED)
    assert "--allow-host" in refused.value.remedy


def test_no_other_name_is_this_machines() -> None:
    assert is_local_name("127.1.2.3")
    assert not any(map(is_local_name, ("", "10.0.0.1", "x.localhost", "localhost.x", "[")))

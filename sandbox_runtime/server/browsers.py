"""Which web pages may use a server that has no token: none that the operator does not name.

A browser connects for any page that it shows, and pages of this machine are no better than others:
a program in a sandbox may have made them. No page can leave out where it comes from (`Origin`, and
`Sec-Fetch-Site` where that is left out), so a request that says so is refused unless the operator
allows it. A page may also have the name of its own host lead here ("DNS rebinding") and then is no
stranger to its browser, which says nothing then; but the name stands in `Host`. A server that only
this machine can reach has no other names than this machine's. One that others can reach is called
by an address, or by a name without a dot, as containers and their services have; a page has
neither from elsewhere. Any other name is the operator's to say. A token makes all of this
needless, as no page knows it.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from sandbox_runtime.server.faults import ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Collection

    from sandbox_runtime.server.http import Headers

ANY = "*"
"""Instead of an origin or a name: all of them."""

_LONGEST_NAME = 255
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_PORT = re.compile(r":[0-9]{0,5}\Z")


class BrowserPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What requests may say about where they come from, and whom they mean.

    Attributes:
        origins: Of pages that may use the server, or `*`.
        hosts: By which names the server is known, besides those of this machine, or `*`; None is
            by any.
        below: Domains by which it is known, with every name below them.
        is_reached: Whether other machines can reach it, by its addresses and by plain names.
    """

    origins: Collection[str] = ()
    hosts: Collection[str] | None = None
    below: Collection[str] = ()
    is_reached: bool = False


def check_browser(
    headers: Headers, policy: BrowserPolicy, *, target: bytes = b"/", is_proxied: bool = False
) -> None:
    """Refuses what a strange page has its browser send.

    Args:
        headers: Of the request.
        policy: What the operator allows.
        target: Of the request; it may name a host too.
        is_proxied: Whether a program in a sandbox answers; which pages may use that is its matter.

    Raises:
        ForbiddenError: The page is strange, or the name is not one of this server's.
    """
    if policy.hosts is not None and ANY not in policy.hosts:
        _check_name(headers.get("host") or "", policy)
        if not target.startswith(b"/") and b"://" in target:
            authority = re.split(rb"[/?#]", target.partition(b"://")[2], maxsplit=1)[0]
            _check_name(authority.decode("latin-1"), policy)
    if is_proxied or ANY in policy.origins:
        return
    origins = headers.get_all("origin")
    if not origins:
        sites = headers.get_all("sec-fetch-site")
        is_page = any(site.strip().lower() != "none" for site in sites)
        if not is_page or headers.get_all("sec-fetch-mode") == ["navigate"]:
            return
    elif all(origin in policy.origins for origin in origins):
        return
    raise ForbiddenError(
        f"pages of {(', '.join(origins) or 'this server')[:80]!r} may not use this server",
        remedy="The operator allows it with --allow-origin, or serves with a token",
    )


def _check_name(host: str, policy: BrowserPolicy) -> None:
    """Refuses a name that a page may have led here.

    Raises:
        ForbiddenError: It is none of this server's.
    """
    name = _PORT.sub("", host).lower().removesuffix(".")
    if is_local_name(name) or name in (policy.hosts or ()):
        return
    if any(name == domain or name.endswith(f".{domain}") for domain in policy.below):
        return
    if policy.is_reached and len(name) <= _LONGEST_NAME and _is_plain_name(name):
        return
    raise ForbiddenError(
        f"Host {name[:80]!r} is no name of this server",
        remedy="The operator allows it with --allow-host, or serves with a token",
    )


@lru_cache
def _is_plain_name(name: str) -> bool:
    """Whether it is an address, or a name that no page from elsewhere has; also if it is none."""
    if not name or _LABEL.fullmatch(name):  # without any it is no browser that asks
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def is_local_name(name: str) -> bool:
    """Whether it is a name or an address by which a machine calls itself."""
    return len(name) <= _LONGEST_NAME and _is_local_name(name)


@lru_cache  # each request asks, and nearly always for the same
def _is_local_name(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False

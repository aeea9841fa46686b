"""Which web pages may use a server that has no token: none that the operator does not name.

A browser connects for any page that it shows, and pages of this machine are no better than others:
a program in a sandbox may have made them. No page can leave out where it comes from (`Origin`, and
`Sec-Fetch-Site` where that is left out), so a request that says so is refused unless the operator
allows it. A page may also have the name of its own host lead to this machine ("DNS rebinding") and
then is no stranger to its browser; but the name stands in `Host`, and a server that only this
machine can reach has no other names than this machine's. A token makes all of this needless, as no
page knows it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from sandbox_runtime.server.faults import ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Collection

    from sandbox_runtime.server.http import Headers

ANY = "*"
"""Instead of an origin or a name: all of them."""

_SITES_OF_PAGES = frozenset(("same-origin", "same-site", "cross-site"))
_LONGEST_NAME = 255
_PORT = re.compile(r":[0-9]{0,5}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserPolicy:
    """What requests may say about where they come from, and whom they mean.

    Attributes:
        origins: Of pages that may use the server, or `*`.
        hosts: By which names the server is known, besides those of this machine; None is by any.
    """

    origins: Collection[str] = ()
    hosts: Collection[str] | None = None


def check_browser(headers: Headers, policy: BrowserPolicy, *, is_proxied: bool = False) -> None:
    """Refuses what a strange page has its browser send.

    Args:
        headers: Of the request.
        policy: What the operator allows.
        is_proxied: Whether a program in a sandbox answers; which pages may use that is its matter.

    Raises:
        ForbiddenError: The page is strange, or the name is not one of this server's.
    """
    hosts = policy.hosts
    if hosts is not None and ANY not in hosts:
        name = _PORT.sub("", headers.get("host") or "").lower().removesuffix(".")
        if not is_local_name(name) and name not in hosts:
            raise ForbiddenError(
                f"Host {name[:80]!r} is no name of this server",
                remedy="The operator allows it with --allow-host, or serves with a token",
            )
    if is_proxied or ANY in policy.origins:
        return
    origin = headers.get("origin")
    if origin is None:
        is_page = headers.get("sec-fetch-site") in _SITES_OF_PAGES
        if not is_page or headers.get("sec-fetch-mode") == "navigate":
            return
    elif origin in policy.origins:
        return
    raise ForbiddenError(
        f"pages of {(origin or 'this server')[:80]!r} may not use this server",
        remedy="The operator allows it with --allow-origin, or serves with a token",
    )


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

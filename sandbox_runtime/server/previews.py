"""Previews: host names `{port}-{sandbox}[-{token}].{domain}`, and what they lead to.

Names of hosts know no difference between letters of either case, so only sandboxes with lower-case
ids have previews: else two sandboxes could have one name. A token is compared in a time that does
not depend on it, and an answer does not tell what was wrong with a name.
"""

from __future__ import annotations

import hmac
import re
from typing import TYPE_CHECKING

import msgspec

from sandbox_runtime.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox_runtime.ports import ExposedPort
    from sandbox_runtime.sandbox import Sandbox

RESERVED_IDS = frozenset(("www", "api", "admin", "root", "system", "cloudflare", "workers"))
"""Sandbox ids that would be taken for something else."""

_LABEL_BYTES = 63
_LABEL = re.compile(r"([1-9][0-9]{0,4})-([a-z0-9_](?:[a-z0-9_-]{0,60}[a-z0-9_])?)")
_ID = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PORT_SUFFIX = re.compile(r":[0-9]{1,5}\Z")
_HOSTS_WITHOUT_NAMES = frozenset(("127.0.0.1", "::1", "[::1]", "0.0.0.0", "localhost"))  # noqa: S104


class PreviewSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How previews are reached.

    Attributes:
        domain: What stands behind the first dot, such as `localhost` or `preview.example.com`.
        require_token: Whether a name without a token leads nowhere.
        scheme: By which clients reach this server.
    """

    domain: str
    require_token: bool = True
    scheme: str = "http"


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What a name leads to."""

    sandbox: Sandbox
    sandbox_id: str
    port: int


def check_preview_id(sandbox_id: str) -> str:
    """The id, if a sandbox with it can have previews.

    Raises:
        InvalidArgumentError: It cannot be part of a host name, or would be taken for another.
    """
    if sandbox_id.lower() in RESERVED_IDS:
        raise InvalidArgumentError("id", f"{sandbox_id!r} is reserved")
    if not 1 <= len(sandbox_id) <= _LABEL_BYTES:
        raise InvalidArgumentError("id", "must have 1 to 63 characters to be part of a host name")
    if sandbox_id.startswith("-") or sandbox_id.endswith("-"):
        raise InvalidArgumentError("id", "must not begin or end with a hyphen")
    if not _ID.fullmatch(sandbox_id):
        raise InvalidArgumentError("id", f"{sandbox_id!r} has more than a-z, 0-9, `_` and `-`")
    return sandbox_id


def preview_url(sandbox_id: str, exposed: ExposedPort, host: str, settings: PreviewSettings) -> str:
    """The address of a preview.

    Args:
        sandbox_id: Of the sandbox.
        exposed: The port.
        host: The `Host` that this server was reached by: its port is kept.
        settings: The domain.

    Raises:
        InvalidArgumentError: The id cannot be part of a host name, or makes it too long.
    """
    label = f"{exposed.port}-{check_preview_id(sandbox_id)}"
    if settings.require_token:
        label += f"-{exposed.token}"
    if len(label) > _LABEL_BYTES:
        longest = _LABEL_BYTES - (len(label) - len(sandbox_id))
        raise InvalidArgumentError("id", f"must have at most {longest} characters for a preview")
    port = _PORT_SUFFIX.search(host)
    suffix = port[0] if port and port[0] not in {":80", ":443"} else ""
    # An address has no names below it; browsers take every name below `localhost` for this machine.
    domain = "localhost" if settings.domain in _HOSTS_WITHOUT_NAMES else settings.domain
    return f"{settings.scheme}://{label}.{domain}{suffix}/"


def parse_host(host: str | None, domain: str) -> str | None:
    """The label before the domain, in lower case; None if the host is not below the domain."""
    if host is None:
        return None
    name = _PORT_SUFFIX.sub("", host).lower().removesuffix(".")
    wanted = "localhost" if domain in _HOSTS_WITHOUT_NAMES else domain.lower()
    label, dot, rest = name.partition(".")
    return label if dot and rest == wanted else None


def find_preview(
    label: str, find_sandbox: Callable[[str], Sandbox | None], *, require_token: bool
) -> Preview | None:
    """What a label leads to, or None: no such sandbox, port not exposed, token wrong or missing."""
    match = _LABEL.fullmatch(label)
    if match is None or len(label) > _LABEL_BYTES:
        return None
    port = int(match[1])
    for sandbox_id, token in _readings(match[2]):
        if sandbox_id in RESERVED_IDS or (sandbox := find_sandbox(sandbox_id)) is None:
            continue
        exposed = sandbox.ports.get(port)
        if exposed is None:
            continue
        if token is None and require_token:
            continue
        if token is not None and not hmac.compare_digest(token, exposed.token):
            continue
        return Preview(sandbox=sandbox, sandbox_id=sandbox_id, port=port)
    return None


def _readings(rest: str) -> Iterator[tuple[str, str | None]]:
    """An id may have hyphens, so the last part is a token or belongs to the id."""
    sandbox_id, hyphen, token = rest.rpartition("-")
    if hyphen and sandbox_id:
        yield sandbox_id, token
    yield rest, None

"""The bearer token of a server."""

from __future__ import annotations

import hmac


def bears(authorization: str, token: str) -> bool:
    """Whether an `Authorization` is this bearer token; the scheme's letters may be of any case."""
    scheme, _, given = authorization.strip().partition(" ")
    same = hmac.compare_digest(given.strip().encode("latin-1"), token.encode())
    return same and scheme.lower() == "bearer"

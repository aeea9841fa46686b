"""What a client may use of the server, and how long it may take."""

from __future__ import annotations

import msgspec

KIB = 1024
MIB = 1024 * KIB


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of each connection, and the answer to what goes beyond.

    Attributes:
        head_bytes: Request line and header fields together: 431.
        header_fields: How many header fields: 431.
        body_bytes: What `Request.read` takes unless it is told otherwise: 413. A body that is
            streamed has the limit of whoever reads it.
        memory_bytes: How much all requests together may hold at a time, of bodies that are read
            whole, beyond 64 KiB each, and of what handlers take from `Request.memory`: 503. The
            last eighth is for requests that hold little.
        head_s: From the first byte of a request to the end of its head: 408.
        body_s: How long the body of a request may stand still while it is waited for: 408.
        body_bytes_per_s: How fast a body that is read whole has to come, after the first
            `body_s` and on the average: 408.
        idle_s: How long a connection may wait for its next request; then it is closed.
        write_s: How long a client may take nothing of an answer; then the connection is closed.
        half_close_s: How long a handler goes on when the client has closed its sending side. On
            TCP that is all one sees of a client that has gone.
        connections: How many at a time: 503.
    """

    head_bytes: int = 64 * KIB
    header_fields: int = 128
    body_bytes: int = 128 * MIB
    memory_bytes: int = 512 * MIB
    head_s: float = 10
    body_s: float = 30
    body_bytes_per_s: float = 16 * KIB
    idle_s: float = 255
    write_s: float = 255
    half_close_s: float = 0.25
    connections: int = 4096

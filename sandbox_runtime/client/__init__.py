"""The client: sandboxes of a control process, for programs that are not trio's own.

`AsyncSandbox` runs on asyncio and on trio, `Sandbox` is the same without `await`. Both speak to the
address that they are given, or start a control process of their own on a Unix socket and end it
with their block:

    from sandbox_runtime.client import Sandbox

    with Sandbox() as sandbox:
        print(sandbox.exec("echo $((6 * 7))").stdout)

It needs what the extra `client` names: `pip install anyio httpx2`.
"""

from __future__ import annotations

try:
    from sandbox_runtime.client._async.sandbox import AsyncSandbox
    from sandbox_runtime.client._sync.sandbox import Sandbox
    from sandbox_runtime.client.errors import (
        ApiError,
        BusyError,
        ConflictError,
        DeadlineError,
        InvalidRequestError,
        NotFoundError,
        RefusedError,
        SessionEndedError,
        UnreachableError,
    )
    from sandbox_runtime.client.models import Death, Execution
except ModuleNotFoundError as error:
    error.add_note("the client needs two more packages: pip install anyio httpx2")
    raise

__all__ = [
    "ApiError",
    "AsyncSandbox",
    "BusyError",
    "ConflictError",
    "DeadlineError",
    "Death",
    "Execution",
    "InvalidRequestError",
    "NotFoundError",
    "RefusedError",
    "Sandbox",
    "SessionEndedError",
    "UnreachableError",
]

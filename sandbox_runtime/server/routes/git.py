"""Checking out git repositories, with the answer at the end or progress as it happens."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import UNSET

from sandbox_runtime import git
from sandbox_runtime.errors import GitError
from sandbox_runtime.programs import make_id
from sandbox_runtime.server.faults import FieldError
from sandbox_runtime.server.replies import error_body
from sandbox_runtime.server.routes.processes import session_of
from sandbox_runtime.server.routing import Route
from sandbox_runtime.server.streams import stream_events
from sandbox_runtime.wire import git as wire
from sandbox_runtime.wire.moments import iso_moment

if TYPE_CHECKING:
    from sandbox_runtime.server.http import Response
    from sandbox_runtime.server.routing import Call
    from sandbox_runtime.server.streams import EventStream

_REQUIRED = "Repository URL is required and must be a string"
_URL = re.compile(r"(?:https?|ssh|git)://[^\s/]+/\S+|[\w.-]+@[\w.-]+:\S+")
_USUAL_BRANCH = "main"
_TIMEOUT_S = 600.0
_TEXTS = {"repoUrl": _REQUIRED}


def _check_url(url: str) -> None:
    if _URL.fullmatch(url) is None:
        raise FieldError("repoUrl", "Invalid repository URL format", said=True)


def _time_limit_s(call: Call, own_ms: float | None) -> float:
    if own_ms is not None:
        return own_ms / 1000
    return call.host.settings.command_timeout_s or _TIMEOUT_S


async def _clone(
    call: Call, body: wire.Checkout, target: str, on_progress: git.ProgressHandler | None = None
) -> git.CloneResult:
    """Clones as the request says.

    Clients of 0.3 always send a branch, `main` if their caller named none; so a repository that has
    none of that name is cloned with its own default.
    """
    record = await session_of(call, body.session_id)
    branch = body.branch or None
    limit_s = _time_limit_s(call, body.timeout_ms)

    async def clone(branch: str | None) -> git.CloneResult:
        return await git.clone(
            record.session,
            body.repo_url,
            branch=branch,
            directory=target,
            depth=body.depth,
            on_progress=on_progress,
            deadline_s=limit_s,
        )

    try:
        return await clone(branch)
    except GitError as error:
        if call.modern or error.reason != "branch_not_found" or branch != _USUAL_BRANCH:
            raise
    return await clone(None)


def _checked_out(body: wire.Checkout, target: str, result: git.CloneResult) -> wire.CheckedOut:
    return wire.CheckedOut(
        success=True,
        exit_code=0,
        stdout=result.command.text,
        stderr=result.command.stderr.decode(errors="replace"),
        repo_url=body.repo_url,
        branch=result.branch or body.branch or "",
        target_dir=target,
        commit=result.commit if result.commit is not None else UNSET,
        timestamp=iso_moment(),
    )


async def checkout(call: Call, body: wire.Checkout) -> wire.CheckedOut:
    _check_url(body.repo_url)
    target = body.target_dir or make_id("repo")
    try:
        return _checked_out(body, target, await _clone(call, body, target))
    except GitError as error:
        if call.modern:
            raise
        told = error_body(error, call.route, modern=False)
        result = error.result
        return wire.CheckedOut(
            success=False,
            exit_code=(result.exit_code if result is not None else 127) or 1,
            stdout=result.text if result is not None else "",
            stderr=result.stderr.decode(errors="replace") if result is not None else told.message,
            repo_url=body.repo_url,
            branch=body.branch or "",
            target_dir=target,
            timestamp=told.timestamp,
            error=told.message,
            message=told.message,
            code=told.code,
        )


async def checkout_stream(call: Call, body: wire.Checkout) -> Response:
    _check_url(body.repo_url)
    target = body.target_dir or make_id("repo")
    await session_of(call, body.session_id)  # so that a missing one is an error answer

    async def produce(events: EventStream) -> None:
        async def tell(progress: git.CloneProgress) -> None:
            await events.send(
                wire.CloneProgress(
                    phase=progress.phase,
                    percent=progress.percent,
                    done=progress.done,
                    total=progress.total,
                )
            )

        try:
            result = await _clone(call, body, target, tell)
            complete = wire.CloneComplete(result=_checked_out(body, target, result))
            await events.send(complete)
        except Exception as error:  # noqa: BLE001 - the last event says it
            told = error_body(error, call.route, modern=call.modern)
            await events.send(wire.CloneError(error=told.message, code=told.code))

    return stream_events(produce, call.pulse)


ROUTES = (
    Route(
        method="POST",
        path="/api/git/checkout",
        handle=checkout,
        summary="Clone a repository",
        request=wire.Checkout,
        reply=wire.CheckedOut,
        failure="Failed to checkout repository",
        required=_TEXTS,
        statuses=(400, 401, 404, 409, 500, 501, 502, 507),
    ),
    Route(
        method="POST",
        path="/api/git/checkout/stream",
        handle=checkout_stream,
        summary="Clone a repository, with its progress",
        request=wire.Checkout,
        events=wire.CloneEvent,
        failure="Failed to checkout repository",
        required=_TEXTS,
        statuses=(400, 404),
        own=True,
    ),
)

"""Sandboxes: create, look at, delete. All of these are ours."""

from __future__ import annotations

import math
import os
import posixpath
import uuid
from typing import TYPE_CHECKING

import msgspec

from sandbox_runtime.server.faults import FieldError, ForbiddenError
from sandbox_runtime.server.hosting import SandboxSpec
from sandbox_runtime.server.routing import Route
from sandbox_runtime.wire import sandboxes as wire
from sandbox_runtime.wire.moments import iso_moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_runtime.server.hosting import HostedSandbox
    from sandbox_runtime.server.routing import Call
    from sandbox_runtime.settings import Limits


def _limits(usual: Limits, wanted: wire.LimitsRequest | None) -> Limits:
    if wanted is None:
        return usual
    given = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value}
    for name, value in given.items():
        most = getattr(usual, name)
        if most is not None and value > most:
            remedy = f"The operator allows {most}"
            raise ForbiddenError(f"limits.{name}: {value} is too much", remedy=remedy)
    return msgspec.structs.replace(usual, **given)


def _mounts(wanted: Sequence[wire.Mount], mountable: Sequence[str]) -> tuple[str, ...]:
    """The directories to show, each below one that the operator allows.

    Raises:
        FieldError: One is no absolute path, or could mean another than it says.
        ForbiddenError: One is not allowed.
    """
    for mount in wanted:
        if not mount.path.startswith("/") or posixpath.normpath(mount.path) != mount.path:
            raise FieldError(
                "mounts", f"{mount.path!r} must be absolute, without '.', '..' or a '/' at its end"
            )
        real = os.path.realpath(mount.path)
        if not any(
            _lies_in(mount.path, allowed) and _lies_in(real, os.path.realpath(allowed))
            for allowed in mountable
        ):
            raise ForbiddenError(
                f"{mount.path!r} may not be mounted",
                remedy="The operator allows directories with --mountable",
                path=mount.path,
            )
    return tuple(mount.path for mount in wanted)


def _lies_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _info(hosted: HostedSandbox) -> wire.SandboxInfo:
    spec = hosted.spec
    return wire.SandboxInfo(
        id=spec.id,
        name=spec.name,
        status="lost" if hosted.lost else "running",
        network=spec.network,
        mounts=list(spec.mounts),
        limits=wire.LimitsInfo(**msgspec.structs.asdict(spec.limits)),
        idle_ms=None if math.isinf(spec.idle_s) else spec.idle_s * 1000,
        created_at=iso_moment(hosted.created_s),
        last_used=iso_moment(hosted.used_s),
        sessions=len(hosted.sessions.ids),
        processes=hosted.sandbox.processes.running,
        contexts=len(hosted.sandbox.contexts.list()),
    )


def _reply(hosted: HostedSandbox) -> wire.SandboxReply:
    protections = [
        wire.ProtectionInfo(name=one.name, achieved=one.achieved, detail=one.detail)
        for one in hosted.sandbox.report.protections
    ]
    return wire.SandboxReply(sandbox=_info(hosted), protections=protections, timestamp=iso_moment())


async def create(call: Call, body: wire.CreateSandbox) -> wire.SandboxReply:
    settings = call.host.settings
    if body.network == "host" and call.host.network != "host":
        raise ForbiddenError(
            "network: 'host' is not offered here",
            remedy="The operator offers it by serving with --network host",
        )
    spec = SandboxSpec(
        id=body.id or f"sb-{uuid.uuid4().hex[:16]}",
        name=body.name,
        limits=_limits(settings.limits, body.limits),
        network=body.network or call.host.network,
        mounts=_mounts(body.mounts, settings.mountable),
        idle_s=math.inf if body.idle_ms is None else body.idle_ms / 1000,
    )
    return _reply(await call.host.create(spec))


def list_all(call: Call, _body: None) -> wire.SandboxList:
    sandboxes = [_info(hosted) for hosted in call.host.sandboxes]
    return wire.SandboxList(sandboxes=sandboxes, count=len(sandboxes), timestamp=iso_moment())


def show(call: Call, _body: None) -> wire.SandboxReply:
    return _reply(call.host.find(call.params["sandbox_id"]))


async def delete(call: Call, _body: None) -> wire.SandboxDeleted:
    sandbox_id = call.params["sandbox_id"]
    await call.host.delete(sandbox_id)
    return wire.SandboxDeleted(id=sandbox_id, timestamp=iso_moment())


ROUTES = (
    Route(
        method="POST",
        path="/sandboxes",
        handle=create,
        summary="Make a sandbox",
        request=wire.CreateSandbox,
        empty_body=True,
        reply=wire.SandboxReply,
        failure="Failed to create sandbox",
        needs_sandbox=False,
        success=201,
        statuses=(400, 403, 409, 429, 503),
        own=True,
    ),
    Route(
        method="GET",
        path="/sandboxes",
        handle=list_all,
        summary="List the sandboxes",
        reply=wire.SandboxList,
        needs_sandbox=False,
        own=True,
    ),
    Route(
        method="GET",
        path="/sandboxes/{sandbox_id}",
        handle=show,
        summary="Show a sandbox and its protections",
        reply=wire.SandboxReply,
        needs_sandbox=False,
        statuses=(404,),
        own=True,
    ),
    Route(
        method="DELETE",
        path="/sandboxes/{sandbox_id}",
        handle=delete,
        summary="End a sandbox and everything in it",
        reply=wire.SandboxDeleted,
        failure="Failed to delete sandbox",
        needs_sandbox=False,
        statuses=(404,),
        own=True,
    ),
)

"""Peers that are started once for each command: from a plain process to whole container engines.

Each runs `/bin/true` with what its own documentation gives for a throw-away sandbox; which
protections that makes stands beside it, since a faster peer may simply protect less.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from sandbox_runtime.bench.results import Missing
from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from sandbox_runtime.bench.rounds import Once, Stopwatch

TRUE = "/bin/true"
CLEAN_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class PeerFailedError(SandboxError):
    """A peer ended with another status than 0; nothing was measured."""

    code = "peer_failed"


class _Program(msgspec.Struct, frozen=True, kw_only=True):
    """A peer that is one program with arguments in front of the command."""

    name: str
    before: tuple[str, ...]
    protections: str
    package: str
    version_option: str = "--version"


_PROGRAMS = (
    _Program(
        name="unshare",
        before=("unshare", "--pid", "--mount", "--fork", "--mount-proc"),
        protections="PID and mount namespaces; root of the host",
        package="util-linux",
    ),
    _Program(
        name="bubblewrap",
        before=(
            *("bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"),
        ),
        protections="all namespaces, host files read-only; no seccomp, no limits",
        package="bubblewrap",
    ),
    _Program(
        name="firejail",
        before=("firejail", "--quiet", "--noprofile", "--net=none", "--seccomp"),
        protections="PID, mount and network namespaces, seccomp; host files",
        package="firejail",
    ),
    _Program(
        name="nsjail",
        before=("nsjail", "--really_quiet", "--mode", "o", "--chroot", "/", "--"),
        protections="all namespaces, host files read-only, rlimits; no seccomp",
        package="nsjail",
        version_option="--help",
    ),
    _Program(
        name="runsc",
        before=("runsc", "--rootless", "--network=none", "do"),
        protections="a kernel of its own in user space (gVisor)",
        package="runsc",
    ),
)


def spawn(argv: Sequence[str]) -> None:
    """posix_spawn(3), which is vfork and exec, and waitpid(2)."""
    pid = os.posix_spawn(argv[0], list(argv), CLEAN_ENV)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise PeerFailedError(f"{argv[0]} ended with status {os.waitstatus_to_exitcode(status)}")


def _spawning(argv: Sequence[str]) -> Callable[[], AbstractAsyncContextManager[Once]]:
    """A candidate's `open` for a program that is spawned, without any Python around the wait."""

    async def once(stopwatch: Stopwatch) -> None:
        await trio.lowlevel.checkpoint()
        with stopwatch:
            spawn(argv)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Once]:
        yield once

    return opened


def version_of(program: str, option: str = "--version") -> str:
    """The first line in which a program names its version."""
    done = subprocess.run(
        [program, option], capture_output=True, text=True, check=False, timeout=20, env=CLEAN_ENV
    )
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return next((line for line in lines if any(mark.isdigit() for mark in line)), "")[:60]


def processes() -> tuple[Candidate, ...]:
    """Plain processes: what everything else is paid on top of."""

    async def with_subprocess(stopwatch: Stopwatch) -> None:
        await trio.lowlevel.checkpoint()
        with stopwatch:
            subprocess.run([TRUE], check=True, capture_output=True, env=CLEAN_ENV)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Once]:
        yield with_subprocess

    return (
        Candidate(name="posix_spawn", open=_spawning([TRUE])),
        Candidate(name="subprocess.run, captured", open=opened),
        Candidate(name="bash -c true", open=_spawning(["/bin/bash", "-c", "true"])),
    )


def sandboxes() -> tuple[list[Candidate], list[Missing]]:
    """Every sandbox that is a program in front of the command, and what is not installed."""
    candidates, missing = [], []
    for program in _PROGRAMS:
        path = shutil.which(program.before[0], path=CLEAN_ENV["PATH"])
        if path is None:
            remedy = f"apt-get install {program.package}"
            if program.name == "runsc":
                remedy = "https://gvisor.dev/docs/user_guide/install/"
            missing.append(Missing(candidate=program.name, remedy=remedy))
            continue
        candidates.append(
            Candidate(
                name=program.name,
                open=_spawning([path, *program.before[1:], TRUE]),
                version=version_of(path, program.version_option),
                protections=program.protections,
            )
        )
    for engine in ("podman", "docker"):
        path = shutil.which(engine, path=CLEAN_ENV["PATH"])
        if path is None or not _engine_works(path):
            missing.append(
                Missing(candidate=engine, remedy=f"install {engine}; its daemon must answer")
            )
        elif (image := _local_image(path)) is None:
            missing.append(Missing(candidate=engine, remedy=f"{engine} pull debian:bookworm-slim"))
        else:
            argv = [path, "run", "--rm", "--network=none", image, TRUE]
            candidates.append(
                Candidate(
                    name=engine,
                    open=_spawning(argv),
                    version=version_of(path),
                    protections="container: namespaces, seccomp, capabilities, control groups",
                )
            )
    for runtime in ("crun", "runc"):
        path = shutil.which(runtime, path=CLEAN_ENV["PATH"])
        if path is None:
            missing.append(Missing(candidate=runtime, remedy=f"apt-get install {runtime}"))
            continue
        candidates.append(
            Candidate(
                name=runtime,
                open=_bundle(path),
                version=version_of(path),
                protections="container: namespaces, capabilities; host files read-only",
            )
        )
    return candidates, missing


def _engine_works(path: str) -> bool:
    done = subprocess.run(
        [path, "info"], capture_output=True, check=False, timeout=20, env=os.environ | CLEAN_ENV
    )
    return done.returncode == 0


def _local_image(path: str) -> str | None:
    """An image that is here already: nothing is downloaded to be measured."""
    done = subprocess.run(
        [path, "images", "--format", "{{.Repository}}:{{.Tag}}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env=os.environ | CLEAN_ENV,
    )
    names = [name for name in done.stdout.split() if "<none>" not in name]
    return next((name for name in names if "debian" in name or "python" in name), None)


def _bundle(path: str) -> Callable[[], AbstractAsyncContextManager[Once]]:
    """A candidate's `open` for an OCI runtime: one bundle whose root is the host's, read-only."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Once]:
        with tempfile.TemporaryDirectory(prefix="sandbox-runtime-bench-") as directory:
            bundle = Path(directory)
            subprocess.run([path, "spec"], cwd=bundle, check=True, capture_output=True)
            config = msgspec.json.decode((bundle / "config.json").read_bytes())
            config["process"] |= {"terminal": False, "args": [TRUE]}
            config["root"] = {"path": "/", "readonly": True}
            (bundle / "config.json").write_bytes(msgspec.json.encode(config))
            number = 0

            async def once(stopwatch: Stopwatch) -> None:
                nonlocal number
                number += 1
                await trio.lowlevel.checkpoint()
                name = f"bench-{os.getpid()}-{number}"
                with stopwatch:
                    spawn([path, "run", "--bundle", directory, name])

            yield once

    return opened

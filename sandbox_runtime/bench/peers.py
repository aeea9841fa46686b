"""Peers that put a sandbox in front of one command: from namespaces to whole container engines.

Each is called as its own documentation does for a throw-away sandbox; which protections that makes
stands beside it, since a faster peer may simply protect less.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from sandbox_runtime.bench.results import Missing
from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import CLEAN_ENV, spawn, spawn_seen, version_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from sandbox_runtime.bench.rounds import Once, Stopwatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A way to run one command in a sandbox.

    Attributes:
        name: What it is called.
        version: As it says itself.
        protections: What confines the command.
        prepare: Makes what a command needs; yields what makes the words for one run of it.
        slow: Whether it takes so long that storms of it would only fill the time.
    """

    name: str
    version: str
    protections: str
    prepare: Callable[[Sequence[str]], AbstractAsyncContextManager[Callable[[], list[str]]]]
    slow: bool = False

    def to_end(self, command: Sequence[str]) -> Candidate:
        """A candidate: the command, to its end."""

        @asynccontextmanager
        async def opened() -> AsyncIterator[Once]:
            async with self.prepare(command) as words:

                async def once(stopwatch: Stopwatch) -> None:
                    await trio.lowlevel.checkpoint()
                    argv = words()
                    with stopwatch:
                        spawn(argv)

                yield once

        return self._candidate(opened)

    def to_output(self, command: Sequence[str], expected: bytes) -> Candidate:
        """A candidate: the command, until what it prints was seen."""

        @asynccontextmanager
        async def opened() -> AsyncIterator[Once]:
            async with self.prepare(command) as words:

                async def once(stopwatch: Stopwatch) -> None:
                    await trio.lowlevel.checkpoint()
                    spawn_seen(words(), stopwatch, expected)

                yield once

        return self._candidate(opened)

    def _candidate(self, opened: Callable[[], AbstractAsyncContextManager[Once]]) -> Candidate:
        return Candidate(
            name=self.name, open=opened, version=self.version, protections=self.protections
        )


@functools.cache
def found() -> tuple[tuple[Peer, ...], tuple[Missing, ...]]:
    """Every sandbox that can be put in front of a command here, and what cannot."""
    all_of_them = list(itertools.chain(_programs(), _engines(), _runtimes()))
    return (
        tuple(one for one in all_of_them if isinstance(one, Peer)),
        tuple(one for one in all_of_them if isinstance(one, Missing)),
    )


class _Program(msgspec.Struct, frozen=True, kw_only=True):
    """A peer that is one program with arguments in front of the command."""

    name: str
    before: tuple[str, ...]
    protections: str
    remedy: str
    version_option: str = "--version"
    slow: bool = False


_PROGRAMS = (
    _Program(
        name="unshare",
        before=("unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"),
        protections="PID and mount namespaces; root of the host",
        remedy="apt-get install util-linux",
    ),
    _Program(
        name="bubblewrap",
        before=(
            *("bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/"),
            *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
        ),
        protections="all namespaces, host files read-only; no seccomp, no limits",
        remedy="apt-get install bubblewrap",
    ),
    _Program(
        name="firejail",
        before=("firejail", "--quiet", "--noprofile", "--net=none", "--seccomp", "--nonewprivs"),
        protections="PID, mount and network namespaces, seccomp; host files",
        remedy="apt-get install firejail",
        slow=True,
    ),
    _Program(
        name="nsjail",
        before=("nsjail", "--really_quiet", "--mode", "o", "--chroot", "/", "--"),
        protections="all namespaces, host files read-only, rlimits; no seccomp",
        remedy="build it: https://github.com/google/nsjail",
        version_option="--help",
    ),
    _Program(
        name="runsc",
        before=("runsc", "--rootless", "--network=none", "do"),
        protections="a kernel of its own in user space (gVisor)",
        remedy="install gVisor: https://gvisor.dev/docs/user_guide/install/",
        slow=True,
    ),
)


def _in_front(
    before: Sequence[str],
) -> Callable[[Sequence[str]], AbstractAsyncContextManager[Callable[[], list[str]]]]:
    @asynccontextmanager
    async def prepare(command: Sequence[str]) -> AsyncIterator[Callable[[], list[str]]]:
        yield lambda: [*before, *command]

    return prepare


def _programs() -> Iterator[Peer | Missing]:
    for program in _PROGRAMS:
        path = shutil.which(program.before[0])
        if path is None:
            yield Missing(candidate=program.name, remedy=program.remedy)
            continue
        yield Peer(
            name=program.name,
            version=version_of(path, program.version_option),
            protections=program.protections,
            prepare=_in_front([path, *program.before[1:]]),
            slow=program.slow,
        )


# Their defaults raise limits, which who may not do so is refused.
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
_ENGINE = ("run", "--rm", "--network=none", *_LIMITS)
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "etc")


def _engines() -> Iterator[Peer | Missing]:
    """Container engines, with an image that is here: nothing is downloaded to be measured."""
    for engine in ("podman", "docker"):
        path = shutil.which(engine)
        if path is None:
            yield Missing(candidate=engine, remedy=f"apt-get install {engine}")
            continue
        if _engine_says(path, "info") is None:
            yield Missing(candidate=engine, remedy=f"`{engine} info` fails: start its daemon")
            continue
        names = (_engine_says(path, "images", "--format", "{{.Repository}}:{{.Tag}}") or "").split()
        image = next((name for name in names if "debian" in name or "python" in name), None)
        of_the_host = engine == "podman"
        if image is None and not of_the_host:
            yield Missing(candidate=engine, remedy=f"{engine} pull debian:bookworm-slim")
            continue
        root = [image] if image else ["--rootfs", "/:O"]
        yield Peer(
            name=engine,
            version=version_of(path),
            protections="container: namespaces, seccomp, capabilities, control groups"
            + ("" if image else "; an overlay of the host's files"),
            prepare=_in_front([path, *_ENGINE, *root]),
            slow=True,
        )


def _engine_says(path: str, *words: str) -> str | None:
    try:
        done = subprocess.run(
            [path, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=20,
            env=os.environ | CLEAN_ENV,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


def _runtimes() -> Iterator[Peer | Missing]:
    """OCI runtimes, which are what engines start."""
    for runtime in ("crun", "runc"):
        path = shutil.which(runtime)
        if path is None:
            yield Missing(candidate=runtime, remedy=f"apt-get install {runtime}")
            continue
        yield Peer(
            name=runtime,
            version=version_of(path),
            protections="container: namespaces, capabilities; host files read-only",
            prepare=functools.partial(_bundle, path),
            slow=True,
        )


@asynccontextmanager
async def _bundle(path: str, command: Sequence[str]) -> AsyncIterator[Callable[[], list[str]]]:
    """One bundle with the host's system, read-only; a container of a new name for each run."""
    with tempfile.TemporaryDirectory(prefix="sandbox-runtime-bench-") as directory:
        bundle = Path(directory)
        subprocess.run([path, "spec"], cwd=bundle, check=True, capture_output=True)
        config = msgspec.json.decode((bundle / "config.json").read_bytes())
        config["process"] |= {"terminal": False, "args": list(command)}
        config["root"] = {"path": "root", "readonly": True}
        # On a machine with both versions of control groups there is nothing of these to mount.
        config["mounts"] = [one for one in config["mounts"] if one["type"] != "cgroup"]
        config["mounts"] += _system_mounts(bundle / "root")
        (bundle / "config.json").write_bytes(msgspec.json.encode(config))
        numbers = itertools.count()

        def words() -> list[str]:
            name = f"bench-{os.getpid()}-{next(numbers)}"
            return [path, "run", "--bundle", directory, name]

        yield words


def _system_mounts(root: Path) -> list[dict[str, object]]:
    """Makes a root with the system's directories to mount the host's on."""
    root.mkdir()
    mounts: list[dict[str, object]] = []
    for name in _SYSTEM:
        host = Path("/") / name
        if host.is_symlink():
            (root / name).symlink_to(host.readlink())
        elif host.is_dir():
            (root / name).mkdir()
            bound = {"type": "bind", "options": ["rbind", "ro"]}
            mounts.append({"destination": str(host), "source": str(host), **bound})
    for name in ("proc", "dev", "sys"):
        (root / name).mkdir()
    return mounts

"""What is said over the sockets, as values: Python's side of `rust_core/src/spec.rs`."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import msgspec

from sandbox_runtime.errors import HostLimitError, IsolationError
from sandbox_runtime.report import Protection, step_remedy
from sandbox_runtime.settings import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One failed step, see `rust_core/src/error.rs`."""

    step: str
    errno: int
    subject: str

    def as_error(self) -> IsolationError | HostLimitError:
        """For steps of making a sandbox or a jail."""
        if self.errno == errno.ETOOMANYREFS:
            return HostLimitError(self.errno)
        why = os.strerror(self.errno) if self.errno else "refused"
        about = f" ({self.subject})" if self.subject else ""
        message = f"cannot make a sandbox: {self.step}{about}: {why}"
        return IsolationError(self.step, self.errno, message, remedy=step_remedy(self.step))


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of all messages: a map with its type in `type`."""


class Start(_Message, frozen=True, kw_only=True, tag="start"):
    """To the supervisor, once."""

    read_only_paths: tuple[str, ...]


class LoopbackNetwork(_Message, frozen=True, kw_only=True, tag="loopback"):
    """A network of the sandbox's own, with a loopback device and nothing else."""


class HostNetwork(_Message, frozen=True, kw_only=True, tag="host"):
    """The network of this process, with what it knows of names."""

    resolv_conf: bytes
    hosts: bytes


LOOPBACK = LoopbackNetwork()


class CreateSandbox(_Message, frozen=True, kw_only=True, tag="create_sandbox"):
    """To the supervisor, with the sockets of the sandbox's keepers."""

    id: int
    host_name: str
    limits: Limits
    network: LoopbackNetwork | HostNetwork


class StartZygote(_Message, frozen=True, kw_only=True, tag="start_zygote"):
    """To the supervisor, with the zygote's socket."""

    argv: tuple[bytes, ...]
    env: tuple[bytes, ...]
    host_network: bool = False


class Started(_Message, frozen=True, kw_only=True, tag="started"):
    """From the supervisor."""

    separate_ids: bool
    private_ids: tuple[int, int] | None


class Failed(_Message, frozen=True, kw_only=True, tag="failed"):
    """From anybody: it could not be made, and is gone."""

    failure: Failure


class SandboxEnded(_Message, frozen=True, kw_only=True, tag="sandbox_ended"):
    """From the supervisor: nothing of that sandbox is left."""

    id: int


class EnterPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a zygote's child enters a jail; opaque here."""

    cgroup_files: int
    network: bool
    landlock: bool
    separate_ids: bool
    limits: Limits


class KeeperReady(_Message, frozen=True, kw_only=True, tag="ready"):
    """From a keeper: the sandbox is there."""

    tables: int
    memory_events: bool
    protections: tuple[Protection, ...]
    enter: EnterPlan


class Execute(_Message, frozen=True, kw_only=True, tag="execute"):
    """A program of the sandbox."""

    argv: tuple[bytes, ...]
    env: tuple[bytes, ...]
    cwd: bytes
    watch_children: bool = False
    until_end: bool = False


class ServeFiles(_Message, frozen=True, kw_only=True, tag="files"):
    """The file service."""


class CreateJail(_Message, frozen=True, kw_only=True, tag="create_jail"):
    """To a keeper, with the init's socket and the program's descriptors."""

    program: Execute | ServeFiles | None
    namespaces: bool = False
    called: bool = False


class StartProgram(_Message, frozen=True, kw_only=True, tag="start"):
    """To an init without a program, with the program's descriptors."""

    program: Execute


class OpenSockets(_Message, frozen=True, kw_only=True, tag="open_sockets"):
    """To a keeper, with the socket for its answer."""


class SocketsOpened(_Message, frozen=True, kw_only=True, tag="opened"):
    """From a keeper, with the sockets."""


class SocketsRefused(_Message, frozen=True, kw_only=True, tag="refused"):
    """From a keeper: there are none."""

    failure: Failure


class Signal(_Message, frozen=True, kw_only=True, tag="signal"):
    """To an init."""

    pid: int
    signal: int
    group: bool


class Adopt(_Message, frozen=True, kw_only=True, tag="adopt"):
    """To an init: tell the end of a process that it has not started, if that is fit for it."""

    pid: int
    origin: int


class Sweep(_Message, frozen=True, kw_only=True, tag="sweep"):
    """To an init: end what a command started."""

    id: int
    spare: tuple[int, ...]
    keep: tuple[int, ...]
    since_ticks: int
    break_shell: bool
    trees: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()


class InitReady(_Message, frozen=True, kw_only=True, tag="ready"):
    """From an init: the jail is there, and its program runs, or does not."""

    pid: int | None
    failure: Failure | None


class ProgramStarted(_Message, frozen=True, kw_only=True, tag="started"):
    """From an init that had no program: it runs, or does not."""

    pid: int | None
    failure: Failure | None


class Adopted(_Message, frozen=True, kw_only=True, tag="adopted"):
    """From an init: what was to be adopted is, or why not."""

    pid: int
    refused: str | None


class Exited(_Message, frozen=True, kw_only=True, tag="exited"):
    """From an init: the program has ended, and whether it has left nothing behind."""

    pid: int
    exit: int | None
    signal: int | None
    user_us: int
    system_us: int
    max_rss_bytes: int
    alone: bool


class Fork(_Message, frozen=True, kw_only=True, tag="fork"):
    """To a zygote: fork a context."""

    id: int
    plan: bytes


class Forked(_Message, frozen=True, kw_only=True, tag="forked"):
    """From a zygote: it was."""

    id: int
    pid: int


class NotForked(_Message, frozen=True, kw_only=True, tag="not_forked"):
    """From a zygote: it was not."""

    id: int
    failure: Failure


class Ended(_Message, frozen=True, kw_only=True, tag="ended"):
    """From a zygote: a context has ended."""

    id: int
    exit: int | None
    signal: int | None


class Swept(_Message, frozen=True, kw_only=True, tag="swept"):
    """From an init: what was to end has ended."""

    id: int
    killed: int


SupervisorReply = Started | Failed | SandboxEnded
KeeperReply = KeeperReady | Failed
SocketsReply = SocketsOpened | SocketsRefused
ZygoteReply = Forked | NotForked | Ended | Failed
InitReply = InitReady | Failed | ProgramStarted | Adopted | Exited | Swept


def encode_env(env: Mapping[str, str]) -> tuple[bytes, ...]:
    """An environment as `NAME=value` bytes."""
    return tuple(os.fsencode(f"{name}={value}") for name, value in env.items())

"""Git: cloning a repository into a sandbox.

Git runs inside, as the sandbox's user, in a jail of its own, with an argument for each value: no
text of the caller's is read by a shell or taken for an option. Hooks, helpers that a URL could
name, submodules and questions to a terminal are off. Whether the network can be reached is the
sandbox's affair.
"""

from __future__ import annotations

import inspect
import os
import posixpath
import re
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

from sandbox_runtime.arguments import check_callbacks, check_kind
from sandbox_runtime.errors import GitError, GitErrorCode, InvalidArgumentError, NotStartedError
from sandbox_runtime.foreground import run_process
from sandbox_runtime.nursery import open_serving_nursery
from sandbox_runtime.receipts import CommandResult
from sandbox_runtime.sessions import Session
from sandbox_runtime.settings import WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sandbox_runtime.keeper import Keeper
    from sandbox_runtime.sandbox import Sandbox

    ProgressHandler = Callable[["CloneProgress"], Awaitable[None] | None]

PROTOCOLS = ("https", "http", "ssh", "git")
"""What a URL may begin with, unless the caller says otherwise. `ext` runs programs: never."""

_OUTPUT_BYTES = 1024 * 1024
_ENV = {
    "GIT_ASKPASS": "true",
    "SSH_ASKPASS": "true",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
}
_FIXED_ENV = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
_OPTIONS = (
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "protocol.ext.allow=never"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "advice.detachedHead=false"),
)
# The first that is found decides. Git says these in English, as its locale is C.
_REASONS: tuple[tuple[GitErrorCode, str], ...] = (
    ("branch_not_found", r"Remote branch .* not found|Could not find remote branch"),
    ("directory_not_empty", r"already exists and is not an empty directory"),
    ("transport_refused", r"transport '.*' not allowed|remote helper|remote-\S+' is not a git"),
    ("no_space", r"No space left on device|Disk quota exceeded|unable to write file"),
    ("certificate", r"certificate|SSL_ERROR|gnutls_handshake"),
    (
        "auth_required",
        r"Authentication failed|could not read (Username|Password)|terminal prompts disabled"
        r"|Permission denied \(|Host key verification failed|returned error: 40[13]",
    ),
    (
        "network",
        r"Could not resolve host|Temporary failure in name resolution|Name or service not known"
        r"|unable to connect|Failed to connect|Couldn't connect"
        r"|Connection (refused|reset|timed out)"
        r"|Network is unreachable|early EOF|hung up unexpectedly|returned error: 5\d\d"
        r"|RPC failed|Operation timed out",
    ),
    (
        "not_found",
        r"not found|does not exist|does not appear to be a git repository"
        r"|access denied or repository not exported|returned error: 404|not valid: is this a git"
        r"|No such file or directory",
    ),
)
_INTO = re.compile(rb"^Cloning into (?:bare repository )?'(.*)'\.\.\.$", re.MULTILINE)
_PROGRESS = re.compile(rb"^(?:remote: )?(\S[^:\r\n]*):\s+(\d+)% \((\d+)/(\d+)\)")


class CloneProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a clone is.

    Attributes:
        phase: What git does, in its words, e.g. `Receiving objects`.
        percent: How much of that is done.
        done: How many of the things it counts.
        total: Of how many.
    """

    phase: str
    percent: int
    done: int
    total: int


class CloneResult(msgspec.Struct, frozen=True, kw_only=True):
    """A repository that was cloned.

    Attributes:
        url: From where.
        directory: Where it is now, absolute.
        branch: Which branch is checked out; None when it is a tag.
        commit: The commit that is checked out; None when there is none yet.
        command: What git said, and what it cost.
    """

    url: str
    directory: str
    branch: str | None
    commit: str | None
    command: CommandResult


def _failure(reason: GitErrorCode, url: str, result: CommandResult | None) -> GitError:
    said = _last_words(result) if result is not None else "there is no git in the sandbox"
    return GitError(reason, f"cannot clone {_without_password(url)}: {said}", result)


def _without_password(url: str) -> str:
    return re.sub(r"^([a-z+]+://)[^/@]*@", r"\1***@", url, flags=re.IGNORECASE)


def _last_words(result: CommandResult) -> str:
    if result.ended == "deadline":
        return "the deadline has passed"
    lines = re.split(r"[\r\n]+", result.stderr.decode(errors="replace"))
    told = [line for line in lines if line.startswith(("fatal:", "error:", "ERROR:"))]
    said = told or [line for line in lines if line.strip()][-1:]
    return _without_password("; ".join(said)) if said else f"git ended ({result.ended})"


def _reason(result: CommandResult) -> GitErrorCode:
    if result.ended == "deadline":
        return "deadline"
    said = result.stderr.decode(errors="replace")
    for reason, pattern in _REASONS:
        if re.search(pattern, said, re.IGNORECASE):
            return reason
    return "failed"


class _Progress:
    """Finds in git's standard error how far it is."""

    def __init__(self, on_progress: ProgressHandler) -> None:
        self._on_progress = on_progress
        self._rest = b""
        self._last: CloneProgress | None = None

    async def hear(self, chunk: bytes) -> None:
        """A piece of standard error; a progress line ends with a return instead of a newline."""
        *lines, rest = re.split(rb"[\r\n]", self._rest + chunk)
        self._rest = rest[-_OUTPUT_BYTES:]
        for line in lines:
            if (found := _PROGRESS.match(line)) is None:
                continue
            phase, percent, done, total = found.groups()
            progress = CloneProgress(
                phase=phase.decode(errors="replace"),
                percent=int(percent),
                done=int(done),
                total=int(total),
            )
            if progress != self._last:
                self._last = progress
                handled = self._on_progress(progress)
                if inspect.isawaitable(handled):
                    await handled


async def _run(
    keeper: Keeper,
    arguments: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    deadline_s: float | None = None,
    progress: _Progress | None = None,
) -> CommandResult:
    async with open_serving_nursery() as nursery:
        return await run_process(
            keeper,
            nursery,
            ["git", *_OPTIONS, *arguments],
            cwd=cwd,
            env=env,
            deadline_s=deadline_s,
            on_stderr=None if progress is None else progress.hear,
            limit_bytes=_OUTPUT_BYTES,
        )


@runtime_checkable
class _InSandbox(Protocol):
    """A sandbox, whose module is above this one, or what belongs to one."""

    @property
    def keeper(self) -> Keeper:
        """Of the sandbox."""


async def clone(
    where: Sandbox | Session,
    url: str,
    *,
    branch: str | None = None,
    directory: str | None = None,
    depth: int | None = None,
    protocols: Sequence[str] = PROTOCOLS,
    on_progress: ProgressHandler | None = None,
    deadline_s: float | None = None,
) -> CloneResult:
    """Clones a repository, without its submodules.

    Args:
        where: In this sandbox; with a session, starting in its present directory and with its
            variables.
        url: From where.
        branch: Which branch or tag to check out; the repository's own default if not given.
        directory: Where to; made, or empty. By default git takes the last part of the URL.
        depth: How many commits of history to take; all by default.
        protocols: What the URL may begin with.
        on_progress: Called, and awaited if it returns an awaitable, whenever git says how far it
            is.
        deadline_s: Seconds until git is ended with all it started; None is never.

    Raises:
        GitError: Git did not do it; `reason` says why.
        InvalidArgumentError: An argument cannot mean anything.

    Cancellation: ends git with all it started; what it had written may stay.
    """
    _check(url, branch, directory, depth, protocols)
    check_kind("where", where, _InSandbox, "a Sandbox or a Session")
    check_callbacks(on_progress=on_progress)
    start_cwd, given_env = WORKSPACE, {}
    if isinstance(where, Session):
        start_cwd, given_env = where.cwd(), where.env
    env = {**_ENV, **given_env, **_FIXED_ENV, "GIT_ALLOW_PROTOCOL": ":".join(protocols)}
    arguments = ["clone", "--progress", "--no-recurse-submodules"]
    if branch is not None:
        arguments.append(f"--branch={branch}")
    if depth is not None:
        arguments.append(f"--depth={depth}")
    arguments += ["--", url]
    if directory is not None:
        arguments.append(directory)
    try:
        result = await _run(
            where.keeper,
            arguments,
            cwd=start_cwd,
            env=env,
            deadline_s=deadline_s,
            progress=None if on_progress is None else _Progress(on_progress),
        )
    except NotStartedError as error:
        if error.step == "execute":
            raise _failure("git_missing", url, None) from error
        raise
    if not result.ok:
        raise _failure(_reason(result), url, result)
    into = directory
    if into is None:
        found = _INTO.search(result.stderr)
        into = os.fsdecode(found[1]) if found else "."
    path = posixpath.normpath(posixpath.join(start_cwd, into))
    commit, checked_out = await _head(where.keeper, path, env)
    return CloneResult(url=url, directory=path, branch=checked_out, commit=commit, command=result)


async def _head(
    keeper: Keeper, directory: str, env: Mapping[str, str]
) -> tuple[str | None, str | None]:
    """The commit and the branch that are checked out."""
    arguments = ["rev-parse", "HEAD", "--abbrev-ref", "HEAD"]
    said = await _run(keeper, arguments, cwd=directory, env=env)
    if said.ok:
        commit, _, branch = said.text.strip().partition("\n")
        return commit, None if branch == "HEAD" else branch
    said = await _run(keeper, ["symbolic-ref", "--short", "HEAD"], cwd=directory, env=env)
    return None, said.text.strip() or None


def _check(
    url: str,
    branch: str | None,
    directory: str | None,
    depth: int | None,
    protocols: Sequence[str],
) -> None:
    check_kind("url", url, str, "text, e.g. 'https://host/project.git'")
    for field, text in (("url", url), ("branch", branch), ("directory", directory)):
        if text is not None and (not isinstance(text, str) or not text or "\0" in text):
            raise InvalidArgumentError(field, f"{text!r} is no {field}")
    if depth is not None and (not isinstance(depth, int) or not 0 < depth < 1 << 31):
        raise InvalidArgumentError("depth", f"must be a positive number, not {depth!r}")
    check_kind("protocols", protocols, list | tuple, "a list of names, e.g. ['https']")
    for protocol in protocols:
        is_name = isinstance(protocol, str) and re.fullmatch(r"[a-z0-9]+", protocol)
        if not is_name or protocol == "ext":
            raise InvalidArgumentError("protocols", f"{protocol!r} is none that may be used")

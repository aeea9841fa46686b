"""Everything that can go wrong, in one tree.

Errors of the code that runs in a sandbox are data in its result. What is raised is this: a mistake
of the caller's, or something about the sandbox itself. Each class says whose fault it is
and what is left; `code` is stable, `retryable` says whether trying again can help.
"""

from __future__ import annotations

import errno as errno_names
import math
import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_runtime.client.models import CommandResult as SentResult
    from sandbox_runtime.receipts import CommandResult


class SandboxError(Exception):
    """Base of all; never raised itself.

    Attributes:
        code: Stable name for programs.
        retryable: Whether the same call may work later.
        remedy: What to do about it, for people; may be empty.
    """

    code: ClassVar[str] = "sandbox_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message}. {remedy}" if remedy else message)
        self.remedy = remedy


class InvalidArgumentError(SandboxError, ValueError):
    """The caller's fault: an argument cannot mean anything. Nothing was done."""

    code = "invalid_argument"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class ListenError(InvalidArgumentError, OSError):
    """This process cannot listen on an address. Nothing was done.

    Attributes:
        errno: Why, as errno(3), e.g. `errno.EADDRINUSE`.
    """

    code = "cannot_listen"

    def __init__(self, field: str, errno: int, address: str, port: int) -> None:
        why = f"cannot listen on {address} port {port}: {os.strerror(errno)}"
        remedy = _LISTEN_REMEDIES.get(errno, "")
        super().__init__(field, f"{why}. {remedy}" if remedy else why)
        self.errno = errno


_LISTEN_REMEDIES = {
    errno_names.EADDRINUSE: "Something else listens there: end that, or choose another address",
    errno_names.EADDRNOTAVAIL: "It is no address of this machine; give one like '127.0.0.1'",
    errno_names.EACCES: "Choose a port above 1023",
}


class IsolationError(SandboxError):
    """A protection that was required cannot be had here. There is no sandbox.

    Attributes:
        step: The step that failed, or the protection that is missing.
        errno: Why, as errno(3), or 0.
    """

    code = "isolation_unavailable"

    def __init__(self, step: str, errno: int, message: str, *, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.step = step
        self.errno = errno


class NotStartedError(SandboxError):
    """A program could not be started: it is missing, not executable, or the directory is.

    Nothing ran; the sandbox and the session are as before, unless the message says otherwise.
    """

    code = "not_started"

    def __init__(
        self, step: str, errno: int, subject: str, *, why: str = "", remedy: str = ""
    ) -> None:
        what = "change to directory" if step == "change_directory" else "start"
        why = why or (os.strerror(errno) if errno else "refused")
        remedy = remedy or _START_REMEDIES.get(errno, "")
        named = repr(subject) if subject else "the program"
        super().__init__(f"cannot {what} {named}: {why}", remedy=remedy)
        self.step = step
        self.errno = errno
        self.subject = subject


_START_REMEDIES = {
    errno_names.EAGAIN: "As many processes run as may (limits.processes): end some, or allow more",
    errno_names.ENOENT: "Check the name, and that it lies in a directory the sandbox shows",
    errno_names.EACCES: "Check that it is a file, and executable",
    errno_names.E2BIG: "Pass long arguments in a file or on standard input",
    errno_names.ENOEXEC: "Start it with its interpreter, or give it a #! line",
}


class CommandFailedError(SandboxError):
    """The command ended badly, and the call asked to be told so (`check=True`)."""

    code = "command_failed"

    def __init__(self, result: CommandResult | SentResult, how: str, stderr: str) -> None:
        tail = stderr[-500:].strip()
        super().__init__(f"the command ended with {how}{': ' + tail if tail else ''}")
        self.result = result


class NotOpenedError(SandboxError, AttributeError, RuntimeError):
    """The caller's fault: it was used without its block, `async with`. Nothing was done."""

    code = "not_opened"


class SandboxClosedError(SandboxError):
    """The caller's fault: the sandbox, session or context was closed before."""

    code = "closed"


class SandboxLostError(SandboxError):
    """The world's fault: the sandbox, or a jail in it, has died. Make a new one."""

    code = "sandbox_lost"
    retryable = True


class HostLimitError(SandboxError, OSError):
    """The world's fault: something that the kernel counts for each user is used up.

    Attributes:
        errno: `errno.ETOOMANYREFS` for descriptors on their way between processes, `errno.ENOSPC`
            for epoll watches.
    """

    code = "host_limit"
    retryable = True

    def __init__(self, errno: int) -> None:
        what = _COUNTED_FOR_EACH_USER[errno]
        super().__init__(
            f"the user of this process has no {what} left",
            remedy="End the sandbox whose code uses them up. Where sandboxes have separate ids"
            " (made as root) each counts for itself",
        )
        self.errno = errno


_COUNTED_FOR_EACH_USER = {
    errno_names.ETOOMANYREFS: "descriptors to send (as many are on their way as `ulimit -n` says)",
    errno_names.ENOSPC: "epoll watches (fs.epoll.max_user_watches)",
}


def named(error: OSError) -> OSError:
    """The same, or what a used up count of this user's is called; of sockets and epoll only."""
    number = error.errno
    return HostLimitError(number) if number in _COUNTED_FOR_EACH_USER else error


class InterpreterUnavailableError(SandboxError):
    """No context can be made: the interpreter or what it needs is missing or broken."""

    code = "interpreter_unavailable"


class InterpreterMissingError(InterpreterUnavailableError):
    """Nothing but what the remedy names can help: it is not installed, or has too little memory."""

    code = "interpreter_missing"


class InterpreterRestingError(InterpreterUnavailableError):
    """The last interpreters of this kind did not start, so it is not tried for a while.

    Attributes:
        retry_after_s: For how long.
    """

    code = "interpreter_resting"
    retryable = True

    def __init__(self, reason: str, retry_after_s: float) -> None:
        remedy = f"It is tried again in {math.ceil(retry_after_s)} s"
        super().__init__(reason or "it failed to start repeatedly", remedy=remedy)
        self.retry_after_s = retry_after_s


class BranchRefusedError(SandboxError):
    """A context cannot be branched now: what it holds does not survive a copy. It goes on.

    Attributes:
        threads: The names of its threads besides the first.
        sockets: What its sockets are.
        tasks: What its event loop has to do yet.
    """

    code = "branch_refused"

    def __init__(self, why: str, found: Mapping[str, Any] | None = None) -> None:
        lists = {
            kind: tuple(map(str, (found or {}).get(kind) or ()))
            for kind in ("threads", "sockets", "tasks")
        }
        named = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in lists.items() if names)
        remedy = "End the threads and close the sockets first" if named else ""
        super().__init__(f"{why}{': ' if named else ''}{named}", remedy=remedy)
        self.threads, self.sockets, self.tasks = lists["threads"], lists["sockets"], lists["tasks"]


class PoolFullError(SandboxError):
    """The sandbox has as many interpreters of a language as it may, and none was deleted in time.

    Nothing was made. Delete one, or try again later.

    Attributes:
        most: How many it may have.
        waited_s: For how long it was waited.
        retry_after_s: When trying again may make sense.
    """

    code = "pool_full"
    retryable = True

    def __init__(self, most: int, waited_s: float, *, asked: int = 1, ahead: int = 0) -> None:
        """Says it in numbers.

        Args:
            most: How many there may be.
            waited_s: For how long it was waited.
            asked: How many were asked for at once.
            ahead: How many places are kept for ready branches.
        """
        remedy = "Delete a context, or raise the pool's max"
        what = f"all {most} interpreters are in use, and none became free"
        if asked > 1 or ahead:
            what = f"{asked} more of {most} interpreters are asked for, and not so many became free"
        if ahead:
            what = f"{ahead} places are those of ready branches, which are filled anew; {what}"
            remedy += ", or keep fewer branches ready"
        super().__init__(f"{what} in {waited_s:g} s", remedy=remedy)
        self.most = most
        self.waited_s = waited_s
        self.retry_after_s = max(1.0, waited_s)


class ContextNotFoundError(SandboxError, LookupError):
    """The caller's fault: there is no context with this id (any more). Nothing was done."""

    code = "context_not_found"

    def __init__(self, context_id: str, *, remedy: str = "") -> None:
        super().__init__(f"Context {context_id} not found")
        self.context_id = context_id
        self.remedy = remedy  # beside the message, which the wire fixes


class AlreadyExistsError(SandboxError):
    """The caller's fault: something with that id is there already. Nothing was done."""

    code = "already_exists"

    def __init__(self, what: str, given_id: str) -> None:
        super().__init__(f"there is a {what} {given_id!r} already", remedy="Choose another id")
        self.what = what
        self.id = given_id


class NotFoundError(SandboxError, LookupError):
    """Nothing has that id: it never had, or it was ended and forgotten."""

    code = "not_found"

    def __init__(self, what: str, given_id: str) -> None:
        super().__init__(f"there is no {what} {given_id!r}")
        self.what = what
        self.id = given_id


class DeadlineError(SandboxError):
    """What was waited for was not there when the deadline passed."""

    code = "deadline"


class ProcessEndedError(SandboxError):
    """A process ended before what somebody waited for.

    Attributes:
        id: The process's.
        exit_code: What it exited with, or None if it did not.
    """

    code = "process_ended"

    def __init__(self, process_id: str, exit_code: int | None, waited_for: str) -> None:
        how = "" if exit_code is None else f" with exit code {exit_code}"
        super().__init__(f"process {process_id!r} ended{how} before {waited_for}")
        self.id = process_id
        self.exit_code = exit_code


class PortUnreachableError(SandboxError):
    """Nothing answers on that port inside the sandbox; perhaps its program is not ready yet.

    Attributes:
        port: Which.
        errno: As errno(3), mostly `errno.ECONNREFUSED`.
    """

    code = "port_unreachable"
    retryable = True

    def __init__(self, port: int, errno: int) -> None:
        super().__init__(f"nothing answers on port {port} of the sandbox: {os.strerror(errno)}")
        self.port = port
        self.errno = errno


class FileAccessError(SandboxError):
    """The file service refused. Nothing has changed, unless a recursive removal had begun.

    Attributes:
        errno: As errno(3), e.g. `errno.ENOENT`.
        path: The path as it was given.
    """

    code = "file_access"

    def __init__(self, path: str, errno: int, detail: str) -> None:
        super().__init__(f"{path}: {detail.partition(' (os error ')[0]}")
        self.errno = errno
        self.path = path


GitErrorCode = Literal[
    "git_missing",
    "not_found",
    "auth_required",
    "branch_not_found",
    "directory_not_empty",
    "transport_refused",
    "certificate",
    "network",
    "no_space",
    "deadline",
    "failed",
]


class GitError(SandboxError):
    """Git did not do it; a directory that it had made is gone again.

    Attributes:
        reason: Why, a stable word.
        result: What git said, or None if it did not run.
    """

    code = "git"

    def __init__(self, reason: GitErrorCode, message: str, result: CommandResult | None) -> None:
        super().__init__(message)
        self.reason = reason
        self.result = result

"""The report: which protections a sandbox has, and how to get the ones it lacks."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

import msgspec

from sandbox_runtime.errors import InvalidArgumentError, IsolationError

if TYPE_CHECKING:
    from collections.abc import Iterable

Achieved = Literal["full", "partial", "absent"]
Requested = Literal["required", "wanted", "given up"]

_USER_NAMESPACES = (
    "User namespaces must be allowed: set user.max_user_namespaces and "
    "kernel.unprivileged_userns_clone above 0, on Ubuntu "
    "kernel.apparmor_restrict_unprivileged_userns to 0; in a container add "
    "--cap-add SYS_ADMIN --security-opt seccomp=unconfined"
)
_CGROUPS = (
    "Run as root where /sys/fs/cgroup is writable, or have a v2 group delegated to this user "
    "(systemd-run --user -p Delegate=yes --scope); until then the limit on memory is one for each "
    "process, and shared memory is not in it"
)
_KERNEL = "Linux 5.12 or newer is needed"

PROTECTIONS: dict[str, tuple[Requested, str, str]] = {
    "user_namespace": ("required", "ids and capabilities of its own", _USER_NAMESPACES),
    "pid_namespace": ("required", "sees and signals only its own processes", _USER_NAMESPACES),
    "mnt_namespace": ("required", "mounts of its own", _USER_NAMESPACES),
    "net_namespace": ("required", "no network but its own loopback", _USER_NAMESPACES),
    "ipc_namespace": ("required", "shared memory and queues of its own", _USER_NAMESPACES),
    "uts_namespace": ("required", "a host name of its own", _USER_NAMESPACES),
    "cgroup_namespace": ("required", "cannot see where its control group lies", _KERNEL),
    "unprivileged_user": ("required", "user code is uid 1000, never root", _USER_NAMESPACES),
    "separate_ids": (
        "wanted",
        "host ids that belong to no user and no other sandbox",
        "Run as root, outside of containers that map a few ids only",
    ),
    "read_only_root": ("required", "its own root, read-only", _KERNEL),
    "read_only_usr": ("required", "the system's programs, read-only", _KERNEL),
    "private_proc": ("required", "a /proc that shows only its own processes", _USER_NAMESPACES),
    "proc_masks": ("required", "kernel settings cannot be written", _USER_NAMESPACES),
    "private_dev": ("required", "six harmless devices", _KERNEL),
    "sized_directories": ("required", "writable directories of bounded size", _KERNEL),
    "no_new_privs": ("required", "no program gains rights when it starts", _KERNEL),
    "no_capabilities": ("required", "five empty capability sets", _USER_NAMESPACES),
    "seccomp": ("required", "system calls that user code never needs are refused", _KERNEL),
    "no_nested_user_namespaces": ("required", "no user namespace inside", _KERNEL),
    "resource_limits": ("required", "limits on each process", _KERNEL),
    "descriptor_hygiene": ("required", "no descriptor of anybody else's", _KERNEL),
    "landlock": ("wanted", "a second wall around files and signals", "Linux 6.12 has all of it"),
    "keyring": ("wanted", "a session keyring of its own", "The kernel needs CONFIG_KEYS"),
    "cgroup_memory": ("wanted", "a bound on the memory of all processes together", _CGROUPS),
    "cgroup_cpu": ("wanted", "a bound on processor time, where one was asked for", _CGROUPS),
    "cgroup_pids": ("wanted", "a bound on processes that no id shares", _CGROUPS),
}
"""Name: whether a sandbox is refused without it, what it means, how to get it."""

_STEP_REMEDIES = {
    "clone_supervisor": _USER_NAMESPACES,
    "clone_sandbox": _USER_NAMESPACES,
    "write_id_maps": _USER_NAMESPACES,
    "mount_proc": "A container that masks /proc forbids a fresh one in a user namespace: run it "
    "with --cap-add SYS_ADMIN --security-opt seccomp=unconfined, with --security-opt "
    "systempaths=unconfined (podman: unmask=ALL) or with --privileged",
    "open_source": "Check that the directory exists and may be read",
    "attach_source": _KERNEL,
    "place_descriptors": "Linux 5.9 or newer is needed",
    "start": "Start it again; if it keeps failing, run `sandbox-runtime doctor`",
}


class Protection(msgspec.Struct, frozen=True, kw_only=True):
    """One row.

    Attributes:
        name: One of `PROTECTIONS`.
        achieved: `full`, `partial` or `absent`.
        detail: What was seen from inside, or why it is not there.
        given_up: Whether the caller asked to be without it.
    """

    name: str
    achieved: Achieved
    detail: str
    given_up: bool = False

    @property
    def requested(self) -> Requested:
        """Whether a sandbox is refused without it."""
        return "given up" if self.given_up else PROTECTIONS[self.name][0]

    @property
    def meaning(self) -> str:
        """What it does for you."""
        return PROTECTIONS[self.name][1]

    @property
    def remedy(self) -> str:
        """How to get it."""
        return PROTECTIONS[self.name][2]


class SandboxReport(msgspec.Struct, frozen=True, kw_only=True):
    """Which protections one sandbox has, found by trying them from the inside.

    Attributes:
        level: 1 with host ids of its own (made as root), 2 with the caller's (an ordinary user).
        protections: One row for each of `PROTECTIONS`, in their order.
    """

    level: int
    protections: tuple[Protection, ...]

    def __getitem__(self, name: str) -> Protection:
        """The row of that name; KeyError if there is none."""
        for row in self.protections:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def missing(self) -> tuple[Protection, ...]:
        """The rows that are not `full`, though nobody asked to be without them."""
        return tuple(row for row in self.protections if row.achieved != "full" and not row.given_up)

    def table(self) -> str:
        """The report for people, a line a row."""
        marks = {"full": "yes", "partial": "part", "absent": "NO"}
        rows = [
            f"  {row.name:<26} {row.requested:<9} {marks[row.achieved]:<5} {row.detail}"
            for row in self.protections
        ]
        head = f"  {'protection':<26} {'requested':<9} {'there':<5} seen from inside, or why not"
        return "\n".join([head, *rows])


def build_report(
    rows: Iterable[Protection],
    *,
    separate_ids: bool,
    given_up: Collection[str] = (),
    not_asked: Collection[str] = (),
) -> SandboxReport:
    """Puts rows in the order of `PROTECTIONS`; one that nobody reported is absent.

    Args:
        rows: What was found.
        separate_ids: Whether the sandbox has host ids of its own.
        given_up: The names of those that the caller asked to be without.
        not_asked: The names of those that are there only if they are asked for, and were not.
    """
    found = {row.name: msgspec.structs.replace(row, given_up=row.name in given_up) for row in rows}
    return SandboxReport(
        level=1 if separate_ids else 2,
        protections=tuple(
            found.get(name, Protection(name=name, achieved="absent", detail="not reported"))
            for name in PROTECTIONS
            if name not in not_asked
        ),
    )


def check_required(require: Collection[str]) -> None:
    """Refuses what is not the name of a protection.

    Raises:
        InvalidArgumentError: It names the first that is not.
    """
    if isinstance(require, str) or not isinstance(require, Collection):
        raise InvalidArgumentError("require", f"must be a list of names, not {require!r}")
    for name in require:
        if not isinstance(name, str) or name not in PROTECTIONS:
            known = ", ".join(PROTECTIONS)
            raise InvalidArgumentError("require", f"{name!r} is no protection; known: {known}")


def enforce(report: SandboxReport, require: Collection[str]) -> None:
    """Raises unless every required protection, by default or by the caller, is fully there.

    Raises:
        IsolationError: Naming the first that is not, and how to get it.
    """
    for row in report.protections:
        if row.achieved != "full" and (row.requested == "required" or row.name in require):
            raise IsolationError(
                row.name,
                0,
                f"protection {row.name!r} ({row.meaning}) is {row.achieved}: {row.detail}",
                remedy=row.remedy,
            )


def step_remedy(step: str) -> str:
    """What to do when this step of making a sandbox fails."""
    return _STEP_REMEDIES.get(step, "Run `sandbox-runtime doctor` to see what this machine offers")

"""Where a run was made, and what else the machine did meanwhile."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
from pathlib import Path

import msgspec

_MITIGATIONS = Path("/sys/devices/system/cpu/vulnerabilities")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_LOADED_SHARE = 0.10


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """The machine.

    Attributes:
        version: Of sandbox-runtime.
        kernel: As uname(2) says.
        cpu: The processor's name.
        cpus: How many this process may use.
        memory_bytes: What the machine has.
        hypervisor: Whether the processor says that it is a guest's.
        governor: The frequency governor; empty where there is none.
        mitigations: What the kernel does about each vulnerability of the processor.
        python: The interpreter.
        uid: Who measured.
        isolation: The report of our sandbox, a line for each protection.
    """

    version: str
    kernel: str
    cpu: str
    cpus: int
    memory_bytes: int
    hypervisor: bool
    governor: str
    mitigations: dict[str, str]
    python: str
    uid: int
    isolation: tuple[str, ...]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What others did while a scenario ran.

    Attributes:
        foreign_share: Processor time that neither we nor our children used, by all there was.
        disturbed: Whether that is enough to mistrust absolute times.
    """

    foreign_share: float
    disturbed: bool


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def take(isolation: tuple[str, ...]) -> Fingerprint:
    """The machine as it is now."""
    cpuinfo = _text(Path("/proc/cpuinfo"))
    model = re.search(r"^(?:model name|CPU part)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    names = sorted(_MITIGATIONS.iterdir()) if _MITIGATIONS.is_dir() else []
    return Fingerprint(
        version=importlib.metadata.version("sandbox-runtime"),
        kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=model[1] if model else "unknown",
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        hypervisor=flags is not None and " hypervisor" in flags[1],
        governor=_text(_GOVERNOR),
        mitigations={name.name: _text(name) for name in names},
        python=f"{platform.python_implementation()} {platform.python_version()}",
        uid=os.getuid(),
        isolation=isolation,
    )


class LoadMeter:
    """Measures foreign load from its making to `read`."""

    def __init__(self) -> None:
        self._busy_s, self._all_s = _machine_seconds()
        self._own_s = _own_seconds()

    def read(self) -> Load:
        """What others did since."""
        busy_s, all_s = _machine_seconds()
        foreign = (busy_s - self._busy_s) - (_own_seconds() - self._own_s)
        share = max(0.0, foreign / (all_s - self._all_s)) if all_s > self._all_s else 0.0
        return Load(foreign_share=share, disturbed=share > _LOADED_SHARE)


def _machine_seconds() -> tuple[float, float]:
    """Busy and all processor time of the machine (proc(5), stat)."""
    fields = [int(field) for field in _text(Path("/proc/stat")).partition("\n")[0].split()[1:9]]
    ticks = os.sysconf("SC_CLK_TCK")
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / ticks, sum(fields) / ticks


def _own_seconds() -> float:
    """Processor time of this process and all below it, living and reaped."""
    times = os.times()
    ticks = os.sysconf("SC_CLK_TCK")
    total = times.user + times.system + times.children_user + times.children_system
    for pid in descendants(os.getpid()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15]) / ticks
    return total


def descendants(pid: int) -> list[int]:
    """Every living process below this one (proc(5), children)."""
    found: list[int] = []
    todo = [pid]
    while todo:
        parent = todo.pop()
        with contextlib.suppress(OSError):  # it may end meanwhile, which `glob` would raise
            for task in Path(f"/proc/{parent}/task").iterdir():
                todo += (children := [int(child) for child in _text(task / "children").split()])
                found += children
    return found


def proportional_set_bytes(pids: list[int]) -> int:
    """Memory of processes, what they share divided among those that share it (smaps_rollup).

    Raises:
        PermissionError: The kernel does not show it, as of processes of another user.
    """
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except PermissionError as error:
            raise PermissionError(f"the memory of process {pid} is not shown: be root") from error
        except (FileNotFoundError, ProcessLookupError):
            continue
        found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
        total += int(found[1]) * 1024 if found else 0
    return total

"""The report: what it says is what is there, and what is missing is named with its remedy."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from sandbox_runtime import (
    InvalidArgumentError,
    IsolationError,
    Limits,
    Protection,
    Runtime,
    Sandbox,
    SandboxReport,
    open_runtime,
    open_sandbox,
    settings,
)
from sandbox_runtime.report import (
    _STEP_REMEDIES,
    PROTECTIONS,
    build_report,
    enforce,
    step_remedy,
)
from sandbox_runtime.settings import MINIMUM_OPEN_FILES
from sandbox_runtime.shell import begin_shell

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sandbox_runtime.keeper import Keeper
    from sandbox_runtime.shell import StartingShell

ROOT = Path(__file__).parent.parent


def rows(*, but: Iterable[tuple[str, str]] = ()) -> list[Protection]:
    """A full row for each protection, with exceptions."""
    achieved = {**dict.fromkeys(PROTECTIONS, "full"), **dict(but)}
    return [
        Protection(name=name, achieved=value, detail="seen")  # type: ignore[arg-type]
        for name, value in achieved.items()
    ]


async def test_every_protection_is_reported_and_none_that_is_unknown(runtime: Runtime) -> None:
    """One row for each name of the table, in its order, each with what was seen."""
    async with open_sandbox(runtime=runtime, limits=Limits(cpu_percent=50)) as sandbox:
        report = sandbox.report
    assert [row.name for row in report.protections] == list(PROTECTIONS)
    for row in report.protections:
        assert row.detail
        assert row.detail != "not reported"
        assert row.meaning
        assert row.remedy


async def test_what_is_required_is_there(sandbox: Sandbox) -> None:
    """A sandbox that was made has all of it; only what is wanted may be missing."""
    assert all(row.requested == "wanted" for row in sandbox.report.missing)


async def test_the_level_tells_whose_ids_it_has(sandbox: Sandbox) -> None:
    """Level 1 with ids of its own, 2 with the caller's, and the map inside agrees."""
    result = await sandbox.exec("cat /proc/self/uid_map")
    outside = {int(line.split()[1]) for line in result.stdout.splitlines()}
    separate = sandbox.report["separate_ids"].achieved != "absent"
    assert sandbox.report.level == (1 if separate else 2)
    if os.geteuid() == 0 and separate:
        assert 0 not in outside


async def test_namespaces_of_the_report_are_those_inside(sandbox: Sandbox) -> None:
    """No namespace is the caller's own; those that jails share are the ones the report names."""
    for name in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup"):
        inside = (await sandbox.exec(f"readlink /proc/self/ns/{name}")).stdout.decode().strip()
        assert inside != str(Path(f"/proc/self/ns/{name}").readlink())
        if name not in {"pid", "mnt"}:
            assert sandbox.report[f"{name}_namespace"].detail == inside


async def test_landlock_and_groups_are_what_the_kernel_offers(sandbox: Sandbox) -> None:
    """Landlock in full from ABI 6 on; a control group only if there is one."""
    row = sandbox.report["landlock"]
    if found := re.search(r"ABI (\d+)", row.detail):
        assert row.achieved == ("full" if int(found[1]) >= 6 else "partial")
    else:
        assert row.achieved == "absent"
    for name in ("cgroup_memory", "cgroup_pids"):
        assert (sandbox.report[name].achieved == "full") == (
            "cgroup v" in sandbox.report[name].detail
        )


async def test_what_can_be_counted_is_counted_inside(runtime: Runtime) -> None:
    """Sizes and limits of the report are those that the kernel holds there."""
    limits = Limits(
        workspace_bytes=3 << 20, tmp_bytes=5 << 20, shm_bytes=7 << 20, open_files=777, processes=77
    )
    async with open_sandbox(runtime=runtime, limits=limits) as sandbox:
        sizes = sandbox.report["sized_directories"].detail
        assert sizes == f"/workspace {3 << 20}, /tmp {5 << 20}, /dev/shm {7 << 20} bytes"
        assert "nofile 777" in sandbox.report["resource_limits"].detail
        for name, bound in (("cgroup_memory", limits.memory_bytes), ("cgroup_pids", 77)):
            row = sandbox.report[name]
            assert str(bound) in row.detail
            # Without a group something is bounded nevertheless, and the report says what.
            assert row.achieved == ("full" if "cgroup v" in row.detail else "partial")


async def test_runtimes_choose_their_host_ids_apart() -> None:
    """The report names the ids, and no two runtimes have a range in common."""
    ranges = []
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            runtime = await stack.enter_async_context(open_runtime())
            sandbox = await stack.enter_async_context(open_sandbox(runtime=runtime))
            row = sandbox.report["separate_ids"]
            if row.achieved == "absent":
                pytest.skip("an ordinary user has one id")
            launcher = runtime.supervisor._launcher_pid
            children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
            _, first, count = Path(f"/proc/{children[0]}/uid_map").read_text().split()
            ranges.append(range(int(first), int(first) + int(count)))
            ids = [int(number) for number in re.findall(r"\d+", row.detail)[:2]]
            assert set(ids) <= set(ranges[-1])
    assert all(set(one).isdisjoint(other) for one, other in itertools.combinations(ranges, 2))


async def test_ids_are_given_to_nobody_else_while_their_sandbox_is_there(runtime: Runtime) -> None:
    """Also when others come and go."""
    async with open_sandbox(runtime=runtime) as kept:
        if kept.report["separate_ids"].achieved == "absent":
            pytest.skip("an ordinary user has one id")
        for _ in range(20):
            async with open_sandbox(runtime=runtime) as other:
                assert other.report["separate_ids"] != kept.report["separate_ids"]


async def test_a_request_that_cannot_be_read_harms_no_other(runtime: Runtime) -> None:
    """It fails by itself; the supervisor and the other sandboxes go on."""
    async with open_sandbox(runtime=runtime) as sandbox:
        with trio.fail_after(10), pytest.raises(IsolationError):
            await runtime.supervisor.create_sandbox("name", Limits(processes=-1))
        assert (await sandbox.exec("echo ok")).text == "ok\n"
    async with open_sandbox(runtime=runtime) as sandbox:
        assert (await sandbox.exec("echo ok")).text == "ok\n"


async def test_the_table_has_a_line_for_each_row(sandbox: Sandbox) -> None:
    """For people: name, whether it is required, whether it is there, and why."""
    lines = sandbox.report.table().splitlines()
    for row, line in zip(sandbox.report.protections, lines[1:], strict=True):
        assert line.split()[:2] == [row.name, row.requested]
        assert row.detail in line


def test_a_row_that_nobody_reported_is_absent() -> None:
    """Silence is no protection."""
    report = build_report([], separate_ids=False)
    assert [row.name for row in report.missing] == list(PROTECTIONS)
    with pytest.raises(IsolationError, match="not reported"):
        enforce(report, ())


def test_unknown_rows_are_not_shown() -> None:
    """What the table does not explain does not get in."""
    extra = Protection(name="warp_drive", achieved="full", detail="on")
    report = build_report([*rows(), extra], separate_ids=True)
    assert len(report.protections) == len(PROTECTIONS)
    with pytest.raises(KeyError):
        report["warp_drive"]


@pytest.mark.parametrize("name", PROTECTIONS)
@pytest.mark.parametrize("achieved", ["partial", "absent"])
def test_what_is_missing_is_refused_if_it_is_required(name: str, achieved: str) -> None:
    """By default for the required ones, on demand for the others; partly there is not there."""
    report = build_report(rows(but=[(name, achieved)]), separate_ids=True)
    requested, meaning, remedy = PROTECTIONS[name]
    if requested == "wanted":
        enforce(report, ())
    with pytest.raises(IsolationError) as refused:
        enforce(report, [name])
    assert refused.value.step == name
    assert refused.value.remedy == remedy
    for part in (name, meaning, achieved, "seen", remedy):
        assert part in str(refused.value)


def test_a_complete_report_passes() -> None:
    """Even when everything is demanded."""
    enforce(build_report(rows(), separate_ids=True), list(PROTECTIONS))


def test_a_report_survives_serialisation() -> None:
    """It is plain data, as a service that passes it on wants it."""
    import msgspec

    report = build_report(rows(but=[("landlock", "partial")]), separate_ids=False)
    assert msgspec.json.decode(msgspec.json.encode(report), type=SandboxReport) == report


async def test_an_unknown_demand_is_the_callers_mistake(runtime: Runtime) -> None:
    """A protection with a typo is not silently waived; the message lists the known ones."""
    with pytest.raises(InvalidArgumentError, match="seccomp"):
        async with open_sandbox(runtime=runtime, require=["secomp"]):
            pass


async def test_separate_ids_can_be_demanded(runtime: Runtime) -> None:
    """As root they are there; an ordinary user is refused and told how to get them."""
    if runtime.supervisor.separate_ids:
        async with open_sandbox(runtime=runtime, require=["separate_ids"]) as sandbox:
            assert sandbox.report.level == 1
    else:
        with pytest.raises(IsolationError) as refused:
            async with open_sandbox(runtime=runtime, require=["separate_ids"]):
                pass
        assert refused.value.step == "separate_ids"
        assert "root" in refused.value.remedy
    # The refusal left nothing behind.
    async with open_sandbox(runtime=runtime) as sandbox:
        assert (await sandbox.exec("echo alive")).stdout == b"alive\n"


@pytest.mark.parametrize(
    "limits",
    [
        {"processes": -1}, {"processes": 0}, {"workspace_bytes": 0}, {"memory_bytes": 2**70},
        {"open_files": 1.5}, {"tmp_bytes": "1G"}, {"open_files": 255},
    ],
)  # fmt: skip
async def test_a_limit_that_means_nothing_harms_no_other_sandbox(
    runtime: Runtime, sandbox: Sandbox, limits: dict[str, object]
) -> None:
    """It is refused before anybody is asked; nought does not come to mean without bounds."""
    from sandbox_runtime import Limits

    with pytest.raises(InvalidArgumentError, match=next(iter(limits))):
        async with open_sandbox(runtime=runtime, limits=Limits(**limits)):  # type: ignore[arg-type]
            pass
    assert (await sandbox.exec("echo alive")).stdout == b"alive\n"


async def test_the_least_limit_on_descriptors_is_enough(runtime: Runtime) -> None:
    """For pipelines, redirections, long commands, programs and contexts."""
    limits = Limits(open_files=MINIMUM_OPEN_FILES)
    async with open_sandbox(runtime=runtime, limits=limits) as sandbox:
        text = "exec 8</dev/null 9>&1; cat | (cat; echo 2) | cat >&9"
        result = await sandbox.exec(text, stdin=b"1\n", cwd="/tmp", env={"A": "b"})
        assert result.text == "1\n2\n"
        assert (await sandbox.exec(": " + "x" * 200_000 + "; echo ok")).text == "ok\n"
        assert (
            await sandbox.run_code("len([open('/dev/null') for _ in range(100)])")
        ).text == "100"


async def test_too_few_processes_are_refused_by_name(runtime: Runtime) -> None:
    with pytest.raises(InvalidArgumentError, match=r"limits\.processes: must be 3 or more"):
        async with open_sandbox(runtime=runtime, limits=Limits(processes=2)):
            pass
    async with open_sandbox(runtime=runtime, limits=Limits(processes=3)) as sandbox:
        assert (await sandbox.exec("echo alive")).text == "alive\n"


async def test_limits_too_small_to_start_are_an_error_with_a_step(
    runtime: Runtime, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process is not enough for a jail; that is said, and does not hang."""
    monkeypatch.setattr(settings, "MINIMUM_PROCESSES", 1)
    with trio.fail_after(10), pytest.raises(IsolationError):
        async with open_sandbox(runtime=runtime, limits=Limits(processes=1)):
            pass
    assert (await sandbox.exec("echo alive")).stdout == b"alive\n"


@pytest.mark.parametrize("late", [False, True])
async def test_that_is_also_told_if_a_shell_was_asked_for_along_with_it(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Whether the keeper has gone with that request unread, or before it could be sent."""
    from sandbox_runtime import fresh

    async def begin_late(keeper: Keeper, cwd: str, env: Mapping[str, str]) -> StartingShell:
        await keeper.wait_gone()
        return await begin_shell(keeper, cwd, env)

    monkeypatch.setattr(settings, "MINIMUM_PROCESSES", 1)
    if late:
        monkeypatch.setattr(fresh, "begin_shell", begin_late)
    for _ in range(10):
        with trio.fail_after(10), pytest.raises(IsolationError) as refused:
            async with open_sandbox(runtime=runtime, limits=Limits(processes=1), first_shell=True):
                pass
        assert refused.value.step != "start"


# --- steps -----------------------------------------------------------------------------------


def steps() -> list[str]:
    """The steps of rust_core/src/error.rs as they are spelt in errors."""
    text = (ROOT / "rust_core/src/error.rs").read_text()
    body = text.partition("pub enum Step {")[2].partition("}")[0]
    names = re.findall(r"^    (\w+),$", body, re.MULTILINE)
    return [re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in names]


def test_every_remedy_is_for_a_step_that_exists() -> None:
    """`start` is the control process's own; all else is a step of the core."""
    known = steps()
    assert len(known) > 30
    assert set(_STEP_REMEDIES) - {"start"} <= set(known)


@pytest.mark.parametrize("step", steps())
def test_every_step_has_something_to_do_about_it(step: str) -> None:
    """If nothing better, then where to look."""
    assert step_remedy(step)


# --- where it cannot work ----------------------------------------------------------------------

ATTEMPT = """
import json, trio
from sandbox_runtime import IsolationError, open_sandbox

async def main():
    with trio.fail_after(20):
        try:
            async with open_sandbox() as sandbox:
                print(json.dumps({"level": sandbox.report.level}))
        except IsolationError as error:
            print(json.dumps({"step": error.step, "message": str(error), "remedy": error.remedy}))

trio.run(main)
"""


def attempt_within(*wrapper: str) -> dict[str, Any]:
    """What a fresh control process says that is started by this command."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-P", "-c", ATTEMPT],
        capture_output=True, text=True, timeout=40, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def unshare() -> str:
    """The path of unshare(1), if it can make a user namespace."""
    found = shutil.which("unshare")
    if found is None:
        pytest.skip("no unshare(1): the kernel's refusals cannot be arranged")
    if subprocess.run([found, "-Ur", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here: the kernel's refusals cannot be arranged")
    return found


def test_without_user_namespaces_the_error_says_how_to_get_them(unshare: str) -> None:
    """A kernel that allows none: an error with a remedy, at once."""
    answer = attempt_within(
        unshare, "-Ur", "sh", "-c", 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"', "sh"
    )
    assert answer["step"] == "clone_supervisor"
    assert "user.max_user_namespaces" in answer["remedy"]
    assert answer["remedy"] in answer["message"]


@pytest.mark.parametrize(("kind", "room"), [("pid", 1), ("mnt", 1), ("net", 0)])
def test_without_room_for_namespaces_the_error_says_which_step(
    unshare: str, kind: str, room: int
) -> None:
    """Other namespaces run out as well; it is the step that needs them that fails."""
    text = f'echo {room} >/proc/sys/user/max_{kind}_namespaces && exec "$@"'
    answer = attempt_within(unshare, "-Ur", "sh", "-c", text, "sh")
    assert answer["step"].startswith("clone_") or kind == "mnt"  # copying a mount takes one too
    assert answer["remedy"]


def test_inside_a_user_namespace_of_one_id_it_still_works(unshare: str) -> None:
    """As in a container without a range of ids: level 2, and the report says so."""
    assert attempt_within(unshare, "-Ur") == {"level": 2}

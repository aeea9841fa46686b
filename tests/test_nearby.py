"""Whoever is asked runs where the asker does, and nobody's program can tell."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from sandbox_runtime import NotStartedError, core, open_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_runtime import Sandbox

_STATUS = "Cpus_allowed_list:"


def _all_there_are() -> set[int]:
    ranges = Path("/sys/devices/system/cpu/online").read_text().strip().split(",")
    bounds = [tuple(map(int, part.split("-"))) for part in ranges]
    return {number for found in bounds for number in range(found[0], found[-1] + 1)}


_OURS = os.sched_getaffinity(0)
needs_all = pytest.mark.skipif(
    len(_OURS) < 2 or _all_there_are() != _OURS,
    reason="nobody is called where there is one processor, or not all may be used",
)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.fixture
def neighbour(sleeper: subprocess.Popen[bytes]) -> core.Neighbour:
    pidfd = os.pidfd_open(sleeper.pid)
    try:
        return core.Neighbour(pidfd)
    finally:
        os.close(pidfd)


def _seen(output: bytes) -> str:
    (line,) = [line for line in output.decode().splitlines() if line.startswith(_STATUS)]
    return line.removeprefix(_STATUS).strip()


def _ours() -> str:
    return _seen(Path("/proc/self/status").read_bytes())


async def _of_program(sandbox: Sandbox) -> str:
    return _seen((await sandbox.run_process(["cat", "/proc/self/status"])).stdout)


@needs_all
def test_who_is_called_may_use_one_processor_until_it_is_sent_back(
    sleeper: subprocess.Popen[bytes], neighbour: core.Neighbour
) -> None:
    assert neighbour.call_here(True)
    assert len(os.sched_getaffinity(sleeper.pid)) == 1
    neighbour.send_back()
    assert os.sched_getaffinity(sleeper.pid) == _OURS


@needs_all
def test_who_is_kept_is_sent_back_when_something_else_is_under_way(
    sleeper: subprocess.Popen[bytes], neighbour: core.Neighbour
) -> None:
    assert neighbour.keep_here(True)
    assert neighbour.keep_here(True)
    assert len(os.sched_getaffinity(sleeper.pid)) == 1
    assert not neighbour.keep_here(False)
    assert os.sched_getaffinity(sleeper.pid) == _OURS


def test_nobody_is_called_while_something_else_is_under_way(
    sleeper: subprocess.Popen[bytes], neighbour: core.Neighbour
) -> None:
    assert not neighbour.call_here(False)
    assert os.sched_getaffinity(sleeper.pid) == _OURS


def test_who_was_given_fewer_processors_keeps_them(
    sleeper: subprocess.Popen[bytes], neighbour: core.Neighbour
) -> None:
    one = {min(_OURS)}
    os.sched_setaffinity(sleeper.pid, one)
    assert not neighbour.call_here(True)
    assert not neighbour.keep_here(True)
    assert os.sched_getaffinity(sleeper.pid) == one


@needs_all
def test_who_was_given_others_while_it_was_kept_keeps_them(
    sleeper: subprocess.Popen[bytes], neighbour: core.Neighbour
) -> None:
    assert neighbour.keep_here(True)
    others = _OURS - os.sched_getaffinity(sleeper.pid)
    os.sched_setaffinity(sleeper.pid, others)
    neighbour.send_back()
    assert os.sched_getaffinity(sleeper.pid) == others


def test_who_has_ended_is_not_called() -> None:
    with subprocess.Popen(["true"]) as process:
        pidfd = os.pidfd_open(process.pid)
        neighbour = core.Neighbour(pidfd)
    os.close(pidfd)
    assert not neighbour.call_here(True)
    neighbour.send_back()


async def test_a_program_in_a_fresh_jail_may_use_all_processors(sandbox: Sandbox) -> None:
    assert await _of_program(sandbox) == _ours()


@needs_all
async def test_the_keeper_is_called_for_a_program_and_leaves_for_anything_else() -> None:
    async with open_sandbox() as sandbox:
        await sandbox.keeper.settle()
        await sandbox.run_process(["true"])
        await sandbox.keeper.settle()
        session = await sandbox.create_session()
        shell = await session.exec("cat /proc/$$/status")
        assert _seen(shell.stdout) == _ours()
        assert await _of_program(sandbox) == _ours()


async def test_programs_at_once_may_use_all_processors(sandbox: Sandbox) -> None:
    seen: list[str] = []

    async def look() -> None:
        seen.append(await _of_program(sandbox))

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(look)
    assert seen == [_ours()] * 6


async def test_a_program_of_a_session_may_use_all_processors(sandbox: Sandbox) -> None:
    for _ in range(3):
        result = await sandbox.exec(["cat", "/proc/self/status"])
        assert _seen(result.stdout) == _ours()


@pytest.mark.parametrize(
    "text",
    [
        "cat /proc/self/status",
        "cat /proc/self/status # a comment",
        "cat /proc/self/status | cat",
        "cat </proc/self/status",
        "(cat /proc/self/status)",
        "cat /proc/self/status & wait",
        "f() { cat /proc/self/status; }; f",
        'while read -r line; do echo "$line"; done </proc/$$/status',
        "exec 3</proc/self/status; cat <&3",
    ],
)
async def test_text_and_what_it_starts_may_use_all_processors(sandbox: Sandbox, text: str) -> None:
    for _ in range(2):
        assert _seen((await sandbox.exec(text)).stdout) == _ours()
    assert _seen((await sandbox.exec("cat /proc/$$/status")).stdout) == _ours()


@pytest.mark.parametrize("text", ["nowhere", "/etc/passwd", "kill -INT $$", "cat <", "exit 3"])
async def test_text_that_comes_to_nothing_leaves_the_shell_with_all_processors(
    sandbox: Sandbox, text: str
) -> None:
    for _ in range(2):
        await sandbox.exec(text)
        assert _seen((await sandbox.exec("cat /proc/$$/status")).stdout) == _ours()


async def test_a_plain_program_that_is_ended_leaves_the_shell_with_all_processors(
    sandbox: Sandbox,
) -> None:
    result = await sandbox.exec("sleep 1000", deadline_s=0.05)
    assert result.ended == "deadline"
    assert _seen((await sandbox.exec("cat /proc/$$/status")).stdout) == _ours()


async def test_its_program_finds_the_shell_with_all_processors(sandbox: Sandbox) -> None:
    look = ["sh", "-c", "cat /proc/$PPID/status"]
    for _ in range(3):
        assert _seen((await sandbox.exec(look)).stdout) == _ours()
    assert _seen((await sandbox.exec("cat /proc/$$/status")).stdout) == _ours()


@pytest.mark.parametrize(
    ("command", "cwd"),
    [
        ("/nowhere", None),
        ("nowhere", None),
        ("/etc/passwd", None),
        ("/workspace", None),
        ("true", "/nowhere"),
    ],
)
async def test_a_shell_that_cannot_start_a_program_is_left_with_all_processors(
    sandbox: Sandbox, command: str, cwd: str | None
) -> None:
    await sandbox.exec(["true"])
    try:
        result = await sandbox.exec([command], cwd=cwd)
    except NotStartedError:
        pass
    else:
        assert not result.ok
    assert _seen((await sandbox.exec("cat /proc/$$/status")).stdout) == _ours()


async def test_what_a_user_chose_for_the_shell_stays(sandbox: Sandbox) -> None:
    if shutil.which("taskset") is None:
        pytest.skip("no taskset here: install util-linux")
    one = str(min(_OURS))
    assert (await sandbox.exec(f"taskset -cp {one} $$")).ok
    for _ in range(2):
        assert _seen((await sandbox.exec(["cat", "/proc/self/status"])).stdout) == one
    assert _seen((await sandbox.exec("cat /proc/$$/status")).stdout) == one

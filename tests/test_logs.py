"""Logs of background processes: exact, bounded, read by any number at their own speed."""

from __future__ import annotations

import os
import re
from collections import deque

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from sandbox_runtime import InvalidArgumentError, Sandbox
from sandbox_runtime.budget import Budget
from sandbox_runtime.errors import DeadlineError, ProcessEndedError
from sandbox_runtime.logs import Log, LogChunk
from sandbox_runtime.spill import BLOCK_BYTES, LogSpace, Spill

PIECES = st.lists(
    st.tuples(st.integers(0, 1), st.binary(max_size=40), st.sampled_from([1, 1, 7, 3000])),
    max_size=60,
)


def fill(log: Log, pieces: list[tuple[int, bytes, int]]) -> tuple[bytes, bytes]:
    """Writes the pieces; what each stream holds then."""
    whole = (bytearray(), bytearray())
    for stream, data, times in pieces:
        (log.append_stderr if stream else log.append_stdout)(data * times)
        whole[stream].extend(data * times)
    return bytes(whole[0]), bytes(whole[1])


async def gather(log: Log, since: int = 0) -> list[LogChunk]:
    """All that a reader sees of a log that has ended."""
    return [chunk async for chunk in log.follow(since)]


def joined(chunks: list[LogChunk], stream: str) -> bytes:
    return b"".join(chunk.data for chunk in chunks if chunk.stream == stream)


@given(PIECES)
def test_a_log_is_exact(pieces: list[tuple[int, bytes, int]]) -> None:
    """Each stream byte for byte, and both in the order in which they came."""
    log = Log(Spill(1 << 26), 1 << 26)
    stdout, stderr = fill(log, pieces)
    log.end()

    async def check() -> None:
        chunks = await gather(log)
        assert (joined(chunks, "stdout"), joined(chunks, "stderr")) == (stdout, stderr)
        text = await log.read()
        assert (text.stdout, text.stderr) == (stdout, stderr)
        assert text.position == log.position == len(stdout) + len(stderr)
        order = b"".join(data * times for _, data, times in pieces)
        assert b"".join(chunk.data for chunk in chunks) == order
        for since in {0, 1, len(order) // 2, max(len(order) - 1, 0), len(order), len(order) + 5}:
            later = await gather(log, since)
            assert b"".join(chunk.data for chunk in later) == order[since:]

    trio.run(check)


@given(PIECES)
def test_a_reader_that_comes_along_sees_the_same(pieces: list[tuple[int, bytes, int]]) -> None:
    """Whatever it has read between two writes."""
    log = Log(Spill(1 << 26), 1 << 26)
    follower = log.follow()
    seen = bytearray()
    for piece in pieces:
        fill(log, [piece])
        while (run := follower.take()) is not None:
            seen += run[1]
    assert seen == b"".join(data * times for _, data, times in pieces)


@given(st.integers(1, 12), st.integers(2, 9))
def test_a_full_log_gives_up_the_oldest_and_counts_it(blocks: int, most: int) -> None:
    """What is kept and what is lost is the whole."""
    log = Log(Spill(1 << 26), most * BLOCK_BYTES)
    whole = b"".join(b"%07d\n" % number for number in range(blocks * BLOCK_BYTES // 8))
    for start in range(0, len(whole), 10_000):
        log.append_stdout(whole[start : start + 10_000])
    log.end()
    text = log.read_now()
    assert len(text.stdout) + text.stdout_lost_bytes == len(whole)
    assert whole.endswith(text.stdout)
    assert len(text.stdout) <= most * BLOCK_BYTES
    assert len(text.stdout) >= min(len(whole), (most - 1) * BLOCK_BYTES) - 5 * blocks * most

    async def check() -> None:
        chunks = await gather(log)
        assert sum(chunk.lost_bytes for chunk in chunks) == text.stdout_lost_bytes
        assert joined(chunks, "stdout") == text.stdout

    trio.run(check)


def test_logs_share_the_room_of_their_file() -> None:
    """One that finds none keeps what is in memory; what is given up is used again."""
    spill = Spill(4 * BLOCK_BYTES)
    first, second = Log(spill, 1 << 26), Log(spill, 1 << 26)
    first.append_stdout(b"a" * 4 * BLOCK_BYTES)
    second.append_stdout(b"b" * 4 * BLOCK_BYTES)
    for log, letter in ((first, b"a"), (second, b"b")):
        text = log.read_now()
        assert len(text.stdout) + text.stdout_lost_bytes == 4 * BLOCK_BYTES
        assert text.stdout.strip(letter) == b""
    assert second.read_now().stdout_lost_bytes
    del first, log
    third = Log(spill, 1 << 26)
    third.append_stdout(b"c" * 3 * BLOCK_BYTES)
    assert third.read_now().stdout == b"c" * 3 * BLOCK_BYTES


def test_what_is_discarded_is_the_disks_again_at_once() -> None:
    spill = Spill(8 * BLOCK_BYTES)
    logs = [Log(spill, 1 << 26) for _ in range(2)]
    for log in logs:
        log.append_stdout(b"x" * 3 * BLOCK_BYTES)
    assert spill._fd is not None
    reader = logs[1].follow()
    assert reader.take() is not None
    for log in logs:
        log.discard()
    assert os.fstat(spill._fd).st_size == 0
    rest, lost = logs[1].read_now(), reader.take()
    assert rest.stdout_lost_bytes + len(rest.stdout) == 3 * BLOCK_BYTES
    assert lost is not None
    logs[0].append_stdout(b"y" * 3 * BLOCK_BYTES)
    assert logs[0].read_now().stdout.endswith(b"y" * 3 * BLOCK_BYTES)


def test_sandboxes_share_the_disk_for_logs() -> None:
    space = Budget(3 * BLOCK_BYTES)
    one, other = Spill(1 << 26, space), Spill(1 << 26, space)
    first, second = Log(one, 1 << 26), Log(other, 1 << 26)
    first.append_stdout(b"a" * 4 * BLOCK_BYTES)
    second.append_stdout(b"b" * 4 * BLOCK_BYTES)
    assert other.is_full
    assert 0 < len(second.read_now().stdout) <= BLOCK_BYTES
    assert space.free_bytes == 0
    del first, one
    assert space.free_bytes == 3 * BLOCK_BYTES
    second.append_stdout(b"b" * 2 * BLOCK_BYTES)
    assert len(second.read_now().stdout) > BLOCK_BYTES


def numbered(count: int) -> bytes:
    """So many blocks that can be told apart."""
    return b"".join(b"%08d" % number * (BLOCK_BYTES // 8) for number in range(count))


def test_a_sandbox_that_has_more_than_its_share_of_the_disk_gives_up_its_oldest() -> None:
    space = LogSpace(16 * BLOCK_BYTES)
    greedy, modest = Spill(1 << 26, space), Spill(1 << 26, space)
    logs = [Log(greedy, 1 << 26), Log(greedy, 1 << 26)]
    text = numbered(30)
    for at in range(0, len(text), BLOCK_BYTES // 2):
        for log in logs:
            log.append_stdout(text[at : at + BLOCK_BYTES // 2])
    assert space.free_bytes == 0
    small = Log(modest, 1 << 26)
    small.append_stdout(numbered(6))
    assert small.read_now().stdout == numbered(6)
    small.append_stdout(numbered(30))
    assert greedy.made_blocks + modest.made_blocks <= 16
    assert abs(greedy.made_blocks - modest.made_blocks) <= 1
    for log in logs:
        kept = log.read_now()
        assert kept.stdout
        assert kept.stdout == text[kept.stdout_lost_bytes :]
    for spill in (greedy, modest):
        assert spill._fd is not None
        assert os.fstat(spill._fd).st_size <= spill.made_blocks * BLOCK_BYTES


def test_one_sandbox_alone_may_have_all_of_the_disk() -> None:
    space = LogSpace(8 * BLOCK_BYTES)
    Spill(1 << 26, space)
    log = Log(Spill(1 << 26, space), 1 << 26)
    log.append_stdout(numbered(8))
    assert log.read_now().stdout == numbered(8)


async def test_a_program_that_prints_without_end_takes_no_memory(sandbox: Sandbox) -> None:
    """Its log keeps the newest, and says how much is gone."""
    process = await sandbox.start_process(
        "seq 1 1000000; echo last >&2", limit_bytes=8 * BLOCK_BYTES
    )
    result = await process.wait()
    text = await process.logs.read()
    whole = b"".join(b"%d\n" % number for number in range(1, 1_000_001))
    assert whole.endswith(text.stdout)
    assert len(text.stdout) + text.stdout_lost_bytes == len(whole) == result.stdout_bytes
    assert result.truncated
    assert (text.stderr, result.stdout) == (b"last\n", text.stdout)


async def test_a_line_is_seen_when_it_is_printed(sandbox: Sandbox) -> None:
    """Not when the program ends; a follower goes on until then."""
    await sandbox.exec("mkfifo go")
    process = await sandbox.start_process("echo one; read -r x < go; echo $x >&2")
    follower = process.logs.follow()
    first = await follower.receive_some()
    assert first == LogChunk(stream="stdout", data=b"one\n")
    assert process.status == "running"
    await sandbox.exec("echo two > go")
    assert [chunk async for chunk in follower] == [LogChunk(stream="stderr", data=b"two\n")]
    assert await follower.receive_some() is None


async def test_many_readers_see_everything(sandbox: Sandbox) -> None:
    """Whenever they come: before, meanwhile, and after the end."""
    await sandbox.exec("mkfifo go")
    process = await sandbox.start_process("seq 1 1000; read -r x < go; seq 1001 50000")
    seen: list[bytes] = []

    async def follow() -> None:
        seen.append(joined([chunk async for chunk in process.logs.follow()], "stdout"))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(follow)
        await process.wait_for_log("1000")
        for _ in range(10):
            nursery.start_soon(follow)
        await sandbox.exec("echo > go")
    await follow()
    assert set(seen) == {b"".join(b"%d\n" % number for number in range(1, 50_001))}
    assert len(seen) == 21


async def test_a_slow_reader_slows_nobody(sandbox: Sandbox) -> None:
    """The program ends while the reader is at its first piece; the rest is told as lost."""
    process = await sandbox.start_process("seq 1 300000", limit_bytes=4 * BLOCK_BYTES)
    follower = process.logs.follow()
    first = await follower.receive_some()
    result = await process.wait()
    rest = [chunk async for chunk in follower]
    assert first is not None
    lost = sum(chunk.lost_bytes for chunk in rest)
    kept = len(first.data) + sum(len(chunk.data) for chunk in rest)
    assert lost > 0
    assert first.lost_bytes + lost + kept == result.stdout_bytes


async def test_a_reader_goes_on_where_another_stopped(sandbox: Sandbox) -> None:
    """By a position, which counts the bytes of both streams."""
    process = await sandbox.start_process("echo one; echo two >&2")
    await process.wait()
    text = await process.logs.read()
    assert (text.stdout, text.stderr, text.position) == (b"one\n", b"two\n", 8)
    assert deque(await gather(process.logs, 8)) == deque()
    later = await process.logs.read(6)
    assert len(later.stdout + later.stderr) == 2
    with pytest.raises(InvalidArgumentError, match="since"):
        process.logs.follow(-1)


async def test_a_cancelled_reader_loses_nothing(sandbox: Sandbox) -> None:
    """The next call goes on."""
    await sandbox.exec("mkfifo go")
    process = await sandbox.start_process("read -r x < go; echo $x")
    follower = process.logs.follow()
    with trio.move_on_after(0.05):
        await follower.receive_some()
    await sandbox.exec("echo on > go")
    assert await follower.receive_some() == LogChunk(stream="stdout", data=b"on\n")


async def test_waiting_for_a_line(sandbox: Sandbox) -> None:
    """Text anywhere in it, also before its end; a regular expression sees whole lines."""
    await sandbox.exec("mkfifo go on")  # of one, the second reader could meet the first writer
    process = await sandbox.start_process(
        "printf 'password: '; read -r x < go; echo; printf 'port 4' >&2; read -r x < on;"
        " echo 242 >&2; exit 4"
    )
    prompt = await process.wait_for_log("password:")
    assert (prompt.stream, prompt.line) == ("stdout", b"password: ")
    await sandbox.exec("echo > go")
    await process.wait_for_log("port 4")
    await sandbox.exec("echo > on")
    found = await process.wait_for_log(re.compile(r"port (\d+)"))
    assert (found.stream, found.line, found.groups) == ("stderr", b"port 4242", ("4242",))
    assert (await process.wait_for_log(re.compile(rb"^PORT", re.IGNORECASE))).line == b"port 4242"
    with pytest.raises(ProcessEndedError, match="exit code 4") as caught:
        await process.wait_for_log("never")
    assert (caught.value.id, caught.value.exit_code) == (process.id, 4)


async def test_waiting_for_a_line_has_a_deadline_of_its_own(sandbox: Sandbox) -> None:
    """The process goes on, whether it writes meanwhile or not."""
    for command in ("echo up; sleep 1000", "echo up; while :; do echo on; done"):
        process = await sandbox.start_process(command)
        with pytest.raises(DeadlineError, match=r"no line with 'never' in 0\.1 s\..*deadline_s"):
            await process.wait_for_log("never", deadline_s=0.1)
        assert (await process.wait_for_log("up", deadline_s=50)).line == b"up"
        assert process.status == "running"
        await process.kill()
    with pytest.raises(InvalidArgumentError, match="deadline_s"):
        await process.wait_for_log("up", deadline_s=0)


@pytest.mark.parametrize("pattern", ["", b"", 5, None])
async def test_a_pattern_that_means_nothing_is_refused(sandbox: Sandbox, pattern: object) -> None:
    """By the name of the argument."""
    process = await sandbox.start_process(["true"])
    with pytest.raises(InvalidArgumentError, match="pattern"):
        await process.wait_for_log(pattern)  # type: ignore[arg-type]

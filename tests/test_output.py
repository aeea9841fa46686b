"""Output: every byte of it, with bounded memory, and a slow reader slows the writer."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_runtime import Sandbox, Session, open_sandbox

MIB = 1024 * 1024
FILLER = """
import os
os.write(1, b"x")
with open("go") as go:
    go.read()
os.set_blocking(1, False)
total = 1
try:
    while True:
        total += os.write(1, b"y" * 4096)
except BlockingIOError:
    pass
with open("stuck", "w") as stuck:
    stuck.write(str(total))
os.set_blocking(1, True)
while total < 8 << 20:
    total += os.write(1, b"z" * min(4096, (8 << 20) - total))
"""
KEEPER = """
import signal, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind("socket")
listener.listen()
open("up", "w").write("up")
connection, _ = listener.accept()
kept = socket.recv_fds(connection, 10, 1)
connection.sendall(b"thanks")
signal.pause()
"""
GIVER = """
import socket
keeper = socket.socket(socket.AF_UNIX)
keeper.connect("/workspace/socket")
socket.send_fds(keeper, [b"x"], [1])
keeper.recv(10)
print("given", flush=True)
"""


def noise(seed: int, size: int) -> bytes:
    """Bytes without any order, the same for the same seed."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - no secret


sizes = st.one_of(
    st.integers(0, 300_000), st.sampled_from([0, 1, 4095, 4096, 65535, 65536, 65537, 262_144])
)


@settings(max_examples=40)
@given(
    st.integers(0, 1000), sizes, sizes, st.sampled_from(["text", "list", "process"]), st.booleans()
)
def test_both_streams_arrive_byte_by_byte(
    seed: int,
    out_bytes: int,
    err_bytes: int,
    way: str,
    hear: bool,
) -> None:
    """Of any size and content, from text, from a program and from a process; callbacks the same."""
    out, err = noise(seed, out_bytes), noise(seed + 1, err_bytes)
    heard_out, heard_err = bytearray(), bytearray()

    async def hear_err(chunk: bytes) -> None:
        await trio.lowlevel.checkpoint()
        heard_err.extend(chunk)

    async def run() -> None:
        async with open_sandbox() as sandbox:
            await sandbox.files.write("out", out)
            await sandbox.files.write("err", err)
            script = "cat out & cat err >&2; wait"
            verb = sandbox.run_process if way == "process" else sandbox.exec
            result = await verb(
                script if way == "text" else ["bash", "-c", script],
                on_stdout=heard_out.extend if hear else None,
                on_stderr=hear_err if hear else None,
            )
            assert result.stdout == out
            assert result.stderr == err
            assert (result.stdout_bytes, result.stderr_bytes) == (out_bytes, err_bytes)
            assert not result.truncated
            if hear:
                assert bytes(heard_out) == out
                assert bytes(heard_err) == err

    trio.run(run)


async def test_eight_megabytes_arrive_on_both_streams(sandbox: Sandbox) -> None:
    """At once, and byte by byte."""
    out, err = noise(1, 8 * MIB), noise(2, 8 * MIB)
    await sandbox.files.write("out", out)
    await sandbox.files.write("err", err)
    result = await sandbox.exec("cat out & cat err >&2; wait")
    assert result.stdout == out
    assert result.stderr == err


async def test_fifty_megabytes_arrive(session: Session) -> None:
    """Below the limit nothing is left out."""
    result = await session.exec("yes 0123456789abcde | head -c 50000000")
    assert result.stdout == b"0123456789abcde\n" * 3_125_000
    assert not result.truncated


async def test_both_streams_keep_their_order(session: Session) -> None:
    """Within a stream; between the two there is none."""
    result = await session.exec("for n in {1..2000}; do echo $n; echo e$n >&2; done")
    assert result.text.split() == [str(n) for n in range(1, 2001)]
    assert result.stderr.decode().split() == [f"e{n}" for n in range(1, 2001)]


@pytest.mark.parametrize("limit", [0, 1, 100, 65_536, 99_999, 100_000])
async def test_a_limit_cuts_what_is_kept_and_says_so(sandbox: Sandbox, limit: int) -> None:
    """The first bytes are kept, all are counted, callbacks get everything."""
    data = noise(limit, 100_000)
    await sandbox.files.write("data", data)
    for verb in (sandbox.exec, sandbox.run_process):
        heard = bytearray()
        result = await verb(["cat", "data"], limit_bytes=limit, on_stdout=heard.extend)
        assert result.stdout == data[:limit]
        assert result.stdout_bytes == 100_000
        assert result.truncated == (limit < 100_000)
        assert heard == data


async def test_no_output_is_no_bytes(session: Session) -> None:
    """And no callback."""
    heard: list[bytes] = []
    result = await session.exec("true", on_stdout=heard.append, on_stderr=heard.append)
    assert (result.stdout, result.stderr, result.truncated, heard) == (b"", b"", False, [])


async def test_output_is_heard_while_the_command_runs(sandbox: Sandbox, session: Session) -> None:
    """A callback gets a piece before the next one is written."""
    await session.exec("mkfifo go1 go2")
    pieces: list[bytes] = []

    async def answer(chunk: bytes) -> None:
        pieces.append(chunk)
        if len(pieces) < 3:
            await sandbox.exec(f"echo after {chunk.decode().strip()} > go{len(pieces)}")

    result = await session.exec(
        "echo one; read -r x < go1; echo $x; read -r x < go2; echo $x", on_stdout=answer
    )
    assert pieces == [b"one\n", b"after one\n", b"after after one\n"]
    assert result.stdout == b"".join(pieces)


@pytest.mark.parametrize("way", ["session", "process"])
async def test_a_slow_callback_slows_the_writer(sandbox: Sandbox, way: str) -> None:
    """While it has not returned, the writer gets no further than the pipe is long."""
    await sandbox.exec("mkfifo go stuck")
    await sandbox.files.write("filler.py", FILLER)
    command = [sys.executable, "-IS", "filler.py"]
    other = await sandbox.create_session()
    called, release = trio.Event(), trio.Event()
    results = []

    async def hold(_chunk: bytes) -> None:
        called.set()
        await release.wait()

    async def run() -> None:
        verb = other.exec if way == "session" else sandbox.run_process
        results.append(await verb(command, on_stdout=hold))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await called.wait()
        await sandbox.exec(": > go")
        written = int((await sandbox.exec("cat stuck")).text)
        release.set()
    assert written <= 1 * MIB + 1
    (result,) = results
    assert result.stdout_bytes == 8 * MIB
    assert result.stdout.startswith(b"x" + b"y" * (written - 1) + b"z")


@pytest.mark.parametrize("way", ["session", "process"])
async def test_printing_for_ever_needs_bounded_memory(sandbox: Sandbox, way: str) -> None:
    """Until the deadline, however much came."""
    verb = sandbox.exec if way == "session" else sandbox.run_process
    await sandbox.exec("true")
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the kernel keeps no peak that can be reset")
    before = peak_kib()
    result = await verb(["yes"], deadline_s=1, limit_bytes=1000)
    assert result.ended == "deadline"
    assert result.stdout == b"y\n" * 500
    assert result.stdout_bytes > 20 * MIB
    assert peak_kib() - before < 16 * 1024


def peak_kib() -> int:
    """The largest resident set of this process so far."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.parametrize("end", ["kill -9 $$", "exit 0", "exec true"])
async def test_output_outlives_its_shell(session: Session, end: str) -> None:
    """What was written before the shell ended is in the result."""
    result = await session.exec(f"yes | head -c 1000000; echo bad >&2; {end}")
    assert result.ended == "session lost"
    assert result.stdout == b"y\n" * 500_000
    assert result.stderr == b"bad\n"


async def test_a_program_that_replaced_the_shell_is_heard_to_its_end(session: Session) -> None:
    """`exec program` gives all of its output and its exit code, and its deadline holds."""
    result = await session.exec("exec bash -c 'sleep 0.1; yes | head -c 1000000; exit 5'")
    assert (result.ended, result.exit_code) == ("session lost", 5)
    assert result.stdout == b"y\n" * 500_000
    late = await session.exec("exec bash -c 'echo up; sleep 1000'", deadline_s=0.5)
    assert (late.ended, late.stdout) == ("deadline", b"up\n")


@pytest.mark.parametrize("way", ["session", "process"])
async def test_a_callback_that_never_returns_cannot_hold_a_deadline(
    sandbox: Sandbox, way: str
) -> None:
    """It is cancelled; what it was not told is in the result nevertheless."""

    async def never(_chunk: bytes) -> None:
        await trio.sleep_forever()

    verb = sandbox.exec if way == "session" else sandbox.run_process
    with trio.fail_after(20):
        result = await verb(["yes"], on_stdout=never, deadline_s=0.1)
    assert result.ended == "deadline"
    assert 0 < len(result.stdout) == result.stdout_bytes
    assert (await sandbox.exec("echo ok")).text == "ok\n"


@pytest.mark.parametrize("way", ["process", "exec"])
async def test_a_pipe_that_was_handed_to_another_jail_holds_up_nobody(
    sandbox: Sandbox, way: str
) -> None:
    """Who keeps another command's output open cannot make that command last."""
    await sandbox.files.write("keeper.py", KEEPER)
    await sandbox.files.write("giver.py", GIVER)
    await sandbox.exec(f"mkfifo up; {sys.executable} -IS keeper.py & read -r x < up")
    command = f"{sys.executable} -IS giver.py"
    with trio.fail_after(20):
        if way == "process":
            result = await sandbox.run_process(command)
        else:
            session = await sandbox.create_session()
            result = await session.exec(f"exec {command}")
    assert (result.exit_code, result.text) == (0, "given\n")
    assert (await sandbox.exec("kill -0 %1; echo $?")).text == "0\n"


async def test_closing_standard_output_is_the_commands_own_affair(session: Session) -> None:
    """Its end does not depend on it."""
    result = await session.exec("exec >&-; echo lost; echo there >&2; true")
    assert (result.exit_code, result.stdout) == (0, b"")
    assert result.stderr.endswith(b"there\n")
    assert (await session.exec("echo back")).text == "back\n"


async def test_a_job_that_writes_for_ever_goes_on_and_costs_little(session: Session) -> None:
    """What is beyond the limit is read slowly: neither does the job stop nor this process burn."""
    await session.exec("yes &")
    used_s = []
    seen_bytes = []
    for _ in range(2):
        started_s = time.process_time()
        await session.exec(["sleep", "1"])
        used_s.append(time.process_time() - started_s)
        seen_bytes.append(session.background[0].stdout_bytes)
    assert seen_bytes[0] > MIB
    assert seen_bytes[1] > seen_bytes[0]
    assert seen_bytes[1] < 50 * MIB
    assert used_s[1] < 0.3
    assert len(session.background[0].stdout) == MIB

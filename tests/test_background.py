"""The background processes of a sandbox: ids, statuses, kills, and when they are forgotten."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta

import pytest
import trio

from sandbox_runtime import (
    InvalidArgumentError,
    NotStartedError,
    Sandbox,
    SandboxClosedError,
    background,
    open_sandbox,
)
from sandbox_runtime.errors import AlreadyExistsError, NotFoundError


async def test_a_process_has_an_id_and_is_found_by_it(sandbox: Sandbox) -> None:
    """A made one tells the time; a chosen one may be any text."""
    made = await sandbox.start_process("true")
    assert made.id.startswith("proc_")
    assert [len(part) for part in made.id.split("_")[1:]] == [13, 12]
    chosen = await sandbox.processes.start("true", process_id="../a b/ü")
    assert sandbox.processes.get("../a b/ü") is chosen
    assert sandbox.processes.list() == [made, chosen]
    with pytest.raises(NotFoundError, match="no process 'other'"):
        sandbox.processes.get("other")


async def test_an_id_is_given_once(sandbox: Sandbox) -> None:
    """Also at the same moment, and also when the first has ended."""
    errors = []

    async def start() -> None:
        try:
            await sandbox.start_process("true", process_id="one")
        except AlreadyExistsError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(start)
    assert [error.id for error in errors] == ["one"] * 4
    await sandbox.processes.get("one").wait()
    await start()
    assert len(errors) == 5


@pytest.mark.parametrize("process_id", ["", 5, "x" * 1025, "a\0b"])
async def test_an_id_that_means_nothing_is_refused(sandbox: Sandbox, process_id: object) -> None:
    """By the name of the argument."""
    with pytest.raises(InvalidArgumentError, match="process_id"):
        await sandbox.start_process("true", process_id=process_id)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("command", "status", "exit_code"),
    [
        ("true", "completed", 0),
        ("exit 3", "failed", 3),
        ("kill -SEGV $$", "failed", 128 + signal.SIGSEGV),
        ("cd /tmp && A=1 env | grep -q ^A=1 && for x in 1; do pwd; done", "completed", 0),
    ],
)
async def test_an_end_has_a_status(
    sandbox: Sandbox, command: str, status: str, exit_code: int
) -> None:
    """And a code, as a shell would give it; before that there is neither end nor code."""
    before = datetime.now(UTC)
    await sandbox.exec("mkfifo go")
    process = await sandbox.start_process(f"read -r x < /workspace/go; {command}")
    assert (process.status, process.exit_code, process.ended_at) == ("running", None, None)
    assert process.pid > 1
    await sandbox.exec("echo > go")
    await process.wait()
    assert (process.status, process.exit_code) == (status, exit_code)
    assert process.ended_at is not None
    assert before <= process.started_at <= process.ended_at <= datetime.now(UTC)


async def test_a_process_that_cannot_start_is_not_listed(sandbox: Sandbox) -> None:
    """Its id is free again."""
    with pytest.raises(NotStartedError):
        await sandbox.start_process("true", process_id="one", cwd="/missing")
    assert sandbox.processes.list() == []
    await sandbox.start_process("true", process_id="one")


async def test_a_callback_that_raises_is_an_error(sandbox: Sandbox) -> None:
    """The status says so."""

    def refuse(_chunk: bytes) -> None:
        raise LookupError("not this")

    process = await sandbox.start_process("echo x; sleep 1000", on_stdout=refuse)
    with pytest.raises(LookupError):
        await process.wait()
    assert (process.status, process.exit_code) == ("error", None)
    assert (await process.logs.read()).stdout == b"x\n"


async def test_a_deadline_kills(sandbox: Sandbox) -> None:
    """The whole tree; the result says which it was."""
    process = await sandbox.start_process("echo up; sleep 1000 & sleep 1000", deadline_s=0.5)
    result = await process.wait()
    assert (process.status, process.exit_code, result.ended) == ("killed", None, "deadline")
    assert result.stdout == b"up\n"
    with pytest.raises(InvalidArgumentError, match="deadline_s"):
        await sandbox.start_process("true", deadline_s=0)


async def test_variables_directory_and_input(sandbox: Sandbox) -> None:
    """As they were given."""
    process = await sandbox.start_process(
        "pwd; echo $A; cat", cwd="/tmp", env={"A": "ä b"}, stdin=b"in"
    )
    assert (await process.wait()).text == "/tmp\nä b\nin"


async def test_a_process_of_a_session_starts_where_the_session_is(sandbox: Sandbox) -> None:
    """In its present directory, with the variables it was created with, its own on top."""
    session = await sandbox.create_session(session_id="s", env={"A": "1", "B": "2"})
    await session.exec("mkdir -p d/e; cd d; export B=changed")
    command = "pwd; echo $A $B"
    process = await sandbox.start_process(command, session=session, env={"A": "own"})
    assert (await process.wait()).text == "/workspace/d\nown 2\n"
    process = await sandbox.start_process(command, session=session, cwd="e")
    assert (await process.wait()).text == "/workspace/d/e\n1 2\n"
    other = await sandbox.start_process("true")
    assert {one.session_id for one in sandbox.processes.list("s")} == {"s"}
    assert len(sandbox.processes.list(session)) == 2
    assert other.session_id is None
    assert len(sandbox.processes.list()) == 3
    assert sandbox.processes.list("other") == []


async def test_a_process_starts_while_its_session_is_busy(sandbox: Sandbox) -> None:
    """It waits for no command, and no command waits for it."""
    session = await sandbox.create_session()
    await session.exec("mkfifo go")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.exec, "cd /tmp; read -r x < /workspace/go")
        with trio.fail_after(20):
            while True:
                process = await sandbox.start_process("pwd", session=session)
                if (await process.wait()).text == "/tmp\n":
                    break
        process = await sandbox.start_process("echo > /workspace/go")
        await process.wait()


async def test_a_signal_to_the_tree_reaches_everybody(sandbox: Sandbox) -> None:
    """Who handles it ends in its own way; nothing is left in the end."""
    process = await sandbox.start_process(
        "trap 'echo parent; exit 0' TERM;"
        " (trap 'echo child; exit 0' TERM; echo up; while :; do sleep 0.01; done) &"
        " while :; do sleep 0.01; done"
    )
    await process.wait_for_log("up")
    result = await process.kill(signal.SIGTERM)
    assert sorted(result.text.split()) in (["child", "parent", "up"], ["parent", "up"])
    assert (result.ended, process.status, process.exit_code) == ("killed", "killed", 0)


async def test_who_does_not_mind_a_signal_is_ended_after_a_grace(sandbox: Sandbox) -> None:
    """Who is ended by it, at once."""
    deaf = await sandbox.start_process("trap '' TERM; echo up; sleep 1000")
    await deaf.wait_for_log("up")
    result = await deaf.kill(signal.SIGTERM, grace_s=0.1)
    assert (result.ended, deaf.status, deaf.exit_code) == ("killed", "killed", None)
    plain = await sandbox.start_process("sleep 1000")
    with trio.fail_after(20):
        result = await plain.kill(signal.SIGTERM, grace_s=1000)
    assert (result.ended, result.signal, plain.status) == ("killed", signal.SIGTERM, "killed")
    again = await sandbox.start_process("trap '' TERM; echo up; sleep 1000")
    await again.wait_for_log("up")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(again.end, "killed", signal.SIGTERM, 1000)
        await again.kill()  # does not wait for the other's grace
    for wrong in [0, 65, -9, "TERM"]:
        with pytest.raises(InvalidArgumentError, match="signal"):
            await plain.kill(wrong)  # type: ignore[arg-type]


async def test_kill_all_counts_who_lived(sandbox: Sandbox) -> None:
    """Not who had ended; and it ends them, of one session or of all."""
    session = await sandbox.create_session()
    ended = await sandbox.start_process("true")
    await ended.wait()
    own = [await sandbox.start_process("sleep 1000", session=session) for _ in range(3)]
    others = [await sandbox.start_process("sleep 1000 & wait") for _ in range(20)]
    assert await sandbox.processes.kill_all(session) == 3
    assert [process.status for process in own] == ["killed"] * 3
    assert {process.status for process in others} == {"running"}
    assert await sandbox.processes.kill_all() == 20
    assert await sandbox.processes.kill_all() == 0
    assert {process.status for process in others} == {"killed"}
    assert ended.status == "completed"


async def test_the_oldest_that_ended_are_forgotten(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never what runs; whoever holds one can still read it."""
    monkeypatch.setattr(background, "FINISHED_PROCESSES", 3)
    running = await sandbox.start_process("sleep 1000")
    ended = []
    for number in range(5):
        process = await sandbox.start_process(f"echo {number}")
        await process.wait()
        ended.append(process)
    assert sandbox.processes.list() == [running, *ended[2:]]
    assert (await ended[0].logs.read()).stdout == b"0\n"
    running.started_at -= timedelta(days=1)
    ended[2].ended_at = datetime.now(UTC) - timedelta(hours=2)
    with pytest.raises(NotFoundError):
        sandbox.processes.get(ended[2].id)
    assert sandbox.processes.list() == [running, *ended[3:]]


async def test_automatic_cleanup_forgets_at_the_end(sandbox: Sandbox) -> None:
    """Its readers read on."""
    process = await sandbox.start_process("echo x; sleep 1000", auto_cleanup=True)
    assert sandbox.processes.list() == [process]
    await process.kill()
    assert [chunk.data async for chunk in process.logs.follow()] in ([b"x\n"], [])
    with pytest.raises(NotFoundError):
        sandbox.processes.get(process.id)


async def test_logs_can_be_read_after_the_sandbox() -> None:
    """What was started has ended, and its readers see the end."""
    async with open_sandbox() as sandbox:
        process = await sandbox.start_process("seq 1 50000; sleep 1000")
        await process.wait_for_log("50000")
    text = await process.logs.read()
    assert text.stdout.endswith(b"49999\n50000\n")
    assert [chunk async for chunk in process.logs.follow(text.position)] == []
    assert process.status in {"error", "killed", "failed"}
    with pytest.raises(SandboxClosedError):
        await sandbox.start_process("true")

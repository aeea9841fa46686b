"""Processes: programs with a jail of their own."""

from __future__ import annotations

import errno
import signal
import uuid
from pathlib import Path

import pytest
import trio

from sandbox_runtime import (
    InvalidArgumentError,
    NotStartedError,
    Sandbox,
    SandboxClosedError,
    open_sandbox,
)
from sandbox_runtime.pidfds import wait_process_end


def seen_by_the_host(token: str) -> list[int]:
    """The processes of this machine whose command line holds `token`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and token.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def lasting(name: str) -> str:
    """Shell text of a process that says `up` once its command line holds `name`, and stays."""
    return f"bash -c 'trap : TERM; echo up; sleep 1000; :' {name}"


@pytest.mark.parametrize("code", [0, 1, 127, 255])
async def test_an_exit_code_arrives(sandbox: Sandbox, code: int) -> None:
    """As it is, with what was written."""
    result = await sandbox.run_process(f"echo out; echo err >&2; exit {code}")
    assert (result.exit_code, result.signal, result.ended) == (code, None, "exit")
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")


async def test_a_signal_is_told_by_its_number(sandbox: Sandbox) -> None:
    """Not as an exit code."""
    result = await sandbox.run_process("kill -SEGV $$")
    assert (result.exit_code, result.signal, result.ended) == (None, signal.SIGSEGV, "signal")


async def test_stdin_directory_and_variables_are_given(sandbox: Sandbox) -> None:
    """And are nobody else's."""
    data = bytes(range(256)) * 1000
    assert (await sandbox.run_process(["cat"], stdin=data)).stdout == data
    assert (await sandbox.run_process(["cat"])).stdout == b""
    result = await sandbox.run_process("pwd; echo $A", cwd="/tmp", env={"A": "ä b"})
    assert result.text == "/tmp\nä b\n"
    assert (await sandbox.run_process("pwd; echo ${A-none}")).text == "/workspace\nnone\n"


async def test_a_process_runs_beside_others(sandbox: Sandbox) -> None:
    """It is started, waited for by any number of tasks, and has its result then."""
    await sandbox.exec("mkfifo go")
    process = await sandbox.start_process("read -r x < go; echo $x")
    assert process.result is None
    results = []

    async def wait() -> None:
        results.append(await process.wait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await sandbox.exec("echo hello > go")
    assert [result.text for result in results] == ["hello\n"] * 2
    assert process.result == await process.wait() == await process.kill()


async def test_kill_ends_a_process_with_all_it_started(sandbox: Sandbox) -> None:
    """The result says so and has the output so far; again changes nothing."""
    token = f"kill-{uuid.uuid4().hex}"
    up = trio.Event()
    process = await sandbox.start_process(
        f"(setsid {lasting(token)} &); sleep 1000", on_stdout=lambda _: up.set()
    )
    await up.wait()
    assert seen_by_the_host(token)
    result = await process.kill()
    assert seen_by_the_host(token) == []
    assert (result.ended, result.exit_code, result.signal) == ("killed", None, signal.SIGKILL)
    assert result.stdout == b"up\n"
    assert await process.kill() == result


async def test_what_a_process_started_ends_with_it(sandbox: Sandbox) -> None:
    """Also what left its session; its output until then is there."""
    token = f"orphan-{uuid.uuid4().hex}"
    result = await sandbox.run_process(f"{{ setsid {lasting(token)} & }} | head -n 1; echo over")
    assert result.text == "up\nover\n"
    assert seen_by_the_host(token) == []


async def test_a_deadline_ends_a_process(sandbox: Sandbox) -> None:
    """With all it started; the result says so."""
    for _ in range(5):  # the end of the program and that of the jail come in any order
        result = await sandbox.run_process(
            "echo up; (setsid sleep 1000 &); sleep 1000", deadline_s=0.5
        )
        assert (result.ended, result.stdout) == ("deadline", b"up\n")


async def test_cancelling_a_run_ends_its_process(sandbox: Sandbox) -> None:
    """And everything below."""
    token = f"cancel-{uuid.uuid4().hex}"
    with trio.CancelScope() as scope:
        await sandbox.run_process(lasting(token), on_stdout=lambda _: scope.cancel())
    assert scope.cancelled_caught
    assert seen_by_the_host(token) == []


async def test_cancelling_a_wait_leaves_the_process(sandbox: Sandbox) -> None:
    """Whoever waits is not whoever owns."""
    await sandbox.exec("mkfifo go")
    process = await sandbox.start_process("read -r x < go; echo $x")
    with trio.CancelScope() as scope:
        scope.cancel()
        await process.wait()
    await sandbox.exec("echo still here > go")
    assert (await process.wait()).text == "still here\n"


async def test_a_signal_reaches_the_program_alone(sandbox: Sandbox) -> None:
    """A handler runs; a program that is over gets none, and nobody fails."""
    up = trio.Event()
    process = await sandbox.start_process(
        "trap 'echo got it; exit 6' USR1; echo up; while :; do :; done",
        on_stdout=lambda _: up.set(),
    )
    await up.wait()
    await process.signal(signal.SIGUSR1)
    result = await process.wait()
    assert (result.exit_code, result.text) == (6, "up\ngot it\n")
    await process.signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (["no-such-program"], errno.ENOENT),
        (["/workspace/missing"], errno.ENOENT),
        (["/workspace/directory"], errno.EACCES),
        (["/workspace/plain"], errno.EACCES),
        (["/workspace/without-interpreter"], errno.ENOEXEC),
        (["/workspace/wrong-interpreter"], errno.ENOENT),
        (["/workspace/plain/below"], errno.ENOENT),
    ],
)
async def test_what_cannot_be_started_is_named(
    sandbox: Sandbox, command: list[str], number: int
) -> None:
    """With the reason; the sandbox is as before."""
    await sandbox.files.make_directory("directory")
    await sandbox.files.write("plain", "echo no")
    await sandbox.files.write("without-interpreter", "echo no", mode=0o755)
    await sandbox.files.write("wrong-interpreter", "#!/no/such/shell\n", mode=0o755)
    with pytest.raises(NotStartedError) as caught:
        await sandbox.run_process(command)
    assert (caught.value.step, caught.value.errno) == ("execute", number)
    assert caught.value.subject == command[0]
    assert command[0] in str(caught.value)
    assert (await sandbox.run_process(["echo", "ok"])).text == "ok\n"


async def test_a_missing_directory_is_named(sandbox: Sandbox) -> None:
    """It is no missing program."""
    with pytest.raises(NotStartedError, match="change to directory '/nowhere'"):
        await sandbox.run_process(["true"], cwd="/nowhere")


@pytest.mark.parametrize("command", [[], [""], "", "  ", ["a\0b"], "a\0b", 5, [5], None])
async def test_a_command_that_means_nothing_is_refused(sandbox: Sandbox, command: object) -> None:
    """Before anything is started."""
    with pytest.raises(InvalidArgumentError):
        await sandbox.start_process(command)  # type: ignore[arg-type]


async def test_a_callback_that_raises_ends_its_process(sandbox: Sandbox) -> None:
    """Whoever waits gets its error; the sandbox and its other processes go on."""

    def refuse(_chunk: bytes) -> None:
        raise LookupError("not this")

    with pytest.raises(LookupError, match="not this"):
        await sandbox.run_process(["yes"], on_stdout=refuse)
    process = await sandbox.start_process(["yes"], on_stdout=refuse)
    with pytest.raises(LookupError, match="not this"):
        await process.wait()
    assert (await sandbox.exec("echo ok")).text == "ok\n"


async def test_a_process_ends_with_its_sandbox() -> None:
    """Whoever waits for it is told."""
    token = f"end-{uuid.uuid4().hex}"
    up = trio.Event()
    async with open_sandbox() as sandbox:
        process = await sandbox.start_process(lasting(token), on_stdout=lambda _: up.set())
        await up.wait()
    assert seen_by_the_host(token) == []
    assert (process.status, (await process.kill()).ended) == ("killed", "killed")


async def test_a_hundred_processes_run_at_once(sandbox: Sandbox) -> None:
    """Each in its jail, each with its own result."""
    results = {}

    async def run(number: int) -> None:
        results[number] = (await sandbox.run_process(f"echo {number} $$")).text.split()

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(run, number)
    assert {number: said[0] for number, said in results.items()} == {n: str(n) for n in range(100)}
    assert {said[1] for said in results.values()} == {"2"}


async def test_programs_that_follow_one_another_see_nothing_of_each_other(sandbox: Sandbox) -> None:
    """Also where the jail of the next was made ahead."""
    seen = "echo $$; echo /proc/[0-9]*; sleep 1000 & echo left"
    for _ in range(3):
        assert (await sandbox.run_process(seen)).text == "2\n/proc/1 /proc/2\nleft\n"
        assert (await sandbox.run_process(["true"])).ok


async def test_a_jail_made_ahead_that_has_died_is_not_used(sandbox: Sandbox) -> None:
    """The next program gets one of its own nevertheless."""
    assert (await sandbox.run_process(["true"])).ok
    sandbox.keeper.prepare_jail()
    await sandbox.keeper.wait_prepared()
    prepared = sandbox.keeper._prepared
    assert prepared is not None
    signal.pidfd_send_signal(prepared._fds[0], signal.SIGKILL)
    await wait_process_end(prepared._fds[0])
    assert (await sandbox.run_process(["echo", "ok"])).text == "ok\n"


async def test_what_runs_when_its_sandbox_is_closed_is_told(sandbox: Sandbox) -> None:
    """Instead of a result that it has not."""
    token = f"close-{uuid.uuid4().hex}"
    told = []

    opened: list[Sandbox] = []

    async def run() -> None:
        with pytest.raises(SandboxClosedError) as raised:
            await opened[0].run_process(f"echo > up; sleep 1000; : {token}")
        told.append(raised.value)

    async with trio.open_nursery() as nursery, open_sandbox() as closed:
        opened.append(closed)
        await closed.exec("mkfifo up")
        nursery.start_soon(run)
        await closed.exec("read < up")
    assert len(told) == 1
    assert seen_by_the_host(token) == []
    assert (await sandbox.run_process(["true"])).ok


async def test_a_session_may_begin_in_a_jail_made_ahead(sandbox: Sandbox) -> None:
    """It is as good as any other: what a deadline ends is known, and the shell stays."""
    assert (await sandbox.run_process(["true"])).ok
    sandbox.keeper.prepare_jail()
    await sandbox.keeper.wait_prepared()
    prepared = sandbox.keeper._prepared
    session = await sandbox.create_session()
    assert prepared is not None
    assert prepared is not sandbox.keeper._prepared
    await session.exec("cd /tmp; sleep 1000 & x=1")
    result = await session.exec("sleep 1000", deadline_s=0.05)
    assert (result.ended, (await session.exec("echo $x $PWD")).text) == ("deadline", "1 /tmp\n")
    await session.aclose()

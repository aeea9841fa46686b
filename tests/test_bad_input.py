"""What cannot mean anything, and what means harm: a typed answer, and everything works after it."""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from sandbox_runtime import (
    InvalidArgumentError,
    Limits,
    NotStartedError,
    PoolSize,
    Runtime,
    Sandbox,
    Session,
    open_runtime,
    open_sandbox,
)

MIB = 1024 * 1024
HOARDER = f"""
import sys
hoard = []
while True:
    hoard.append(b"x" * {MIB})
    if len(hoard) % 16 == 0:
        print(len(hoard), flush=True)
"""


@pytest.mark.parametrize(
    "command", ["", " \n", b"", [], [""], [b""], 5, [5], None, [None], {}, True]
)
async def test_no_command_is_refused(sandbox: Sandbox, command: Any) -> None:
    """Before anything runs, naming the argument; the session goes on."""
    for verb in (sandbox.exec, sandbox.run_process):
        with pytest.raises(InvalidArgumentError, match="command"):
            await verb(command)
    assert (await sandbox.exec("echo ok")).text == "ok\n"


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("command", {"command": "echo a\0b"}),
        ("command", {"command": b"\0"}),
        ("command[1]", {"command": ["echo", "a\0b"]}),
        ("command[0]", {"command": ["\0"]}),
        ("command", {"command": "\udfff"}),
        ("env", {"env": {"a\0b": "1"}}),
        ("env[A]", {"env": {"A": "1\0"}}),
        ("env", {"env": {"": "1"}}),
        ("env", {"env": {"A=B": "1"}}),
        ("env[A]", {"env": {"A": 1}}),
        ("env", {"env": {b"A": "1"}}),
        ("cwd", {"cwd": "/a\0b"}),
        ("cwd", {"cwd": ""}),
        ("cwd", {"cwd": 5}),
        ("stdin", {"stdin": "text"}),
        ("stdin", {"stdin": 5}),
        ("deadline_s", {"deadline_s": 0}),
        ("deadline_s", {"deadline_s": -1}),
        ("deadline_s", {"deadline_s": math.nan}),
        ("deadline_s", {"deadline_s": "1"}),
        ("limit_bytes", {"limit_bytes": -1}),
        ("limit_bytes", {"limit_bytes": "1"}),
        ("limit_bytes", {"limit_bytes": None}),
    ],
)
async def test_an_argument_that_means_nothing_is_named(
    sandbox: Sandbox, field: str, arguments: dict[str, Any]
) -> None:
    """Nothing runs, and the session and the sandbox go on."""
    for verb in (sandbox.exec, sandbox.run_process):
        with pytest.raises(InvalidArgumentError) as caught:
            await verb(**({"command": "touch ran"} | arguments))
        assert caught.value.field == field
    assert (await sandbox.exec("ls")).text == ""


async def test_a_command_beyond_all_measure_is_refused(session: Session) -> None:
    """More text or more variables than the shell takes; the session keeps its state."""
    await session.exec("kept=1")
    with pytest.raises(InvalidArgumentError, match="command: is longer"):
        await session.exec(b"#" * (65 * MIB))
    with pytest.raises(InvalidArgumentError, match="env: has more"):
        await session.exec("true", env={f"a{number}": "" for number in range(65_536)})
    assert (await session.exec("echo $kept")).text == "1\n"


async def test_arguments_that_are_too_long_are_the_kernels_answer(sandbox: Sandbox) -> None:
    """Exit code 126 in a session, `E2BIG` for a process."""
    result = await sandbox.exec(["echo", "x" * MIB])
    assert result.exit_code == 126
    assert b"Argument list too long" in result.stderr
    with pytest.raises(NotStartedError, match="Argument list too long"):
        await sandbox.run_process(["echo", "x" * MIB])
    assert (await sandbox.exec("echo ok")).text == "ok\n"


async def test_an_unknown_program_is_the_shells_answer(session: Session) -> None:
    """127 with bash's message, also without a shell; 126 for what is there and no program."""
    text = await session.exec("no-such-program")
    program = await session.exec(["no-such-program", "x"])
    directory = await session.exec(["/tmp"])
    assert (text.exit_code, program.exit_code, directory.exit_code) == (127, 127, 126)
    assert text.stderr == b"bash: line 1: no-such-program: command not found\n"
    assert program.stderr == b"bash: no-such-program: command not found\n"


@pytest.mark.parametrize(
    "text", ["if", "echo $(", "'", "}", ")", "for", "case x in", "<<<", "${", "a=("]
)
async def test_text_that_is_no_shell_is_the_shells_answer(session: Session, text: str) -> None:
    """A failure with a message; the session keeps its state."""
    await session.exec("kept=1")
    result = await session.exec(text)
    assert result.ended == "exit"
    assert result.exit_code not in {0, None}
    assert result.stderr
    assert (await session.exec("echo $kept")).text == "1\n"


async def test_output_that_is_no_text_is_bytes(session: Session) -> None:
    """`text` shows what it can."""
    result = await session.exec(["printf", "a\\xff\\xc3b"])
    assert result.stdout == b"a\xff\xc3b"
    assert result.text == "a��b"


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("require", {"require": ["magic"]}),
        ("host_name", {"host_name": ""}),
        ("host_name", {"host_name": "x" * 65}),
        ("host_name", {"host_name": "a\0b"}),
        ("host_name", {"host_name": "a b/;$(x)"}),
        ("host_name", {"host_name": "-a"}),
        ("host_name", {"host_name": "a..b"}),
        ("host_name", {"host_name": "a\n"}),
        ("pools", {"pools": {"ruby": PoolSize()}}),
        ("python_pool", {"python_pool": -1}),
        ("read_only", {"read_only": ["relative"]}),
        ("limits.memory_bytes", {"limits": Limits(memory_bytes=-1)}),
        ("limits.memory_bytes", {"limits": Limits(memory_bytes=5)}),
        ("limits.cpu_percent", {"limits": Limits(cpu_percent=0)}),
        ("limits.processes", {"limits": Limits(processes=0)}),
        ("limits.tmp_bytes", {"limits": Limits(tmp_bytes=1 << 70)}),
        ("pools[python]", {"pools": {"python": 1}}),
        ("python_pool", {"python_pool": 1.5}),
    ],
)
async def test_a_sandbox_that_cannot_be_meant_is_refused(
    runtime: Runtime, field: str, arguments: dict[str, Any]
) -> None:
    """Naming the argument; the runtime goes on."""
    with pytest.raises(InvalidArgumentError) as caught:
        async with open_sandbox(
            runtime=None if field == "read_only" else runtime,
            **arguments,
        ):
            pass
    assert caught.value.field == field
    async with open_sandbox(runtime=runtime) as sandbox:
        assert (await sandbox.exec("echo ok")).text == "ok\n"


@pytest.mark.parametrize(
    "path",
    [
        *("/no/such/place", "/etc/passwd", "/", "/etc", "/dev", "/dev/shm", "/proc/1", "/sys"),
        *("/var", "/tmp", "//tmp/.", "/usr/../tmp", "a\0b", "/\udcff", 7),
    ],
)
async def test_a_read_only_directory_that_cannot_be_shown_is_named(path: Any) -> None:
    """Before anything is started, with what to give instead."""
    with pytest.raises(InvalidArgumentError) as caught:
        async with open_runtime(read_only=[path]):
            pass
    assert caught.value.field == "read_only"
    assert repr(path) in str(caught.value)


async def test_a_link_to_what_is_the_sandboxs_own_is_refused(tmp_path: Path) -> None:
    """As the place itself would be."""
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(InvalidArgumentError, match="'/etc'"):
        async with open_runtime(read_only=[str(tmp_path / "link")]):
            pass


async def test_one_text_is_no_list_of_directories() -> None:
    """Its characters would be taken for paths."""
    with pytest.raises(InvalidArgumentError, match="list"):
        async with open_runtime(read_only="/opt"):
            pass


async def test_a_session_without_bash_says_what_to_do(sandbox: Sandbox) -> None:
    """The error names bash and the remedy; the sandbox goes on."""
    with pytest.raises(NotStartedError, match="'bash'") as caught:
        await sandbox.create_session(env={"PATH": "/nonexistent"})
    assert "install it" in " ".join(caught.value.__notes__)
    with pytest.raises(NotStartedError, match="'/no/where'"):
        await sandbox.create_session(cwd="/no/where")
    assert (await sandbox.exec("echo ok")).text == "ok\n"


async def test_a_fork_bomb_is_bounded(runtime: Runtime) -> None:
    """It ends with its deadline, the machine does not notice, the sandbox works at once."""
    async with open_sandbox(runtime=runtime, limits=Limits(processes=64)) as sandbox:
        await sandbox.exec("kept=1")
        for _ in range(2):
            with trio.fail_after(30):
                result = await sandbox.exec(":(){ :|:& };:; sleep 1000", deadline_s=1)
            assert result.ended == "deadline"
            assert (await sandbox.exec("echo ok")).text == "ok\n"
        own_jail = await sandbox.run_process(":(){ :|:& };:; sleep 1000", deadline_s=1)
        assert own_jail.ended == "deadline"
        assert (await sandbox.run_process(["echo", "ok"])).text == "ok\n"


async def test_few_processes_are_enough_for_one_program_after_another(runtime: Runtime) -> None:
    """Nothing that waits, and nothing that is about to end, takes one of them."""
    async with open_sandbox(runtime=runtime, limits=Limits(processes=3)) as sandbox:
        for _ in range(10):
            assert (await sandbox.run_process(["true"])).exit_code == 0


async def test_no_more_processes_than_agreed_run(runtime: Runtime) -> None:
    """However many are asked for; other sandboxes have their own number."""
    async with (
        open_sandbox(runtime=runtime, limits=Limits(processes=32)) as sandbox,
        open_sandbox(runtime=runtime) as other,
    ):
        script = (
            "import os, signal\n"
            "made = 0\n"
            "try:\n"
            "    while made < 1000:\n"
            "        if os.fork() == 0: signal.pause()\n"
            "        made += 1\n"
            "except OSError as error:\n"
            "    print(error.errno)\n"
            "print(made, flush=True)\n"
            "signal.pause()\n"
        )
        up = trio.Event()
        said = bytearray()

        def hear(chunk: bytes) -> None:
            said.extend(chunk)
            if said.count(b"\n") == 2:
                up.set()

        process = await sandbox.start_process([sys.executable, "-ISc", script], on_stdout=hear)
        await up.wait()
        error, made = map(int, said.split())
        assert error == 11
        assert made < 32
        assert (await other.exec("echo ok")).text == "ok\n"
        await process.kill()
        assert (await sandbox.exec("echo ok")).text == "ok\n"


def available_bytes() -> int:
    """What /proc/meminfo says this machine has left."""
    line = next(
        line
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("way", ["session", "process"])
async def test_a_memory_bomb_is_bounded(runtime: Runtime, way: str) -> None:
    """It ends by itself, has never had more than its limit, and the session works after it."""
    limit = 256 * MIB
    async with open_sandbox(runtime=runtime, limits=Limits(memory_bytes=limit)) as sandbox:
        await sandbox.exec("true")
        before = available_bytes()
        lowest = before

        def hear(_chunk: bytes) -> None:
            nonlocal lowest
            lowest = min(lowest, available_bytes())

        verb = sandbox.exec if way == "session" else sandbox.run_process
        result = await verb([sys.executable, "-ISc", HOARDER], on_stdout=hear, deadline_s=50)
        assert result.ended in {"exit", "signal"}
        assert not result.ok
        assert 64 < int(result.text.split()[-1]) <= 256
        assert before - lowest < limit + 512 * MIB  # others use this machine too
        assert (await sandbox.exec("echo ok")).text == "ok\n"


async def test_many_processes_share_the_memory_limit(runtime: Runtime) -> None:
    """Where the kernel gives a control group; the shell is not what it ends first."""
    limits = Limits(memory_bytes=256 * MIB)
    async with open_sandbox(runtime=runtime, limits=limits) as sandbox:
        if sandbox.report["cgroup_memory"].achieved != "full":
            pytest.skip("no control group for memory here: limits hold for each process alone")
        hoarders = f"for n in 1 2 3 4; do {sys.executable} -ISc '{HOARDER}' & done; wait"
        result = await sandbox.run_process(hoarders, deadline_s=50)
        highest = max((int(line) for line in result.text.split()), default=0)
        assert highest <= 256
        assert (await sandbox.exec("echo ok")).text == "ok\n"


async def test_files_cannot_eat_the_memory(runtime: Runtime) -> None:
    """Each writable directory is full at its size."""
    limits = Limits(workspace_bytes=8 * MIB, tmp_bytes=4 * MIB, shm_bytes=2 * MIB)
    async with open_sandbox(runtime=runtime, limits=limits) as sandbox:
        for directory, size in [("/workspace", 8), ("/tmp", 4), ("/dev/shm", 2)]:
            result = await sandbox.exec(f"yes | head -c 20000000 > {directory}/file")
            assert not result.ok
            assert b"No space left" in result.stderr
            count = int((await sandbox.exec(f"stat -c %s {directory}/file")).text)
            assert size * MIB * 0.9 < count <= size * MIB


async def test_a_shell_that_opens_everything_is_answered(session: Session) -> None:
    """Without a descriptor left, a command does not hang the session."""
    text = 'for n in {10..5000}; do eval "exec $n</dev/null" || break; done 2>/dev/null; ls'
    with trio.fail_after(30):
        await session.exec(text)
        with contextlib.suppress(NotStartedError):
            await session.exec("true", deadline_s=2)
        await session.exec("exit 0", deadline_s=2)
        assert (await session.exec("echo ok", deadline_s=2)).text == "ok\n"


async def test_a_shell_without_memory_is_answered(runtime: Runtime) -> None:
    """The shell itself grows until it dies; the next command has a fresh one."""
    async with open_sandbox(runtime=runtime, limits=Limits(memory_bytes=128 * MIB)) as sandbox:
        result = await sandbox.exec("x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done", deadline_s=30)
        assert not result.ok
        assert (await sandbox.exec("echo ok")).text == "ok\n"


async def test_a_recursion_without_end_is_ended(session: Session) -> None:
    """Deep in its own stack, the shell still gives up, or is replaced."""
    result = await session.exec("f() { f; }; f", deadline_s=1)
    assert result.ended in {"session lost", "deadline"}
    assert (await session.exec("echo ok")).text == "ok\n"

"""Sessions: what stays between commands, how each one ends, and what they do not share."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from sandbox_runtime import (
    AlreadyExistsError,
    CommandFailedError,
    InvalidArgumentError,
    NotStartedError,
    Sandbox,
    SandboxClosedError,
    Session,
    fresh,
    open_sandbox,
)
from sandbox_runtime.capture import Capture
from sandbox_runtime.shell import start_shell

if TYPE_CHECKING:
    from sandbox_runtime.shell import Shell

LISTENER = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
with open("port", "w") as fifo:
    print(listener.getsockname()[1], file=fifo)
while True:
    with listener.accept()[0] as connection:
        connection.sendall(b"hello from next door")
"""


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


async def test_what_a_command_sets_is_there_for_the_next(session: Session) -> None:
    """Directory, variables, functions, aliases, options and umask stay."""
    await session.exec("mkdir -p 'a dir' && cd 'a dir'")
    await session.exec("plain=1; export exported='two words'; list=(x 'y z')")
    await session.exec(
        "greet() { echo \"hi $1\"; }; shopt -s expand_aliases; alias say='echo said'"
    )
    await session.exec("set -o noglob; umask 027")

    result = await session.exec(
        "pwd; echo $plain; sh -c 'echo $exported'; echo ${list[1]}; greet you; say so; echo *;umask"
    )

    expected = "/workspace/a dir\n1\ntwo words\ny z\nhi you\nsaid so\n*\n0027\n"
    assert result.text == expected


async def test_the_last_status_is_seen_by_the_next_command(session: Session) -> None:
    """`$?` is that of the command before, also of one without a shell."""
    await session.exec("(exit 7)")
    assert (await session.exec("echo $?")).text == "7\n"
    await session.exec(["sh", "-c", "exit 9"])
    assert (await session.exec("echo $?")).text == "9\n"


async def test_background_jobs_go_on(session: Session) -> None:
    """A job outlives its command, can be waited for, and its status is right."""
    await session.exec("mkfifo go; (read -r code < go; exit $code) &")
    result = await session.exec("jobs | wc -l; echo 5 > go; wait $!; echo $?")
    assert result.text.split() == ["1", "5"]


@pytest.mark.parametrize("code", [0, 1, 2, 42, 126, 127, 128, 254, 255])
async def test_an_exit_code_arrives_as_it_is(session: Session, code: int) -> None:
    """Every code from 0 to 255, from text and from a program."""
    text = await session.exec(f"(exit {code})")
    program = await session.exec(["sh", "-c", f"exit {code}"])
    assert (text.exit_code, text.ended, text.ok) == (code, "exit", code == 0)
    assert (program.exit_code, program.ended) == (code, "exit")


async def test_a_child_that_a_signal_ended_has_the_shells_code(session: Session) -> None:
    """128 and the number, as bash says it."""
    assert (await session.exec("sh -c 'kill -TERM $$'")).exit_code == 128 + 15
    assert (await session.exec(["sh", "-c", "kill -KILL $$"])).exit_code == 128 + 9


async def test_both_streams_are_apart(session: Session) -> None:
    """Standard output and standard error are two results."""
    result = await session.exec("echo out; echo err >&2; printf out2")
    assert (result.stdout, result.stderr) == (b"out\nout2", b"err\n")


async def test_stdin_is_bytes(session: Session) -> None:
    """NULs and all other bytes arrive; the next command does not see what was left."""
    data = bytes(range(256)) * 2000
    assert (await session.exec("cat", stdin=data)).stdout == data
    assert (await session.exec(["cat"], stdin=data)).stdout == data
    assert (await session.exec("head -c 1", stdin=b"ab")).stdout == b"a"
    assert (await session.exec("cat")).stdout == b""


async def test_no_stdin_is_at_its_end_at_once(session: Session) -> None:
    """Whoever reads gets the end of file, not the caller's terminal."""
    result = await session.exec("read -r x; echo $?; wc -c", deadline_s=20)
    assert result.text.split() == ["1", "0"]


async def test_cwd_holds_for_one_command(session: Session) -> None:
    """The session is where it was afterwards, and `cd` in such a command does not count."""
    await session.exec("mkdir here there; cd here")
    assert (await session.exec("pwd; echo $PWD; cd /", cwd="/tmp")).text == "/tmp\n/tmp\n"
    assert (await session.exec(["pwd"], cwd="/tmp")).text == "/tmp\n"
    assert (await session.exec("pwd; echo $PWD")).text == "/workspace/here\n" * 2


async def test_a_relative_cwd_starts_where_the_session_did(sandbox: Sandbox) -> None:
    """Not where the shell happens to be."""
    await sandbox.files.make_directory("/tmp/top/below")
    session = await sandbox.create_session(cwd="/tmp/top")
    await session.exec("cd /")
    assert (await session.exec("pwd", cwd="below")).text == "/tmp/top/below\n"


@pytest.mark.parametrize("command", ["echo no", ["echo", "no"]])
async def test_a_missing_cwd_is_named(session: Session, command: str | list[str]) -> None:
    """Nothing runs, the error says which directory, and the session is as before."""
    await session.exec("kept=1")
    with pytest.raises(NotStartedError, match="'/no/such place'") as caught:
        await session.exec(command, cwd="/no/such place")
    assert (caught.value.step, caught.value.subject) == ("change_directory", "/no/such place")
    assert (await session.exec("echo $kept; pwd")).text == "1\n/workspace\n"


async def test_env_holds_for_one_command(session: Session) -> None:
    """It reaches the command and its children, and is as it was afterwards."""
    await session.exec("changed=before; export shown=before")
    env = {"changed": "a 'b' $c\n", "shown": "during", "fresh": "ä"}
    inside = await session.exec("printf '%s|' \"$changed\"; sh -c 'echo $shown $fresh'", env=env)
    assert inside.text == "a 'b' $c\n|during ä\n"
    program = await session.exec(["sh", "-c", "echo $shown $fresh"], env=env)
    assert program.text == "during ä\n"
    after = await session.exec("echo $changed $shown ${fresh-gone}; sh -c 'echo ${changed-hidden}'")
    assert after.text == "before before gone\nhidden\n"


async def test_env_that_the_shell_cannot_hold_is_the_callers_mistake(session: Session) -> None:
    """A readonly variable or an impossible name is named, and nothing runs."""
    with pytest.raises(InvalidArgumentError, match="'UID' is readonly"):
        await session.exec("touch ran", env={"A": "1", "UID": "0"})
    with pytest.raises(InvalidArgumentError, match="'a-b' is no name"):
        await session.exec("touch ran", env={"a-b": "1"})
    assert (await session.exec("echo ${A-unset}; ls")).text == "unset\n"
    assert b"a-b=1" in (await session.exec(["env"], env={"a-b": "1"})).stdout


async def test_a_deadline_ends_the_command_alone(session: Session) -> None:
    """The result says so with the output so far, and the session keeps its state."""
    await session.exec("kept=1")
    result = await session.exec("echo early; sleep 1000", deadline_s=0.5)
    assert (result.ended, result.exit_code, result.ok) == ("deadline", None, False)
    assert result.stdout == b"early\n"
    assert result.receipt.wall_s >= 0.5
    assert (await session.exec("echo $kept")).text == "1\n"


@pytest.mark.parametrize(
    "text",
    [
        "while :; do :; done",
        "trap '' INT TERM HUP; while :; do :; done",
        "mkfifo wait; read -r x < wait",
        "sleep 1000 & wait",
        "x=$(sleep 1000)",
        "kill -STOP $$",
        "exec sleep 1000",
    ],
)
async def test_a_deadline_ends_what_the_shell_itself_does(session: Session, text: str) -> None:
    """Loops, builtins that wait, stopped and replaced shells: the call returns, the next runs."""
    with trio.fail_after(20):
        result = await session.exec(text, deadline_s=0.1)
        assert result.ended == "deadline"
        assert (await session.exec("echo next")).text == "next\n"


async def test_arguments_are_not_parsed(session: Session) -> None:
    """A list is a program with its arguments, whatever they hold."""
    arguments = ["$HOME", "a b", "'", '"', "*", "", "\n", ";exit", "ä", "-n"]
    result = await session.exec(["printf", "%s\\0", *arguments])
    assert result.stdout.decode().split("\0")[:-1] == arguments
    raw = await session.exec([b"printf", b"%s", b"\xff\xfe"])
    assert raw.stdout == b"\xff\xfe"


async def test_a_program_sees_the_exported_variables_only(session: Session) -> None:
    """As a child of the shell does, in the shell's directory."""
    await session.exec("cd /tmp; plain=1; export exported=2")
    result = await session.exec(["sh", "-c", "echo ${plain-none} $exported; pwd"])
    assert result.text == "none 2\n/tmp\n"


@pytest.mark.parametrize(
    ("text", "exit_code", "signal"),
    [
        ("exit 3", 3, None),
        ("kill -9 $$", None, 9),
        ("set -e; false", 1, None),
        ("exec sh -c 'exit 4'", 4, None),
    ],
)
async def test_a_shell_that_ends_is_replaced(
    session: Session, text: str, exit_code: int | None, signal: int | None
) -> None:
    """The result is typed `session lost` and tells how; the next command has a fresh shell."""
    await session.exec("state=1; cd /tmp")
    result = await session.exec(f"echo last words; {text}")
    assert (result.ended, result.exit_code, result.signal) == ("session lost", exit_code, signal)
    assert result.stdout == b"last words\n"
    assert (await session.exec("echo ${state-fresh}; pwd")).text == "fresh\n/workspace\n"


async def test_a_shell_that_ends_between_commands_is_a_typed_result(session: Session) -> None:
    """A job that kills its shell costs the next command, which says so, and no more."""
    await session.exec("mkfifo go; (read -r x < go; kill -9 $$; echo) &")
    result = await session.exec("echo > go; while :; do read -r x < go; done", deadline_s=20)
    assert result.ended == "session lost"
    assert (await session.exec("echo fresh")).text == "fresh\n"


async def test_calls_at_the_same_time_are_served_in_their_order(
    sandbox: Sandbox, session: Session
) -> None:
    """One after another: none overtakes, none overlaps."""
    await session.exec("mkfifo go")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.exec, "read -r x < go")
        await trio.testing.wait_all_tasks_blocked()
        for number in range(20):
            nursery.start_soon(session.exec, f"echo {number} >> log; echo {number} >> log")
            await trio.testing.wait_all_tasks_blocked()
        await sandbox.exec("echo > go")
    log = (await session.exec("cat log")).text.split()
    assert log == [str(number) for number in range(20) for _ in range(2)]


async def test_cancelling_a_call_ends_its_tree(session: Session) -> None:
    """Nothing of it is alive, the session and its state stay."""
    token = f"cancel-{uuid.uuid4().hex}"
    await session.exec("kept=1")
    seen = []

    def hear(_chunk: bytes) -> None:
        seen.extend(seen_by_the_host(token))
        scope.cancel()

    with trio.CancelScope() as scope:
        await session.exec(f"(setsid {lasting(token)} &); sleep 1000", on_stdout=hear)
    assert scope.cancelled_caught
    assert seen
    assert seen_by_the_host(token) == []
    assert (await session.exec("echo $kept; jobs -r")).text == "1\n"


async def test_cancelling_a_call_that_waits_for_its_turn_runs_nothing(
    sandbox: Sandbox, session: Session
) -> None:
    """It leaves the queue; the others go on."""
    await session.exec("mkfifo go")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.exec, "read -r x < go")
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as waiting:
                waiting.start_soon(session.exec, "touch ran")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        await sandbox.exec("echo > go")
    assert (await session.exec("ls")).text == "go\n"


async def test_kill_from_another_task_says_killed(session: Session) -> None:
    """The running call returns with its output so far."""
    token = f"kill-{uuid.uuid4().hex}"
    seen = []

    def hear(_chunk: bytes) -> None:
        seen.extend(seen_by_the_host(token))
        session.kill()

    result = await session.exec(f"kept=1; {lasting(token)}", on_stdout=hear)
    assert seen
    assert (result.ended, result.exit_code, result.stdout) == ("killed", None, b"up\n")
    assert seen_by_the_host(token) == []
    assert (await session.exec("echo $kept")).text == "1\n"


def kill_as_it_answers(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the next command killed in the very moment in which its shell answers, or hangs up."""
    wait_for = Capture._wait_for

    async def wait_until_both(capture: Capture, epoll: select.epoll) -> None:
        monkeypatch.setattr(Capture, "_wait_for", wait_for)
        assert session._shell is not None
        answer = select.poll()
        answer.register(session._shell.fileno(), select.POLLIN)
        answer.poll()
        session.kill()
        await wait_for(capture, epoll)

    monkeypatch.setattr(Capture, "_wait_for", wait_until_both)


async def test_kill_in_the_moment_in_which_the_shell_is_replaced_is_kept(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that the shell was replaced by ends as well."""
    await session.start()
    kill_as_it_answers(session, monkeypatch)
    assert (await session.exec("exec sleep 3")).ended == "killed"
    assert (await session.exec("echo fresh")).text == "fresh\n"


async def test_a_job_of_a_command_that_was_killed_as_it_ended_goes_on(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command has ended by itself, and what its job writes is kept."""
    await session.exec("mkfifo go")
    kill_as_it_answers(session, monkeypatch)
    result = await session.exec("(read -r x < go; echo later) &")
    assert (result.ended, result.exit_code) == ("exit", 0)
    await session.exec("echo > go; wait")
    await trio.testing.wait_all_tasks_blocked()
    (job,) = session.background
    assert (job.stdout, job.ended) == (b"later\n", True)


async def stop_reading(session: Session) -> None:
    """Stops the session's shell, and leaves no room in its socket."""
    await session.start()
    shell = session._shell
    assert shell is not None
    await shell.jail.signal(shell.pid, signal.SIGSTOP)
    await shell.jail.sweep(spare=[shell.pid], keep=(), since_ticks=0)  # answered after the signal
    with socket.socket(fileno=os.dup(shell.fileno())) as filled, suppress(BlockingIOError):
        while True:
            filled.send(b"no request")


@pytest.mark.parametrize("hears", [False, True])
async def test_kill_reaches_a_command_that_the_shell_has_no_room_for(
    session: Session, *, hears: bool
) -> None:
    """It says `killed`, as does one that runs, and the next shell is a fresh one."""
    await stop_reading(session)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            async def kill() -> None:
                await trio.testing.wait_all_tasks_blocked()
                session.kill()

            nursery.start_soon(kill)
            heard: list[bytes] = []
            result = await session.exec("echo", on_stdout=heard.append if hears else None)
        assert (result.ended, heard) == ("killed", [])
        assert (await session.exec("echo fresh")).text == "fresh\n"


async def test_a_session_closes_whose_shell_has_no_room_for_its_command(session: Session) -> None:
    """Its command says `killed`."""
    await stop_reading(session)
    async with trio.open_nursery() as nursery:

        async def close() -> None:
            await trio.testing.wait_all_tasks_blocked()
            await session.aclose()

        nursery.start_soon(close)
        assert (await session.exec("echo")).ended == "killed"


async def test_a_deadline_reaches_a_command_that_the_shell_has_no_room_for(
    session: Session,
) -> None:
    """It has not run."""
    await stop_reading(session)
    assert (await session.exec("echo", deadline_s=0.05)).ended == "deadline"


async def test_kill_without_a_command_does_nothing(session: Session) -> None:
    """Neither the shell nor the next command notices."""
    session.kill()
    assert (await session.exec("echo ok")).text == "ok\n"


async def test_check_raises_what_the_result_says(session: Session) -> None:
    """The error carries the result and the end of standard error."""
    with pytest.raises(CommandFailedError, match="exit code 3: it broke") as caught:
        await session.exec("echo it broke >&2; (exit 3)", check=True)
    assert caught.value.result.exit_code == 3
    with pytest.raises(CommandFailedError, match="deadline"):
        await session.exec("sleep 1000", check=True, deadline_s=0.05)
    assert (await session.exec("true", check=True)).ok


async def test_sessions_share_files_and_not_processes(sandbox: Sandbox) -> None:
    """A file is there for both; a process of one cannot be seen or signalled by the other."""
    one, two = await sandbox.create_session(), await sandbox.create_session()
    await one.exec("echo shared > note")
    await one.exec(f"{{ {lasting('mine')} & {lasting('mine')} & }} | head -n 2")
    assert (await two.exec("cat note")).text == "shared\n"
    listing = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done | grep -c 'mine $'"
    assert (await one.exec(listing)).text == "2\n"
    assert (await two.exec(listing)).text == "0\n"
    await two.exec("for pid in {2..200}; do [ $pid = $$ ] || kill -9 $pid; done")
    assert (await one.exec(listing)).text == "2\n"


async def test_a_server_of_one_session_answers_in_another(sandbox: Sandbox) -> None:
    """The loopback is the sandbox's: all its jails share it."""
    one, two = await sandbox.create_session(), await sandbox.create_session()
    await sandbox.files.write("listener.py", LISTENER)
    started = await one.exec(
        f"mkfifo port; {sys.executable} -IS listener.py & read -r p < port; echo $p"
    )
    answer = await two.exec(f"cat < /dev/tcp/127.0.0.1/{int(started.text)}", deadline_s=20)
    assert answer.text == "hello from next door"


async def test_two_sandboxes_have_two_loopbacks(sandbox: Sandbox) -> None:
    """What listens in one does not answer in another."""
    await sandbox.files.write("listener.py", LISTENER)
    started = await sandbox.exec(
        f"mkfifo port; {sys.executable} -IS listener.py & read -r p < port; echo $p"
    )
    async with open_sandbox() as other:
        answer = await other.exec(f"cat < /dev/tcp/127.0.0.1/{int(started.text)}", deadline_s=20)
    assert b"Connection refused" in answer.stderr


async def test_what_a_job_writes_later_is_told_apart(session: Session) -> None:
    """It stands in `background` under the number of its command, not in a later result."""
    await session.exec("mkfifo go")
    first = await session.exec("echo now; (read -r x < go; echo later; echo wrong >&2) &")
    assert (first.stdout, first.stderr) == (b"now\n", b"")
    second = await session.exec("echo > go; wait; echo second")
    assert second.stdout == b"second\n"
    await trio.testing.wait_all_tasks_blocked()
    (job,) = session.background
    assert (job.command, job.stdout, job.stderr) == (2, b"later\n", b"wrong\n")
    assert (job.stdout_bytes, job.stderr_bytes) == (6, 6)


async def test_a_job_that_prints_for_ever_delays_nobody(session: Session) -> None:
    """Its command returns, and so do the next ones."""
    with trio.fail_after(20):
        first = await session.exec("yes & yes >&2 & echo started")
        assert first.ended == "exit"
        for number in range(10):
            assert (await session.exec(f"echo {number}")).text == f"{number}\n"


async def test_what_a_job_writes_later_is_kept_up_to_a_limit(session: Session) -> None:
    """One megabyte of each stream; the rest is counted only."""
    await session.exec("mkfifo go; (read -r x < go; yes | head -c 3000000) &")
    await session.exec("echo > go; wait")
    (job,) = session.background
    with trio.fail_after(30):
        while job.stdout_bytes < 3_000_000:  # beyond the limit it is read in steps
            await trio.testing.wait_all_tasks_blocked(0.005)
            (job,) = session.background
    assert (len(job.stdout), job.stdout_bytes) == (1024 * 1024, 3_000_000)


async def test_a_command_may_be_long(session: Session) -> None:
    """One megabyte of text, and ten thousand arguments."""
    text = await session.exec(f"x='{'y' * 1_000_000}'; echo ${{#x}}")
    assert text.text == "1000000\n"
    arguments = [f"argument {number}" for number in range(10_000)]
    program = await session.exec(["printf", "%s\n", *arguments])
    assert program.text.splitlines() == arguments


async def test_many_variables_may_be_given(session: Session) -> None:
    """A thousand of them, for one command."""
    env = {f"variable_{number}": str(number) for number in range(1000)}
    assert (await session.exec("compgen -e variable_ | wc -l", env=env)).text == "1000\n"
    assert (await session.exec("compgen -v variable_ | wc -l")).text == "0\n"


async def test_a_callback_that_raises_ends_its_command(session: Session) -> None:
    """The caller gets the callback's own error; the session stays and nothing is left."""
    token = f"raise-{uuid.uuid4().hex}"

    def refuse(_chunk: bytes) -> None:
        raise LookupError("not this")

    await session.exec("kept=1")
    with pytest.raises(LookupError, match="not this"):
        await session.exec(f"(setsid {lasting(token)} &); yes", on_stdout=refuse)
    assert seen_by_the_host(token) == []
    assert (await session.exec("echo $kept")).text == "1\n"


async def test_closing_a_session_ends_everything_in_it(sandbox: Sandbox) -> None:
    """Its jobs, its running command, its shell; the sandbox and its other sessions stay."""
    token = f"close-{uuid.uuid4().hex}"
    session = await sandbox.create_session()
    await session.exec(f"{{ setsid {lasting(token)} & {lasting(token)} & }} | head -n 2")
    up = trio.Event()
    results = []

    async def run() -> None:
        results.append(await session.exec(lasting(token), on_stdout=lambda _: up.set()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await up.wait()
        assert len(seen_by_the_host(token)) >= 3
        await session.aclose()
    assert seen_by_the_host(token) == []
    assert [result.ended for result in results] == ["killed"]
    with pytest.raises(SandboxClosedError):
        await session.exec("true")
    assert (await sandbox.exec("echo ok")).text == "ok\n"


async def test_closing_a_sandbox_ends_everything_in_it() -> None:
    """Also what runs at that moment, and its call says so."""
    token = f"end-{uuid.uuid4().hex}"
    up = trio.Event()
    results = []

    async def run(session: Session) -> None:
        results.append(await session.exec(lasting(token), on_stdout=lambda _: up.set()))

    async with trio.open_nursery() as nursery:
        async with open_sandbox() as sandbox:
            session = await sandbox.create_session()
            await session.exec(f"{{ {lasting(token)} & }} | head -n 1")
            nursery.start_soon(run, session)
            await up.wait()
            assert len(seen_by_the_host(token)) >= 2
        assert seen_by_the_host(token) == []
    assert [result.ended for result in results] in (["session lost"], ["killed"])
    with pytest.raises(SandboxClosedError):
        await sandbox.exec("true")


async def test_a_receipt_says_what_a_command_cost(session: Session) -> None:
    """Times and memory are the command's own, each with its source."""
    spin = "import time\nwhile time.process_time() < 0.2: pass\nx = b'1' * 50_000_000"
    result = await session.exec([sys.executable, "-ISc", spin])
    receipt = result.receipt
    assert receipt.user_s is not None
    assert receipt.system_s is not None
    assert receipt.peak_memory_bytes is not None
    assert 0.1 < receipt.user_s + receipt.system_s <= receipt.wall_s + 0.05
    assert receipt.peak_memory_bytes > 50_000_000
    assert set(receipt.sources) == {"wall_s", "user_s", "system_s", "peak_memory_bytes"}


async def test_a_command_without_a_process_has_no_peak(session: Session) -> None:
    """What was not measured is None, never nought, and the source says why."""
    receipt = (await session.exec("x=1")).receipt
    assert receipt.peak_memory_bytes is None
    assert "not measured" in receipt.sources["peak_memory_bytes"]


async def test_the_environment_of_the_caller_stays_outside(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell has the variables of `DEFAULT_ENV`, and none of this process."""
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "1")
    assert "SECRET_OF_THE_SERVER" in os.environ
    names = (await session.exec("compgen -e")).text.split()
    assert "SECRET_OF_THE_SERVER" not in names
    assert {"PATH", "HOME"} <= set(names)


async def test_a_session_says_where_it_is(sandbox: Sandbox) -> None:
    """Without running a command, and while one runs."""
    session = await sandbox.create_session(cwd="/tmp")
    assert session.cwd() == "/tmp"
    name = os.fsdecode(b"\xff \n(deleted)")
    await session.exec(["mkdir", os.fsencode(name)])
    await session.exec(b"cd '" + os.fsencode(name) + b"'")
    assert session.cwd() == f"/tmp/{name}"
    await session.exec("mkfifo /tmp/go /tmp/up")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.exec, "cd /usr; echo > /tmp/up; read -r x < /tmp/go")
        await sandbox.exec("read -r x < /tmp/up")
        assert session.cwd() == "/usr"
        await sandbox.exec("echo > /tmp/go")
    await session.exec("mkdir /tmp/x; cd /tmp/x; rmdir /tmp/x")
    assert session.cwd() == "/tmp"


async def test_a_session_whose_shell_is_gone_is_where_the_next_will_start(sandbox: Sandbox) -> None:
    """And the next command starts it there."""
    session = await sandbox.create_session(cwd="/tmp", env={"A": "1"})
    result = await session.exec("cd /usr; exit 7")
    assert (result.ended, result.exit_code) == ("session lost", 7)
    assert session.cwd() == "/tmp"
    assert (await session.exec("pwd; echo $A")).text == "/tmp\n1\n"
    assert session.env["A"] == "1"


async def test_a_session_has_an_id(sandbox: Sandbox) -> None:
    """Given or made; once at a time, and free again when it is closed."""
    made = await sandbox.create_session()
    assert made.id.startswith("session_")
    given = await sandbox.create_session(session_id="one")
    assert sandbox.sessions == {made.id: made, "one": given}
    with pytest.raises(AlreadyExistsError, match="session 'one'"):
        await sandbox.create_session(session_id="one")
    with pytest.raises(NotStartedError):
        await sandbox.create_session(session_id="two", cwd="/missing")
    await given.aclose()
    assert sandbox.sessions == {made.id: made}
    again = await sandbox.create_session(session_id="one")
    await given.aclose()
    assert sandbox.sessions == {made.id: made, "one": again}


async def test_return_ends_a_command_with_its_status(session: Session) -> None:
    result = await session.exec("echo before; return 7; echo after")
    assert (result.stdout, result.stderr, result.exit_code) == (b"before\n", b"", 7)
    result = await session.exec("f() { x=kept; return 3; }; for i in 1 2; do f || return; done")
    assert result.exit_code == 3
    assert (await session.exec("echo $x $?", env={"y": "1"})).stdout == b"kept 3\n"
    assert (await session.exec("false; return")).exit_code == 1
    assert (await session.exec("(return 5); echo $?")).stdout == b"5\n"


async def test_a_command_that_could_return_is_like_any_other(session: Session) -> None:
    result = await session.exec("return() { builtin return 4; }; y=$y$z; return", env={"z": "1"})
    assert result.exit_code == 4
    assert (await session.exec("unset -f return; echo $y.$z")).stdout == b"1.\n"
    result = await session.exec("a=1; while :; do :; done; return 9", deadline_s=0.2)
    assert result.ended == "deadline"
    assert (await session.exec("echo $a")).stdout == b"1\n"
    result = await session.exec("echo 'return\nif")
    assert result.exit_code == 2
    assert b"unexpected" in result.stderr
    assert (await session.exec("exit 6; return 1")).ended == "session lost"


async def test_a_shell_that_may_open_nothing_more_says_so_and_the_next_one_is_fresh(
    session: Session,
) -> None:
    """`ulimit -n` leaves no descriptor for the pipes of the next command."""
    await session.exec("x=1; ulimit -n 3")
    with pytest.raises(NotStartedError, match="no more descriptors"):
        await session.exec("echo never")
    assert (await session.exec("echo ${x-fresh}")).text == "fresh\n"
    await session.exec("ulimit -n 3")
    with pytest.raises(NotStartedError, match="no more descriptors"):
        await session.exec(["echo", "never"])
    assert (await session.exec(["echo", "again"])).text == "again\n"


async def test_a_session_that_is_closed_while_its_shell_starts_runs_nothing(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await sandbox.create_session()
    await session.exec("exit")
    async with trio.open_nursery() as nursery:

        async def start_slowly(*args: Any) -> Shell:
            shell = await start_shell(*args)
            nursery.start_soon(session.aclose)
            await trio.testing.wait_all_tasks_blocked()
            return shell

        monkeypatch.setattr(fresh, "start_shell", start_slowly)
        with pytest.raises(SandboxClosedError):
            await session.exec("sleep 1000")

"""The client against a real control process: without waiting, on asyncio and on trio."""

from __future__ import annotations

import asyncio  # noqa: TID251 - the client runs on it as well
import gc
import os
import re
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from sandbox_runtime import Limits
from sandbox_runtime.client import (
    ApiError,
    AsyncSandbox,
    ConflictError,
    DeadlineError,
    Death,
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    Sandbox,
    UnreachableError,
)
from sandbox_runtime.errors import (
    CommandFailedError,
    InvalidArgumentError,
    ProcessEndedError,
    SandboxClosedError,
)
from sandbox_runtime.wire.sandboxes import SandboxReply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ROOT = Path(__file__).parent.parent


@pytest.fixture
def sandbox(address: str) -> Iterator[Sandbox]:
    with Sandbox(address) as opened:
        yield opened


def test_a_command_tells_its_output_and_exit_code(sandbox: Sandbox) -> None:
    result = sandbox.exec("echo out; echo err >&2; (exit 3)")
    assert (result.stdout, result.stderr, result.exit_code, result.ok) == (
        "out\n",
        "err\n",
        3,
        False,
    )


def test_state_stays_between_commands(sandbox: Sandbox) -> None:
    sandbox.exec("cd /tmp; X=kept")
    assert sandbox.exec("pwd; echo $X").stdout == "/tmp\nkept\n"


def test_directory_and_variables_are_the_commands_own(sandbox: Sandbox) -> None:
    assert sandbox.exec("pwd; echo $X", cwd="/tmp", env={"X": "1"}).stdout == "/tmp\n1\n"
    assert sandbox.exec("pwd; echo $X").stdout == "/workspace\n\n"


def test_output_is_handed_on_while_the_command_runs(sandbox: Sandbox) -> None:
    seen: list[str] = []
    # It goes on only once we have seen its first line.
    command = "echo first; until [ -e /workspace/seen ]; do sleep 0.01; done; echo last"
    other = sandbox.create_session()

    def note(text: str) -> None:
        if not seen:
            other.exec("touch /workspace/seen")
        seen.append(text)

    assert sandbox.exec(command, on_stdout=note).exit_code == 0
    assert "".join(seen) == "first\nlast\n"


def test_a_deadline_is_an_error_with_the_output_so_far(sandbox: Sandbox) -> None:
    with pytest.raises(DeadlineError, match=r"0\.5 s.*deadline_s") as caught:
        sandbox.exec("echo before; sleep 60", deadline_s=0.5)
    assert caught.value.context["stdout"] == "before\n"
    assert (caught.value.code, isinstance(caught.value, ApiError)) == ("deadline", True)
    with pytest.raises(DeadlineError, match="deadline_s") as caught:
        sandbox.exec("echo before; sleep 60", deadline_s=0.5, on_stdout=print)
    assert caught.value.context["stdout"] == "before\n"
    assert sandbox.exec("echo after").stdout == "after\n"


@pytest.mark.parametrize("deadline_s", [0, -1, float("nan"), float("inf"), "5", True])
def test_a_deadline_that_means_nothing_is_refused_by_its_name(
    sandbox: Sandbox, deadline_s: Any
) -> None:
    for call in (sandbox.exec, sandbox.run_code, sandbox.start_process, sandbox.clone):
        with pytest.raises(InvalidArgumentError, match="deadline_s: must be a number of seconds"):
            call("true", deadline_s=deadline_s)


def test_sessions_are_apart(sandbox: Sandbox) -> None:
    with sandbox.create_session(cwd="/tmp", env={"X": "mine"}) as session:
        assert session.exec("pwd; echo $X").stdout == "/tmp\nmine\n"
        assert sandbox.exec("echo [$X]").stdout == "[]\n"


def test_a_session_that_is_closed_does_not_come_back(sandbox: Sandbox) -> None:
    session = sandbox.create_session("mine")
    session.close()
    session.close()
    with sandbox.create_session() as left:
        left.exec("X=lost")
    for closed in (session, left):
        for on_stdout in (None, print):
            with pytest.raises(SandboxClosedError, match="the session is closed"):
                closed.exec("echo $X", on_stdout=on_stdout)
    assert sandbox.create_session("mine").exec("echo new").stdout == "new\n"


def test_limits_are_given_as_where_nothing_is_between(address: str) -> None:
    with Sandbox(address, limits=Limits(processes=64, tmp_bytes=8 << 20)) as sandbox:
        assert sandbox.exec("df -B1 --output=size /tmp | tail -1").stdout.strip() == str(8 << 20)
        known = sandbox._transport.call("GET", f"/sandboxes/{sandbox.id}", SandboxReply)
    usual = Limits()
    assert (known.sandbox.limits.processes, known.sandbox.limits.tmp_bytes) == (64, 8 << 20)
    assert known.sandbox.limits.memory_bytes == usual.memory_bytes


def test_a_process_is_followed_to_its_end(sandbox: Sandbox) -> None:
    process = sandbox.start_process("echo one; echo two; exit 4", env={"A": "b"})
    assert process.wait() == 4
    assert process.logs().stdout == "one\ntwo\n"
    assert process.refresh().status == "failed"


def test_a_line_of_a_process_is_waited_for(sandbox: Sandbox) -> None:
    process = sandbox.start_process("echo starting; echo 'ready on 8000' >&2; sleep 1000")
    found = process.wait_for_log(re.compile(r"ready on (\d+)"))
    assert (found.stream, found.line, found.groups) == ("stderr", b"ready on 8000", ("8000",))
    assert process.wait_for_log("start").line == b"starting"
    process.kill()
    with pytest.raises(ProcessEndedError, match="before a line with 'never'"):
        process.wait_for_log("never")


def test_waiting_for_a_line_has_a_deadline_of_its_own(sandbox: Sandbox) -> None:
    """The process goes on, whether it writes meanwhile or not."""
    for command in ("echo up; sleep 1000", "echo up; while :; do echo on; done"):
        process = sandbox.start_process(command)
        with pytest.raises(DeadlineError, match=r"no line with 'never' in 0\.1 s\..*deadline_s"):
            process.wait_for_log("never", deadline_s=0.1)
        assert process.wait_for_log("up", deadline_s=50).line == b"up"
        assert process.refresh().status == "running"
        process.kill()
    with pytest.raises(InvalidArgumentError, match="deadline_s"):
        process.wait_for_log("up", deadline_s=0)


_LISTEN = "import socket; s = socket.create_server(('127.0.0.1', 8000)); s.accept()"


def test_a_port_of_a_process_is_waited_for(sandbox: Sandbox) -> None:
    sandbox.start_process(f'python3 -c "{_LISTEN}"').wait_for_port(8000)
    sandbox.wait_for_port(8000)
    with pytest.raises(ProcessEndedError, match="exit code 3 before port 8001"):
        sandbox.start_process("exit 3").wait_for_port(8001)
    with pytest.raises(DeadlineError, match=r"8001 did not answer in 0\.05 s.*deadline_s"):
        sandbox.wait_for_port(8001, deadline_s=0.05)
    with pytest.raises(InvalidRequestError, match="port"):
        sandbox.wait_for_port(70000)


def test_a_command_that_has_to_succeed_is_an_error_if_it_does_not(sandbox: Sandbox) -> None:
    assert sandbox.exec("echo fine", check=True).stdout == "fine\n"
    with pytest.raises(CommandFailedError, match="exit code 3: sad") as caught:
        sandbox.exec("echo sad >&2; (exit 3)", check=True)
    assert caught.value.result.exit_code == 3
    with (
        sandbox.create_session() as session,
        pytest.raises(CommandFailedError, match="exit code 1"),
    ):
        session.exec("false", on_stdout=lambda _: None, check=True)


def test_processes_are_killed_together(sandbox: Sandbox) -> None:
    for _ in range(3):
        sandbox.start_process("sleep 1000")
    assert sandbox.kill_processes() == 3
    assert {process.info.status for process in sandbox.processes()} == {"killed"}


def test_files_are_exact_bytes(sandbox: Sandbox) -> None:
    content = bytes(range(256))
    sandbox.files.write("/workspace/deep/er/file", content)
    assert sandbox.files.read("/workspace/deep/er/file") == content
    assert sandbox.files.exists("/workspace/deep")
    sandbox.files.move("/workspace/deep/er/file", "/workspace/file")
    assert [entry.relative_path for entry in sandbox.files.list("/workspace")] == ["deep", "file"]
    sandbox.files.remove("/workspace/file")
    assert not sandbox.files.exists("/workspace/file")


def test_a_missing_file_is_an_error_of_its_own(sandbox: Sandbox) -> None:
    with pytest.raises(NotFoundError) as caught:
        sandbox.files.read("/workspace/nothing")
    assert caught.value.error_code == "FILE_NOT_FOUND"


def test_code_keeps_its_state_and_shows_results(sandbox: Sandbox) -> None:
    assert sandbox.run_code("x = 41").error is None
    shown: list[Any] = []
    execution = sandbox.run_code("print('out')\nx + 1", on_result=shown.append)
    assert (execution.stdout, execution.text) == ("out\n", "42")
    assert [result.text for result in shown] == ["42"]


def test_an_error_of_the_code_is_data(sandbox: Sandbox) -> None:
    error = sandbox.run_code("1 / 0").error
    assert error is not None
    assert (error.name, error.value) == ("ZeroDivisionError", "division by zero")


def test_an_execution_says_why_it_is_over(sandbox: Sandbox) -> None:
    """In the words of the embedded API, and how the interpreter ended."""
    waiting = "print(); import time; time.sleep(600)"
    context = sandbox.create_code_context()
    done = context.run("1")
    assert (done.ended, done.state_survived, done.death) == ("ok", True, None)
    assert context.run("1 / 0").ended == "error"
    late = context.run("while True: pass", deadline_s=0.2)
    assert (late.ended, late.state_survived, late.death) == ("deadline", True, None)
    stopped = context.run(waiting, on_stdout=lambda _: assert_true(context.interrupt()))
    assert (stopped.ended, stopped.state_survived) == ("interrupted", True)
    left = context.run("import os; os._exit(3)")
    assert (left.ended, left.state_survived) == ("context lost", False)
    assert left.death == Death(cause="exit", exit_code=3)
    crashed = context.run("import os; os.abort()")
    assert crashed.death == Death(cause="signal", signal=signal.SIGABRT)
    assert context.run(waiting, on_stdout=lambda _: context.close()).ended == "killed"


def assert_true(value: bool) -> None:
    assert value


def test_a_lost_context_is_replaced(sandbox: Sandbox) -> None:
    assert not sandbox.run_code("import os; os._exit(1)").state_survived
    assert sandbox.run_code("6 * 7").text == "42"


def test_branches_begin_with_the_state_of_their_origin(sandbox: Sandbox) -> None:
    with sandbox.create_code_context() as context:
        context.run("data = [1]")
        for number, branch in enumerate(context.fork(2)):
            with branch:
                assert branch.language == "python"
                branch.run(f"data.append({number})")
                assert branch.run("data").text == f"[1, {number}]"
        assert context.run("data").text == "[1]"


def test_branches_that_are_made_ahead_hold_the_state_of_the_last_run(sandbox: Sandbox) -> None:
    with sandbox.create_code_context(ready_branches=1) as context:
        for number in range(3):
            context.run(f"data = {number}")
            for branch in context.fork(2):
                with branch:
                    assert branch.run("data").text == str(number)


def test_it_is_told_how_many_branches_wait(sandbox: Sandbox) -> None:
    with sandbox.create_code_context() as plain:
        assert (plain.ready_branches(), plain.wait_ready_branches()) == (0, 0)
    with sandbox.create_code_context(ready_branches=2) as context:
        context.run("data = 1")
        assert context.wait_ready_branches() == 2
        assert context.ready_branches() == 2
        assert [one.id for one in sandbox.code_contexts()] == [context.id]
        context.run("import threading; threading.Thread(target=threading.Event().wait).start()")
        assert context.wait_ready_branches() == 0


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda it: it.create_code_context(ready_branches=65), "ready_branches: Expected"),
        (lambda it: it.create_code_context(ready_branches=64), "ready_branches: 64 and"),
        (lambda it: it.create_code_context(cwd=5), "cwd: Expected `str"),
        (lambda it: it.create_code_context(env={"A": 1}), r"env\[A\]: must be text, not int"),
        (lambda it: it.create_code_context("python", env=5), "env: must be a mapping"),
        (lambda it: it.start_process("true", cwd="a"), "cwd: must be an absolute path"),
        (lambda it: it.exec("true", env={"A": object()}), r"env\[A\]: must be text, not object"),
        (lambda it: it.exec("true", env={5: "1"}), "env: 5 is no name of a variable"),
        (lambda it: it.exec("true\ud800"), "command: has '.ud800' at 4"),
        (lambda it: it.exec(""), "command: is empty; give a command"),
        (lambda it: it.start_process(""), "command: is empty; give a command"),
        (lambda it: it.create_session(cwd=5), "cwd: Expected `str"),
        (lambda it: it.start_process("true", process_id=5), "process_id: Expected"),
        (lambda it: it.run_code(5), "code: Expected `str`"),
        (lambda it: it.run_code("1", on_result=5), "on_result: must be a function"),
        (lambda it: it.exec("true", on_stdout="x"), "on_stdout: must be a function"),
        (lambda it: it.files.write("a", 5), "content: must be text or bytes, not int"),
        (lambda it: it.files.write(5, "a"), "path: must be text or a path, not int"),
        (lambda it: it.files.read(5), "path: must be text or a path"),
        (lambda it: it.files.move(5, "a"), "source: must be text or a path"),
        (lambda it: it.files.move("a", 5), "target: must be text or a path"),
        (lambda it: it.files.list("a", hidden="x"), "hidden: Expected `bool"),
        (lambda it: it.clone(5), "url: Expected `str`"),
        (lambda it: it.clone("https://x/y", depth="x"), "depth: Expected `int"),
        (lambda it: it.expose_port("80"), "port: Expected `int`"),
        (lambda it: it.wait_for_port("80"), "port: Expected `int`"),
        (lambda _: Sandbox(read_only="/opt"), "read_only: must be a list"),
        (lambda _: Sandbox(token="x"), "token: there is no address to give it to"),
        (lambda it: opened(it, limits=5), "limits: must be sandbox_runtime.Limits"),
        (lambda it: opened(it, network="x"), "network: .*; known: host, loopback"),
        (lambda _: Sandbox(idle_s=-1), "idle_s: must be a number of seconds"),
    ],
)
def test_an_argument_that_cannot_be_meant_is_called_as_in_the_call(
    sandbox: Sandbox, call: Callable[[Any], Any], told: str
) -> None:
    """Not as the field of a message that the caller has never seen."""
    with pytest.raises((InvalidArgumentError, InvalidRequestError)) as caught:
        call(sandbox)
    assert re.match(told, str(caught.value)), str(caught.value)
    assert "$" not in str(caught.value)
    assert sandbox.exec("echo on").stdout == "on\n"


def opened(beside: Sandbox, **options: Any) -> None:
    with Sandbox(beside._address, **options):
        pass


def test_a_file_may_be_named_by_a_path(sandbox: Sandbox) -> None:
    sandbox.files.write(Path("made") / "first", b"1")
    sandbox.files.move(Path("made/first"), Path("made/second"))
    assert sandbox.files.read_text(Path("made/second")) == "1"
    assert [one.relative_path for one in sandbox.files.list(Path("made"))] == ["second"]


def test_a_sandbox_whose_block_has_ended_says_so(address: str) -> None:
    with Sandbox(address) as sandbox:
        context = sandbox.create_code_context()
    for call in (sandbox.exec, sandbox.run_code, context.run):
        with pytest.raises(SandboxClosedError, match="has ended"):
            call("1")


def test_what_keeps_a_context_from_being_branched_is_named(sandbox: Sandbox) -> None:
    with sandbox.create_code_context() as context:
        context.run("import socket\nserver = socket.create_server(('127.0.0.1', 0))")
        with pytest.raises(ConflictError, match="AF_INET") as refused:
            context.fork()
        assert str(refused.value).count(refused.value.remedy) == 1
        with pytest.raises(InvalidRequestError, match="count"):
            context.fork(65)


def test_a_run_is_interrupted_and_a_restart_begins_anew(sandbox: Sandbox) -> None:
    with sandbox.create_code_context() as context:
        assert context.interrupt() is False
        told: list[bool] = []
        code = "kept = 1\nprint('begun')\nimport time\ntime.sleep(600)"
        execution = context.run(code, on_stdout=lambda _: told.append(context.interrupt()))
        assert execution.error is not None
        assert (execution.error.name, execution.state_survived) == ("KeyboardInterrupt", True)
        assert told == [True]
        assert context.run("kept").text == "1"
        context.restart()
        gone = context.run("kept").error
        assert gone is not None
        assert gone.name == "NameError"


def test_the_protections_are_told(sandbox: Sandbox) -> None:
    assert {row.name: row.achieved for row in sandbox.protections}["seccomp"] == "full"


def test_what_is_no_address_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidArgumentError, match="http://HOST:PORT or unix:PATH"), Sandbox("foo"):
        pass


def test_a_sandbox_ends_with_its_block(address: str) -> None:
    with Sandbox(address) as sandbox:
        sandbox_id = sandbox.id
    with Sandbox(address, sandbox_id=sandbox_id) as gone, pytest.raises(NotFoundError):
        gone.exec("true")


def test_an_argument_that_means_nothing_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidRequestError):
        sandbox.exec(" ")
    with pytest.raises(InvalidRequestError, match="cobol"):
        sandbox.create_code_context("cobol")


# The HTTP library leaves a socket to the collector when a connection to a path fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'nothing'}"
    named = f"{re.escape(address)} .*`sandbox-runtime serve`"
    with pytest.raises(UnreachableError, match=named), Sandbox(address):
        pass
    gc.collect()


def test_a_server_without_tls_is_told_with_what_to_write() -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "sandbox_runtime", "serve", "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip().replace("http:", "https:")
        try:
            with pytest.raises(UnreachableError, match=r"without TLS.*write http://"):
                Sandbox(address).__enter__()
        finally:
            server.terminate()


async def _use(address: str | None) -> list[Any]:
    async with AsyncSandbox(address) as sandbox:
        command = await sandbox.exec("echo hi")
        code = await sandbox.run_code("6 * 7")
        process = await sandbox.start_process("echo up; exit 2")
        context = await sandbox.create_code_context()
        await context.run("n = 20")
        (branch,) = await context.fork()
        grown = await branch.run("n + 1")
        return [command.stdout, code.text, await process.wait(), grown.text]


@pytest.mark.parametrize("run", [asyncio.run, trio.run])
def test_the_same_calls_wait_on_asyncio_and_trio(
    run: Callable[[Awaitable[Any] | Callable[[], Awaitable[Any]]], Any], address: str
) -> None:
    given: Any = _use(address) if run is asyncio.run else lambda: _use(address)
    assert run(given) == ["hi\n", "42", 2, "21"]


def test_a_cancelled_command_is_ended(address: str) -> None:
    async def cancel() -> str:
        async with AsyncSandbox(address) as sandbox:
            with trio.move_on_after(0.3):
                await sandbox.exec("sleep 1000")
            return (await sandbox.exec("pgrep sleep || echo none")).stdout

    assert trio.run(cancel) == "none\n"


def test_without_an_address_a_control_process_is_started_and_ended() -> None:
    with Sandbox() as sandbox:
        assert sandbox.exec("echo hi").stdout == "hi\n"
        server = sandbox._server
        assert server is not None
    assert not Path(server.path).exists()
    assert server._process is not None
    assert server._process.returncode == 0


OWNER = """
import os, signal, sys
from sandbox_runtime.client import Sandbox

box = Sandbox().__enter__()
box.start_process("sleep 1000")
box.exec("sleep 1000 & echo it runs")
if sys.argv[1] == "asks":
    box.exec("echo open; sleep 1000", on_stdout=lambda text: print(text, end="", flush=True))
print("open", flush=True)
sys.stdin.readline()
if sys.argv[1] == "leaves":
    os._exit(0)
os.kill(os.getpid(), signal.Signals[sys.argv[1]])
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "leaves", "asks"])
def test_nothing_outlives_the_program_that_a_server_was_started_for(
    how: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    temporary = tmp_path_factory.mktemp("t")  # short, since a socket's path has to be
    with subprocess.Popen(
        [sys.executable, "-P", "-c", OWNER, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(temporary)},
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "open\n"
        ends = []
        for pid in descendants(program.pid):
            with suppress(ProcessLookupError):  # what was on its way
                ends.append(os.pidfd_open(pid))
        if how == "asks":
            program.kill()
        else:
            program.stdin.write("\n")
            program.stdin.flush()
        program.wait()
    assert len(ends) > 4  # the server, what makes its sandboxes, a shell, two programs
    for end in ends:
        with open(end, "rb"):
            assert select.select([end], [], [], 30)[0]
    assert list(temporary.iterdir()) == []


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):  # it ends while we look
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def test_a_token_is_asked_for(tmp_path: Path) -> None:
    token = "t" * 32
    (tmp_path / "token").write_text(token)
    socket = tmp_path / "s"
    argv = [sys.executable, "-P", "-m", "sandbox_runtime", "serve", "--unix", str(socket)]
    argv += ["--token-file", str(tmp_path / "token")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"unix:{socket}\n".encode()
            with pytest.raises(RefusedError), Sandbox(f"unix:{socket}"):
                pass
            with Sandbox(f"unix:{socket}", token=token) as sandbox:
                assert sandbox.exec("echo hi").stdout == "hi\n"
        finally:
            process.terminate()


def test_the_half_without_waiting_is_made_from_the_other() -> None:
    ruff = Path(sys.executable).parent
    subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "make-sync-client"), "--check"],
        check=True,
        env=os.environ | {"PATH": f"{ruff}:{os.environ['PATH']}"},
    )


def test_a_sandbox_that_was_not_opened_says_how() -> None:
    with pytest.raises(RuntimeError, match=r"`with Sandbox\(\.\.\.\) as sandbox:` opens it"):
        Sandbox().exec("true")


def test_a_list_of_words_is_told_how_to_become_text(sandbox: Sandbox) -> None:
    for call in (sandbox.exec, sandbox.start_process):
        with pytest.raises(InvalidArgumentError, match=r"^command: .* list; shlex\.join"):
            call(["echo", "a b"])  # type: ignore[arg-type]

"""The standard streams of programs: opened by their names; and the signals that they start with."""

from __future__ import annotations

import fcntl
import os
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sandbox_runtime import Sandbox
    from sandbox_runtime.receipts import CommandResult

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")

WAYS = ["session", "session, a program", "foreground", "background", "background, a program"]


async def run(sandbox: Sandbox, way: str, text: str, stdin: bytes = b"") -> CommandResult:
    """Runs shell text in one of the ways that there are."""
    program = ["bash", "-c", text]
    match way:
        case "session":
            return await sandbox.exec(text, stdin=stdin)
        case "session, a program":
            return await sandbox.exec(program, stdin=stdin)
        case "foreground":
            return await sandbox.run_process(text, stdin=stdin)
        case "background":
            return await (await sandbox.start_process(text, stdin=stdin)).wait()
    return await (await sandbox.start_process(program, stdin=stdin)).wait()


@pytest.mark.parametrize("way", WAYS)
async def test_output_is_opened_by_its_name(sandbox: Sandbox, way: str) -> None:
    """As people write it: nobody is told that permission is denied."""
    text = """
    echo 1 >/dev/stderr; echo 2 >>/dev/stderr; echo 3 | tee /dev/stderr >/dev/null
    echo 4 >/proc/self/fd/2; sh -c 'echo 5 >/dev/fd/2'; exec 9<>/dev/stderr; echo 6 >&9
    echo a >/dev/stdout; echo b >>/dev/fd/1; echo c >/proc/self/fd/1
    python3 -c 'print("d", file=open("/dev/stdout", "w"))'
    """
    result = await run(sandbox, way, text)
    assert (result.stderr, result.stdout) == (b"1\n2\n3\n4\n5\n6\n", b"a\nb\nc\nd\n")
    assert result.exit_code == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stdin", [b"", b"given\n", b"x" * 100_000])
async def test_input_is_opened_by_its_name(sandbox: Sandbox, way: str, stdin: bytes) -> None:
    """What is given, and `/dev/null` where nothing is."""
    result = await run(sandbox, way, "cat </dev/stdin; test -c /dev/stdin; echo $?", stdin)
    is_device = b"1\n" if stdin else b"0\n"
    assert (result.stdout, result.stderr) == (stdin + is_device, b"")


async def test_an_output_that_was_opened_by_its_name_ends_with_its_command(
    sandbox: Sandbox,
) -> None:
    """Bytes and end are as exact as those of the pipe that was inherited."""
    result = await sandbox.exec("seq 1 200000 >/dev/stdout; printf end >/dev/stderr")
    expected = b"".join(b"%d\n" % number for number in range(1, 200_001))
    assert result.stdout[:100] == expected[:100]
    assert len(result.stdout) == len(expected)
    assert hash(result.stdout) == hash(expected)  # the difference would be long
    assert (result.stderr, (await sandbox.exec("echo next")).stdout) == (b"end", b"next\n")


async def test_output_of_a_python_cell_is_opened_by_its_name(sandbox: Sandbox) -> None:
    """By the interpreter itself, and by what it starts."""
    code = (
        "import subprocess\n"
        "with open('/dev/stderr', 'w') as stream: stream.write('own\\n')\n"
        "_ = subprocess.run('echo out >/dev/stdout; echo err | tee /dev/stderr', shell=True)\n"
        "!echo more >/dev/stdout; cat </dev/stdin\n"
    )
    execution = await sandbox.run_code(code)
    assert execution.error is None
    assert sorted(execution.stdout.split()) == [b"err", b"more", b"out"]
    assert execution.stderr == b"own\nerr\n"


@needs_node
async def test_output_of_a_javascript_cell_is_opened_by_its_name(sandbox: Sandbox) -> None:
    code = (
        "require('fs').writeFileSync('/dev/stderr', 'own\\n');"
        "require('child_process').spawnSync('bash', ['-c', "
        "'echo out >/dev/stdout; echo err >/dev/stderr; cat </dev/stdin'],"
        "{ stdio: 'inherit' }).status"
    )
    execution = await sandbox.run_code(code, language="javascript")
    assert (execution.text, execution.stdout, execution.stderr) == ("0", b"out\n", b"own\nerr\n")


# --- signals ---------------------------------------------------------------------------------

STATUS = "cat /proc/self/status"
NOTHING = {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}


def signals(status: str) -> dict[str, int]:
    """Those that are blocked, ignored and caught, as the kernel tells."""
    rows = (line.split(":") for line in status.splitlines() if line.startswith("Sig"))
    return {name: int(mask, 16) for name, mask in rows if name in NOTHING}


@pytest.mark.parametrize("way", WAYS)
async def test_a_program_starts_with_the_usual_signals(sandbox: Sandbox, way: str) -> None:
    """None is ignored or blocked, 32 and 33 included, which the C library keeps to itself."""
    assert signals((await run(sandbox, way, STATUS)).text) == NOTHING


async def test_a_program_of_a_cell_starts_with_the_usual_signals(sandbox: Sandbox) -> None:
    """The interpreter itself ignores what Python does: SIGPIPE and SIGXFSZ."""
    child = await sandbox.run_code(f"import subprocess; _ = subprocess.run({STATUS.split()})")
    assert signals(child.stdout.decode()) == NOTHING
    own = await sandbox.run_code(f"print(open({STATUS.split()[1]!r}).read())")
    masks = signals(own.stdout.decode())
    assert (masks["SigBlk"], masks["SigIgn"]) == (0, 1 << 12 | 1 << 24)


@needs_node
async def test_a_program_of_a_javascript_cell_starts_with_the_usual_signals(
    sandbox: Sandbox,
) -> None:
    code = f"console.log(require('child_process').execSync('{STATUS}').toString())"
    execution = await sandbox.run_code(code, language="javascript")
    assert signals(execution.stdout.decode()) == NOTHING


async def test_what_one_command_does_to_its_input_is_over_with_it(sandbox: Sandbox) -> None:
    lock = "import fcntl; fcntl.flock(0, fcntl.LOCK_EX); fcntl.fcntl(0, fcntl.F_SETFL, 0o6000)"
    look = "import fcntl; fcntl.flock(0, fcntl.LOCK_EX | fcntl.LOCK_NB); print(fcntl.fcntl(0, 3))"
    assert (await sandbox.exec(["python3", "-c", lock])).ok
    with open(os.devnull, "rb") as null:
        fcntl.flock(null, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds the host's
    assert int((await sandbox.exec(["python3", "-c", look])).text) & 0o6000 == 0

"""Shell text that is one program and its words, read as bash reads it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sandbox_runtime.plain_commands import words_without_shell
from sandbox_runtime.settings import DEFAULT_ENV

if TYPE_CHECKING:
    from sandbox_runtime import Sandbox

PIECES = ["'", '"', "\\", "$", " ", "  ", "\t", "\n", "a", "Z", "0", "-", "=", "/", ".", ",", ":"]
PIECES += [
    "~",
    "#",
    "*",
    "?",
    "[",
    "{",
    "}",
    "!",
    ";",
    "&",
    "|",
    "<",
    ">",
    "(",
    "`",
    "%",
    "@",
    "\xe4",
    "\x01",
    "\x7f",
    "^",
]
texts = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


@settings(max_examples=250, deadline=None)
@given(texts)
@example("a'b c'\"d\te\"=f '' \"\"")
@example("'a\nb' -x=~ y:z %1 @{u}")
@example("a,b \t c\n\n")
def test_words_are_those_that_bash_executes(text: str) -> None:
    """Where there are any; `printf` stands for the program."""
    command = f"/usr/bin/printf '%s\\0' {text}".encode()
    words = words_without_shell(command, DEFAULT_ENV)
    if words is not None:
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, check=True, env=DEFAULT_ENV
        )
        assert words[:2] == (b"/usr/bin/printf", b"%s\\0")
        assert b"\0".join(words[2:]) + b"\0" == done.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("python3 app.py", ["python3", "app.py"]),
        ("  sleep\t100 \n", ["sleep", "100"]),
        ("bash -c 'echo first; sleep 100'", ["bash", "-c", "echo first; sleep 100"]),
        ('node -e "console.log(1 + 1)"', ["node", "-e", "console.log(1 + 1)"]),
        ("./run --port=80 ''", ["./run", "--port=80", ""]),
    ],
)
def test_one_program_is_taken_apart(text: str, words: list[str]) -> None:
    assert words_without_shell(text.encode(), DEFAULT_ENV) == tuple(map(str.encode, words))


@pytest.mark.parametrize(
    "text",
    [
        *("echo hi", "cd /tmp", ". ./x", "time ls", "if x", "function f", "exec ls", "true", "%1"),
        *(
            "A=1 env",
            "=x",
            "a; b",
            "a | b",
            "a & b",
            "a > b",
            "a && b",
            "a\nb",
            "! a",
            "(a)",
            "{ a",
        ),
        *("a $B", 'a "$B"', "a `b`", "a *", "a ?", "a [b]", "a {b,c}", "a ~", "a #b", "a b\\ c"),
        *("'a' b", "a 'b", 'a "b', "ä", "[ a", "", " ", "-a", "a " + "b" * 200_000),
    ],
)
def test_what_needs_a_shell_is_left_to_it(text: str) -> None:
    assert words_without_shell(text.encode(), DEFAULT_ENV) is None


@pytest.mark.parametrize(
    "env",
    [
        {"BASH_ENV": "/workspace/x"},
        {"BASH_FUNC_ls%%": "() { :; }"},
        {"SHELLOPTS": "xtrace"},
        {"IFS": "x"},
        {"PWD": "/tmp"},
        {"LC_ALL": "C"},
        {"PATH": "~/bin:/usr/bin"},
        {"PATH": ""},
        {"PS1": "$ "},
        {"PS2": "> "},
        {"PS4": "+ "},
        {"": "x"},
    ],
)
def test_what_a_shell_reads_from_its_environment_is_left_to_it(env: dict[str, str]) -> None:
    assert words_without_shell(b"ls", DEFAULT_ENV | env) is None


async def test_a_program_finds_what_a_shell_would_leave_it(sandbox: Sandbox) -> None:
    """The same variables, but where it was found; its directory by the name without symlinks."""
    session = await sandbox.create_session(env={"A": "ä b"})
    await session.exec("mkdir d; ln -s d link; cd link")
    started = await sandbox.start_process("env", session=session)
    by_shell = await sandbox.run_process("env", cwd="/workspace/d", env={"A": "ä b"})
    seen, expected = (
        {line for line in text.splitlines() if not line.startswith("_=")}
        for text in ((await started.wait()).text, by_shell.text)
    )
    assert seen == expected
    assert "PWD=/workspace/d" in seen


async def test_the_directory_of_a_session_that_has_lost_its_shell_is_looked_up(
    sandbox: Sandbox,
) -> None:
    """It is the one that somebody has named, so it may have symlinks in it."""
    await sandbox.exec("mkdir real; ln -s real link")
    session = await sandbox.create_session(cwd="/workspace/link")
    await session.exec("exit 3")
    started = await sandbox.start_process("printenv PWD", session=session)
    assert (await started.wait()).text == "/workspace/real\n"


async def test_no_shell_stands_before_a_program(sandbox: Sandbox) -> None:
    """It is the first in its jail, with the arguments that the text gives it."""
    process = await sandbox.start_process("cat '/proc/self/cmdline' /proc/self/stat")
    text = (await process.wait()).text
    assert text.startswith("cat\0/proc/self/cmdline\0/proc/self/stat\0")
    assert text.split("\0")[3].split()[0] == str(process.pid)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("no-such-program 'x y'", 127, "no-such-program: command not found"),
        ("/workspace/missing", 127, "/workspace/missing: No such file or directory"),
        ("/workspace", 126, "/workspace: Is a directory"),
        ("/workspace/plain", 126, "/workspace/plain: Permission denied"),
    ],
)
async def test_a_program_that_is_not_there_is_told_as_by_a_shell(
    sandbox: Sandbox, text: str, code: int, said: str
) -> None:
    await sandbox.files.write("plain", b"")
    process = await sandbox.start_process(text)
    result = await process.wait()
    assert (process.status, process.exit_code) == ("failed", code)
    assert said in result.stderr.decode()


async def test_a_script_without_an_interpreter_is_the_shells(sandbox: Sandbox) -> None:
    await sandbox.exec("echo 'echo $0 $1' > script; chmod +x script")
    process = await sandbox.start_process("./script 'x y'")
    assert (await process.wait()).text == "./script x y\n"

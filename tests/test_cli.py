"""The command `sandbox-runtime`, as a shell sees it: bytes, files and exit statuses."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest

ALL_BYTES = bytes(range(256)) * 1200
COMMAND = [sys.executable, "-P", "-m", "sandbox_runtime"]


def run(
    *arguments: str,
    stdin: bytes = b"",
    cwd: Path,
    env: dict[str, str] | None = None,
    stdout: int | IO[bytes] = subprocess.PIPE,
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=55,
        check=False,
    )


def script(directory: Path, name: str, text: str) -> str:
    (directory / name).write_text(text)
    return name


def run_json(*arguments: str, cwd: Path, stdin: bytes = b"") -> tuple[int, dict[str, Any]]:
    done = run(*arguments, cwd=cwd, stdin=stdin)
    record = json.loads(done.stdout)
    assert isinstance(record, dict)
    return done.returncode, record


# --- exec ------------------------------------------------------------------------------------


def test_output_arrives_byte_for_byte(tmp_path: Path) -> None:
    """300 kB of every byte value come out as they went in, and the two streams stay apart."""
    done = run("exec", "-c", "cat; printf '\\377\\0e' >&2", stdin=ALL_BYTES, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, ALL_BYTES, b"\xff\0e")


def test_output_may_go_to_a_file(tmp_path: Path) -> None:
    """A file as standard output gets the same bytes as a pipe."""
    with (tmp_path / "out").open("wb") as file:
        run("exec", "--", "cat", stdin=ALL_BYTES, cwd=tmp_path, stdout=file)
    assert (tmp_path / "out").read_bytes() == ALL_BYTES


def test_output_is_streamed(tmp_path: Path) -> None:
    """What a program writes is there while it runs."""
    with subprocess.Popen(
        [*COMMAND, "exec", "-c", "echo first; sleep 40"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--", "true"], 0),
        (["-c", "exit 3"], 3),
        (["-c", "exit 255"], 255),
        (["-c", "kill -SEGV $$"], 128 + signal.SIGSEGV),
        (["--timeout", "0.2", "--", "sleep", "600"], 124),
        (["--", "there-is-no-such-program"], 127),
        (["--", "/etc/passwd"], 126),
    ],
)
def test_the_exit_status_says_how_it_ended(
    tmp_path: Path, arguments: list[str], status: int
) -> None:
    """A program's own status is ours; signals, deadlines and what did not start have theirs."""
    assert run("exec", *arguments, cwd=tmp_path).returncode == status


def test_a_deadline_ends_all_that_was_started(tmp_path: Path) -> None:
    """A background job does not keep the command from ending, and what came before is there."""
    started_s = time.monotonic()
    done = run("exec", "--timeout", "0.5", "-c", "echo before; sleep 600 & wait", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (124, b"before\n")
    assert b"deadline" in done.stderr
    assert time.monotonic() - started_s < 30


def test_arguments_are_not_parsed(tmp_path: Path) -> None:
    """Arguments reach the program as they are, options and spaces included."""
    done = run("exec", "--", "printf", "%s|", "a b", "--json", "$HOME", "", cwd=tmp_path)
    assert done.stdout == b"a b|--json|$HOME||"


def test_shell_text_gets_arguments(tmp_path: Path) -> None:
    """With -c, what follows is $1 and so on."""
    done = run("exec", "-c", 'echo "$2-$1"', "a", "b c", cwd=tmp_path)
    assert done.stdout == b"b c-a\n"


def test_only_variables_that_are_given_are_there(tmp_path: Path) -> None:
    """--env sets a variable; nothing of our own environment gets in."""
    done = run("exec", "--env", "A=b=c", "--", "env", cwd=tmp_path, env={"OUR_SECRET": "x"})
    lines = done.stdout.splitlines()
    assert b"A=b=c" in lines
    assert b"OUR_SECRET" not in done.stdout


def test_a_directory_inside_may_be_chosen(tmp_path: Path) -> None:
    """--cwd starts at /workspace if it is relative; one that is missing is our failure."""
    assert run("exec", "--cwd", "../tmp", "--", "pwd", cwd=tmp_path).stdout == b"/tmp\n"
    done = run("exec", "--cwd", "nowhere", "--", "pwd", cwd=tmp_path)
    assert done.returncode == 125
    assert b"/workspace/nowhere" in done.stderr


def test_memory_is_bounded(tmp_path: Path) -> None:
    """--memory is what one process can get."""
    code = "import sys; sys.exit(len(bytes(300_000_000)) == 0)"
    assert run("exec", "--memory", "64M", "--", "python3", "-c", code, cwd=tmp_path).returncode


def test_input_that_never_ends_is_explained(tmp_path: Path) -> None:
    """Whoever leaves a pipe open is told what is waited for, and how not to."""
    with subprocess.Popen(
        [*COMMAND, "exec", "--", "cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        assert process.stderr is not None
        assert b"--no-stdin" in process.stderr.readline()
        assert process.communicate(b"late", timeout=30) == (b"late", b"")


def test_input_may_be_left_alone(tmp_path: Path) -> None:
    """With --no-stdin an open pipe is not read, and the program's input is empty."""
    read_fd, write_fd = os.pipe()
    with os.fdopen(read_fd) as reader, os.fdopen(write_fd, "w"):
        done = subprocess.run(
            [*COMMAND, "exec", "--no-stdin", "--", "wc", "-c"],
            stdin=reader,
            capture_output=True,
            timeout=55,
            check=True,
            cwd=tmp_path,
        )
    assert done.stdout.strip() == b"0"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C ends the program, though it ignores it, and all of ours; the status says so."""
    token = f"600.{time.time_ns()}"
    process = subprocess.Popen(
        [*COMMAND, "exec", "-c", f"trap '' INT TERM; echo ready; sleep {token}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.killpg(process.pid, number)
        assert process.wait(30) == 128 + number
    assert not [
        entry
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and token in _command_line(entry)
    ]


def _command_line(process: Path) -> str:
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_text(errors="replace")
    return ""


def test_a_reader_that_leaves_ends_the_run(tmp_path: Path) -> None:
    """As in any pipeline, `| head` ends what writes for ever."""
    with subprocess.Popen(
        [*COMMAND, "exec", "--", "cat", "/dev/zero"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(30) == 128 + signal.SIGPIPE


# --- copying in and out ----------------------------------------------------------------------


def test_files_go_in_and_out(tmp_path: Path) -> None:
    """A binary file comes back as it was, from the path that was chosen, with its x bit."""
    (tmp_path / "data").write_bytes(ALL_BYTES)
    (tmp_path / "data").chmod(0o755)
    (tmp_path / "there").mkdir()
    done = run(
        *["exec", "--in", "data", "--in", "data:/tmp/deep/er", "--out", "/tmp/deep/er:there/"],
        *["--out", "copy", "-c", "cmp data /tmp/deep/er && cp data copy"],
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    for path in (tmp_path / "copy", tmp_path / "there" / "er"):
        assert path.read_bytes() == ALL_BYTES
        assert os.access(path, os.X_OK)


def test_directories_go_in_and_out(tmp_path: Path) -> None:
    """Directories are copied with all that is in them; links go in as links, and stay in."""
    tree = tmp_path / "tree"
    (tree / "empty").mkdir(parents=True)
    (tree / "sub").mkdir()
    (tree / "sub" / "data").write_bytes(ALL_BYTES)
    (tree / "sub" / "name with\nnewline").write_bytes(b"")
    (tree / "link").symlink_to("sub/data")
    done = run(
        *["exec", "--in", "tree", "--out", "tree:copy", "-c"],
        "test -L tree/link && cmp tree/link tree/sub/data && echo new > tree/new",
        cwd=tmp_path,
    )
    assert done.returncode == 0
    copy = tmp_path / "copy"
    assert {str(path.relative_to(copy)) for path in copy.rglob("*")} == {
        *["empty", "sub", "sub/data", "sub/name with\nnewline", "new"]
    }
    assert (copy / "sub" / "data").read_bytes() == ALL_BYTES
    assert b"link is a symlink; left out" in done.stderr


def test_what_is_inside_cannot_write_elsewhere(tmp_path: Path) -> None:
    """A link made by the program is never followed on the host."""
    (tmp_path / "victim").write_text("untouched")
    text = f"mkdir out; ln -s {tmp_path}/victim out/a; ln -s {tmp_path} out/b; echo x > out/c"
    done = run("exec", "--out", "out", "-c", text, cwd=tmp_path)
    assert done.returncode == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c"]
    assert (tmp_path / "victim").read_text() == "untouched"


def test_output_files_are_copied_after_a_failure(tmp_path: Path) -> None:
    """Also when the program failed; its status counts."""
    done = run("exec", "--out", "log", "-c", "echo why > log; exit 9", cwd=tmp_path)
    assert done.returncode == 9
    assert (tmp_path / "log").read_text() == "why\n"


def test_output_files_that_are_missing_are_named(tmp_path: Path) -> None:
    """A missing output is said in a line, and makes a success our failure."""
    done = run("exec", "--out", "log", "--", "true", cwd=tmp_path)
    assert done.returncode == 125
    assert b"/workspace/log" in done.stderr
    assert b"No such file" in done.stderr
    assert run("exec", "--out", "log", "--", "false", cwd=tmp_path).returncode == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Copying to a read-only place fails before anything runs."""
    (tmp_path / "data").write_bytes(b"x")
    done = run("exec", "--in", "data:/etc/x", "-c", "echo ran", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"--in data: /etc/x" in done.stderr
    assert b"/workspace" in done.stderr


# --- run -------------------------------------------------------------------------------------


def test_a_python_script_runs_as_one_and_shows_more(tmp_path: Path) -> None:
    """argv, __file__, __name__, threads and atexit are a script's; the last value is printed."""
    text = """
import atexit, sys, threading
from pathlib import Path
assert __name__ == "__main__" and Path(__file__).read_text().endswith("6 * 7")
assert sys.path[0] == str(Path(__file__).parent)
print(sys.argv)
print("to stderr", file=sys.stderr)
atexit.register(print, "at exit")
threading.Timer(0.2, print, ["from a thread"]).start()
6 * 7"""
    done = run("run", script(tmp_path, "a b.py", text), "--", "--json", "x y", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines() == [
        "['/workspace/a b.py', '--json', 'x y']",
        "42",
        "from a thread",
        "at exit",
    ]
    assert done.stderr == b"to stderr\n"


def test_an_error_is_a_traceback_that_names_the_script(tmp_path: Path) -> None:
    """Status 1, and on stderr what Python would say."""
    name = script(tmp_path, "broken.py", "def f():\n    return 1 / 0\nprint('so far')\nf()\n")
    done = run("run", name, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"so far\n")
    text = done.stderr.decode()
    assert '"/workspace/broken.py", line 2, in f' in text
    assert text.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    ("argument", "status", "stderr"), [("7", 7, b""), ("", 0, b""), ("'why'", 1, b"why\n")]
)
def test_sys_exit_is_obeyed(tmp_path: Path, argument: str, status: int, stderr: bytes) -> None:
    """A number is the status, nothing is 0, and text goes to stderr with status 1."""
    done = run("run", "-", stdin=f"import sys; sys.exit({argument})".encode(), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", stderr)


def test_a_python_script_reads_what_is_piped(tmp_path: Path) -> None:
    """input(), sys.stdin and child processes read our standard input."""
    name = script(tmp_path, "a.py", "import sys\nprint(input('? '), sys.stdin.read())")
    done = run("run", name, stdin="Eve\nund \u00e9\nso on".encode(), cwd=tmp_path)
    assert done.stdout.decode() == "? Eve und \u00e9\nso on\n"
    name = script(tmp_path, "b.py", "import subprocess\nsubprocess.run(['cat']);")
    assert run("run", name, stdin=ALL_BYTES, cwd=tmp_path).stdout == ALL_BYTES


def test_the_deadline_of_a_script(tmp_path: Path) -> None:
    """It is interrupted, what it printed is there, and the status is 124."""
    text = "import time\nprint('begun')\ntry:\n    time.sleep(600)\nfinally:\n    print('tidied')\n"
    done = run("run", "--timeout", "0.5", script(tmp_path, "a.py", text), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (124, b"begun\ntidied\n")
    assert b"deadline" in done.stderr


def test_an_interpreter_that_ends_itself_tells_its_status(tmp_path: Path) -> None:
    """os._exit, a signal: as the same script would under `python`."""
    done = run("run", "-", stdin=b"print('x'); import os; os._exit(7)", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"x\n", b"")
    done = run("run", "-", stdin=b"import os; os.kill(os.getpid(), 9)", cwd=tmp_path)
    assert done.returncode == 128 + 9
    assert b"SIGKILL" in done.stderr
    done = run("run", "--json", "-", stdin=b"import os; os.abort()", cwd=tmp_path)
    assert done.returncode == 128 + 6
    record = json.loads(done.stdout)
    assert (record["ended"], record["exit_code"], record["signal"]) == ("context lost", None, 6)


def test_a_plain_script_is_python_itself(tmp_path: Path) -> None:
    """With --plain nothing is shown by itself, and every exit status is seen."""
    text = "import os, sys\nprint(sys.argv[1], sys.stdin.read(), flush=True)\n6 * 7\nos._exit(3)"
    name = script(tmp_path, "a.py", text)
    done = run("run", "--plain", name, "x", stdin=b"piped", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"x piped\n", b"")


def test_figures_are_kept(tmp_path: Path) -> None:
    """--figures saves what a script shows; without it there is a note."""
    pytest.importorskip("matplotlib")
    text = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nprint('after')\n"
    name = script(tmp_path, "a.py", text)
    done = run("run", "--figures", "made/here", name, cwd=tmp_path)
    assert done.stdout == b"after\n"
    assert (tmp_path / "made/here/figure-1.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert b"figure-1.png" in done.stderr


def test_a_declared_encoding_is_obeyed(tmp_path: Path) -> None:
    """A Latin-1 script that says so runs."""
    (tmp_path / "a.py").write_bytes(b"# -*- coding: latin-1 -*-\nprint(ascii('\xe9'))\n")
    assert run("run", "a.py", cwd=tmp_path).stdout == b"'\\xe9'\n"


def test_shell_scripts(tmp_path: Path) -> None:
    """A .sh runs by bash, what has a #! line by what that says, and `-` by what we say."""
    name = script(tmp_path, "a.sh", 'echo "$0 $2 ${BASH_VERSION:+bash}"; exit 4')
    done = run("run", name, "a", "b c", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, b"/workspace/a.sh b c bash\n")
    name = script(tmp_path, "tool", '#!/bin/sh\necho "$1 ${BASH_VERSION:+bash}"; cat')
    assert run("run", name, "a", stdin=b"piped", cwd=tmp_path).stdout in {
        b"a \npiped",
        b"a bash\npiped",  # where sh is bash
    }
    done = run("run", "--language", "shell", "-", "a", stdin=b"echo from $1", cwd=tmp_path)
    assert done.stdout == b"from a\n"


# --- --json ----------------------------------------------------------------------------------


def test_json_of_a_command(tmp_path: Path) -> None:
    """Everything in one object; bytes that are no text are there as base64 as well."""
    status, record = run_json(
        *["exec", "--json", "--out", "made", "-c"],
        "printf '\\377x'; echo plain >&2; echo y > made; exit 3",
        cwd=tmp_path,
    )
    assert status == record["exit_code"] == 3
    assert (record["ended"], record["signal"], record["truncated"]) == ("exit", None, False)
    assert base64.b64decode(record["stdout_base64"]) == b"\xffx"
    assert (record["stdout_bytes"], record["stdout"]) == (2, "\ufffdx")
    assert (record["stderr"], record["stderr_base64"]) == ("plain\n", None)
    assert record["receipt"]["wall_s"] > 0
    rows = {row["name"]: row["achieved"] for row in record["report"]["protections"]}
    assert rows["seccomp"] == "full"
    (output,) = record["outputs"]
    assert (output["files"], output["bytes"], output["error"]) == (1, 2, None)


def test_json_of_a_script(tmp_path: Path) -> None:
    """Results come with all their formats, errors as data; nothing is streamed."""
    text = "display({'a': 1})\nprint('text')\nraise KeyError('k')\n"
    status, record = run_json("run", "--json", "-", cwd=tmp_path, stdin=text.encode())
    assert status == record["exit_code"] == 1
    assert (record["ended"], record["stdout"]) == ("error", "text\n")
    assert record["results"][0]["data"]["text/plain"] == "{'a': 1}"
    assert (record["error"]["name"], record["error"]["value"]) == ("KeyError", "'k'")


def test_json_of_what_did_not_run(tmp_path: Path) -> None:
    """Our own failures are data too, with a stable code."""
    status, record = run_json("exec", "--json", "--", "no-such-program", cwd=tmp_path)
    assert status == 127
    assert (record["ended"], record["failure"]["code"]) == ("not run", "not_started")


def test_shell_text_that_is_taken_for_a_name_is_told_how_to_run(tmp_path: Path) -> None:
    done = run("exec", "echo hi", cwd=tmp_path)
    assert done.returncode == 127
    assert b"-c 'echo hi'" in done.stderr


@pytest.mark.parametrize("size", ["1M", "4M"])
def test_an_interpreter_without_memory_to_start_says_how_much_it_needs(
    tmp_path: Path, size: str
) -> None:
    (tmp_path / "one.py").write_text("print(1)")
    done = run("run", "one.py", "--memory", size, cwd=tmp_path)
    assert done.returncode == 125
    assert b"probably for want of memory" in done.stderr
    assert b"--memory 16M" in done.stderr


def test_a_program_that_dies_with_little_memory_has_the_memory_named(tmp_path: Path) -> None:
    """A kill that the kernel counts, and an end that only looks like it."""
    done = run("exec", "--memory", "4M", "-c", "tail /dev/zero", cwd=tmp_path)
    assert done.returncode == 137
    assert (
        b"for want of memory. Give it 16 MiB or more (limits.memory_bytes, or --memory 16M)"
        in done.stderr
    )
    done = run("exec", "--memory", "4M", "-c", "exit 127", cwd=tmp_path)
    assert done.returncode == 127
    assert b"status 127, perhaps for want of memory. Give it 16 MiB" in done.stderr


def test_a_list_may_be_read_in_part() -> None:
    """As by `head`; nothing failed."""
    listing = subprocess.Popen(
        [sys.executable, "-P", "-m", "sandbox_runtime", "bench", "--list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert listing.stdout is not None
    listing.stdout.close()
    assert listing.communicate()[1] == b""
    assert listing.returncode == 128 + signal.SIGPIPE


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run"], "FILE"),
        (["run", "missing.py"], "missing.py"),
        (["run", "directory"], "--in"),
        (["run", "latin.py"], "UTF-8"),
        (["run", "unknown"], "--language"),
        (["run", "--language", "cobol", "-"], "cobol"),
        (["run", "--figures", "/dev/null/x", "-"], "/dev/null/x"),
        (["exec"], "COMMAND"),
        (["exec", "--", ""], "COMMAND"),
        (["exec", "-c", "  "], "-c"),
        (["exec", "--in", "missing", "--", "true"], "missing"),
        (["exec", "--in", "latin.py:", "--", "true"], "--in"),
        (["exec", "--in", "/dev/null", "--", "true"], "/dev/null"),
        (["exec", "--out", "a:missing/b", "--", "true"], "missing"),
        (["exec", "--out", ":b", "--", "true"], "--out"),
        (["exec", "--env", "NAME", "--", "true"], "NAME=VALUE"),
        (["exec", "--memory", "much", "--", "true"], "512M"),
        (["exec", "--timeout", "0", "--", "true"], "--timeout"),
        (["exec", "--timeout", "abc", "--", "true"], "'abc' is not a number of seconds"),
        (["exec", "--timeout", "nan", "--", "true"], "--timeout"),
        (["exec", "--require", "magic", "--", "true"], "magic"),
        (["exec", "--cwd", "", "--", "true"], "cwd"),
        (["exec", "--unknown", "--", "true"], "--unknown"),
        (["unknown"], "unknown"),
        (["cod"], "did you mean 'code'?"),
        (["exce", "--", "true"], "did you mean 'exec'?"),
        (["run", "a b.ts"], "TypeScript runs with `sandbox-runtime code 'a b.ts'`"),
    ],
)
def test_mistakes_are_answered_in_a_line(tmp_path: Path, arguments: list[str], named: str) -> None:
    """Status 2, nothing on stdout, and one line that names what is wrong."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n")
    (tmp_path / "unknown").write_text("?")
    (tmp_path / "a b.ts").write_text("1")
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("sandbox-runtime: ")
    assert named in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Also as --in."""
    (tmp_path / "secret.py").write_text("1")
    (tmp_path / "secret.py").chmod(0)
    for arguments in (["run", "secret.py"], ["exec", "--in", "secret.py", "--", "true"]):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert b"secret.py" in done.stderr
        assert b"Permission denied" in done.stderr


def test_closed_streams_do_no_harm(tmp_path: Path) -> None:
    """Who starts us with closed descriptors loses the output and nothing else."""
    command = " ".join(COMMAND)
    done = subprocess.run(
        ["bash", "-c", f"{command} exec -c 'echo x; exit 5' <&- >&- 2>&-"],
        timeout=55,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 5


# --- help, version, doctor -------------------------------------------------------------------


def test_help_is_there_for_everything(tmp_path: Path) -> None:
    """Every command has help that fits a terminal, and no arguments at all show it."""
    for arguments in ([], ["run"], ["exec"], ["code"], ["doctor"], ["demo"]):
        done = run(*arguments, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert done.stdout.startswith(b"Usage: sandbox-runtime")
        assert max(map(len, done.stdout.decode().splitlines())) <= 80
    assert b"Commands:" in run(cwd=tmp_path).stderr


def test_help_loads_nothing_heavy() -> None:
    """What `--help` needs is click alone."""
    code = (
        "import sys; from sandbox_runtime.cli.commands import cli\n"
        "assert all(cli.get_command(None, name) for name in cli.list_commands(None))\n"
        "print({'trio', 'msgspec', 'IPython'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    assert done.stdout == b"set()\n"


def test_the_version_is_told(tmp_path: Path) -> None:
    """As a line of name and number."""
    done = run("--version", cwd=tmp_path)
    assert re.fullmatch(rb"sandbox-runtime \d+\.\d+\S*\n", done.stdout)


def test_the_doctor_shows_what_is_there(tmp_path: Path) -> None:
    """Every protection in a row, with a remedy for each that is not full."""
    done = run("doctor", "--json", cwd=tmp_path)
    record = json.loads(done.stdout)
    assert done.returncode == 0
    assert record["ok"] is True
    rows = record["report"]["protections"]
    assert all(row["achieved"] == "full" for row in rows if row["requested"] == "required")
    assert "cgroup_cpu" not in [row["name"] for row in rows]  # there if it is asked for only
    assert record["python_problem"] == ""
    assert record["kernel"].split()[1] == os.uname().release
    text = run("doctor", cwd=tmp_path).stdout.decode()
    for row in rows:
        assert row["name"] in text
        assert row["achieved"] == "full" or row["remedy"] in text


def test_the_doctor_says_why_there_is_no_sandbox(tmp_path: Path) -> None:
    """Inside a sandbox there is none to be had: status 1, and the step that failed."""
    done = run("exec", "--", *COMMAND, "doctor", cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(rb"No sandbox here. It fails at: \w+\n  \S+", done.stdout)


def test_no_sandbox_is_our_failure(tmp_path: Path) -> None:
    """What was to run does not run without protection."""
    done = run("exec", "--", *COMMAND, "exec", "--", "echo", "unprotected", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"sandbox-runtime: ")

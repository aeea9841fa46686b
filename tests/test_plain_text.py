"""Text that is one program runs without a copy of bash, and nobody can tell.

Each case runs twice, in two new shells: as it is, and with a comment behind it, which leaves the
text to bash alone. Everything that can be seen of the two has to be equal.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_runtime import open_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sandbox_runtime import CommandResult, Sandbox, Session

PROGRAMS = {
    "bin/show": rb"""#!/bin/sh
printf '<%s>' "$0" "$@" "$PATH"; echo
PATH=/usr/bin:/bin
env | sort
grep -E '^(Sig[A-P][a-z]+|ShdPnd|NSsid|Groups):' /proc/self/status
ls -l /proc/self/fd | grep -v /proc/ | sed 's/.* \([0-9]* ->\)/\1/'
ulimit -a; umask; pwd; cat; echo said >&2
exit 7
""",
    "bin/no-shebang": b'echo "$0" "$@" in $BASH; exit 4\n',
    "bin/empty": b"",
    "bin/no-interpreter": b"#!/no/such/interpreter\n",
    "bin/garbage": b"\x7fELF\x02\x01\x01\x00garbage\x00" * 9,
    "other/show": b"#!/bin/sh\necho the other show\n",
}

TEXTS = r"""
/bin/true
/bin/false
env
show a 'b  c' "d e" '' "it's" A=1 =b x:y %d e@f,g -- -n
bin/show x
deep/../bin/show 'ä ö' "ü"
sh -c 'exit 3'
sh -c 'kill -SEGV $$'
sh -c 'kill -ABRT $$'
sh -c 'kill -TERM $$'
sh -c 'kill -KILL $$'
sh -c 'kill -PIPE $$'
sh -c 'kill -INT $$'
sh -c 'until grep -q "SigCgt.*[2367abef]$" /proc/$PPID/status; do :; done; kill -INT $PPID; exit 5'
sh -c 'kill -TERM $PPID; sleep 9'
sh -c 'kill -QUIT $PPID; exit 5'
missing-program
missing-program 'a b'
./missing
/workspace
deep
./not-executable x
not-executable
no-shebang 'a b' c
bin/no-shebang 'a b' c
empty
no-interpreter x
garbage
echo hi
true
cd /tmp
exit 3
if
time
then x
export A=1
grep return found
""".strip().splitlines()

STATES = r"""
alias show='echo aliased'
alias show='show; echo twice'
alias show='echo $(pwd); show'
alias show='show x | cat;'
alias show='show '
shopt -u expand_aliases; alias show='echo aliased'
show() { echo function; }
show() { command show "$@"; }
show() { unset -f show; show "$@"; }
show() { unset -f show; x=$(show a); echo "$x"; }
trap 'echo trapped $BASH_COMMAND' DEBUG
trap 'echo trapped $BASH_COMMAND' ERR
trap 'echo trapped $BASH_COMMAND' EXIT
trap 'echo trapped $BASH_COMMAND' RETURN
trap 'echo $(pwd)' DEBUG
trap 'show a' DEBUG
trap 'echo $?; x=$(echo x); trap - DEBUG' DEBUG
trap 'x=1' USR1
trap '' TERM INT HUP
trap '' QUIT TSTP
trap : TERM; trap - TERM
set -e
set -x
PS4='+$(echo ps4) '; set -x
set -u
set -v
set -f
set -a
set -k
set -m
set -b
set -C
set -E
set -n
set -T
set -t
set -p
set +h
set +B
set -H
set -r
set -o pipefail
set -o posix
set -o history
shopt -s extdebug
shopt -s checkhash
shopt -s lastpipe
shopt -s nullglob failglob
shopt -s execfail
shopt -s inherit_errexit
shopt -u checkwinsize
export A='x y' B=; declare -rx C=3; D=4; declare -ix E=5; declare -x F
export _=x
readonly _
unset _
f() { echo exported; }; export -f f
hash -p /bin/echo show
hash show ls
show; hash -r
BASH_CMDS[show]=/bin/echo
hash -p /no/such/file show
hash -p other/show show
hash -p /workspace show
PATH=
unset PATH
PATH=bin
PATH=:$PATH; cd bin
PATH=other:$PATH
PATH='~/bin'
readonly PATH
show; PATH=$PWD/other:$PATH
show; chmod -x bin/show
show; mv bin/show bin/away
EXECIGNORE='*/bin/show'
command_not_found_handle() { echo "handled $*"; return 5; }
umask 077
ulimit -n 64
ulimit -c 0
exec 5</etc/passwd
exec 7>&1 8<&0
exec 0<&- 1>&- 2>&-
sleep 100 &
sleep 0.01 & wait
(exit 3) & wait $!; jobs
sleep 100 & disown
coproc cat
sh -c 'kill -9 $$' & while kill -0 $! 2>/dev/null; do :; done
cat <(echo x)
cd deep
mkdir gone; cd gone; rmdir ../gone
ln -s deep link; cd link
IFS=sh
export LC_ALL=C
export LANG=xx_YY
export POSIXLY_CORRECT=1
set -- a b c
declare -n show=x
PROMPT_COMMAND='echo prompt'; PS0='$(echo ps0)'
FUNCNEST=1
BASH_COMPAT=4.2
export BASH_ENV=/workspace/found ENV=/workspace/found
false | true | sh -c 'exit 2'
f() { local x; x=1; }; f
eval show
let 1
[[ a ]]
(( 0 ))
syntax ( error
""".strip().splitlines()

# Told once for each shell: nothing here may differ but what every process has of its own.
LOOK = r"""
builtin printf '<%s>' "$?" "${PIPESTATUS[@]}" "$_" "$#" "$-"
builtin echo
builtin declare -p; builtin declare -f; builtin hash; builtin jobs; builtin alias; builtin trap
builtin set -o; builtin shopt; builtin umask; builtin pwd; builtin ulimit -a; builtin enable -n
"""
OWN = rb"(BASHPID|SECONDS|S?RANDOM|EPOCH[A-Z]*|BASH_MONOSECONDS|PPID|COPROC_PID)"
VARIES = re.compile(
    rb"^declare -[a-zA-Z-]+ " + OWN + rb"=.*$|(?<=line \d: ) *\d+ (?=[A-Z])|\[\d{3,}\]",
    re.MULTILINE,
)


class Case(NamedTuple):
    """Text, what the shell was told before, and what else the command is given."""

    before: str
    text: str
    given: Mapping[str, Any] = {}


def seen(result: CommandResult) -> list[str]:
    """What a command has shown, line by line, without the numbers of processes."""
    streams = (VARIES.sub(b"#", stream) for stream in (result.stdout, result.stderr))
    lines = [line for stream in streams for line in stream.decode(errors="replace").split("\n")]
    return [*lines, f"{result.ended} {result.exit_code} {result.signal}"]


async def story(sandbox: Sandbox, place: str, case: Case, text: str) -> list[str]:
    """All that one shell shows: what came before, the text twice, and what it left."""
    await sandbox.exec(f"rm -rf {place}; cp -a made {place}", check=True)
    session = await sandbox.create_session(cwd=place)
    told: list[str] = []
    for command, options in [
        ("PATH=$PWD/bin:$PATH", {}),
        (case.before, {}),
        (text, case.given),
        (text, case.given),
        (LOOK, {}),
    ]:
        result = await session.exec(command, **options)
        told += seen(result)
        if result.ended != "exit":
            break
    await session.aclose()
    return told


async def told_apart(sandbox: Sandbox, cases: Iterable[Case]) -> dict[str, list[str]]:
    """The cases where the two ways differ, with what differs."""
    for path, content in PROGRAMS.items():
        await sandbox.files.write(f"made/{path}", content)
    await sandbox.exec(
        "(cd made; chmod +x bin/* other/*; mkdir deep; echo a return >found; >not-executable)"
    )
    apart = {}
    left = iter(cases)

    async def compare(place: str) -> None:
        for case in left:
            plain = await story(sandbox, place, case, case.text)
            by_bash = await story(sandbox, place, case, f"{case.text} #")
            # Errors of syntax and `set -v` show the comment.
            by_bash = [re.sub(r" #('?)$", r"\1", line) for line in by_bash]
            if plain != by_bash:
                apart[repr(case)] = list(difflib.unified_diff(plain, by_bash, n=0))

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(compare, f"/workspace/place-{number}")
    return apart


async def test_a_program_is_seen_to_run_as_bash_runs_it(sandbox: Sandbox) -> None:
    texts = [*TEXTS, "  show\t'two\nlines'  \n\n", f"/bin/echo {'x' * 140_000}"]
    assert await told_apart(sandbox, [Case(":", text) for text in texts]) == {}


@pytest.mark.parametrize("part", range(3))
async def test_what_the_shell_holds_means_the_same(sandbox: Sandbox, part: int) -> None:
    states = STATES[part::3]
    assert await told_apart(sandbox, [Case(state, "show 'a b'") for state in states]) == {}


async def test_what_the_shell_holds_means_the_same_where_a_program_is_missing_or_fails(
    sandbox: Sandbox,
) -> None:
    handle = "show; command_not_found_handle() { env; return 5; }"
    cases = [
        *(Case(handle, "missing x"), Case("show; unset PATH", "missing")),
        *(Case("export _=/bin/echo", "missing"), Case(f"{handle}; set -x", "missing")),
        *(Case("enable -n echo", "echo hi"), Case("enable -n true", "true")),
        *(Case("function env { echo 1; }", "env"), Case("alias a=b", "env a")),
        *(Case("set -e", "/bin/false"), Case("set -e", "/bin/true")),
        *(Case("set -eE; trap 'echo err' ERR", "/bin/false"), Case("set -r", "/bin/true")),
        # What is refused is not copied for; a trap is then the first to be.
        Case("set -r; trap 'show a' ERR", "/bin/true"),
        Case("set -re; trap 'show a' EXIT", "/bin/true"),
        *(Case("trap 'echo got it' SEGV", "sh -c 'kill -SEGV $$'"), Case("set -k", "env A=1")),
        *(Case(f"trap '{how}' INT", "sh -c 'kill -INT $PPID; exit 5'") for how in ("", "echo")),
        *(Case(state, "sh -c 'kill -SEGV $$'") for state in ("sleep 100 &", "set -o pipefail")),
        *(Case(f"hash -p $PWD/bin/{name} x", "x a") for name in ("no-shebang", "garbage")),
        *(Case("cd bin", "./show"), Case(". bin/empty", "no-shebang")),
    ]
    assert await told_apart(sandbox, cases) == {}


async def test_what_a_command_is_given_arrives(sandbox: Sandbox) -> None:
    given: list[dict[str, Any]] = [
        {"env": {"A": "x y"}},
        {"env": {"PATH": "/workspace/made/other:/bin"}},
        {"env": {"PATH": "/nowhere"}},
        {"env": {"_": "/bin/echo"}},
        {"cwd": "/tmp"},
        {"cwd": "deep/../bin", "env": {"PWD": "/x"}},
        {"stdin": b"read me\n"},
    ]
    texts = ("show x", "missing x")
    assert (
        await told_apart(sandbox, [Case(":", text, one) for one in given for text in texts]) == {}
    )


PIECES = [*"'\" \tab=/.,:%@-$\\`*?[{~!#;)^\n\x7fä", "'a b'", '"a b"', "''", "  "]


@settings(max_examples=5)
@given(
    st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), min_size=15, max_size=25)
)
def test_any_text_is_read_as_bash_reads_it(texts: list[str]) -> None:
    """Plain or not: a shell that has a trap, so that nothing is plain to it, reads the same."""

    async def main() -> None:
        async with open_sandbox() as sandbox:
            session, trapping = [await sandbox.create_session() for _ in range(2)]
            await trapping.exec("trap : DEBUG")
            for text in texts:
                command = f"/usr/bin/printf '%s\\0' {text}"
                plain, by_bash = await session.exec(command), await trapping.exec(command)
                assert seen(plain) == seen(by_bash), text

    trio.run(main)


async def page_faults(session: Session, text: str) -> float:
    """How often the shell itself had to be given a page, for each time that `text` ran."""
    count = ["sh", "-c", "cut -d' ' -f10 /proc/$PPID/stat"]
    rounds = 10
    await session.exec(text)
    before = int((await session.exec(count)).stdout)
    for _ in range(rounds):
        await session.exec(text)
    return (int((await session.exec(count)).stdout) - before) / rounds


@pytest.mark.parametrize("text", ["/bin/true", "cat '/dev/null'", "sh -c 'exit 3'"])
async def test_a_program_does_not_cost_a_copy_of_the_shell(session: Session, text: str) -> None:
    """A copy shares each page with the shell until one of them writes: a fault in both."""
    await session.exec("some=1; export other=2; f() { :; }; set -u; sleep 100 & alias a=b")
    assert await page_faults(session, text) < 3
    assert await page_faults(session, f"{text} #") > 10

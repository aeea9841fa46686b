"""Whatever a command started ends with it, and what was there before stays.

The trees are random: background, subshells, pipelines, double forks, new sessions, ignored
signals, stopped processes, busy loops, Python children. Each leaf says `up` on descriptor 9 once
its command line holds the example's token, so a test knows that it runs.
"""

from __future__ import annotations

import os
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_runtime import open_sandbox

if TYPE_CHECKING:
    from sandbox_runtime import Sandbox, Session

TOKEN = "@TOKEN@"

LEAVES = {
    "plain": "bash -c 'echo up >&9; sleep 1000; :' @TOKEN@",
    "deaf": "bash -c 'trap \"\" TERM INT HUP QUIT USR1; echo up >&9; sleep 1000; :' @TOKEN@",
    "stopped": "bash -c 'echo up >&9; kill -STOP $$; :' @TOKEN@",
    "busy": "bash -c 'echo up >&9; while :; do :; done' @TOKEN@",
    "nohup": "nohup bash -c 'echo up >&9; sleep 1000; :' @TOKEN@",
    "session": "setsid -f bash -c 'echo up >&9; sleep 1000; :' @TOKEN@",
    "respawning": "bash -c 'echo up >&9; while :; do sleep 0.001; done' @TOKEN@",
    "dying": "bash -c 'echo up >&9; :' @TOKEN@",
}
LEAVES["python"] = (
    f"{sys.executable} -ISc '"
    "import os, signal\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork(): os._exit(0)\n"
    '    os.write(9, b"up\\n")\n'
    "signal.pause()' @TOKEN@"
)


@dataclass(frozen=True)
class Tree:
    """Shell text, and how many of its processes will say that they are up."""

    text: str
    leaves: int


def combined(children: list[Tree], last_in_front: bool) -> Tree:
    """All but perhaps the last run in the background."""
    *others, last = children
    text = "".join(f"{{ {tree.text}; }} & " for tree in others)
    text += f"{{ {last.text}; }}" if last_in_front else f"{{ {last.text}; }} & wait"
    return Tree(text, sum(tree.leaves for tree in children))


trees = st.recursive(
    st.sampled_from(sorted(LEAVES)).map(lambda kind: Tree(LEAVES[kind], 1)),
    lambda inner: st.one_of(
        st.builds(combined, st.lists(inner, min_size=2, max_size=3), st.booleans()),
        inner.map(lambda tree: Tree(f"( {tree.text} )", tree.leaves)),
        inner.map(lambda tree: Tree(f"( {{ {tree.text}; }} & )", tree.leaves)),
        inner.map(lambda tree: Tree(f"x=$( {tree.text} )", tree.leaves)),
        inner.map(lambda tree: Tree(f"trap '' TERM; {tree.text}", tree.leaves)),
        inner.map(lambda tree: Tree(f"set -m; {{ {tree.text}; }} & set +m; wait", tree.leaves)),
        st.tuples(inner, inner).map(
            lambda two: Tree(
                f"{{ {two[0].text}; }} | {{ {two[1].text}; }}", two[0].leaves + two[1].leaves
            )
        ),
    ),
    max_leaves=8,
)
ENDS = Literal["deadline", "early deadline", "kill", "cancel"]

EARLIER = (
    "rm -f up1 up2; mkfifo up1 up2; "
    "bash -c 'trap \"\" TERM; sleep 1000 & sleep 1000 & echo up > up1; wait' EARLIER & "
    "read -r x < up1; "
    "(setsid bash -c 'sleep 1000 & echo up > up2; wait' EARLIER &) ; read -r x < up2"
)
# Builtins only, for a program of its own would be in the list. Zombies are no processes.
LIST = """
for directory in /proc/[0-9]*; do
    { read -r stat < $directory/stat; } 2>/dev/null || continue
    state=${stat##*) }
    [ ${state%% *} = Z ] || echo ${directory#/proc/}
done
"""


def on_the_host(token: str) -> list[int]:
    """The processes of this machine whose command line holds `token`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and token.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile
    return found


async def end_when_up(session: Session, text: str, leaves: int, how: ENDS) -> str:
    """Runs text until its leaves are up, ends it, and says how that was reported."""
    scope = trio.CancelScope()
    heard = bytearray()

    def hear(chunk: bytes) -> None:
        heard.extend(chunk)
        if heard.count(b"up\n") == leaves:
            if how == "kill":
                session.kill()
            elif how == "cancel":
                scope.cancel()

    deadlines = {"deadline": 0.25, "early deadline": 0.01}
    with scope:
        result = await session.exec(text, on_stdout=hear, deadline_s=deadlines.get(how))
        return result.ended
    return "cancelled"


async def check(sandbox: Sandbox, tree: Tree, how: ENDS, front: str) -> None:
    token = f"tree-{uuid.uuid4().hex}"
    session = await sandbox.create_session()
    await session.exec("kept=yes")
    await session.exec(EARLIER)
    before = set((await session.exec(LIST)).text.split())
    assert len(before) == 7  # init, shell, two jobs, their three children

    text = f"{{ {tree.text} ; }} 9>&1 > /dev/null < /dev/null & {front}"
    with trio.fail_after(20):
        ended = await end_when_up(session, text.replace(TOKEN, token), tree.leaves, how)

    assert on_the_host(token) == []
    assert ended == {"kill": "killed", "cancel": "cancelled"}.get(how, "deadline")
    assert set((await session.exec(LIST)).text.split()) == before
    assert (await session.exec("echo $kept")).text == "yes\n"


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            trees,
            st.sampled_from(["deadline", "early deadline", "kill", "cancel"]),
            st.sampled_from(["wait", "sleep 1000", "while :; do :; done", "read -r x <> nobody"]),
        ),
        min_size=1,
        max_size=2,
    )
)
def test_nothing_of_a_command_is_alive_once_its_end_is_told(
    examples: list[tuple[Tree, ENDS, str]],
) -> None:
    """By deadline, kill or cancellation; the shell, its state and earlier jobs are untouched."""

    async def run() -> None:
        async with open_sandbox() as sandbox:
            await sandbox.exec("mkfifo nobody")
            for tree, how, front in examples:
                await check(sandbox, tree, how, front)

    trio.run(run)


async def test_an_orphan_of_an_earlier_job_survives(session: Session) -> None:
    """A job that ends during a later command leaves children; the command's end is not theirs."""
    await session.exec("mkfifo up go")
    job = "bash -c 'sleep 1000 & echo $! > up; read -r x < go' & read -r orphan < up"
    await session.exec(job)
    # The clock of process starts has 10 ms; a command within them could not be told apart.
    ticks = (
        "read -ra now < /proc/uptime; while read -ra t < /proc/uptime && [ $t = $now ]; do :; done"
    )
    await session.exec(f"{ticks}; {ticks}")
    result = await session.exec(
        "echo > go; wait %1; echo over; sleep 1000", on_stdout=lambda _: session.kill()
    )
    assert (result.ended, result.stdout) == ("killed", b"over\n")
    assert (await session.exec("kill -0 $orphan")).ok


async def test_the_next_command_knows_nothing_of_one_that_was_ended(session: Session) -> None:
    """Its exit code and its output are its own, whenever the end came between fork and wait."""
    after = ["true", ": < /dev/null", "read -r x < /proc/self/stat", "[ 1 = 1 ]"]
    for number in range(200):
        await session.exec("echo up; sleep 1000", on_stdout=lambda _: session.kill())
        result = await session.exec(after[number % len(after)])
        assert (result.exit_code, result.stderr) == (0, b""), number


async def test_a_fork_race_is_won(session: Session) -> None:
    """Processes that fork and end as fast as they can leave nobody behind."""
    token = f"race-{uuid.uuid4().hex}"
    chain = "import os\nos.write(1, b'up\\n')\nwhile True:\n    if os.fork(): os._exit(0)\n"
    for _ in range(5):
        result = await session.exec(
            [sys.executable, "-ISc", f"import os\nfor _ in range(3): os.fork()\n{chain}", token],
            on_stdout=lambda _: session.kill(),
        )
        assert result.ended in {"killed", "exit"}  # the first of the chain exits by itself
        await session.exec("sleep 1000", deadline_s=0.01)
    await session.aclose()
    assert on_the_host(token) == []


async def test_a_result_comes_after_the_last_breath(session: Session) -> None:
    """When a deadline has returned, a process of the command has no time to write any more."""
    await session.exec("touch log")
    for _ in range(10):
        await session.exec("while :; do echo x >> log; done", deadline_s=0.02)
        await session.exec(
            "setsid -f bash -c 'while :; do echo x >> log; done'; sleep 1000", deadline_s=0.02
        )
        size = (await session.exec("stat -c %s log")).text
        assert (await session.exec("sleep 0.01; stat -c %s log")).text == size


def test_the_token_is_seen_from_outside() -> None:
    """The check above is no empty one: this process is found by its own command line."""
    mine = Path("/proc/self/cmdline").read_bytes().split(b"\0")[0].decode()
    assert os.getpid() in on_the_host(mine)

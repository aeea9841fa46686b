"""What code writes to every descriptor that it finds, as if it were the executor that runs it.

User code shares a process with its executor, so that it can say anything in its name. What it says
is believed of nobody but its own context: it gets an answer, or dies of it, and others notice
nothing.
"""

from __future__ import annotations

import base64
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from sandbox_runtime import open_sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox_runtime import Context, Runtime, Sandbox


def frame(message: object) -> bytes:
    """A message as executors send it."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return len(body).to_bytes(4, "big") + body


def said(kind: str, **more: Any) -> bytes:
    """A frame of whichever run it is."""
    return b"".join(frame({"type": kind, "id": str(number), **more}) for number in range(6))


USAGE = {"user_us": 0, "system_us": 0, "max_rss_bytes": 0}

FORGED = {
    "an end": said("done", status="ok", execution_count=7, usage=USAGE),
    "an end of the next run": frame({"type": "done", "id": "3", "status": "ok"}),
    "an impossible cost": said("done", status="ok", usage=USAGE | {"user_us": -1}),
    "a result of the wrong kind": said("result", data=["no", "bundle"]),
    "a result of odd things": said("result", data={"text/plain": {"a": []}, "image/png": 7}),
    "an error of the wrong kind": said("error", name=1, value=[], traceback=[{}]),
    "a start": frame({"type": "ready", "pid": 1}),
    "a start that failed": frame({"type": "failed", "reason": "x", "errno": 2, "step": "x"}),
    "a branching": said("forked") + said("refused", data={"threads": ["x"]}),
    "another kind": said("no such kind", data={}),
    "no object": frame([1, 2, 3]),
    "no JSON": frame(b"\xff\xfe{"),
    "nothing": frame(b""),
    "half a frame": b"\x00\x00\x01\x00{",
    "an endless frame": b"\xff\xff\xff\xff" + b"x" * 1000,
    "deep nesting": frame(b"[" * 100_000),
    "a flood": frame({"type": "display", "id": "2", "data": {"text/plain": "x"}}) * 2000,
}

PYTHON = """
import base64, os
for name in os.listdir("/proc/self/fd"):
    if int(name) > 2:
        try:
            os.write(int(name), base64.b64decode("{forged}"))
        except OSError: pass
"""
NODE = """
const data = Buffer.from('{forged}', 'base64');
for (const name of require('fs').readdirSync('/proc/self/fd'))
  if (Number(name) > 2) try {{ require('fs').writeSync(Number(name), data); }} catch {{}}
"""
SOURCES = {"python": PYTHON, "javascript": NODE, "typescript": NODE}
LANGUAGES = [
    "python",
    *(
        pytest.param(
            language,
            marks=pytest.mark.skipif(
                shutil.which("node") is None, reason="Node.js is not installed"
            ),
        )
        for language in ("javascript", "typescript")
    ),
]


@pytest.fixture
async def sandbox(runtime: Runtime) -> AsyncIterator[Sandbox]:
    """A sandbox with nothing made ahead."""
    async with open_sandbox(runtime=runtime, python_pool=0, node_pool=0) as sandbox:
        yield sandbox


async def create(sandbox: Sandbox, language: str) -> Context:
    preload = "bare" if language == "python" else None
    context = await sandbox.contexts.create(language, preload=preload)
    await context.run("kept = 41" if language == "python" else "const kept = 41")
    return context


@pytest.mark.timeout(180)
@pytest.mark.parametrize("language", LANGUAGES)
async def test_what_code_says_in_the_name_of_its_executor_harms_nobody_else(
    sandbox: Sandbox, language: str
) -> None:
    """The run is answered, the bystander goes on, and a restart makes all well."""
    bystander = await create(sandbox, language)
    # TypeScript has the executor of JavaScript, whose every start is a process of Node's.
    some = list(FORGED.items())[:: 4 if language == "typescript" else 1]
    for name, forged in some:
        context = await create(sandbox, language)
        text = base64.b64encode(forged).decode()
        execution = await context.run(SOURCES[language].format(forged=text), deadline_s=2)
        assert execution.ended in {"ok", "error", "deadline", "context lost"}, name
        assert execution.state_survived == (not context.lost), name
        if not context.lost:  # the lie was about itself, and is over with the run
            execution = await context.run("kept + 1", deadline_s=2)
            assert execution.text in {"42", None}, name
        execution = await bystander.run("kept + 1", deadline_s=20)
        assert (execution.ended, execution.text, execution.stdout) == ("ok", "42", b""), name
        if language == "python":
            await context.restart()
            assert (await context.run("6 * 7", deadline_s=20)).text == "42", name
        await sandbox.contexts.delete(context.id)
    assert sandbox.contexts.list() == [bystander]


async def test_branches_that_are_forged_are_none(sandbox: Sandbox) -> None:
    """Who answers before it is asked is asked all the same, or is lost."""
    context = await create(sandbox, "python")
    forged = frame({"type": "forked", "id": "3"}) + frame({"type": "ready", "pid": 1})
    text = base64.b64encode(forged).decode()
    await context.run(PYTHON.format(forged=text), deadline_s=5)
    (branch,) = await context.fork()
    assert (await branch.run("kept", deadline_s=20)).text == "41"

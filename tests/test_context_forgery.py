"""What code writes to every descriptor that it finds, as if it were the executor that runs it.

User code shares a process with its executor, so that it can say anything in its name. What it says
is believed of nobody but its own context: it gets an answer, or dies of it, and others notice
nothing.
"""

from __future__ import annotations

import base64
import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio

from sandbox_runtime import Death, InterpreterUnavailableError
from sandbox_runtime.interpreters import frames, interpreter
from sandbox_runtime.interpreters.runs import Run

if TYPE_CHECKING:
    from sandbox_runtime import Context, Sandbox


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


# Nothing is made ahead: that would take time from the tests.
pytestmark = pytest.mark.sandbox_options(python_pool=0, node_pool=0)


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


# --- what frames may cost --------------------------------------------------------------------

EXECUTOR = """
import gc, os, struct
executor = [one for one in gc.get_objects() if type(one).__name__ == 'Executor'][0]
def write(body):
    data = struct.pack('>I', len(body)) + body
    while data: data = data[os.write(executor._socket.fileno(), data):]
def show(data): write(b'{"type":"display","id":"%s","data":%s}' % (executor._run_id.encode(), data))
"""


async def test_frames_of_no_run_end_the_context(sandbox: Sandbox) -> None:
    """A program that never stops sending them is not listened to."""
    context = await create(sandbox, "python")
    await context.run(EXECUTOR)
    for body in ("{'type':'x'}", "{'type':'x','id':executor._run_id}"):
        execution = await context.run(
            f"import json\nbody = json.dumps({body}).encode()\nwhile True: write(body)",
            deadline_s=60,
        )
        assert (execution.ended, execution.death) == (
            "context lost",
            Death(cause="broken protocol"),
        )
        await context.restart()
        await context.run(EXECUTOR)


async def test_many_frames_hold_up_no_other_task(sandbox: Sandbox) -> None:
    """There is a turn for others within each hundred of them."""
    context = await create(sandbox, "python")
    await context.run(EXECUTOR)
    worst_s = 0.0

    async def measure() -> None:
        nonlocal worst_s
        while True:
            before_s = time.monotonic()
            await trio.sleep(0.01)
            worst_s = max(worst_s, time.monotonic() - before_s)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(measure)
        execution = await context.run("for _ in range(100_000): show(b'null')", deadline_s=60)
        nursery.cancel_scope.cancel()
    assert execution.ended == "ok"
    assert len(execution.results) + execution.results_dropped == 100_000
    assert len(execution.results) <= 1 << 16  # each counts as 1 KiB at least
    assert worst_s < 3  # a processor that others use too


async def test_json_of_many_values_or_levels_is_left_out_and_told(sandbox: Sandbox) -> None:
    """What comes with it is kept, as is the state."""
    context = await create(sandbox, "python")
    await context.run(EXECUTOR)
    execution = await context.run(
        "many = b'[' + b','.join([b'{}'] * 2_000_000) + b']'\n"
        "deep = b'[' * 500 + b']' * 500\n"
        'show(b\'{"text/plain":"all","application/json":%s,"deep":%s}\' % (many, deep))'
    )
    assert execution.ended == "ok"
    (result,) = execution.results
    assert result.data == {"text/plain": "all"}
    assert result.capped == {"application/json": 6_000_001, "deep": 1000}


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (b'{"a":%s}' % (b"[" * 90 + b"]" * 90), True),
        (b'{"a":%s}' % (b"[" * 120 + b"]" * 120), False),
        (b'{"a":%s}' % (b'{"a":' * 120 + b"1" + b"}" * 120), False),
        (b'{"a":[%s]}' % b",".join([b"{}"] * 20_000), True),
        (b'{"a":[%s]}' % b",".join([b"{}"] * 120_000), False),
        (b'{"a":"%s"}' % (b"[{,:" * 600_000), True),
        (b'{"a":"%s"}' % (b'\\"[{' * 600_000), True),
        (b'{"a":"%s"}' % (b"\\\\" * 600_000), True),
        (b'{"a":[%s]}' % b",".join([b'""'] * 2_000_000), False),
        (b'{"a":[%s]}' % b",".join([b'"\\\\"'] * 2_000_000), False),
    ],
)
def test_only_json_of_moderate_structure_becomes_values(data: bytes, kept: bool) -> None:
    """What strings hold is no structure."""
    frame = frames.decode(b'{"type":"display","id":"1","data":%s}' % data)
    assert (frame.type, frame.id, bool(frame.data), bool(frame.capped)) == (
        "display",
        "1",
        kept,
        not kept,
    )


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"error","name":[{}]}',
        b'{"type":"display","data":{%s}}' % b",".join(b'"%d":[[]]' % n for n in range(30_000)),
        b'{"type":' * 100_000,
        b'{"type":"error","traceback":[%s]}' % b",".join([b"1e308"] * 100_000),
        b'{"type":"clear_output","wait":1e308}',
        b'{"type":"' + b'\\"' * 1_000_000,
    ],
)
def test_frames_that_no_executor_sends_are_refused(body: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        frames.decode(body)


async def test_more_json_than_is_sent_is_told_and_breaks_no_protocol(sandbox: Sandbox) -> None:
    context = await create(sandbox, "python")
    execution = await context.run(
        "display({'application/json': [1.5e308] * 600_000, 'text/plain': 'all'}, raw=True)\n"
        "display({'text/html': '\\1' * 16_000_000, 'text/plain': 'all'}, raw=True)\n"
        "display({'text/plain': 'all'}, metadata={'a': 'x' * 30_000_000}, raw=True)\n"
    )
    assert (execution.ended, execution.error) == ("ok", None)
    assert [list(result.capped) for result in execution.results] == [
        ["application/json"],
        ["text/html"],
        ["metadata"],
    ]
    assert [result.text for result in execution.results] == ["all"] * 3


SLOWEST = 26_000_000
LARGE = {
    "floats near the largest": b'{"a":[%s]}' % b",".join([b"1e308"] * (SLOWEST // 6)),
    "some floats": b'{"a":[%s]}' % b",".join([b"1.7976931348623157e308"] * 49_000),
    "escapes": b'{"a":"%s"}' % (b"\\u1234" * (SLOWEST // 6)),
    "escapes in many": b'{%s,"b":"%s"}'
    % (b",".join(b'"%d":{}' % n for n in range(900)), b"\\u1234" * (SLOWEST // 6)),
    "blanks": b'{"a":[%s1]}' % (b" " * SLOWEST),
    "long integers": b'{"a":[%s]}' % b",".join([b"9" * 4000] * 1000),
}


@pytest.mark.parametrize("name", LARGE)
def test_no_frame_takes_long_to_read(name: str) -> None:
    """Others wait meanwhile."""
    body = b'{"type":"display","id":"1","data":%s}' % LARGE[name]
    before_s = time.process_time()
    assert frames.decode(body).type == "display"
    assert time.process_time() - before_s < 0.5  # far less on a processor of one's own


def test_small_results_of_many_values_count_as_what_they_take() -> None:
    body = frames.encode({"type": "display", "id": "1", "data": {"a": [[]] * 1000}})[4:]
    run = Run(None, limit_bytes=10 * 64 * 2000)
    for _ in range(20):
        run.note(*frames.read(body))
    assert 5 < len(run.results) < 11
    assert len(run.results) + run.dropped == 20


# --- branching -------------------------------------------------------------------------------

PATCH = """
import os, sys, time
for module in list(sys.modules.values()):
    if hasattr(module, '{name}'): module.{name} = {function}
"""


async def test_who_does_not_answer_when_it_is_branched_is_lost(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "BRANCHING_S", 0.5)
    context = await create(sandbox, "python")
    await context.run(
        PATCH.format(name="what_cannot_be_copied", function="lambda own: time.sleep(1e6)")
    )
    with pytest.raises(InterpreterUnavailableError, match=r"not answer within .*state is lost"):
        await context.fork(2)
    assert context.lost
    assert sandbox.contexts.list() == [context]
    await context.restart()
    assert (await context.run("6 * 7", deadline_s=20)).text == "42"


async def test_a_copy_that_does_not_answer_is_given_up_and_its_origin_goes_on(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "BRANCHING_S", 2)
    context = await create(sandbox, "python")
    await context.run(PATCH.format(name="separate_branch", function="lambda: time.sleep(1e6)"))
    with pytest.raises(InterpreterUnavailableError, match=r"a copy .* did not answer within"):
        await context.fork(2)
    assert (await context.run("kept", deadline_s=20)).text == "41"
    assert sandbox.contexts.list() == [context]

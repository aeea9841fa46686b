"""Code that means no good: each context gives a typed answer or dies alone."""

from __future__ import annotations

import pytest

from sandbox_runtime import (
    Context,
    InvalidArgumentError,
    Preload,
    Sandbox,
    open_runtime,
    open_sandbox,
)

# Nothing is made ahead: that would take time from the tests.
pytestmark = pytest.mark.sandbox_options(python_pool=0)


@pytest.fixture
async def context(sandbox: Sandbox) -> Context:
    """Where it is tried."""
    return await sandbox.contexts.create(preload="bare")


@pytest.fixture
async def bystander(sandbox: Sandbox) -> Context:
    """Another context, which has to notice nothing."""
    context = await sandbox.contexts.create(preload="bare")
    await context.run("kept = 1")
    return context


async def check_bystander(bystander: Context) -> None:
    execution = await bystander.run("kept", deadline_s=20)
    assert (execution.text, execution.stdout, execution.stderr) == ("1", b"", b"")


@pytest.mark.parametrize(
    "code",
    [
        "import os, signal\nos.kill(-1, signal.SIGKILL)\nprint('alive')",
        "import os\nfor fd in range(256):\n    try: os.close(fd)\n    except OSError: pass",
        "import os\n"
        "for name in os.listdir('/proc/self/fd'):\n"
        "    try: os.write(int(name), b'x' * 64)\n"
        "    except OSError: pass",
        "import os\n"
        "for name in os.listdir('/proc/self/fd'):\n"
        '    frame = b\'{"type": "done", "id": "1", "status": "ok"}\'\n'
        "    try: os.write(int(name), len(frame).to_bytes(4, 'big') + frame)\n"
        "    except OSError: pass",
        "import builtins\nbuiltins.__dict__.clear()",
        "import sys\nsys.modules.clear()",
        "import gc\nfor one in gc.get_objects():\n    if isinstance(one, dict): one.clear()",
        "import threading\nfor _ in range(20):\n"
        "    threading.Thread(target=lambda: [0 for _ in iter(int, 1)], daemon=True).start()",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "import resource\nresource.setrlimit(resource.RLIMIT_DATA, (1, 1))\nx = bytearray(10**8)",
        "x = 'x' * 10**11",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    ],
)
async def test_an_attack_gets_an_answer_and_harms_nobody_else(
    context: Context, bystander: Context, code: str
) -> None:
    """It ended, it was ended, or the context died of it; the other one has noticed nothing."""
    execution = await context.run(code, deadline_s=3)
    assert execution.ended in {"ok", "error", "deadline", "context lost"}
    assert execution.state_survived == (not context.lost)
    await check_bystander(bystander)
    await context.restart()
    assert (await context.run("1 + 1", deadline_s=20)).text == "2"


async def test_code_of_ten_megabytes_runs(context: Context) -> None:
    """And an error in it shows no more than it has to."""
    execution = await context.run(f"x = '{'y' * 10_000_000}'\nlen(x)")
    assert execution.text == "10000000"
    execution = await context.run(f"x = '{'y' * 10_000_000}' +")
    assert execution.error is not None
    assert execution.error.name == "SyntaxError"
    assert len(execution.error.traceback) < 1 << 20


async def test_a_line_of_a_hundred_megabytes_is_counted_and_kept_up_to_the_limit(
    context: Context,
) -> None:
    """Memory here stays bounded by what the caller chose."""
    execution = await context.run(
        "import os\nfor _ in range(100): os.write(1, b'x' * 10**6)", limit_bytes=1000
    )
    assert execution.ended == "ok"
    assert (len(execution.stdout), execution.stdout_bytes) == (1000, 100_000_000)
    assert execution.truncated


@pytest.mark.parametrize("text", ["1 +\0 1", "'\ud800'", "x = '\udcff'\nx", ""])
async def test_text_that_is_no_text_is_an_error_of_the_code(context: Context, text: str) -> None:
    """The context goes on."""
    execution = await context.run(text)
    assert execution.ended in {"ok", "error"}
    assert (await context.run("1 + 1")).text == "2"


async def test_a_representation_that_never_returns_is_interrupted(context: Context) -> None:
    """As the code itself."""
    execution = await context.run(
        "class Endless:\n    def __repr__(self):\n        while True: pass\nEndless()",
        deadline_s=0.5,
    )
    assert (execution.ended, execution.state_survived) == ("deadline", True)
    assert (await context.run("1 + 1")).text == "2"


async def test_what_an_object_prints_at_its_end_is_output_of_that_run(context: Context) -> None:
    """Not of the one that made it."""
    made = await context.run(
        "class Last:\n    def __del__(self): print('gone')\nlast = Last()\nprint('made')"
    )
    deleted = await context.run("del last")
    assert (made.stdout, deleted.stdout) == (b"made\n", b"gone\n")


async def test_a_preload_set_is_known_by_name() -> None:
    """One of the caller's own beside the usual ones; what is not installed is left out."""
    preloads = {"mine": Preload(modules=("fractions", "no_such_module"))}
    async with open_runtime(preloads=preloads) as own, open_sandbox(runtime=own) as sandbox:
        context = await sandbox.contexts.create(preload="mine")
        assert (await context.run("import sys\n'fractions' in sys.modules")).text == "True"
        assert context.imported_late == {}
        with pytest.raises(InvalidArgumentError, match="known: bare, data, mine, notebook"):
            await sandbox.contexts.create(preload="none")


async def test_a_notebook_has_the_usual_names(sandbox: Sandbox) -> None:
    """In every context, not in the first three; and they are no variables of the user's."""
    for _ in range(4):
        context = await sandbox.contexts.create(preload="notebook")
        execution = await context.run(
            "np.arange(3).sum(), pd.Series([1]).sum(), plt.__name__, json"
        )
        assert execution.ended == "ok", execution.error
    assert (await context.run("%who")).stdout == b"Interactive namespace is empty.\n"

"""Storms of contexts: made, used and ended by many at once, and none has been used before.

Every context leaves a mark of its own wherever an interpreter keeps something, and tells which
marks it has found. What a context finds is what a fresh interpreter has: no mark of anybody's.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import trio

from sandbox_runtime import PoolSize, open_sandbox

if TYPE_CHECKING:
    from sandbox_runtime import Context, Runtime, Sandbox

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")

PYTHON = """
import atexit, builtins, fcntl, gc, os, signal, sys, threading
def link_of(fd):
    try: return os.readlink("/proc/self/fd/" + fd)
    except OSError: return ""
places = {{
    "namespace": globals().get("canary"),
    "builtins": getattr(builtins, "canary", None),
    "module": getattr(sys.modules.get("json"), "canary", None),
    "modules": sys.modules.get("canary"),
    "environment": os.environ.get("CANARY"),
    "class": getattr(os.PathLike, "canary", None),
    "path": [one for one in sys.path if "canary" in one],
    "threads": [one.name for one in threading.enumerate() if "canary" in one.name],
    "descriptors": [link for link in map(link_of, os.listdir("/proc/self/fd")) if "canary" in link],
    "processes": [
        pid for pid in os.listdir("/proc")
        if pid.isdigit() and b"canary" in open("/proc/" + pid + "/cmdline", "rb").read()
    ],
    "objects": [one for one in gc.get_objects() if type(one).__name__ == "Canary"],
    "history": [one for one in In[:-1] if "canary" in one],
    "directory": None if os.getcwd() == "/workspace" else os.getcwd(),
    "handler": None if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL else "set",
    "mask": None if os.umask(0o022) == 0o022 else "changed",
}}
print({{place: found for place, found in places.items() if found}})

import json, subprocess
canary = builtins.canary = json.canary = sys.modules["canary"] = "{mark}"
os.environ["CANARY"] = "{mark}"
os.PathLike.canary = "{mark}"
sys.path.append("/canary")
threading.Thread(target=threading.Event().wait, name="canary", daemon=True).start()
held = os.memfd_create("canary")
child = subprocess.Popen(["canary", "1000"], start_new_session=True, executable="/bin/sleep")
Canary = type("Canary", (), {{}}); kept = Canary()
os.chdir("/tmp"); os.umask(0o077); signal.signal(signal.SIGUSR1, lambda *_: None)
"""

JAVASCRIPT = """
const fs = require('fs');
const linkOf = (fd) => {{
  try {{ return fs.readlinkSync('/proc/self/fd/' + fd); }} catch {{ return ''; }}
}};
const places = {{
  global: globalThis.canary,
  prototype: ({{}}).canary,
  environment: process.env.CANARY,
  modules: Object.keys(require.cache).filter((one) => one.includes('canary')).join(),
  builtin: fs.canary,
  listeners: process.listenerCount('canary') || undefined,
  directory: process.cwd() === '/workspace' ? undefined : process.cwd(),
  mask: process.umask(0o022) === 0o022 ? undefined : 'changed',
  descriptors: fs.readdirSync('/proc/self/fd').filter((fd) => linkOf(fd).includes('canary')).join(),
}};
const found = Object.entries(places).filter(([, found]) => found);
console.log(JSON.stringify(Object.fromEntries(found)));
globalThis.canary = '{mark}';
Object.defineProperty(Object.prototype, 'canary', {{ value: '{mark}', configurable: true }});
process.env.CANARY = fs.canary = '{mark}';
process.on('canary', () => {{}});
process.chdir('/tmp'); process.umask(0o077);
fs.writeFileSync(`/tmp/canary-${{process.pid}}`, ''); fs.openSync(`/tmp/canary-${{process.pid}}`);
setInterval(() => {{}}, 1000).unref();
"""

SPIN = {
    "python": "print('begun')\nwhile True: pass",
    "javascript": "console.log('begun'); while (true) {}",
}
DIE = {"python": "import os; os._exit(1)", "javascript": "process.exit(1)"}


async def storm(sandbox: Sandbox, language: str, code: str, *, of: int, at_once: int) -> list[str]:
    """What each of `of` contexts has found; they end in all the ways there are."""
    found: list[str] = []
    numbers = iter(range(of))

    async def use_and_end(number: int) -> None:
        context = await sandbox.contexts.create(language)
        execution = await context.run(code.format(mark=f"mark-{number}"), deadline_s=30)
        assert (execution.ended, execution.stderr) == ("ok", b""), execution
        found.append(execution.stdout.decode())
        await ways[number % len(ways)](context)

    async def delete(context: Context) -> None:
        await sandbox.contexts.delete(context.id)

    async def delete_while_it_runs(context: Context) -> None:
        async with trio.open_nursery() as nursery:
            begun = trio.Event()

            async def run() -> None:
                execution = await context.run(SPIN[language], on_stdout=lambda _: begun.set())
                assert execution.ended == "killed"

            nursery.start_soon(run)
            await begun.wait()
            await delete(context)

    async def die(context: Context) -> None:
        assert (await context.run(DIE[language])).ended == "context lost"
        await delete(context)

    async def restart(context: Context) -> None:
        await context.restart()
        execution = await context.run(code.format(mark="again"), deadline_s=30)
        found.append(execution.stdout.decode())
        await delete(context)

    ways = [delete, delete_while_it_runs, die, restart]

    async def work() -> None:
        for number in numbers:
            await use_and_end(number)

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(work)
    return found


@pytest.mark.timeout(180)
async def test_no_context_of_python_has_been_used_before(runtime: Runtime) -> None:
    """Out of a pool that fills and empties under many who come at once."""
    pools = {"python": PoolSize(min=2, max=6)}
    async with open_sandbox(runtime=runtime, pools=pools) as sandbox:
        found = await storm(sandbox, "python", PYTHON, of=40, at_once=8)
        assert found == ["{}\n"] * 50  # every fourth was restarted and has looked once more
        assert sandbox.contexts.list() == []


@pytest.mark.timeout(180)
@needs_node
async def test_no_context_of_javascript_has_been_used_before(runtime: Runtime) -> None:
    """Likewise."""
    pools = {"javascript": PoolSize(min=1, max=3)}
    async with open_sandbox(runtime=runtime, pools=pools) as sandbox:
        found = await storm(sandbox, "javascript", JAVASCRIPT, of=12, at_once=4)
        assert found == ["{}\n"] * 15
        assert sandbox.contexts.list() == []

"""Cloning into a sandbox, from servers on the sandbox's own loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from sandbox_runtime import InvalidArgumentError, Sandbox
from sandbox_runtime.errors import GitError
from sandbox_runtime.git import CloneProgress, clone

if TYPE_CHECKING:
    from sandbox_runtime import Process

BASE = "git://127.0.0.1:9418"
HTTP = "http://127.0.0.1:8080"

REPOSITORY = """
set -e
git config --global user.name T; git config --global user.email t@example.org
git init -q -b trunk made; cd made
for n in 1 2 3; do echo $n > file; git add file; git commit -qm $n; done
git tag v1
git checkout -qb 'other branch' 2> /dev/null || git checkout -qb other
echo other > file; git commit -qam other; git checkout -q trunk
mkdir -p ../srv; git clone -q --bare . ../srv/one.git
git init -q --bare -b main ../srv/empty.git
"""

SERVER = """
import http.server, os, subprocess, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path.startswith("/private"):
            self.send_response(401); self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0"); self.end_headers(); return
        if path.startswith("/broken"):
            self.send_error(503); return
        if path.startswith("/slow"):
            print("asked", flush=True); threading.Event().wait()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        env = os.environ | {
            "GIT_PROJECT_ROOT": "/workspace/srv", "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
            "QUERY_STRING": query, "REQUEST_METHOD": self.command, "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        said = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True)
        head, _, content = said.stdout.partition(b"\\r\\n\\r\\n")
        lines = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(lines.pop("Status", "200").split()[0]))
        for name, value in lines.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers(); self.wfile.write(content)
    do_POST = do_GET
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler)
print("up", flush=True)
server.serve_forever()
"""


async def serve(sandbox: Sandbox) -> None:
    """A repository with three commits, a branch and a tag, at `BASE`; and an empty one."""
    made = await sandbox.run_process(REPOSITORY)
    assert made.ok, made.stderr
    daemon = await sandbox.start_process(
        "exec git daemon --verbose --export-all --base-path=/workspace/srv"
        " --listen=127.0.0.1 --port=9418"
    )
    await daemon.wait_for_log("Ready to rumble")


async def serve_http(sandbox: Sandbox) -> Process:
    """The same at `HTTP`, with places that want a password, are broken, or never answer."""
    server = await sandbox.start_process(["python3", "-c", SERVER])
    await server.wait_for_log("up")
    return server


async def test_a_repository_is_cloned(sandbox: Sandbox) -> None:
    """Its own default branch, into a directory named by the URL; and it is said how far it is."""
    await serve(sandbox)
    heard: list[CloneProgress] = []
    result = await clone(sandbox, f"{BASE}/one.git", on_progress=heard.append)
    assert (result.directory, result.branch) == ("/workspace/one", "trunk")
    assert await sandbox.files.read("one/file") == b"3\n"
    head = (await sandbox.run_process("git -C one rev-parse HEAD")).text.strip()
    assert result.commit == head
    received = [one for one in heard if one.phase == "Receiving objects"]
    assert received[-1].percent == 100
    assert received[-1].done == received[-1].total


async def test_a_branch_a_tag_and_a_depth(sandbox: Sandbox) -> None:
    """As they are asked for; a tag is on no branch."""
    await serve(sandbox)
    other = await clone(sandbox, f"{BASE}/one.git", branch="other", directory="a b/$(x)", depth=1)
    assert (other.branch, other.directory) == ("other", "/workspace/a b/$(x)")
    count = await sandbox.run_process(["git", "-C", other.directory, "rev-list", "--count", "HEAD"])
    assert count.text == "1\n"
    tag = await clone(sandbox, f"{BASE}/one.git", branch="v1", directory="/tmp/tag")
    assert tag.branch is None
    empty = await clone(sandbox, f"{BASE}/empty.git")
    assert (empty.branch, empty.commit) == ("main", None)


async def test_a_session_is_where_it_starts(sandbox: Sandbox) -> None:
    """In its present directory, and a command that runs there is not waited for."""
    await serve(sandbox)
    session = await sandbox.create_session()
    await session.exec("mkdir deep; cd deep; mkfifo go")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.exec, "read -r x < go")
        result = await clone(session, f"{BASE}/one.git", directory="here")
        assert result.directory == "/workspace/deep/here"
        await sandbox.exec("echo > deep/go")


async def test_smart_http(sandbox: Sandbox) -> None:
    """Works as well; what it refuses has its word."""
    await serve(sandbox)
    await serve_http(sandbox)
    assert (await clone(sandbox, f"{HTTP}/one.git")).branch == "trunk"
    for place, reason in [
        ("private/x.git", "auth_required"),
        ("missing.git", "not_found"),
        ("broken/x.git", "network"),
    ]:
        with pytest.raises(GitError) as caught:
            await clone(sandbox, f"http://user:secret@127.0.0.1:8080/{place}")
        assert caught.value.reason == reason
        assert "secret" not in str(caught.value)


async def test_a_deadline_and_a_cancellation_end_git(sandbox: Sandbox) -> None:
    """With its helpers, while the server does not answer."""
    server = await serve_http(sandbox)
    with pytest.raises(GitError) as caught:
        await clone(sandbox, f"{HTTP}/slow/x.git", deadline_s=0.5)
    assert caught.value.reason == "deadline"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clone, sandbox, f"{HTTP}/slow/y.git")
        await server.wait_for_log("asked")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("url", "options", "reason"),
    [
        (f"{BASE}/missing.git", {}, "not_found"),
        (f"{BASE}/one.git", {"branch": "missing"}, "branch_not_found"),
        (f"{BASE}/one.git", {"branch": "$(touch /tmp/pwned)"}, "branch_not_found"),
        (f"{BASE}/one.git", {"branch": "--upload-pack=touch /tmp/pwned"}, "branch_not_found"),
        (f"{BASE}/one.git", {"directory": "full"}, "directory_not_empty"),
        ("git://127.0.0.1:1/x.git", {}, "network"),
        ("http://no.such.host.invalid/x.git", {}, "network"),
        ("ext::sh -c 'touch /tmp/pwned'", {}, "transport_refused"),
        ("file:///workspace/srv/one.git", {}, "transport_refused"),
        ("/workspace/srv/one.git", {}, "transport_refused"),
        ("--upload-pack=touch /tmp/pwned", {}, "transport_refused"),
    ],
)
async def test_a_refusal_has_a_word(
    sandbox: Sandbox, url: str, options: dict[str, str], reason: str
) -> None:
    """And nothing of what was given is taken for an option or run by a shell."""
    await serve(sandbox)
    await sandbox.exec("mkdir full; touch full/x")
    with pytest.raises(GitError) as caught:
        await clone(sandbox, url, **options)  # type: ignore[arg-type]
    assert caught.value.reason in {reason, "not_found"}
    if not url.startswith(("-", "/")):
        assert caught.value.reason == reason
    assert not await sandbox.files.exists("/tmp/pwned")
    assert await sandbox.files.exists("full/x")


async def test_hooks_do_not_run_and_submodules_are_not_fetched(sandbox: Sandbox) -> None:
    """Not even those that the sandbox's user has put into the template."""
    await serve(sandbox)
    await sandbox.run_process(
        "mkdir -p t/hooks; printf '#!/bin/sh\\ntouch /tmp/pwned\\n' > t/hooks/post-checkout;"
        " chmod +x t/hooks/post-checkout; git config --global init.templateDir /workspace/t;"
        " git config --global submodule.recurse true;"
        f" cd made; git submodule add -q {BASE}/empty.git sub;"
        " git commit -qm sub; git push -q ../srv/one.git trunk"
    )
    await sandbox.exec("rm -f /tmp/pwned")
    result = await clone(sandbox, f"{BASE}/one.git")
    assert result.commit
    assert not await sandbox.files.exists("/tmp/pwned")


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("depth", {"depth": 0}),
        ("depth", {"depth": "1"}),
        ("branch", {"branch": ""}),
        ("branch", {"branch": "a\0b"}),
        ("directory", {"directory": ""}),
        ("protocols", {"protocols": ["ext"]}),
        ("protocols", {"protocols": ["http:ext"]}),
    ],
)
async def test_what_means_nothing_is_refused(
    sandbox: Sandbox, field: str, options: dict[str, object]
) -> None:
    """Before git is started."""
    with pytest.raises(InvalidArgumentError, match=field):
        await clone(sandbox, f"{BASE}/one.git", **options)  # type: ignore[arg-type]

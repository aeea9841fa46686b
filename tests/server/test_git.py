"""Git over the wire, from a repository that is served inside the sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.conftest import Client, Server

MAKE = """(set -e; mkdir -p /tmp/served; cd /tmp/served; git init -q -b trunk src; cd src
git config user.email a@b.c; git config user.name n
echo one > README; git add .; git commit -qm one; git branch side; echo two > README
git commit -qam two; cd ..; git clone -q --bare src repo.git; git -C repo.git update-server-info)"""


@pytest.fixture(scope="module")
def url(server: Server) -> Iterator[str]:
    """A repository whose default branch is `trunk`."""
    api = server.client
    api.session("git")
    made = api.run("git", MAKE)
    assert made["exitCode"] == 0, made["stderr"]
    command = "python3 -u -m http.server 8418 --bind 127.0.0.1"
    body = {"command": command, "options": {"cwd": "/tmp/served"}}
    process = api.post("/api/process/start", body).json["processId"]
    with api.events("GET", f"/api/process/{process}/stream") as events:
        while "Serving" not in next(events).get("data", ""):
            pass
    yield "http://127.0.0.1:8418/repo.git"
    api.delete(f"/api/process/{process}")


def checkout(api: Client, **fields: Any) -> Any:
    return api.post("/api/git/checkout", fields)


def test_a_repository_is_cloned_where_it_shall_be(api: Client, url: str) -> None:
    done = checkout(api, repoUrl=url, branch="side", targetDir="/workspace/a b").json
    assert (done["success"], done["exitCode"], done["branch"]) == (True, 0, "side")
    assert done["targetDir"] == "/workspace/a b"
    assert len(done["commit"]) == 40
    read = api.post("/api/read", {"path": "/workspace/a b/README"}).json
    assert read["content"] == "one\n"


def test_d56_the_default_branch_is_the_repositorys(api: Client, url: str) -> None:
    for fields in ({}, {"branch": "main"}):  # which clients send when they were told nothing
        done = checkout(api, repoUrl=url, **fields).json
        assert (done["success"], done["branch"]) == (True, "trunk"), done
        assert done["targetDir"].startswith("repo_")


def test_d56_history_may_be_cut(api: Client, url: str) -> None:
    done = checkout(api, repoUrl=url, depth=1, targetDir="/workspace/cut").json
    assert done["success"] is False  # a plain web server cannot, and the answer says it
    assert "dumb http" in done["stderr"]


def test_d20_a_branch_is_no_shell_text(api: Client, url: str) -> None:
    done = checkout(api, repoUrl=url, branch="$(touch /tmp/bait)", targetDir="/workspace/bait")
    assert (done.status, done.json["success"]) == (200, False)
    assert done.json["code"] == "GIT_BRANCH_NOT_FOUND"
    assert api.run("git", "test -e /tmp/bait")["exitCode"] == 1


def test_a_failure_is_typed_for_new_clients(modern: Client, url: str) -> None:
    missing = checkout(modern, repoUrl=url.replace("repo", "none"), targetDir="/workspace/none")
    assert (missing.status, missing.json["code"]) == (404, "GIT_REPOSITORY_NOT_FOUND")
    branch = checkout(modern, repoUrl=url, branch="none", targetDir="/workspace/none")
    assert (branch.status, branch.json["code"]) == (404, "GIT_BRANCH_NOT_FOUND")
    closed = checkout(modern, repoUrl="http://127.0.0.1:1/x.git", targetDir="/workspace/none")
    assert (closed.status, closed.json["code"]) == (502, "GIT_NETWORK_ERROR")


def test_progress_is_told_as_it_happens(api: Client, url: str) -> None:
    body = {"repoUrl": url, "targetDir": "/workspace/progress"}
    *_, complete = api.all_events("/api/git/checkout/stream", body)
    assert complete["type"] == "complete", complete
    assert complete["result"]["branch"] == "trunk"


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({}, 400, "Repository URL is required and must be a string"),
        ({"repoUrl": 5}, 400, "Repository URL is required and must be a string"),
        ({"repoUrl": ""}, 400, "Repository URL is required and must be a string"),
        ({"repoUrl": "/local/path"}, 400, "Invalid repository URL format"),
        ({"repoUrl": "file:///etc"}, 400, "Invalid repository URL format"),
        ({"repoUrl": "ext::sh -c id"}, 400, "Invalid repository URL format"),
        ({"repoUrl": "--upload-pack=id"}, 400, "Invalid repository URL format"),
        ({"repoUrl": "https://a/b", "depth": 0}, 400, "Failed to checkout repository"),
        ({"repoUrl": "https://a/b", "sessionId": "x"}, 404, "Session 'x' not found"),
        (b"{", 400, "Failed to checkout repository"),
    ],
)
def test_an_error_has_the_text_of_the_wire(api: Client, body: Any, status: int, error: str) -> None:
    for path in ("/api/git/checkout", "/api/git/checkout/stream"):
        reply = api.post(path, body)
        assert (reply.status, reply.json["error"]) == (status, error)

"""Files over the wire."""

from __future__ import annotations

import base64
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from server.conftest import Client

PATH = "Path is required and must be a string"
DANGEROUS = "Dangerous path not allowed"
EVERY_BYTE = bytes(range(256)) * 3


def run(api: Client, command: str) -> Any:
    api.session("files")
    return api.run("files", command)


def write(api: Client, path: str, content: str, **fields: Any) -> Any:
    return api.post("/api/write", {"path": path, "content": content, **fields}).json


def read(api: Client, path: str, **fields: Any) -> Any:
    return api.post("/api/read", {"path": path, **fields}).json


def stream(api: Client, path: str) -> list[Any]:
    return api.all_events("/api/read/stream", {"path": path})


@pytest.mark.parametrize(
    "content", ["", "a", "a\n", 'it\'s "$HOME" `id`\\\n', "a\nSANDBOX_EOF\ntouch /tmp/p", "\0é€😀"]
)
def test_d19_what_is_written_is_what_is_read(api: Client, content: str) -> None:
    written = write(api, "/workspace/exact/file", content)
    assert (written["success"], written["exitCode"]) == (True, 0)
    result = read(api, "/workspace/exact/file")
    if result["encoding"] == "base64":
        assert base64.b64decode(result["content"]).decode() == content
    else:
        assert result["content"] == content
    assert result["size"] == len(content.encode())
    assert run(api, "test -e /tmp/p")["exitCode"] == 1


def test_d19_base64_stands_for_bytes(api: Client) -> None:
    write(api, "/workspace/bytes", base64.b64encode(EVERY_BYTE).decode(), encoding="base64")
    result = read(api, "/workspace/bytes")
    assert (result["encoding"], result["isBinary"]) == ("base64", True)
    assert base64.b64decode(result["content"]) == EVERY_BYTE
    refused = api.post("/api/write", {"path": "/x", "content": "?", "encoding": "base64"})
    assert (refused.status, refused.json["error"]) == (400, "Failed to write file")


def test_d03_a_large_file_arrives_whole(api: Client) -> None:
    run(api, "head -c 3000000 /dev/urandom | base64 -w 0 > /workspace/large")
    expected = run(api, "sha256sum < /workspace/large; wc -c < /workspace/large")["stdout"]
    whole = read(api, "/workspace/large")
    assert whole["success"] is True
    write(api, "/workspace/copy", whole["content"])
    again = run(api, "sha256sum < /workspace/copy; wc -c < /workspace/copy")["stdout"]
    assert again == expected
    assert whole["size"] == 4_000_000


@pytest.mark.parametrize(
    ("path", "bait"),
    [("/workspace/$(touch /tmp/bait)", "/tmp/bait"), ('/workspace/"; touch /tmp/bait; "', "")],
)
def test_d20_paths_are_no_shell_text(api: Client, path: str, bait: str) -> None:
    write(api, path, "x")
    assert read(api, path)["content"] == "x"
    assert run(api, f"test -e {bait or '/tmp/bait'}")["exitCode"] == 1


def test_d21_a_list_tells_names_as_they_are(api: Client) -> None:
    run(
        api,
        "mkdir -p /workspace/L/sub/deep; cd /workspace/L; chmod 1777 sub; ln -s sub lnk; "
        "mkfifo fifo; touch .hidden DIRECTORY_NOT_FOUND ./-rf $'new\\nline' sub/deep/x; "
        "chmod 4640 DIRECTORY_NOT_FOUND; cd /workspace",
    )
    body = {"path": "/workspace/L", "options": {"recursive": True}}
    listed = api.post("/api/list-files", body).json
    files = {one["relativePath"]: one for one in listed["files"]}
    assert sorted(files) == [
        "-rf",
        "DIRECTORY_NOT_FOUND",
        "fifo",
        "lnk",
        "new\nline",
        "sub",
        "sub/deep",
        "sub/deep/x",
    ]
    assert listed["count"] == 8
    assert files["sub/deep/x"]["absolutePath"] == "/workspace/L/sub/deep/x"
    assert files["sub/deep/x"]["name"] == "x"
    kinds = [files[name]["type"] for name in ("sub", "lnk", "fifo", "-rf")]
    assert kinds == ["directory", "symlink", "other", "file"]
    assert files["DIRECTORY_NOT_FOUND"]["permissions"] == {
        "readable": True,
        "writable": True,
        "executable": False,
    }
    assert files["sub"]["mode"].startswith("d")
    assert files["sub"]["modifiedAt"].endswith("Z")
    hidden = api.post("/api/list-files", {**body, "options": {"includeHidden": True}}).json
    assert ".hidden" in [one["name"] for one in hidden["files"]]
    root = api.post("/api/list-files", {"path": "/"}).json["files"]
    assert "/workspace" in [one["absolutePath"] for one in root]


def test_d22_a_stream_cuts_no_character(api: Client) -> None:
    run(api, "python3 -c \"print('é' * 80000, end='')\" > /workspace/accents")
    metadata, *chunks, complete = stream(api, "/workspace/accents")
    assert (metadata["type"], metadata["size"], metadata["encoding"]) == (
        "metadata",
        160_000,
        "utf-8",
    )
    assert "".join(chunk["data"] for chunk in chunks) == "é" * 80_000
    assert complete == {"type": "complete", "bytesRead": 160_000}


def test_a_binary_stream_is_base64_whose_pieces_can_be_joined(api: Client) -> None:
    run(api, "printf '\\0' > /workspace/zeros; head -c 200000 /dev/zero >> /workspace/zeros")
    _, *chunks, complete = stream(api, "/workspace/zeros")
    assert len(chunks[0]["data"]) == 87_380
    joined = "".join(chunk["data"] for chunk in chunks)
    assert base64.b64decode(joined) == bytes(200_001)
    assert complete["bytesRead"] == 200_001


def test_an_empty_file_streams_as_one(api: Client) -> None:
    write(api, "/workspace/empty", "")
    metadata, complete = stream(api, "/workspace/empty")
    assert (metadata["mimeType"], metadata["isBinary"]) == ("inode/x-empty", False)
    assert complete["bytesRead"] == 0


def test_a_missing_file_ends_its_stream(api: Client, modern: Client) -> None:
    assert stream(api, "/workspace/no")[-1]["error"] == "File not found: /workspace/no"
    reply = modern.post("/api/read/stream", {"path": "/workspace/no"})
    assert (reply.status, reply.json["code"]) == (404, "FILE_NOT_FOUND")


def test_files_are_renamed_moved_and_deleted(api: Client) -> None:
    run(api, "mkdir -p /workspace/into")
    write(api, "/workspace/one", "1")
    body = {"oldPath": "/workspace/one", "newPath": "/workspace/two"}
    assert api.post("/api/rename", body).json["success"] is True
    move = {"sourcePath": "/workspace/two", "destinationPath": "/workspace/into"}
    moved = api.post("/api/move", move).json
    assert (moved["success"], moved["newPath"]) == (True, "/workspace/into/two")
    assert read(api, "/workspace/into/two")["content"] == "1"
    assert api.post("/api/delete", {"path": "/workspace/into/two"}).json["success"] is True
    assert api.post("/api/exists", {"path": "/workspace/into/two"}).json["exists"] is False


@pytest.mark.parametrize(
    ("operation", "fields", "code", "status"),
    [
        ("read", {"path": "/workspace/no"}, "FILE_NOT_FOUND", 404),
        ("read", {"path": "/workspace"}, "IS_DIRECTORY", 400),
        ("write", {"path": "/workspace/dir", "content": ""}, "IS_DIRECTORY", 400),
        ("mkdir", {"path": "/workspace/dir"}, "FILE_EXISTS", 409),
        ("mkdir", {"path": "/workspace/no/no"}, "FILE_NOT_FOUND", 404),
        ("delete", {"path": "/workspace/dir"}, "IS_DIRECTORY", 400),
        ("delete", {"path": "/workspace/no"}, "FILE_NOT_FOUND", 404),
        ("rename", {"oldPath": "/workspace/no", "newPath": "/workspace/x"}, "FILE_NOT_FOUND", 404),
        ("list-files", {"path": "/workspace/no"}, "FILE_NOT_FOUND", 404),
        ("read", {"path": "/workspace/" + "n" * 300}, "NAME_TOO_LONG", 400),
    ],
)
def test_d48_a_failed_operation_says_why(
    api: Client, modern: Client, operation: str, fields: Any, code: str, status: int
) -> None:
    run(api, "mkdir -p /workspace/dir")
    old = api.post(f"/api/{operation}", fields)
    assert (old.status, old.json["success"]) == (200, False)
    assert old.json["exitCode"] != 0
    assert old.json["code"] == code
    assert old.json["message"]
    new = modern.post(f"/api/{operation}", fields)
    assert (new.status, new.json["code"]) == (status, code)


@pytest.mark.parametrize("operation", ["mkdir", "read", "read/stream", "delete"])
@pytest.mark.parametrize(
    "path",
    ["/", "//", "/etc", "/etc/x", "//etc/x", "/./etc/x", "/usr/../x", "a/../b", "..", "/proc/1"],
)
def test_d42_system_paths_are_refused_however_they_are_written(
    api: Client, operation: str, path: str
) -> None:
    reply = api.post(f"/api/{operation}", {"path": path})
    assert (reply.status, reply.json["error"]) == (400, DANGEROUS)


def test_d42_what_only_looks_like_a_system_path_is_not_refused(api: Client, modern: Client) -> None:
    for path in ("/workspace/a..b", "/workspace/etc", "/workspace/..."):
        assert write(api, path, "x")["success"] is True
    assert api.post("/api/read", {"path": "/etcetera"}).json["code"] == "FILE_NOT_FOUND"
    assert modern.post("/api/read", {"path": "/etc/passwd"}).status == 200


def test_d42_a_link_leads_no_further_than_the_sandbox(api: Client) -> None:
    run(api, "ln -sf /etc/passwd /workspace/link")
    assert write(api, "/workspace/link", "root::0:0::/:/bin/sh")["success"] is False


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("mkdir", {}, 400, PATH),
        ("write", {"content": ""}, 400, PATH),
        ("read", {"path": ""}, 400, PATH),
        ("read", {"path": 5}, 400, PATH),
        ("rename", {"oldPath": "/workspace/x"}, 400, PATH),
        ("move", {"destinationPath": "/workspace/x"}, 400, PATH),
        ("rename", {"oldPath": "/workspace/x", "newPath": "/etc/x"}, 400, DANGEROUS),
        ("write", {"path": "/workspace/x"}, 400, "Failed to write file"),
        ("write", b"{", 400, "Failed to write file"),
        ("mkdir", b"{", 400, "Failed to mkdir"),
        ("read", b"{", 400, "Failed to read file"),
        ("read/stream", b"{", 400, "Failed to read filestream"),
        ("delete", b"{", 400, "Failed to delete file"),
        ("rename", b"{", 400, "Failed to rename file"),
        ("move", b"{", 400, "Failed to move file"),
        ("list-files", b"{", 400, "Failed to list files"),
        ("read", {"path": "x", "sessionId": "none"}, 404, "Session 'none' not found"),
        ("read", {"path": "/workspace/x", "sessionId": "no"}, 404, "Session 'no' not found"),
    ],
)
def test_an_error_has_the_text_of_the_wire(
    api: Client, path: str, body: Any, status: int, error: str
) -> None:
    reply = api.post(f"/api/{path}", body)
    assert (reply.status, reply.json["error"]) == (status, error)


def test_relative_paths_start_where_the_session_is(api: Client) -> None:
    api.session("moves")
    api.run("moves", "mkdir -p /workspace/there; cd /workspace/there")
    write(api, "here", "x", sessionId="moves")
    assert read(api, "/workspace/there/here")["content"] == "x"
    body = {"path": ".", "sessionId": "moves"}
    assert api.post("/api/list-files", body).json["files"][0]["name"] == "here"


def test_a_name_that_is_no_text_is_shown(api: Client) -> None:
    run(api, r"mkdir -p /workspace/odd; touch /workspace/odd/$'\xff'")
    listed = api.post("/api/list-files", {"path": "/workspace/odd"}).json
    assert [one["name"] for one in listed["files"]] == ["\ufffd"]


def test_d25_a_busy_session_does_not_keep_files_waiting(api: Client) -> None:
    api.session("busy")
    body = {"id": "busy", "command": "sleep 1000"}
    with api.events("POST", "/api/execute/stream", body) as events:
        assert next(events)["type"] == "start"
        assert write(api, "beside", "x", sessionId="busy")["success"] is True


def test_a_large_answer_is_one_json_text(api: Client) -> None:
    run(api, "python3 -c \"print('é\\\\n\\\"' * 700000, end='')\" > /workspace/quotes")
    reply = api.post("/api/read", {"path": "/workspace/quotes"})
    content = json.loads(reply.body)
    assert content["content"] == 'é\n"' * 700_000
    assert (content["size"], content["isBinary"]) == (2_800_000, False)


def test_a_file_goes_both_ways_as_it_is(api: Client) -> None:
    content = EVERY_BYTE * 5000
    sent = api.send("PUT", "/api/file?path=/workspace/raw/file", content)
    assert (sent.status, sent.json["success"]) == (200, True)
    whole = api.get("/api/file?path=/workspace/raw/file")
    assert (whole.status, whole.body) == (200, content)
    assert whole.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=8-", 206, b"89"),
        ("bytes=-3", 206, b"789"),
        ("bytes=5-100", 206, b"56789"),
        ("bytes=10-", 416, None),
        ("bytes=1-2,4-5", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ],
)
def test_a_part_of_a_file_may_be_asked_for(
    api: Client, asked: str, status: int, expected: bytes | None
) -> None:
    api.send("PUT", "/api/file?path=/workspace/digits", b"0123456789")
    reply = api.get("/api/file?path=/workspace/digits", Range=asked)
    assert reply.status == status
    assert expected is None or reply.body == expected


def test_what_is_wrong_with_plain_bytes_has_its_status(api: Client) -> None:
    assert api.get("/api/file").status == 400
    assert api.get("/api/file?path=/workspace/no").status == 404
    assert api.get("/api/file?path=/workspace").status == 400
    assert api.send("PUT", "/api/file?path=/proc/x", b"").status in {403, 404}


def test_a_client_that_leaves_while_it_sends_changes_nothing(api: Client) -> None:
    write(api, "/workspace/whole", "before")
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        head = (
            "PUT /api/file?path=/workspace/whole HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        )
        connection.sendall(head.encode() + b"half")
    assert read(api, "/workspace/whole")["content"] == "before"

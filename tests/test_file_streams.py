"""Files in pieces and parts, what they are, and where they go."""

from __future__ import annotations

import errno
import os
import random

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox_runtime import FileAccessError, InvalidArgumentError, Limits, Sandbox, open_sandbox
from sandbox_runtime.mime import BINARY, EMPTY, guess, is_binary
from sandbox_runtime.settings import BREAK_GRACE_S

MIB = 1024 * 1024


async def stream(sandbox: Sandbox, path: str, pieces: int) -> None:
    """Writes that many megabytes."""
    async with sandbox.files.open_write(path, make_parents=False) as writer:
        for _ in range(pieces):
            await writer.send_all(b"x" * MIB)


async def names(sandbox: Sandbox, path: str = ".") -> list[str]:
    return [entry.path for entry in await sandbox.files.list(path)]


async def test_a_part_of_a_file_is_read(sandbox: Sandbox) -> None:
    """From any place, as much as is there."""
    content = bytes(range(256)) * 10_000
    await sandbox.files.write("file", content)
    for offset, length in [(0, 0), (0, 10), (255, 3), (2_559_990, 100), (9_999_999, 5), (7, None)]:
        part = await sandbox.files.read("file", offset=offset, length=length)
        assert part == content[offset:][:length]
    assert await sandbox.files.read("file", offset=5, length=3, limit_bytes=3) == content[5:8]
    for wrong in [-1, "1", 1 << 63]:
        with pytest.raises(InvalidArgumentError, match="offset"):
            await sandbox.files.read("file", offset=wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="length"):
            await sandbox.files.read("file", length=wrong)  # type: ignore[arg-type]


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.binary(min_size=1, max_size=80).filter(lambda n: not set(n) & {0, 47} and n != b"."),
        min_size=1,
        max_size=8,
        unique=True,
    ),
    st.integers(0, 300),
    st.integers(0, 300),
)
def test_any_name_and_any_part(given_names: list[bytes], offset: int, length: int) -> None:
    """What was written under a name is listed and read under that name."""

    async def check() -> None:
        async with open_sandbox() as sandbox:
            for number, name in enumerate(given_names):
                path = "d/" + os.fsdecode(name)
                if name == b"..":
                    continue
                await sandbox.files.write(path, bytes([number]) * 200)
                part = await sandbox.files.read(path, offset=offset, length=length)
                assert part == (bytes([number]) * 200)[offset : offset + length]
            wanted = sorted(name for name in given_names if name != b"..")
            if wanted:
                listed = await sandbox.files.list("d")
                assert [os.fsencode(entry.path) for entry in listed] == wanted
                visible = await sandbox.files.list("d", hidden=False)
                assert [os.fsencode(entry.name) for entry in visible] == [
                    name for name in wanted if not name.startswith(b".")
                ]

    trio.run(check)


async def test_a_large_file_goes_in_pieces() -> None:
    """In both directions, in little memory; its type and size are told first."""
    piece = random.Random(1).randbytes(MIB)  # noqa: S311 - no secret
    limits = Limits(workspace_bytes=300 * MIB)
    async with open_sandbox(limits=limits) as sandbox:
        async with sandbox.files.open_write("big") as writer:
            for _ in range(200):
                await writer.send_all(piece)
            assert not await sandbox.files.exists("big")
        count = 0
        async with sandbox.files.open_read("big") as reader:
            assert (reader.size_bytes, reader.mode) == (200 * MIB, 0o644)
            assert (reader.mime_type, reader.is_binary) == (BINARY, True)
            async for chunk in reader:
                start = count % MIB
                assert chunk == (piece + piece)[start : start + len(chunk)]
                count += len(chunk)
            reader.seek(5)
            assert await reader.receive_some(10) == piece[5:15]
        assert count == 200 * MIB
        assert (await sandbox.exec("stat -c %s big")).text == f"{200 * MIB}\n"


async def test_a_stream_that_is_given_up_changes_nothing(sandbox: Sandbox) -> None:
    """By an error or by cancellation; no temporary file stays."""
    await sandbox.files.write("file", b"old")

    async def fail() -> None:
        async with sandbox.files.open_write("file") as writer:
            await writer.send_all(b"new" * 100_000)
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await fail()
    with trio.CancelScope() as scope:
        async with sandbox.files.open_write("file") as writer:
            await writer.send_all(b"new")
            scope.cancel()
            await writer.send_all(b"new" * 100_000)
    assert scope.cancelled_caught
    assert await names(sandbox) == ["file"]
    assert await sandbox.files.read("file") == b"old"


async def test_a_stream_keeps_the_mode_and_makes_parents(sandbox: Sandbox) -> None:
    """As a whole write does; nothing at all is an empty file."""
    await sandbox.exec("touch file; chmod 640 file")
    async with sandbox.files.open_write("file") as writer:
        await writer.send_all(b"1")
        await writer.send_all(memoryview(b"23"))  # type: ignore[arg-type]
    async with sandbox.files.open_write("a/b/empty", mode=0o755):
        pass
    assert (await sandbox.exec("stat -c '%a %s' file a/b/empty")).text == "640 3\n755 0\n"


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("d", errno.EISDIR),
        ("no/way", errno.ENOENT),
        ("/usr/x", errno.EROFS),
        ("f/x", errno.ENOTDIR),
    ],
)
async def test_a_stream_that_is_refused_says_why(sandbox: Sandbox, path: str, number: int) -> None:
    """At the latest at its end; nobody waits for a second answer."""
    await sandbox.exec("mkdir d; touch f")
    begun_s = trio.current_time()
    with pytest.raises(FileAccessError) as caught:
        await stream(sandbox, path, 50)
    assert trio.current_time() - begun_s < BREAK_GRACE_S
    assert (caught.value.errno, caught.value.path) == (number, path)


async def test_a_full_sandbox_refuses_a_stream() -> None:
    """What was there stays."""
    async with open_sandbox(limits=Limits(workspace_bytes=2 * MIB)) as sandbox:
        await sandbox.files.write("file", b"old")
        with pytest.raises(FileAccessError) as caught:
            await stream(sandbox, "file", 5)
        assert caught.value.errno == errno.ENOSPC
        assert await names(sandbox) == ["file"]


async def test_slow_writers_stand_in_nobodys_way(sandbox: Sandbox) -> None:
    """As many as there may be, and one more that waits its turn."""
    async with trio.open_nursery() as nursery:
        started = [trio.Event() for _ in range(33)]
        go_on = trio.Event()

        async def write(number: int) -> None:
            async with sandbox.files.open_write(f"slow {number}") as writer:
                await writer.send_all(b"x")
                started[number].set()
                await go_on.wait()

        for number in range(33):
            nursery.start_soon(write, number)
        for event in started:
            await event.wait()
        with trio.fail_after(20):
            await sandbox.files.write("quick", b"1")
            assert await sandbox.files.read("quick") == b"1"
        go_on.set()
    assert len([name for name in await names(sandbox) if name.startswith("slow")]) == 33


async def test_files_are_served_when_there_is_room_for_no_process(sandbox: Sandbox) -> None:
    """User code that has taken all of it does not shut the door."""
    process = await sandbox.start_process(
        "while :; do sleep 1000 & done 2>/dev/null", deadline_s=40, limit_bytes=0
    )
    with trio.fail_after(30):
        for number in range(20):
            await sandbox.files.write("small", b"1")
            await sandbox.files.write("large", b"1" * 100_000)
            assert len(await sandbox.files.read("large")) == 100_000
            assert len(await sandbox.files.list()) == 2, number
    await process.kill()


async def test_what_is_there_is_told(sandbox: Sandbox) -> None:
    """Kind, size, mode, time; through a link or the link itself."""
    await sandbox.exec(
        "printf 12345 > f; chmod 751 f; touch -d @1000.5 f; mkdir d; ln -s f l; ln -s no dangling"
    )
    entry = await sandbox.files.stat("f")
    assert (entry.path, entry.kind, entry.size_bytes, entry.mode) == ("f", "file", 5, 0o751)
    assert entry.modified_s == 1000.5
    assert (await sandbox.files.stat("l")).kind == "file"
    assert (await sandbox.files.stat("l", follow=False)).kind == "symlink"
    assert (await sandbox.files.stat("/workspace/d")).kind == "directory"
    found = {path: await sandbox.files.exists(path) for path in ["f", "l", "dangling", "no", "f/x"]}
    assert found == {"f": True, "l": True, "dangling": False, "no": False, "f/x": False}
    await sandbox.exec("mkdir closed; touch closed/x; chmod 0 closed")
    with pytest.raises(FileAccessError) as caught:
        await sandbox.files.exists("closed/x")
    assert caught.value.errno == errno.EACCES


async def test_relative_paths_start_where_the_caller_says(sandbox: Sandbox) -> None:
    """In every verb."""
    files = sandbox.files
    await files.make_directory("a/b")
    await files.write("f", b"1", cwd="a/b")
    assert await files.read("f", cwd="/workspace/a/b") == b"1"
    assert (await files.stat("f", cwd="a/b")).size_bytes == 1
    assert await files.exists("b/f", cwd="a")
    await files.move("f", "../g", cwd="a/b")
    assert [entry.path for entry in await files.list(cwd="a")] == ["b", "g"]
    await files.make_directory("c", cwd="a")
    await files.remove("c", cwd="a")
    async with files.open_write("h", cwd="a"), files.open_read("g", cwd="a"):
        pass
    assert await files.read_text("/workspace/a/h", cwd="/nowhere") == ""


async def test_moving_replaces_at_once(sandbox: Sandbox) -> None:
    """As rename(2): files by files, empty directories by directories, links as links."""
    files = sandbox.files
    await sandbox.exec("echo 1 > a; echo 2 > b; mkdir d e full; touch full/x; ln -s a l")
    await files.move("a", "b")
    await files.move("l", "m")
    await files.move("d", "e")
    assert await names(sandbox) == ["b", "e", "full", "m"]
    assert await files.read("b") == b"1\n"
    for source, target, number in [
        ("missing", "x", errno.ENOENT),
        ("e", "full", errno.ENOTEMPTY),
        ("b", "e", errno.EISDIR),
        ("e", "b", errno.ENOTDIR),
        ("e", "e/below", errno.EINVAL),
        ("b", "no/x", errno.ENOENT),
    ]:
        with pytest.raises(FileAccessError) as caught:
            await files.move(source, target)
        assert caught.value.errno == number


async def test_moving_to_another_file_system(sandbox: Sandbox) -> None:
    """Looks the same: content, modes, times, links; and the source is gone."""
    await sandbox.exec(
        "mkdir -p d/deep/er; echo 1 > d/deep/f; chmod 640 d/deep/f; touch -d @1000 d/deep/f;"
        " ln -s ../f d/deep/l; chmod 700 d/deep/er; echo 2 > f; ln -s f l; echo old > /tmp/f"
    )
    for name in ["d", "f", "l"]:
        await sandbox.files.move(name, f"/tmp/{name}")
    assert await names(sandbox) == []
    said = await sandbox.exec(
        "cd /tmp; cat d/deep/f f; stat -c '%a %Y' d/deep/f; readlink d/deep/l l;"
        " stat -c %a d/deep/er; find . -maxdepth 1 -name '.?*'; cd - > /dev/null"
    )
    assert said.text == "1\n2\n640 1000\n../f\nf\n700\n"
    await sandbox.exec("mkdir e full /tmp/e; mkfifo full/pipe; touch g")
    for source, target, number in [
        ("g", "/tmp/e", errno.EISDIR),
        ("e", "/tmp/f", errno.ENOTDIR),
        ("e", "/tmp/d", errno.ENOTEMPTY),
    ]:
        with pytest.raises(FileAccessError) as caught:
            await sandbox.files.move(source, target)
        assert caught.value.errno == number
    with pytest.raises(FileAccessError, match="not a regular file"):
        await sandbox.files.move("full", "/tmp/full")
    assert await names(sandbox, "full") == ["pipe"]
    assert (await sandbox.exec("cd /tmp; find . -maxdepth 1 -name '.?*'; ls e")).text == ""


async def test_a_tree_that_changes_while_it_is_removed(sandbox: Sandbox) -> None:
    """A directory that becomes a link is not followed: what it leads to stays."""
    await sandbox.exec("mkdir keep; touch keep/x; mkfifo up")
    process = await sandbox.start_process(
        "echo > up; while :; do mkdir -p t/a/b; touch t/a/b/c; rm -rf t/a; ln -sfn ../keep t/a;"
        " rm -f t/a; done 2>/dev/null"
    )
    await sandbox.exec("read -r x < up")
    for _ in range(300):
        try:
            await sandbox.files.remove("t", recursive=True)
        except FileAccessError as error:
            assert error.errno in {errno.ENOENT, errno.ENOTEMPTY, errno.ENOTDIR}  # noqa: PT017
    await process.kill()
    assert await names(sandbox, "keep") == ["x"]


async def test_a_very_deep_tree_breaks_nothing(sandbox: Sandbox) -> None:
    """It is removed, or refused with a reason, and the next call is served."""
    await sandbox.exec(
        [
            "python3",
            "-c",
            "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\nopen('f', 'w')",
        ]
    )
    assert len(await sandbox.files.list(recursive=True)) >= 2000
    await sandbox.files.remove("d", recursive=True)
    assert await names(sandbox) == []


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", EMPTY),
        (b"\x89PNG\r\n\x1a\n" + bytes(8), "image/png"),
        (b"print('x')\n", "text/plain"),
        (b"a,b\n1,2\n", "text/plain"),
        ("grüße".encode(), "text/plain"),
        ("grüße".encode("latin-1"), "text/plain"),
        (b"\xff\xfea\0b\0", "text/plain"),
        (b'{"a": [1, 2]}', "application/json"),
        (b"{not json", "text/plain"),
        (b"[" * 60_000, "text/plain"),
        (b"<!DOCTYPE html><p>", "text/html"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "image/svg+xml"),
        (b"<?xml version='1.0'?><a/>", "text/xml"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "application/pdf"),
        (b"PK\x03\x04" + bytes(30), "application/zip"),
        (b"BM is how this sentence begins", "text/plain"),
        (b"ID3 tags are explained here", "text/plain"),
        (bytes(range(256)), BINARY),
        (b"\0" * 100, BINARY),
    ],
)
def test_a_type_is_guessed_from_content(content: bytes, kind: str) -> None:
    """By its first bytes alone."""
    assert guess(content, whole=True) == kind
    assert is_binary(kind) == (kind in {BINARY, "image/png", "application/pdf", "application/zip"})


@given(st.binary(max_size=2000))
def test_any_content_has_a_type(content: bytes) -> None:
    """And what is called text has no NUL, unless it says that it is UTF-16."""
    kind = guess(content, whole=True)
    if b"\0" in content and content[:2] not in {b"\xff\xfe", b"\xfe\xff"}:
        assert is_binary(kind)

"""Files: a path means inside what it means to user code, and content is exact."""

from __future__ import annotations

import errno
import os
import random
import stat
from pathlib import Path
from typing import Any

import pytest
import trio

from sandbox_runtime import (
    FileAccessError,
    InvalidArgumentError,
    Limits,
    Runtime,
    Sandbox,
    SandboxClosedError,
    open_sandbox,
)

MIB = 1024 * 1024
SECRET = "of the host"


async def test_what_is_written_is_read(sandbox: Sandbox) -> None:
    """By the API and by commands, text and binary, empty too."""
    for content in [b"", b"\0\xff\n", bytes(range(256)) * 1000]:
        await sandbox.files.write("file", content)
        assert await sandbox.files.read("file") == content
        assert (await sandbox.exec(["cat", "file"])).stdout == content
    await sandbox.files.write("text", "grüße\n")
    assert await sandbox.files.read_text("/workspace/text") == "grüße\n"
    await sandbox.exec("printf made > made")
    assert await sandbox.files.read(Path("made")) == b"made"


async def test_thirty_megabytes_arrive(sandbox: Sandbox) -> None:
    """In both directions, byte by byte."""
    content = random.Random(1).randbytes(30 * MIB)  # noqa: S311 - no secret
    await sandbox.files.write("big", content)
    assert (await sandbox.exec("stat -c %s big")).text == f"{30 * MIB}\n"
    assert await sandbox.files.read("big") == content


async def test_a_limit_on_reading_is_kept(sandbox: Sandbox) -> None:
    """A larger file is an error, not a part of it."""
    await sandbox.files.write("file", b"12345")
    assert await sandbox.files.read("file", limit_bytes=5) == b"12345"
    with pytest.raises(FileAccessError) as caught:
        await sandbox.files.read("file", limit_bytes=4)
    assert caught.value.errno == errno.EFBIG


async def test_a_directory_is_listed_in_order(sandbox: Sandbox) -> None:
    """With kinds, sizes and modes; symlinks are told, not followed."""
    await sandbox.exec(
        "mkdir -p d/below; printf 12345 > d/b; chmod 640 d/b; ln -s / d/link; mkfifo d/pipe;"
        "touch d/below/x"
    )
    entries = await sandbox.files.list("d")
    assert [(entry.path, entry.kind) for entry in entries] == [
        ("b", "file"),
        ("below", "directory"),
        ("link", "symlink"),
        ("pipe", "other"),
    ]
    assert (entries[0].size_bytes, entries[0].mode) == (5, 0o640)
    paths = [entry.path for entry in await sandbox.files.list("d", recursive=True)]
    assert paths == ["b", "below", "below/x", "link", "pipe"]
    assert [entry.path for entry in await sandbox.files.list()] == ["d"]


async def test_directories_are_made_with_those_above(sandbox: Sandbox) -> None:
    """And may exist; without `make_parents` neither holds."""
    await sandbox.files.make_directory("a/b/c")
    await sandbox.files.make_directory("a/b/c")
    with pytest.raises(FileAccessError) as exists:
        await sandbox.files.make_directory("a/b/c", make_parents=False)
    with pytest.raises(FileAccessError) as missing:
        await sandbox.files.make_directory("x/y", make_parents=False)
    assert (exists.value.errno, missing.value.errno) == (errno.EEXIST, errno.ENOENT)


async def test_a_write_makes_the_directories_above(sandbox: Sandbox) -> None:
    """Unless it is told not to."""
    await sandbox.files.write("new/deep/file", b"1")
    assert await sandbox.files.read("new/deep/file") == b"1"
    with pytest.raises(FileAccessError) as caught:
        await sandbox.files.write("other/file", b"1", make_parents=False)
    assert caught.value.errno == errno.ENOENT


async def test_removing(sandbox: Sandbox) -> None:
    """A file, a link and not its target, an empty directory; a full one only when asked."""
    await sandbox.exec(
        "mkdir -p d/e full/x; touch f t full/x/y; ln -s t link; ln -s /tmp/t full/out"
    )
    await sandbox.exec("mkdir /tmp/t; touch /tmp/t/stays")
    for path in ["f", "link", "d/e"]:
        await sandbox.files.remove(path)
    with pytest.raises(FileAccessError) as caught:
        await sandbox.files.remove("full")
    assert caught.value.errno == errno.ENOTEMPTY
    await sandbox.files.remove("full", recursive=True)
    with pytest.raises(FileAccessError) as missing:
        await sandbox.files.remove("f")
    assert missing.value.errno == errno.ENOENT
    assert (await sandbox.exec("ls . d /tmp/t")).text == ".:\nd\nt\n\n/tmp/t:\nstays\n\nd:\n"


async def test_modes(sandbox: Sandbox) -> None:
    """A new file has the mode that was asked for, one that is there keeps its own."""
    await sandbox.files.write("new", b"", mode=0o751)
    await sandbox.files.write("plain", b"")
    await sandbox.exec("touch old; chmod 600 old")
    await sandbox.files.write("old", b"2", mode=0o777)
    modes = await sandbox.exec("stat -c %a new plain old; stat -c %U new")
    assert modes.text == "751\n644\n600\nsandbox\n"
    for mode in [-1, 0o4755, 0o10000]:
        with pytest.raises(InvalidArgumentError, match="mode"):
            await sandbox.files.write("new", b"", mode=mode)


async def test_a_write_goes_through_a_symlink(sandbox: Sandbox) -> None:
    """To its target, which may not be there yet; the link stays."""
    await sandbox.exec("mkdir d; touch d/t; ln -s d/t link; ln -s d/new dangling; ln -s link two")
    for link in ["link", "dangling", "two"]:
        await sandbox.files.write(link, link)
    assert (await sandbox.exec("cat d/t d/new; readlink link dangling")).text == (
        "twodanglingd/t\nd/new\n"
    )


async def test_a_path_is_the_kernels_affair(sandbox: Sandbox) -> None:
    """`link/..` is above the target, as for every program, and not beside the link."""
    await sandbox.exec("mkdir -p /tmp/d/e; echo right > /tmp/d/x; ln -s /tmp/d/e l; echo wrong > x")
    assert (await sandbox.exec(["cat", "l/../x"])).text == "right\n"
    assert await sandbox.files.read("l/../x") == b"right\n"


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../../etc/passwd", "link", "up/etc/passwd"])
async def test_the_hosts_files_are_nowhere(sandbox: Sandbox, path: str) -> None:
    """Absolute, with dots or through links: it is the sandbox's own file."""
    await sandbox.exec("ln -s /etc/passwd link; ln -s ../../../.. up")
    inside = (await sandbox.exec("cat /etc/passwd")).stdout
    assert await sandbox.files.read(path) == inside
    assert inside != Path("/etc/passwd").read_bytes()


async def test_a_file_of_the_host_is_missing(sandbox: Sandbox, tmp_path: Path) -> None:
    """Whatever its mode."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o666)
    await sandbox.exec(["ln", "-s", str(secret), "link"])
    for path in [str(secret), "link", f"/proc/self/root{secret}", f"/proc/1/root{secret}"]:
        with pytest.raises(FileAccessError):
            await sandbox.files.read(path)


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
async def test_what_is_no_regular_file_is_refused_at_once(sandbox: Sandbox, kind: str) -> None:
    """Nobody waits for a writer; the message says why."""
    await sandbox.exec("mkfifo fifo; ln -s /dev/null device")
    await sandbox.exec("python3 -c 'import socket; socket.socket(1).bind(\"socket\")'")
    with trio.fail_after(20):
        with pytest.raises(FileAccessError):
            await sandbox.files.read(kind)
        if kind != "socket":
            with pytest.raises(FileAccessError, match="not a regular file"):
                await sandbox.files.write(kind, b"x")


@pytest.mark.parametrize(
    ("path", "reading", "writing"),
    [
        ("missing", errno.ENOENT, None),
        ("file/below", errno.ENOTDIR, errno.ENOTDIR),
        ("directory", errno.EISDIR, errno.EISDIR),
        ("closed", errno.EACCES, None),
        ("/usr/bin/new", errno.ENOENT, errno.EROFS),
        ("/new", errno.ENOENT, errno.EROFS),
        ("loop", errno.ELOOP, errno.ELOOP),
        ("x" * 300, errno.ENAMETOOLONG, errno.ENAMETOOLONG),
    ],
)
async def test_a_refusal_has_its_number(
    sandbox: Sandbox, path: str, reading: int | None, writing: int | None
) -> None:
    """That of the kernel, and the path as it was given."""
    await sandbox.exec("touch file closed; chmod 0 closed; mkdir directory; ln -s loop loop")
    if reading is not None:
        with pytest.raises(FileAccessError) as caught:
            await sandbox.files.read(path)
        assert (caught.value.errno, caught.value.path) == (reading, path)
    if writing is not None:
        with pytest.raises(FileAccessError) as caught:
            await sandbox.files.write(path, b"x")
        assert caught.value.errno in {writing, errno.EPERM, errno.EEXIST}
    assert await sandbox.files.read("file") == b""


@pytest.mark.parametrize("path", ["", "a\0b", 5, None])
async def test_a_path_that_means_nothing_is_refused(sandbox: Sandbox, path: Any) -> None:
    """By the name of the argument."""
    with pytest.raises(InvalidArgumentError, match="path"):
        await sandbox.files.read(path)


async def test_text_that_utf_8_has_no_bytes_for_is_the_callers_mistake(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidArgumentError, match=r"content.*udc80.*at 2"):
        await sandbox.files.write("file", "ab\udc80")
    assert not await sandbox.files.exists("file")


async def test_a_full_sandbox_keeps_the_old_content(runtime: Runtime) -> None:
    """`ENOSPC`, no temporary file is left, and there is room as before."""
    limits = Limits(workspace_bytes=2 * MIB)
    async with open_sandbox(runtime=runtime, limits=limits) as sandbox:
        await sandbox.files.write("file", b"old")
        for _ in range(3):
            with pytest.raises(FileAccessError) as caught:
                await sandbox.files.write("file", b"x" * (3 * MIB))
            assert caught.value.errno == errno.ENOSPC
        assert (await sandbox.exec("ls -A; cat file")).text == "file\nold"
        await sandbox.files.write("file", b"y" * MIB)
        assert await sandbox.files.read("file") == b"y" * MIB


async def test_a_file_larger_than_allowed_keeps_the_old_content(runtime: Runtime) -> None:
    """The limit on a file's size holds for this API too."""
    async with open_sandbox(runtime=runtime, limits=Limits(file_size_bytes=MIB)) as sandbox:
        await sandbox.files.write("file", b"old")
        with pytest.raises(FileAccessError) as caught:
            await sandbox.files.write("file", b"x" * (2 * MIB))
        assert caught.value.errno == errno.EFBIG
        assert (await sandbox.exec("ls -A; cat file")).text == "file\nold"


async def test_a_reader_sees_the_old_or_the_new(sandbox: Sandbox) -> None:
    """Never a part, never none: a write replaces the file at once."""
    size = 200_000
    await sandbox.files.write("file", b"a" * size)
    await sandbox.exec("mkfifo started")
    watch = (
        "echo > started; while :; do x=$(cat file) || echo gone; echo ${#x} $(tr -s ab <<< $x);"
        " [ -e stop ] && break; done"
        " | sort -u"
    )
    session = await sandbox.create_session()
    results = []

    async def run() -> None:
        results.append(await session.exec(watch))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await sandbox.exec("read -r x < started")
        for number in range(60):
            await sandbox.files.write("file", (b"b" if number % 2 else b"a") * size)
        await sandbox.files.write("stop", b"")
    seen = set(results[0].text.splitlines())
    assert seen
    assert seen <= {f"{size} a", f"{size} b"}


async def test_names_may_hold_any_bytes(sandbox: Sandbox) -> None:
    """What is no UTF-8 comes surrogate-escaped and goes back as it came."""
    name = os.fsdecode(b"\xff \n*'\xfe")
    await sandbox.files.write(name, b"1")
    (entry,) = await sandbox.files.list()
    assert entry.path == name
    assert await sandbox.files.read(entry.path) == b"1"
    assert await sandbox.files.read(Path(name)) == b"1"
    assert (await sandbox.exec("printf '%s' *")).stdout == os.fsencode(name)


async def test_a_path_that_is_swapped_never_leads_outside(sandbox: Sandbox, tmp_path: Path) -> None:
    """User code that swaps it in a loop gets its own files read, or an error."""
    (tmp_path / "secret").write_text(SECRET)
    inside = (await sandbox.exec("cat /etc/passwd")).stdout
    await sandbox.files.write("own", b"own")
    await sandbox.exec(
        f"mkfifo started; mkdir real; echo mine > real/passwd; cat real/passwd; "
        f"ln -s {tmp_path} outside; ln -s /etc etc; "
        "(echo > started; while :; do"
        " ln -sfn /etc/passwd swapped; ln -sfn ../../../etc/passwd swapped;"
        f" ln -sfn {tmp_path}/secret swapped; ln -f own swapped;"
        " ln -sfn /proc/1/root/etc/passwd swapped; rm -f swapped; mkfifo swapped; rm swapped;"
        " ln -sfn etc directory; ln -sfn real directory; ln -sfn outside directory;"
        " done) & read -r x < started"
    )
    found = set()
    refused = 0
    with trio.fail_after(40):
        for _ in range(1000):
            for path in ["swapped", "directory/passwd", "directory/secret"]:
                try:
                    found.add(await sandbox.files.read(path))
                except FileAccessError:
                    refused += 1
    assert found <= {inside, b"own", b"mine\n"}
    assert SECRET.encode() not in found
    assert found
    assert refused


async def test_a_swapped_target_is_never_written_outside(sandbox: Sandbox, tmp_path: Path) -> None:
    """Nor listed, nor removed."""
    (tmp_path / "secret").write_text(SECRET)
    await sandbox.exec(
        f"mkfifo started; mkdir real; (echo > started; while :; do "
        f"ln -sfn {tmp_path} d; ln -sfn real d; done) & read -r x < started"
    )
    for number in range(200):
        for attempt in (
            sandbox.files.write("d/secret", b"changed"),
            sandbox.files.write(f"d/{number}", b"made"),
            sandbox.files.remove("d/secret"),
        ):
            try:
                await attempt
            except FileAccessError:
                continue
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").read_text() == SECRET


async def test_calls_at_the_same_time_do_not_mix(sandbox: Sandbox) -> None:
    """Each gets its own file."""

    async def check(number: int) -> None:
        content = bytes([number]) * (number * 1000)
        await sandbox.files.write(f"file {number}", content)
        assert await sandbox.files.read(f"file {number}") == content

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(check, number)


async def test_a_cancelled_call_costs_only_itself(sandbox: Sandbox) -> None:
    """The next one works, and no descriptor and no temporary file stays."""
    await sandbox.files.write("file", b"old")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(sandbox.files.write, "file", b"x" * (4 * MIB))
                nursery.start_soon(sandbox.files.read, "file")
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert len(await sandbox.files.read("file")) in {3, 4 * MIB}
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert [entry.path for entry in await sandbox.files.list()] == ["file"]


async def test_a_closed_sandbox_refuses_every_call() -> None:
    """Plainly, with an error that says so."""
    async with open_sandbox() as sandbox:
        await sandbox.files.write("file", b"")
        files = sandbox.files
    for attempt in (
        files.read("file"),
        files.write("file", b""),
        files.list(),
        files.make_directory("d"),
        files.remove("file"),
    ):
        with pytest.raises(SandboxClosedError):
            await attempt


async def test_more_entries_than_agreed_are_an_error(sandbox: Sandbox) -> None:
    """Not a part of them."""
    await sandbox.exec("mkdir many; (cd many; seq 100001 | xargs touch)", deadline_s=50)
    with pytest.raises(FileAccessError) as caught:
        await sandbox.files.list("many")
    assert caught.value.errno == errno.E2BIG
    await sandbox.exec("rm many/1")
    assert len(await sandbox.files.list("many")) == 100_000


async def test_the_report_of_a_mode_is_only_permission_bits(sandbox: Sandbox) -> None:
    """A set-id bit is shown, and is worth nothing (`no_new_privs`)."""
    await sandbox.exec("cp /usr/bin/id id; chmod 4755 id")
    (entry,) = await sandbox.files.list()
    assert entry.mode == stat.S_ISUID | 0o755

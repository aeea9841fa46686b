"""Directories of the host that sandboxes show: under which names, and how."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox_runtime import open_runtime, open_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["/tmp", "/var/tmp"])
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory below one that each sandbox has itself, and one elsewhere."""
    with tempfile.TemporaryDirectory(dir=request.param) as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_a_directory_is_there_under_the_name_that_was_given(place: Path) -> None:
    """Through links to links, relative or absolute, and beside what they lead to."""
    (place / "real" / "deep").mkdir(parents=True)
    (place / "real" / "deep" / "file").write_text("content")
    (place / "relative").symlink_to("real")
    (place / "absolute").symlink_to(place / "relative" / "deep")
    (place / "kept").mkdir()
    named = [place / "absolute", place / "relative", place / "kept"]
    async with (
        open_runtime(read_only=[str(path) for path in named]) as runtime,
        open_sandbox(runtime=runtime) as sandbox,
    ):
        for path in (place / "absolute", place / "relative/deep", place / "real/deep"):
            assert (await sandbox.exec(["cat", f"{path}/file"])).stdout == b"content"
            refused = await sandbox.exec(["touch", f"{path}/other"])
            assert b"Read-only" in refused.stderr
        listed = await sandbox.exec(["ls", str(place)])
        assert listed.stdout.split() == [b"absolute", b"kept", b"real", b"relative"]


async def test_the_name_of_a_directory_may_lead_through_several_links(place: Path) -> None:
    """As `current` does, which leads to a version, which leads to a store."""
    store = place / "store" / "v1"
    store.mkdir(parents=True)
    (store / "tool").write_text("content")
    (place / "versions").mkdir()
    (place / "versions" / "one").symlink_to("../store/v1")
    (place / "current").symlink_to("versions/one")
    shown = str(place / "current")
    async with open_runtime(read_only=[shown]) as runtime, open_sandbox(runtime=runtime) as sandbox:
        for path in (shown, f"{place}/versions/one", store):
            assert (await sandbox.exec(["cat", f"{path}/tool"])).stdout == b"content"
        assert (await sandbox.run_code(f"open({shown + '/tool'!r}).read()")).text == "'content'"

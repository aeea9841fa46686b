"""Directories of the host that sandboxes show: under which names, and how."""

from __future__ import annotations

import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox_runtime import open_runtime, open_sandbox
from sandbox_runtime.interpreters.installation import read_only_paths

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


async def test_an_interpreter_in_somebodys_directory_shows_only_itself(place: Path) -> None:
    """A home or a project that is a virtual environment too keeps its files to itself."""
    home = place / "home"
    venv.create(home, with_pip=False)
    packages = home / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib"))
    (home / "secret").write_text("secret")
    (home / "share").mkdir(exist_ok=True)
    (home / "share" / "keys").write_text("secret")
    async with (
        open_runtime(python=str(home / "bin" / "python")) as runtime,
        open_sandbox(runtime=runtime) as sandbox,
    ):
        text = f"import sys, os; sys.prefix, sorted(os.listdir({str(home)!r}))"
        shown = await sandbox.run_code(text)
        assert str(home) in str(shown.text)
        assert "pyvenv.cfg" in str(shown.text)
        assert "secret" not in str(shown.text)
        assert "share" not in str(shown.text)
        assert (await sandbox.exec(["cat", f"{home}/secret"])).exit_code == 1


def test_an_installation_of_its_own_is_shown_whole(place: Path) -> None:
    """One mount instead of six; never a home, nor what lies above one."""
    venv.create(place / "env", with_pip=False)
    python = str(place / "env" / "bin" / "python")
    assert str(place / "env") in read_only_paths(python)
    assert str(place / "env" / "bin") not in read_only_paths(python)


def test_a_home_is_never_shown_whole(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if there is nothing else in it now: something may come."""
    venv.create(place / "home", with_pip=False)
    monkeypatch.setenv("HOME", str(place / "home"))
    shown = read_only_paths(str(place / "home" / "bin" / "python"))
    assert str(place / "home") not in shown
    assert str(place / "home" / "bin") in shown

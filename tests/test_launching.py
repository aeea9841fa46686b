"""What is launched before anybody needs it is there when a runtime takes it, or leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from sandbox_runtime import open_runtime, open_sandbox
from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.launching import launch
from sandbox_runtime.supervisor import launchers

if TYPE_CHECKING:
    from pathlib import Path

LAUNCH_AS_NOBODY = """
import os, sys
from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.launching import launch
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    launch(python=sys.argv[1], node="/no/node").close()
except InvalidArgumentError as error:
    print(error)
"""


def test_what_nobody_takes_is_ended() -> None:
    """Its process has been reaped when it is closed."""
    before = set(launchers)
    with closing(launch()) as launched:
        assert len(launchers - before) == 1
        assert not launched.is_taken
    assert launchers == before


async def test_a_runtime_is_made_of_what_was_launched() -> None:
    """It makes sandboxes, and its end is the end of what it took."""
    before = set(launchers)
    with closing(launch()) as launched:
        (pid,) = launchers - before
        async with open_runtime(launched=launched) as runtime:
            assert launched.is_taken
            assert launchers - before == {pid}
            async with open_sandbox(runtime=runtime) as sandbox:
                assert (await sandbox.exec("echo hi")).stdout == b"hi\n"
    assert launchers == before


@pytest.mark.parametrize("field", ["python", "node"])
def test_an_interpreter_without_an_absolute_path_is_refused(field: str) -> None:
    """And nothing is launched for it."""
    before = set(launchers)
    with pytest.raises(InvalidArgumentError, match=field):
        launch(**{field: "bin/it"})
    assert launchers == before


def test_a_python_in_a_directory_that_its_user_cannot_enter_is_refused(tmp_path: Path) -> None:
    """With what cannot be looked at, and what to do."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    python = str(closed / "bin" / "python")
    child = [sys.executable, "-c", LAUNCH_AS_NOBODY, python]
    told = subprocess.run(child, capture_output=True, text=True, check=True).stdout
    assert told.startswith("python: this user cannot look at")
    assert python in told
    assert "give one" in told

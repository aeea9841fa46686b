"""What is launched before anybody needs it is there when a runtime takes it, or leaves nothing."""

from __future__ import annotations

from contextlib import closing

import pytest

from sandbox_runtime import open_runtime, open_sandbox
from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.launching import launch
from sandbox_runtime.supervisor import launchers


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

"""The published TypeScript clients of the wire drive a running server, every method of theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parent / "wire_client"
NODE = shutil.which("node")
NPM = shutil.which("npm")

pytestmark = [
    pytest.mark.skipif(
        NODE is None or NPM is None,
        reason="NOT TESTED: the published clients need node and npm on this machine",
    ),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clients' packages as the lock file names them, and our tests beside them."""
    directory = tmp_path_factory.mktemp("wire_client")
    for path in SOURCE.iterdir():
        if path.is_file():
            shutil.copy(path, directory)
    assert NPM is not None
    cache = tempfile.mkdtemp(prefix="npm-", dir=directory)
    subprocess.run(
        [NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=directory,
        env=os.environ | {"npm_config_cache": cache},
        check=True,
        capture_output=True,
        timeout=240,
    )
    return directory


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A control process on a free port of the loopback."""
    argv = [sys.executable, "-P", "-m", "sandbox_runtime", "serve", "--port", "0"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log)
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            log.seek(0)
            assert line, log.read().decode(errors="replace")
            yield line.split()[-1]
        finally:
            process.terminate()
            process.wait(20)
            assert process.stdout is not None
            process.stdout.close()


@pytest.mark.parametrize("client", ["client_0_3", "client_0_12"])
def test_every_method_of_the_published_client_works(package: Path, url: str, client: str) -> None:
    assert NODE is not None
    done = subprocess.run(
        [
            NODE,
            "--import",
            "./platform.mjs",
            "--test",
            "--test-reporter=spec",
            f"{client}.test.mjs",
        ],
        cwd=package,
        env={"PATH": os.environ["PATH"], "SANDBOX_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]

"""The image, as far as it can be looked at without building it, and its entry point."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def instructions() -> list[str]:
    """Those of the final stage, each in one line."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    last = max(number for number, line in enumerate(lines) if line.startswith("FROM"))
    return lines[last:]


def test_the_image_has_what_its_documents_say() -> None:
    """Locked packages, the programs for what runs inside, one port, the entry point."""
    text = "\n".join(instructions())
    assert re.findall(r"^EXPOSE (.*)", text, re.MULTILINE) == ["3000"]
    assert re.findall(r"^ENTRYPOINT (.*)", text, re.MULTILINE) == [
        '["/container-server/startup.sh"]'
    ]
    assert re.findall(r"^WORKDIR (.*)", text, re.MULTILINE) == ["/workspace"]
    assert "SANDBOX_NETWORK=auto" in text
    installed = set(text.split())
    assert {"git", "python3", "python3-dev", "python3-pip", "python3-venv", "strace"} <= installed
    assert not {"sudo", "yarn", "pnpm"} & installed
    for program in ("python3", "node", "npm", "bun", "git", "sandbox-runtime"):
        assert f"{program} --version" in text
    build = (ROOT / "Dockerfile").read_text()
    assert "--frozen" in build
    assert "--require-hashes" in build
    assert "maturin build --release --locked" in build


@pytest.mark.skipif(
    shutil.which("sandbox-runtime") is None, reason="the command is not on the path"
)
def test_the_entry_point_serves_and_ends(tmp_path: Path) -> None:
    """It becomes the server: the signal that ends the container ends it, with status 0."""
    environment = os.environ | {"SANDBOX_PORT": "0", "SANDBOX_HOST": "127.0.0.1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    server = subprocess.Popen(
        [ROOT / "startup.sh"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env=environment,
    )
    with server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith(b"http://127.0.0.1:")
        server.send_signal(signal.SIGTERM)
        assert server.wait(50) == 0

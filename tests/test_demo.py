"""The demo: the first thing that people run must work, and must not lie."""

from __future__ import annotations

import importlib.util
import re
import struct
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import pytest

from sandbox_runtime import InterpreterUnavailableError, demo

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")


def test_without_its_libraries_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started."""
    find = importlib.util.find_spec
    for missing in ("pandas", "matplotlib"):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, missing=missing: None if name == missing else find(name),
        )
        with pytest.raises(InterpreterUnavailableError, match="pip install numpy pandas"):
            demo._data()


def test_it_analyses_measures_and_withstands(tmp_path: Path) -> None:
    """One run: the table, a chart that is a picture, costs, timings, three refused attacks."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sandbox_runtime", "demo", "--out", "new/place"],
        capture_output=True,
        cwd=tmp_path,
        timeout=55,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^MSFT +\d+\.\dx +\d+\.\d%", done.stdout, re.MULTILINE)
    width, height, pixels = decode_png((tmp_path / "new" / "place" / "chart.png").read_bytes())
    assert (width, height) == (1200, 900)
    assert len(set(pixels)) > 10  # something is drawn
    assert re.search(r"wall +\d+\.\d{3} s", done.stdout)
    assert re.search(r"peak +\d+ MiB", done.stdout)
    assert re.search(r"`true` in a session of the sandbox +\d+\.\d\d ms", done.stdout)
    assert re.search(r"`bash -c true` on this host.* +\d+\.\d\d ms", done.stdout)
    assert "no_nested_user_namespaces" in done.stdout
    assert done.stdout.count("verdict:  refused") == 3
    assert "3 of 3 attacks were refused." in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_the_analysis_is_python_that_fits_the_page() -> None:
    """The code that is shown compiles, and its lines fit beside their margin."""
    compile(demo.ANALYSIS, "analysis", "exec")
    assert max(map(len, demo.ANALYSIS.splitlines())) <= 90


@pytest.mark.parametrize(
    ("proves", "succeeded", "verdict"),
    [(True, False, "refused"), (True, True, "SUCCEEDED"), (False, False, "NONE")],
)
def test_a_verdict_needs_a_control(*, proves: bool, succeeded: bool, verdict: str) -> None:
    """What does not work outside either is no proof, and a success is never hidden."""
    attack = demo.Attack(tried="", outside="", inside="", proves=proves, succeeded=succeeded)
    assert verdict in attack.verdict


def test_the_attack_on_the_environment_works_outside(tmp_path: Path) -> None:
    """The very code that finds nothing inside finds the secret of a process that it can see."""
    secret = "of-a-neighbour"
    with subprocess.Popen(["sleep", "600"], env={demo.SECRET_NAME: secret}) as neighbour:
        try:
            code = demo.STEAL_ENVIRONMENTS.replace("HOST_PID", str(neighbour.pid))
            done = subprocess.run(
                [sys.executable, "-P", "-c", code.replace("SECRET_NAME", demo.SECRET_NAME)],
                capture_output=True,
                cwd=tmp_path,
                timeout=55,
                check=True,
                text=True,
            )
        finally:
            neighbour.kill()
    assert f"{demo.SECRET_NAME}={secret}" in done.stdout


def decode_png(data: bytes) -> tuple[int, int, bytes]:
    """Width, height and the pixel data of a PNG, each chunk's checksum verified."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    position, width, height, packed = 8, 0, 0, b""
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        body = data[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, position + 8 + length)
        assert zlib.crc32(kind + body) == checksum
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", body)
        elif kind == b"IDAT":
            packed += body
        position += 12 + length
    return width, height, zlib.decompress(packed)

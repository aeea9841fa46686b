"""What goes between the control process, its shells and its interpreters: bytes to values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_runtime.interpreters import frames
from sandbox_runtime.shell_protocol import encode_request

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

DONE = {"type": "done", "ended": "ok", "user_us": 120, "system_us": 30}


def test_encoding_a_frame(benchmark: BenchmarkFixture) -> None:
    assert benchmark(frames.encode, {"type": "run", "id": 7, "code": "1 + 1"})


def test_taking_ten_frames_apart(benchmark: BenchmarkFixture) -> None:
    data = frames.encode(DONE) * 10

    def feed() -> int:
        return len(frames.FrameReader().feed(data))

    assert benchmark(feed) == 10


def test_decoding_a_frame(benchmark: BenchmarkFixture) -> None:
    (body,) = frames.FrameReader().feed(frames.encode(DONE))
    assert benchmark(frames.decode, body).type == "done"


def test_asking_a_shell_for_a_text(benchmark: BenchmarkFixture) -> None:
    header, body = benchmark(encode_request, 1, b"cd /tmp && ls", None, {})
    assert (len(header), body) == (24, b"cd /tmp && ls")


def test_asking_a_shell_for_a_program(benchmark: BenchmarkFixture) -> None:
    words = (b"python3", b"-c", b"print(1)")
    header, _ = benchmark(encode_request, 1, words, "/workspace", {"A": "1", "B": "2"})
    assert len(header) == 24

"""The private socket of an executor: whole frames, and the descriptors that ride on them.

A frame is a 4-byte big-endian length and UTF-8 JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

from .python_frames import encode
from .python_signals import ALL_SIGNALS, BLOCK, SET, sigmask

if TYPE_CHECKING:
    from collections.abc import Callable

    from .python_shell import Frame

LOWEST_FD = 200
"""Our descriptors stay above those that programs count on (`exec 3>`, `closerange(3, 100)`)."""

MOST_DESCRIPTORS = 64
"""How many may come with a frame."""

_HEADER = struct.Struct(">I")
_RECEIVE_BYTES = 16 * 1024
_DESCRIPTOR = struct.Struct("i")
_DESCRIPTORS_BYTES = socket.CMSG_LEN(MOST_DESCRIPTORS * _DESCRIPTOR.size)

# Bound early: user code may replace attributes of `os` (pyfakefs does) while frames must go on.
_write = os.write
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
# A handler of the user's may show something while its own thread is in here: another thread can
# have received the signal, which no mask of this one keeps from Python.
_new_lock = threading.RLock


class FrameSocket:
    """One end of a connected SOCK_STREAM Unix socket, which is taken over."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = socket.socket(fileno=move_up(sock.detach()))
        self._lock = _new_lock()
        self._held = b""

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def abandon(self) -> None:
        """In a copy of this process: lets go of the socket, which only one may hold."""
        self._sock.close()
        self._lock = _new_lock()  # a thread that is not here may have held it

    def send(self, frame: Frame, *, hold: bool = False) -> None:
        """Sends a frame; one that is held goes with the next, which spares a wake-up there."""
        data = encode_frame(frame)
        if hold:
            with self._lock:
                self._held += data
        else:
            self._send(data)

    def send_held(self) -> None:
        """Sends what waits for the next frame."""
        if self._held:
            self._send(b"")

    def _send(self, frame: bytes) -> None:
        # With signals blocked one write takes the frame whole: an interrupt or a timer of
        # the user's raises before a frame or after it, never inside.
        # The first call changes nothing: each of them may raise for a signal just before it.
        previous = sigmask(BLOCK, ())
        try:
            sigmask(BLOCK, ALL_SIGNALS)
            with self._lock:
                held, self._held = self._held, b""  # in one go: no handler runs in between
                data = memoryview(held + frame)
                while data:
                    data = data[_write(self._sock.fileno(), data) :]
        finally:
            # The lock is free by now: handlers of what has come meanwhile run in this call, and
            # may wait for a thread that shows something.
            sigmask(SET, previous)

    def receive(self) -> tuple[Frame, list[int]] | None:
        """Waits for a frame and the descriptors that ride on its first byte; None at EOF."""
        try:
            # Nothing follows a frame before it was answered, so that more may be asked for.
            data, told, _, _ = self._sock.recvmsg(
                _RECEIVE_BYTES, _DESCRIPTORS_BYTES, socket.MSG_CMSG_CLOEXEC
            )
            fds = [
                fd
                for _, kind, packed in told
                if kind == socket.SCM_RIGHTS
                for (fd,) in _DESCRIPTOR.iter_unpack(packed)
            ]
            if len(data) < _HEADER.size:
                data += self._receive_exactly(_HEADER.size - len(data))
            end = _HEADER.size + _HEADER.unpack_from(data)[0]
            if len(data) < end:
                data += self._receive_exactly(end - len(data))
            return _scan(str(data[_HEADER.size : end], "utf-8", "surrogatepass"), 0)[0], fds
        except (EOFError, ConnectionError):
            return None

    def _receive_exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            if not (count := self._sock.recv_into(view)):
                raise EOFError
            view = view[count:]
        return data


def encode_frame(frame: Frame) -> bytes:
    """A frame as it is sent."""
    body = encode(frame)
    return _HEADER.pack(len(body)) + body


def move_up(fd: int) -> int:
    """Moves a descriptor to the lowest free number from `LOWEST_FD` on, close-on-exec."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, min(LOWEST_FD, limit - 8))
    finally:
        os.close(fd)

"""What the user of a kernel may choose, written into its kernelspec and read by its process."""

from __future__ import annotations

import sys

import msgspec

from sandbox_runtime.choices import LANGUAGES, Network
from sandbox_runtime.errors import InvalidArgumentError


class KernelOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a kernel's sandbox and its context are.

    Attributes:
        language: One of `LANGUAGES`.
        network: What the code reaches: nothing but a loopback device, or what this machine does.
        memory_bytes: How much it may use; the usual limit if it is not given.
        cell_timeout_s: When a cell is interrupted; never if it is not given.
        preload: The preload set of Python; the usual one if it is not given.
        env: Variables besides the usual ones.
        read_only: Directories of this machine that are shown at the same path, read-only.
        notebook_directory: Whether the notebook's directory is one of them, and cells start there.
        require: Protections without which no cell shall run.
    """

    language: str = "python"
    network: Network = "loopback"
    memory_bytes: int | None = None
    cell_timeout_s: float | None = None
    preload: str | None = None
    env: dict[str, str] = {}
    read_only: tuple[str, ...] = ()
    notebook_directory: bool = False
    require: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            known = ", ".join(LANGUAGES)
            message = f"{self.language!r} is not known; known: {known}"
            raise InvalidArgumentError("language", message)
        if self.preload is not None and self.language != "python":
            raise InvalidArgumentError("preload", f"{self.language} has no preload sets")


def kernel_command(options: KernelOptions) -> list[str]:
    """What a front end starts; it puts the path of its connection file in."""
    command = [sys.executable, "-P", "-m", "sandbox_runtime", "kernel", "start"]
    command += ["-f", "{connection_file}", "--language", options.language]
    if options.network != "loopback":
        command += ["--network", options.network]
    if options.memory_bytes is not None:
        command += ["--memory", str(options.memory_bytes)]
    if options.cell_timeout_s is not None:
        command += ["--cell-timeout", str(options.cell_timeout_s)]
    if options.preload is not None:
        command += ["--preload", options.preload]
    for name, value in options.env.items():
        command += ["--env", f"{name}={value}"]
    for path in options.read_only:
        command += ["--read-only", path]
    if options.notebook_directory:
        command.append("--notebook-directory")
    for name in options.require:
        command += ["--require", name]
    return command

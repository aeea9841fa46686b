"""Kernelspecs: how front ends know of a kernel, what it is called and how it is started."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from sandbox_runtime.choices import LANGUAGES
from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.jupyter.options import kernel_command

if TYPE_CHECKING:
    from sandbox_runtime.jupyter.options import KernelOptions

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_MARK = "sandbox_runtime"


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel of ours that front ends find.

    Attributes:
        name: By which it is asked for.
        title: What people see.
        language: What it speaks.
        directory: Where its kernelspec is.
    """

    name: str
    title: str
    language: str
    directory: str


def usual_name(language: str) -> str:
    """What a kernel is called if its user does not say."""
    return f"sandbox-{language}"


def install(
    options: KernelOptions,
    *,
    name: str | None = None,
    title: str | None = None,
    prefix: str | None = None,
) -> Installed:
    """Lets front ends find a kernel; an older one of ours of the same name is replaced.

    Args:
        options: How its sandbox is.
        name: By which it is asked for; `sandbox-LANGUAGE` by default.
        title: What people see.
        prefix: `PREFIX/share/jupyter/kernels` is where it goes; by default the user's own place.

    Raises:
        InvalidArgumentError: The name cannot be, or is that of somebody else's kernel.
        OSError: It cannot be written there.
    """
    name = usual_name(options.language) if name is None else name
    if _NAME.fullmatch(name) is None:
        raise InvalidArgumentError("name", f"{name!r}: use a-z, 0-9, and . _ - within")
    language = LANGUAGES[options.language]
    title = f"{language} (sandbox)" if title is None else title
    manager = KernelSpecManager()
    if (found := _spec(manager, name)) is not None and _MARK not in found.get("metadata", {}):
        message = f"{name!r} is the name of another kernel; give another one"
        raise InvalidArgumentError("name", message)
    kernels = manager.user_kernel_dir if prefix is None else f"{prefix}/share/jupyter/kernels"
    place = Path(kernels) / name  # all of it is replaced, and front ends need not look there
    if os.path.lexists(place) and not _is_ours(place):
        message = f"{place} is not of sandbox-runtime; give another name"
        raise InvalidArgumentError("name", message)
    spec = {
        "argv": kernel_command(options),
        "display_name": title,
        "language": options.language,
        "interrupt_mode": "message",
        "metadata": {_MARK: msgspec.to_builtins(options), "debugger": False},
    }
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # it is copied with its permissions
        (Path(directory) / "kernel.json").write_text(json.dumps(spec, indent=1) + "\n")
        installed = manager.install_kernel_spec(
            directory, kernel_name=name, user=prefix is None, prefix=prefix
        )
    return Installed(name=name, title=title, language=options.language, directory=installed)


def installed() -> list[Installed]:
    """Every kernel of ours that front ends started from here find."""
    found = []
    for name, entry in sorted(KernelSpecManager().get_all_specs().items()):
        spec = entry["spec"]
        if _MARK in spec.get("metadata", {}):
            found.append(
                Installed(
                    name=name,
                    title=spec["display_name"],
                    language=spec["language"],
                    directory=entry["resource_dir"],
                )
            )
    return found


def remove(name: str) -> str:
    """Lets no front end find a kernel any more; returns where its kernelspec was.

    Raises:
        InvalidArgumentError: There is none of ours of that name; it names those that there are.
        OSError: It cannot be removed.
    """
    ours = [one.name for one in installed()]
    if name not in ours:
        known = ", ".join(ours) or "none"
        message = f"{name!r} is no kernel of sandbox-runtime; there are: {known}"
        raise InvalidArgumentError("name", message)
    directory: str = KernelSpecManager().remove_kernel_spec(name)
    return directory


def environment_prefix() -> str:
    """The prefix of the Python environment that runs this."""
    return sys.prefix


def _is_ours(place: Path) -> bool:
    try:
        spec = json.loads((place / "kernel.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    metadata = spec.get("metadata") if isinstance(spec, dict) else None
    return isinstance(metadata, dict) and _MARK in metadata


def _spec(manager: KernelSpecManager, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = manager.get_kernel_spec(name).to_dict()
    except NoSuchKernel:
        return None
    return found

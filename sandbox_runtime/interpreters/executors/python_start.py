"""How a copy of a warmed interpreter becomes a context: its place, variables and randomness."""

from __future__ import annotations

import contextlib
import importlib
import os
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .python_shell import Frame, Shell


def start_context(shell: Shell, request: Frame) -> None:
    """Makes a shell that nobody has used a context, also one that has waited for its owner.

    Args:
        shell: Not used yet.
        request: Says its `cwd`, which it is in already, and its whole `env`; `imports`, modules
            that could not be imported before the fork; `names`, modules that its namespace shall
            have, by the name there.
    """
    for name in list(os.environ):
        del os.environ[name]
    for name, value in request["env"].items():
        os.environ[name] = value
    os.umask(0o022)
    for name in request.get("imports", ()):
        importlib.import_module(name)
    home: str = os.environ.get("HOME") or request["cwd"]
    paths = user_site(home)
    sys.argv[:] = [""]
    known = [path for path in sys.path if path and path not in shell.late_import_paths]
    sys.path[:] = ["", *known, *(path for path in paths if path not in known)]
    shell.late_import_paths = tuple(paths)
    shell.settle(home)
    refresh_process()
    found = {}
    for name, module in request.get("names", {}).items():
        with contextlib.suppress(ImportError):
            found[name] = importlib.import_module(module)
    if found:
        push: Any = shell.push
        push(found, interactive=False)


def user_site(home: str) -> list[str]:
    """Where `pip install --user` puts packages: `-I` leaves it out, a virtualenv has none."""
    if sys.prefix != sys.base_prefix:
        return []
    return [f"{home}/.local/lib/python3.{sys.version_info[1]}/site-packages"]


_STALE = (
    ("tempfile", "tempdir"),  # by TMPDIR
    ("platform", "_uname_cache"),  # with the host's name
    ("uuid", "_last_timestamp"),
    ("site", "USER_BASE"),  # by HOME
    ("site", "USER_SITE"),
)
"""What modules of the standard library look up once and keep."""


_TWISTER_WORDS = 624
"""How much state numpy's global generator has."""


def refresh_process() -> None:
    """Draws new random numbers and forgets what was true of the process this was forked from.

    Python itself reseeds `random` in every forked child.
    """
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # noqa: SLF001
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        # A whole state, since to mix a seed into one takes a hundred pages of numpy's.
        words = struct.unpack(f"{_TWISTER_WORDS}I", os.urandom(4 * _TWISTER_WORDS))
        try:
            numpy_random.set_state(("MT19937", words, _TWISTER_WORDS))
        except ValueError:  # user code has chosen another generator, and this is its branch
            numpy_random.set_bit_generator(type(numpy_random.get_bit_generator())())
    seed_torch = getattr(sys.modules.get("torch"), "manual_seed", None)
    if seed_torch is not None:  # user code may have a module of that name which is another
        seed_torch(int.from_bytes(os.urandom(8), "big"))
    time.tzset()
    forget_answers()


def forget_answers() -> None:
    """Forgets what was looked up once. What is forgotten already is only read, not written to."""
    for module, attribute in _STALE:
        if getattr(sys.modules.get(module), attribute, None) is not None:
            setattr(sys.modules[module], attribute, None)
    if (matplotlib := sys.modules.get("matplotlib")) is not None:
        for function in (matplotlib.get_configdir, matplotlib.get_cachedir):
            _forget_answer(function)


def _forget_answer(function: Any) -> None:
    """Empties the cell in which matplotlib keeps a directory that it has looked up once."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name == "called" and cell.cell_contents:
            cell.cell_contents = False

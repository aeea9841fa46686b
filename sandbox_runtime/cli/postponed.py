"""Modules that are imported by those that a command needs, and used by none of them: loaded at use.

What is imported is as it would have been: the same module, found in the same place, whose file
is executed when somebody first asks for something in it. A tenth of a server's start is spent here
otherwise, most of it on the library of TLS, which trio names and a server has no use for.
"""

from __future__ import annotations

import sys
import threading
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

NAMES = frozenset(
    {"bz2", "hashlib", "hmac", "idna", "lzma", "msgspec.inspect", "secrets", "ssl"},
)
_loading = threading.RLock()


class _Postponed(ModuleType):
    """A module whose file has not been executed. It becomes a plain one when that is done."""

    def __getattr__(self, name: str) -> Any:
        with _loading:
            if type(self) is _Postponed:
                module: Any = self
                spec = module.__spec__
                postponing = spec.loader
                if not isinstance(postponing, _Postponing):  # its file asks, which is executed now
                    raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} yet")
                spec.loader = module.__loader__ = postponing.real
                try:
                    postponing.real.exec_module(self)
                except BaseException:
                    spec.loader = module.__loader__ = postponing  # it may be tried again
                    raise
                module.__class__ = ModuleType
        return getattr(self, name)


class _Postponing:
    """A loader that leaves the execution of a module to its first use."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self.real.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _Postponed


class _Finder:
    """Finds those modules where they are found anyway."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in NAMES else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Postponing(spec.loader)  # type: ignore[assignment]
        return spec


def postpone() -> None:
    """From here on those modules are loaded when they are used."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


def postpone_no_more() -> None:
    """From here on they are loaded when they are imported; what waits goes on waiting."""
    if _Finder in sys.meta_path:
        sys.meta_path.remove(_Finder)

"""Preload sets: what a warmed interpreter has imported before a context is forked from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sandbox_runtime.arguments import check_kind, check_mapping
from sandbox_runtime.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Preload(msgspec.Struct, frozen=True, kw_only=True):
    """One set.

    Attributes:
        modules: What is imported, if it is installed. A module that starts threads cannot be
            imported ahead: contexts import it when they start (`Context.imported_late`).
        names: Modules that are there under these names from the start, as if the user had imported
            them; those that are not installed are left out.
    """

    modules: tuple[str, ...]
    names: dict[str, str] = {}


_DATA = ("numpy", "pandas", "matplotlib")

PRELOADS: Mapping[str, Preload] = {
    "data": Preload(modules=_DATA),
    "bare": Preload(modules=()),
    "notebook": Preload(
        modules=_DATA,
        names={"np": "numpy", "pd": "pandas", "plt": "matplotlib.pyplot", "json": "json"},
    ),
}
"""The sets that are always there."""

USUAL_PRELOAD = "data"
"""The set of those who name none."""


def check_preloads(preloads: Mapping[str, Any]) -> dict[str, Preload]:
    """All sets: the usual ones and the caller's, which may redefine them."""
    check_mapping("preloads", preloads, '{"ml": Preload(modules=("sklearn",))}')
    for name, preload in preloads.items():
        field = f"preloads[{name}]"
        check_kind(field, preload, Preload, "a Preload, e.g. Preload(modules=('numpy',))")
        check_kind(f"{field}.modules", preload.modules, list | tuple, "a tuple of names")
        check_mapping(f"{field}.names", preload.names, '{"np": "numpy"}')
        for module in map(str, (*preload.modules, *preload.names.values())):
            if not all(map(str.isidentifier, module.split("."))):
                raise InvalidArgumentError(
                    f"preloads[{name}]", f"{module!r} is no name of a module"
                )
    return {**PRELOADS, **preloads}


def known_preload(name: str | None, preloads: Mapping[str, Preload]) -> Preload:
    """The set with this name.

    Raises:
        InvalidArgumentError: There is none; the message lists those that there are.
    """
    known_name = isinstance(name, str | None)
    found = preloads.get(USUAL_PRELOAD if name is None else name) if known_name else None
    if found is None:
        known = ", ".join(sorted(preloads))
        raise InvalidArgumentError("preload", f"{name!r} is no preload set; known: {known}")
    return found

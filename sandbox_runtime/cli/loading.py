"""What is imported stays: Python need not look through it again and again for what can be freed.

That would be a tenth of a start.
"""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
_OBJECTS_BETWEEN_COLLECTIONS = 50_000


def begin_loading() -> None:
    """Has Python look seldom, which is as good as never for a command that soon ends."""
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


def end_loading() -> None:
    """For a command that lives long: only what is made from here on is looked at, as usual."""
    gc.freeze()
    gc.set_threshold(*_USUAL)

"""How large a pool is, and the environment variables that say so."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from sandbox_runtime.arguments import check_count, check_kind, check_mapping
from sandbox_runtime.choices import LANGUAGES
from sandbox_runtime.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST = 10_000


class PoolSize(msgspec.Struct, frozen=True, kw_only=True):
    """The size of one language's pool in one sandbox.

    Attributes:
        min: How many interpreters are kept ready, once the first was asked for.
        max: How many there may be at once, those in use and those ready; None for no limit of its
            own. Who comes later waits for one to be deleted, in the order of coming.
        idle_s: After how long without a claim those beyond `min` are ended.
        wait_s: How long to wait for a place before `PoolFullError`.
    """

    min: int = 1
    max: int | None = None
    idle_s: float = 300.0
    wait_s: float = 10.0

    def check(self, field: str) -> None:
        """Refuses what cannot be.

        Raises:
            InvalidArgumentError: It names the attribute.
        """
        check_count(f"{field}.min", self.min, 0, _LARGEST)
        if self.max is not None:
            check_count(f"{field}.max", self.max, 1, _LARGEST)
            if self.min > self.max:
                what = f"{self.min} is more than max, which is {self.max}"
                raise InvalidArgumentError(f"{field}.min", what)
        for name, seconds in (("idle_s", self.idle_s), ("wait_s", self.wait_s)):
            if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
                raise InvalidArgumentError(f"{field}.{name}", f"must be 0 or more, not {seconds!r}")


def pool_sizes(
    python_pool: int, node_pool: int, pools: Mapping[str, PoolSize]
) -> dict[str, PoolSize]:
    """The size of each language's pool in a sandbox.

    Args:
        python_pool: How many Python interpreters to keep ready.
        node_pool: Likewise, of JavaScript and TypeScript together.
        pools: Sizes with limits, by language, which count more.

    Raises:
        InvalidArgumentError: One cannot be, or there is no such language.
    """
    for field, count in (("python_pool", python_pool), ("node_pool", node_pool)):
        check_count(field, count, 0, _LARGEST)
    check_mapping("pools", pools, '{"python": PoolSize(min=1)}')
    usual = {"python": python_pool, "javascript": node_pool, "typescript": 0}  # one pool for both
    sizes = {language: PoolSize(min=count) for language, count in usual.items()}
    for language in pools:
        if language not in usual:
            known = ", ".join(usual)
            raise InvalidArgumentError("pools", f"{language!r} is not known; known: {known}")
    for language, size in pools.items():
        check_kind(f"pools[{language}]", size, PoolSize, "a PoolSize, e.g. PoolSize(min=1, max=4)")
    sizes |= pools
    for language, size in sizes.items():
        size.check(f"pools[{language}]")
    return sizes


def pool_sizes_of(environment: Mapping[str, str]) -> dict[str, PoolSize]:
    """The sizes that variables like `PYTHON_POOL_MIN_SIZE` and `PYTHON_POOL_MAX_SIZE` ask for.

    Raises:
        InvalidArgumentError: One is no number, or out of range; it names the variable.
    """
    sizes: dict[str, PoolSize] = {}
    for language in LANGUAGES:
        prefix = f"{language.upper()}_POOL"
        lowest = _whole(environment, f"{prefix}_MIN_SIZE", 0)
        highest = _whole(environment, f"{prefix}_MAX_SIZE", 1)
        if lowest is None and highest is None:
            continue
        usual = 0 if language == "typescript" else PoolSize().min  # JavaScript's pool serves it
        smallest = usual if highest is None else min(usual, highest)
        size = PoolSize(min=smallest if lowest is None else lowest, max=highest)
        if size.max is not None and size.min > size.max:
            what = f"{size.min} is more than {prefix}_MAX_SIZE, which is {size.max}"
            raise InvalidArgumentError(f"{prefix}_MIN_SIZE", what)
        sizes[language] = size
    return sizes


def _whole(environment: Mapping[str, str], name: str, lowest: int) -> int | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and lowest <= int(text) <= _LARGEST):
        raise InvalidArgumentError(name, f"must be a number, {lowest} to {_LARGEST}, not {text!r}")
    return int(text)

"""Blocks that open something: `async with open_sandbox() as sandbox:`.

Whoever forgets `async with`, or is not on trio, is told so in words.
"""

from __future__ import annotations

import functools
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar

import trio

from sandbox_runtime.errors import NotOpenedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

P = ParamSpec("P")
T = TypeVar("T")


_NAMES = {"open_read": "reader", "open_write": "writer"}


class Block(AbstractAsyncContextManager[T], Generic[T]):
    """What an opening function returns: entered once, by `async with`."""

    def __init__(self, inner: AbstractAsyncContextManager[T], opener: str) -> None:
        self._inner = inner
        self._opener = opener
        self._is_entered = False

    async def __aenter__(self) -> T:
        if self._is_entered:
            again = "has been entered before: call it again for another block"
            raise NotOpenedError(f"this {self._opener}() {again}")
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            asyncio = "on asyncio, and without either, use sandbox_runtime.client"
            remedy = f"Start your function with `trio.run(main)`; {asyncio}"
            raise NotOpenedError(f"{self._opener}() runs on trio alone", remedy=remedy) from None
        self._is_entered = True
        return await self._inner.__aenter__()

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Coroutine[Any, Any, bool | None]:
        return self._inner.__aexit__(kind, error, traceback)

    if not TYPE_CHECKING:  # for type checkers these are not there

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("_"):  # what Python looks for itself
                raise AttributeError(name)
            raise self._not_opened(f".{name}")

        def __await__(self) -> NoReturn:
            raise self._not_opened()

        def __enter__(self) -> NoReturn:
            raise self._not_opened()

        def __exit__(self, *_: object) -> None:
            """Never called: a block that was not entered is not left."""

        def _not_opened(self, used: str = "") -> NotOpenedError:
            name = _NAMES.get(self._opener) or self._opener.removeprefix("open_")
            remedy = (
                f"Write `async with {self._opener}(...) as {name}:` and use `{name}{used}` in it"
            )
            return NotOpenedError(f"the {name} is not open", remedy=remedy)


def block(
    function: Callable[P, AbstractAsyncContextManager[T]],
) -> Callable[P, AbstractAsyncContextManager[T]]:
    """Around `asynccontextmanager`, for what people call themselves."""

    @functools.wraps(function)
    def opener(*args: P.args, **kwargs: P.kwargs) -> Block[T]:
        return Block(function(*args, **kwargs), function.__name__)

    return opener

"""Completion and help for Python, asked of the live objects inside of the context.

What is asked runs as silent code in namespaces of its own and answers with a display of a type that
nothing else has. The answer comes from where user code runs, and is taken as no more than that:
what does not have the form of one is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

if TYPE_CHECKING:
    from sandbox_runtime.interpreters.contexts import Context
    from sandbox_runtime.interpreters.execution import Result
    from sandbox_runtime.jupyter.messages import Content

T = TypeVar("T")

_ANSWER = "application/vnd.sandbox.answer+json"

_COMPLETE = """
from IPython import get_ipython
from IPython.core.completer import provisionalcompleter, rectify_completions
with provisionalcompleter():
    found = get_ipython().Completer.completions(code, position)
    found = list(rectify_completions(code, found))[:1000]
answer = {
    "matches": [one.text for one in found],
    "types": [one.type or "" for one in found],
    "signatures": [one.signature or "" for one in found],
    "start": found[0].start if found else position,
    "end": found[0].end if found else position,
}
"""

_INSPECT = """
from IPython import get_ipython
from IPython.utils.tokenutil import token_at_cursor
answer = {"found": True, "data": {}}
try:
    name = token_at_cursor(code, position)
    answer["data"] = get_ipython().object_inspect_mime(name, detail_level=detail)
except KeyError:
    answer["found"] = False
"""

_EVALUATE = """
from IPython import get_ipython
answer = get_ipython().user_expressions(expressions)
"""


class _Completions(msgspec.Struct):
    matches: list[str]
    types: list[str]
    signatures: list[str]
    start: int
    end: int


class _Help(msgspec.Struct):
    found: bool
    data: dict[str, str]


async def complete(context: Context, code: str, position: int) -> Content:
    """What the text at the cursor may become, as Jupyter has it."""
    arguments = {"code": code, "position": position}
    found = await _ask(context, _COMPLETE, arguments, _Completions)
    if found is None or not 0 <= found.start <= found.end <= len(code):
        found = _Completions([], [], [], position, position)
    if code[found.start : found.start + 1] == "." and all(one[:1] == "." for one in found.matches):
        found.matches = [one[1:] for one in found.matches]  # so that people see bare names
        found.start = min(found.start + 1, found.end)
    kinds = [
        {"start": found.start, "end": found.end, "text": text, "type": kind, "signature": signature}
        for text, kind, signature in zip(found.matches, found.types, found.signatures, strict=False)
    ]
    return {
        "matches": found.matches,
        "cursor_start": found.start,
        "cursor_end": found.end,
        "metadata": {"_jupyter_types_experimental": kinds},
    }


async def inspect(context: Context, code: str, position: int, detail: int) -> Content:
    """What is known of the name at the cursor, as Jupyter has it."""
    arguments = {"code": code, "position": position, "detail": detail}
    found = await _ask(context, _INSPECT, arguments, _Help) or _Help(found=False, data={})
    return {"found": found.found, "data": found.data, "metadata": {}}


async def evaluate(context: Context, expressions: dict[str, Any]) -> Content:
    """The values of expressions by their names, as Jupyter has them."""
    texts = {name: text for name, text in expressions.items() if isinstance(text, str)}
    found = await _ask(context, _EVALUATE, {"expressions": texts}, dict[str, dict[str, Any]])
    return found or {}


async def _ask(
    context: Context, question: str, arguments: dict[str, Any], kind: type[T]
) -> T | None:
    answers: list[Any] = []

    def note(result: Result) -> None:
        if _ANSWER in result.data:
            answers.append(result.data[_ANSWER])

    ending = f"from IPython.display import display\ndisplay({{{_ANSWER!r}: answer}}, raw=True)\n"
    code = f"exec({question + ending!a}, {arguments!a})"
    await context.run(code, on_result=note, limit_bytes=0, silent=True)
    try:
        return msgspec.convert(answers[-1], kind) if answers else None
    except msgspec.ValidationError:
        return None

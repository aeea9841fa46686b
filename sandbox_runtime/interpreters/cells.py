"""What is being typed: whether it is a cell yet."""

from __future__ import annotations

import ast
import codeop
import re

_OPENING = {")": "(", "]": "[", "}": "{", "`": "`"}
_IN_CODE = re.compile(
    r"""//.*|/\*[\s\S]*?\*/|/\*|\\.|'(?:\\.|[^'\\\n])*'?|"(?:\\.|[^"\\\n])*"?|[()\[\]{}`]"""
)
_IN_TEMPLATE = re.compile(r"\\[\s\S]|`|\$\{")


def is_whole(language: str, text: str) -> bool:
    """Whether typed lines are a cell, or wait for more.

    Args:
        language: What they are.
        text: All lines since the last cell, each with its end.
    """
    if not text.endswith("\n"):  # Ctrl-D within a line, or more than a terminal takes in one
        return False
    if language != "python":
        return text.endswith("\n\n\n") or _is_closed(text)
    if text.startswith("%%"):  # the text of a cell magic may be anything
        return text.endswith("\n\n")
    compiler = codeop.CommandCompiler()
    compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        return compiler(text[:-1], "<cell>") is not None
    except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
        return True  # the interpreter says what is wrong; it also knows magics


def _is_closed(text: str) -> bool:
    """Whether all brackets, templates and comments that were opened are closed.

    It does not know regular expressions: one with an odd bracket waits for two empty lines.
    """
    opened: list[str] = []
    position = 0
    while True:
        in_template = opened[-1:] == ["`"]
        match = (_IN_TEMPLATE if in_template else _IN_CODE).search(text, position)
        if match is None:
            return not opened
        mark, position = match[0], match.end()
        if mark in {"(", "[", "{", "${", "`"} and not (in_template and mark == "`"):
            opened.append(mark[-1])
        elif mark in _OPENING:
            if opened[-1:] != [_OPENING[mark]]:
                return True  # it cannot become right any more
            opened.pop()
        elif mark == "/*":
            return False


def indentation_after(text: str) -> str:
    """What the next line of a cell begins with, as an editor would have it."""
    lines = text.rstrip().splitlines() or [""]
    last = lines[-1]
    indentation = last[: len(last) - len(last.lstrip())]
    return indentation + "    " if last.endswith((":", "{", "(", "[")) else indentation

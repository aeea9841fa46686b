"""What a front end wants to know of a language: its name, its endings, its colours."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox_runtime.interpreters.contexts import Context

_NODE_VERSION = "process.stdout.write(process.versions.node)"

_KNOWN: dict[str, dict[str, Any]] = {
    "python": {
        "mimetype": "text/x-python",
        "file_extension": ".py",
        "pygments_lexer": "ipython3",
        "codemirror_mode": {"name": "ipython", "version": 3},
        "nbconvert_exporter": "python",
    },
    "javascript": {
        "mimetype": "text/javascript",
        "file_extension": ".js",
        "pygments_lexer": "javascript",
        "codemirror_mode": "javascript",
        "nbconvert_exporter": "script",
    },
    "typescript": {
        "mimetype": "text/typescript",
        "file_extension": ".ts",
        "pygments_lexer": "typescript",
        "codemirror_mode": {"name": "javascript", "typescript": True},
        "nbconvert_exporter": "script",
    },
}


def language_info(language: str, version: str) -> dict[str, Any]:
    """As `kernel_info_reply` has it."""
    return {"name": language, "version": version} | _KNOWN[language]


def python_version() -> str:
    """Of the interpreter of contexts, which is this one's."""
    return platform.python_version()


async def node_version(context: Context) -> str:
    """Of the Node that a context runs on."""
    execution = await context.run(_NODE_VERSION, silent=True)
    return execution.stdout[:32].decode(errors="replace")

"""Finds out what a file of code is, and who runs it."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from sandbox_runtime.choices import LANGUAGES
from sandbox_runtime.cli.copies import inside
from sandbox_runtime.cli.standard_input import read_to_end


@dataclass(frozen=True, slots=True)
class Script:
    """A script, its path inside, and who runs it.

    That is a context if there is `source`, its decoded text, else a process: the `interpreter`,
    or the script itself.
    """

    path: str
    content: bytes
    interpreter: tuple[str, ...] = ()
    source: str | None = None


def load_script(file: str, language: str | None, *, plain: bool) -> Script:
    """Reads a script and decides how it runs.

    Raises:
        click.BadParameter: It cannot be read, or is nothing that we know how to run.
    """
    shown, content = _read(file)
    suffix = Path(file).suffix.lower()
    first = content.split(b"\n", 1)[0]
    shebang = first[2:].split() if first.startswith(b"#!") else []
    names_python = any(word.rpartition(b"/")[2].startswith(b"python") for word in shebang)
    path = inside("script" if file == "-" else Path(file).name)
    if language == "python" or (
        language is None and (suffix == ".py" or names_python or (file == "-" and not shebang))
    ):
        if plain:
            return Script(path, content, interpreter=(sys.executable,))
        return Script(path, content, source=_decode(shown, content))
    if language is None and shebang:
        return Script(path, content)
    if language == "shell" or suffix in {".sh", ".bash"}:
        return Script(path, content, interpreter=("bash",))
    if (found := _LANGUAGE_OF_ENDING.get(suffix)) is not None:
        run_it = shlex.join(["sandbox-runtime", "code", file])
        raise _bad_file(f"{shown}: {LANGUAGES[found]} runs with `{run_it}`")
    raise _bad_file(
        f"{shown} has neither a known ending nor a #! line; say --language python or shell"
    )


_LANGUAGE_OF_ENDING = {
    ".js": "javascript",
    ".mjs": "javascript",
    ".cjs": "javascript",
    ".ts": "typescript",
    ".mts": "typescript",
    ".cts": "typescript",
}


def language_of(file: str | None, language: str | None) -> str:
    """The language that was said, or else that of the file's ending, or else Python."""
    return language or _LANGUAGE_OF_ENDING.get(Path(file or "").suffix.lower(), "python")


def load_code(file: str, language: str) -> str:
    """The text of a file that is one cell; `-` is standard input.

    Raises:
        click.BadParameter: It cannot be read, or is no text.
    """
    shown, content = _read(file)
    if language == "python":
        return _decode(shown, content)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad_file(f"{shown} is not UTF-8 ({error.reason}); save it as UTF-8") from None


def _read(file: str) -> tuple[str, bytes]:
    """What to call it, and what is in it."""
    shown = "standard input" if file == "-" else repr(file)
    try:
        return shown, read_to_end() if file == "-" else Path(file).read_bytes()
    except IsADirectoryError:
        raise _bad_file(
            f"{shown} is a directory; name a script in it, and copy the directory with --in"
        ) from None
    except (OSError, ValueError) as error:
        raise _bad_file(f"{shown}: {getattr(error, 'strerror', None) or error}") from None


def _bad_file(message: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint="FILE")


def _decode(shown: str, content: bytes) -> str:
    try:
        return importlib.util.decode_source(content)
    except (UnicodeDecodeError, SyntaxError) as error:
        why = error.msg if isinstance(error, SyntaxError) else error.reason
        raise _bad_file(
            f"{shown} is not UTF-8 ({why}); save it as UTF-8, or name its encoding in its first "
            "line: # -*- coding: latin-1 -*-"
        ) from None

"""Quoted words, read back by everything that reads shell words."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import cffi
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sandbox_runtime.core import quote_word

if TYPE_CHECKING:
    from sandbox_runtime import Sandbox

words = st.one_of(
    st.binary(max_size=40).map(lambda word: word.replace(b"\0", b"")),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20).map(str.encode),
    st.lists(st.sampled_from("'\"\\$`!*?[]{}~#&;|<>()= \t\n-^%a1")).map("".join).map(str.encode),
)
lists = st.lists(words, min_size=1, max_size=30)
EVERY_BYTE = [bytes([byte]) for byte in range(1, 256)]
AWKWARD = [b"", b"'", b"''", b"'a'", b"a'", b"~", b"~root", b"#x", b"a=b", b"!!", b"{a,b}", b"\\"]


def read_by(shell: list[str], quoted: list[bytes], **env: str) -> list[bytes]:
    """What a shell makes of the words."""
    script = b"printf '%s\\0' " + b" ".join(quoted)
    done = subprocess.run(
        [*shell, "-c", script], capture_output=True, check=True, env=os.environ | env
    )
    return done.stdout.split(b"\0")[:-1]


def shell_path(name: str) -> str:
    """Where a shell is; without it the test is skipped, and the summary says so."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: its words were not tested")
    return path


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("shell", ["bash", "dash"])
@settings(max_examples=150)
@given(lists)
@example(EVERY_BYTE)
@example(AWKWARD)
def test_a_shell_reads_the_same_bytes(shell: str, locale: str, argv: list[bytes]) -> None:
    """In any locale, whatever the words hold."""
    quoted = [quote_word(word) for word in argv]
    assert read_by([shell_path(shell)], quoted, LC_ALL=locale) == argv


@settings(max_examples=100)
@given(lists)
@example(EVERY_BYTE)
def test_an_interactive_bash_expands_no_history(argv: list[bytes]) -> None:
    """Even with history expansion on, `!` means itself inside of the quotes."""
    quoted = [quote_word(word) for word in argv]
    shell = [shell_path("bash"), "--norc", "--noprofile", "-o", "history", "-o", "histexpand"]
    assert read_by(shell, quoted) == argv


ffi = cffi.FFI()
ffi.cdef(
    """
    typedef struct { size_t count; char **words; size_t offset; } wordexp_t;
    int wordexp(const char *text, wordexp_t *found, int flags);
    void wordfree(wordexp_t *found);
    """
)
libc = ffi.dlopen(None)
WRDE_NOCMD = 4


@settings(max_examples=500)
@given(lists)
@example(EVERY_BYTE)
@example(AWKWARD)
def test_wordexp_reads_the_same_bytes(argv: list[bytes]) -> None:
    """The C library's own reader, which is pickier than shells about quotes beside words."""
    found = ffi.new("wordexp_t *")
    assert libc.wordexp(b" ".join(map(quote_word, argv)), found, WRDE_NOCMD) == 0
    try:
        read = [ffi.string(found.words[index]) for index in range(found.count)]
    finally:
        libc.wordfree(found)
    assert read == argv


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_a_nul_is_refused(before: bytes, after: bytes) -> None:
    """No shell could be given it; leaving it out would change the word."""
    with pytest.raises(ValueError, match="NUL"):
        quote_word(before + b"\0" + after)


async def test_a_quoted_word_is_never_grammar(sandbox: Sandbox) -> None:
    """Where a command is expected, it is the name of one."""
    for word in ["if", "time", "!", "{", "case", "coproc", "[[", "a=b", "function", "#", "~"]:
        result = await sandbox.exec(quote_word(word.encode()), env={"PATH": "/nonexistent"})
        assert result.exit_code in {126, 127}, word

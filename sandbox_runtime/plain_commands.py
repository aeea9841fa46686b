"""Shell text that names one program and its words, which a shell would only become.

`bash -c 'python3 app.py'` starts, sees that there is nothing else to do, and executes the program
in its own place; that takes a millisecond. Which text that is, by the rules of quoting that need no
shell, stands in `rust_core/src/plain.rs`; here, what a shell that starts might make of it. What is
anything else to a shell, or might be, is left to it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sandbox_runtime import core

if TYPE_CHECKING:
    from collections.abc import Mapping

# Builtins and reserved words of bash that could stand where the name of a program does.
_OF_THE_SHELL = frozenset(
    (
        b". alias bg bind break builtin caller case cd command compgen complete compopt continue"
        b" coproc declare dirs disown do done echo elif else enable esac eval exec exit export"
        b" false fc fg fi for function getopts hash help history if in jobs kill let local logout"
        b" mapfile popd printf pushd pwd read readarray readonly return select set shift shopt"
        b" source suspend test then times time trap true type typeset ulimit umask unalias unset"
        b" until wait while"
    ).split()
)

# What a shell reads from its environment, or does not pass on as it was.
_READ_BY_SHELLS = re.compile(
    "|_|BASH.*|COMP_WORDBREAKS|DIRSTACK|ENV|EPOCHREALTIME|EPOCHSECONDS|EUID|FUNCNAME|GROUPS|HISTCMD"
    "|IFS|LC_.*|LINENO|OLDPWD|OPTARG|OPTERR|OPTIND|PIPESTATUS|POSIXLY_CORRECT|PPID|PS[0-9]|PWD|RANDOM"
    "|SECONDS|SHELLOPTS|SHLVL|SRANDOM|UID",
    re.DOTALL,
)


def words_without_shell(text: bytes, env: Mapping[str, str]) -> tuple[bytes, ...] | None:
    """The program and its arguments that a shell would execute in its own place.

    Args:
        text: What the shell would be given.
        env: Its whole environment.

    Returns:
        None if the shell has anything to do, or might have.
    """
    words = core.plain_words(text)
    if words is None or words[0] in _OF_THE_SHELL:
        return None
    if any(map(_READ_BY_SHELLS.fullmatch, env)):
        return None
    if not all(directory.startswith("/") for directory in env.get("PATH", "").split(":")):
        return None  # a shell may look elsewhere, and expands `~` there
    return tuple(words)


def shell_variables(cwd: str) -> dict[str, str]:
    """What a shell leaves in the environment of the program that it becomes.

    `_`, where it found the program, is not among them.

    Args:
        cwd: Where it runs, without symlinks.
    """
    return {"PWD": cwd, "SHLVL": "0"}

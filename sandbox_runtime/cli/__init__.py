"""The command `sandbox-runtime`: run a script or a command, and look at what this machine offers.

What the program writes goes to our own streams byte for byte; what we have to say is a line on
stderr. The exit status is the program's, except for those that `failures` names.

`commands` reads the command line and imports what works with a sandbox (`run`, `script_context`)
where it is used, so that help and mistakes are answered at once.
"""

from __future__ import annotations

from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """The entry point: loads what the command line needs, and nothing else."""
    from sandbox_runtime.cli.loading import begin_loading

    begin_loading()
    from sandbox_runtime.cli import commands

    commands.main()

"""The command `sandbox-runtime`: run a script or a command, and look at what this machine offers.

What the program writes goes to our own streams byte for byte; what we have to say is a line on
stderr. The exit status is the program's, except for those that `failures` names.

`commands` reads the command line and imports what works with a sandbox (`run`, `script_context`)
where it is used, so that help and mistakes are answered at once.
"""

from sandbox_runtime.cli.commands import main

__all__ = ["main"]

"""What the wire calls otherwise than the arguments of calls: errors speak of arguments."""

from __future__ import annotations

import re

_OTHERWISE = {
    "timeoutMs": "deadline_s",
    "timeout_ms": "deadline_s",
    "idleMs": "idle_s",
    "envVars": "env",
    "env_vars": "env",
    "id": "session_id",
    "repoUrl": "url",
    "targetDir": "directory",
    "sourcePath": "source",
    "destinationPath": "target",
    "options.includeHidden": "hidden",
    "options.recursive": "recursive",
}
_MOUNT = re.compile(r"mounts(\[\d+\])?(?:\.path)?")
_PLACE = re.compile(r" - at (?:`key` in )?`\$[^`]*`")


def argument_of(field: str) -> str:
    """What an argument is called whose field on the wire is this one."""
    if field in _OTHERWISE:
        return _OTHERWISE[field]
    if mount := _MOUNT.fullmatch(field):
        return f"read_only{mount[1] or ''}"
    return re.sub(r"(?<=[a-z])([A-Z])", lambda found: f"_{found[1].lower()}", field)


def named(field: str, message: str) -> str:
    """What the server says of a field, as said of the argument.

    Args:
        field: As the wire has it; empty if it is the body as a whole.
        message: The server's.
    """
    own = argument_of(field)
    told = _PLACE.sub("", message).removeprefix(f"{field}: ").removeprefix(f"{own}: ")
    return f"{own}: {told}" if own else told

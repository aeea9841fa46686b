"""What people choose from. It loads nothing, so that the command line can name it at once."""

from __future__ import annotations

from typing import Literal

Network = Literal["loopback", "host"]
"""What the sessions and processes of a sandbox may reach: a loopback device of their own, or the
network of the control process."""

LANGUAGES = {"python": "Python", "javascript": "JavaScript", "typescript": "TypeScript"}
"""What contexts speak, and how people write that."""

MOST_BRANCHES = 64
"""How many branches may be made at once."""

"""Programs that run inside a sandbox; they import nothing of the rest of the package."""

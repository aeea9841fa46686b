"""The control server, over real HTTP."""

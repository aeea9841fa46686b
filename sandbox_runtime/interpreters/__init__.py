"""Interpreters: contexts that keep their state between runs."""

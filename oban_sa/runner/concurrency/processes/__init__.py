"""Processes for code that keeps a processor busy."""

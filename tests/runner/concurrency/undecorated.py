"""Code that knows nothing of jobs."""

from __future__ import annotations


def undecorated() -> str:
    return "undecorated"

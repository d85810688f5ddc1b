"""A module that only processes of jobs import."""

from __future__ import annotations


class FarError(Exception):
    """An error whose class nobody else knows."""

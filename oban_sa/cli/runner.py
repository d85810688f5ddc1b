"""`python -m oban_sa runner`: the same as `python -m oban_sa.runner`."""

from __future__ import annotations

from oban_sa.service.command import command

__all__ = ["command"]

"""`Runner` takes jobs from the tables and does them; the rooms below it are its parts."""

from __future__ import annotations

from oban_sa.runner.runner import Runner

__all__ = ["Runner"]

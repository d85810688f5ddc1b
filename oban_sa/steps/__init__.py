"""Durable steps: parts of a job that run once, and waiting without a slot."""

from __future__ import annotations

from oban_sa.steps.run import step as step

__all__ = ["step"]

"""Durable steps: parts of a job that run once, and waiting without a slot."""

from __future__ import annotations

from oban_sa.steps.report import progress as progress
from oban_sa.steps.run import step as step
from oban_sa.steps.waits import Signal as Signal
from oban_sa.steps.waits import sleep as sleep
from oban_sa.steps.waits import wait_for as wait_for

__all__ = ["Signal", "progress", "sleep", "step", "wait_for"]

"""A module that can't be imported by a process for jobs."""

from __future__ import annotations

raise RuntimeError("no such luck")

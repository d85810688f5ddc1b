"""A promise that a run has broken."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: its name, what is wrong, and the job and the moment that show it."""

    promise: str
    what: str
    job: int | None = None
    at: float | None = None
    details: str = ""

    def __str__(self) -> str:
        job = "" if self.job is None else f" job {self.job}"
        at = "" if self.at is None else f" at {self.at:.3f}"
        return f"{self.promise} {self.what}{job}{at}{': ' if self.details else ''}{self.details}"

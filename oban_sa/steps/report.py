"""`progress`: how far a job has come, for those who look at it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Final, cast

from oban_sa.errors import InvalidOption, shown
from oban_sa.jobs import values
from oban_sa.jobs.durable import PROGRESS
from oban_sa.schedule import clock
from oban_sa.steps.here import here, journal
from oban_sa.steps.journal import Entry, Journal

EVERY: Final = 1.0
"""Seconds between two writings of one job."""

_LONGEST: Final = 500
"""Characters of a note that are kept."""


def progress(done: float, note: str | None = None) -> Coroutine[object, object, None]:
    """Say how far the job has come: `done` from 0 to 1, and a `note` in words.

        await progress(0.4, "rows")     # in `async def`
        progress(0.4, "rows")           # in `def`

    It may be called as often as one likes: at most one a second is written, beside a 1. What was said last is written
    before the job waits, and before a step begins. The job's own row is not touched. It is seen by `jobs show`,
    `Oban.progress` and `Oban.relay(on_progress=...)`. Raises `AttemptLost` where it finds that the job was given to
    another attempt, and `InvalidOption`.
    """
    at = journal("progress()")
    share = cast("object", done)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:  # nor is NaN
        raise InvalidOption(f"progress is a number from 0 to 1, got {shown(done)}; of 4 rows of 10 write progress(0.4)")
    words = cast("object", note)
    if words is not None and not isinstance(words, str):
        raise InvalidOption(f"the note of a progress is a text, got {shown(note)}")
    return cast("Coroutine[object, object, None]", here(at, "progress(...)", lambda: _progress(at, float(done), note)))


async def _progress(at: Journal, done: float, note: str | None) -> None:
    said = {"done": done, "note": None if note is None else _writable(note)}
    at.untold = Entry(PROGRESS, "progress", values.dumps(said), done=False)
    # The code of a later attempt first says again, within moments, what earlier ones have said.
    if done < 1 and clock.monotonic() - at.told_at < EVERY:
        return
    await at.tell()


def _writable(note: str) -> str:
    """Return a note without what PostgreSQL can't hold: a note is not worth an error."""
    return note[:_LONGEST].replace("\0", "\ufffd").encode("utf-8", "replace").decode()

"""The journal of a job as JSON and in lines, for `jobs show`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime

from oban_sa.cli._output import compact
from oban_sa.client.journal import Journal, JournalEntry
from oban_sa.describe.spans import moment


def journal_as_json(journal: Journal) -> dict[str, object]:
    """Return the entries and the progress of a job, those that there are."""
    found: dict[str, object] = {}
    if journal.entries:
        found["journal"] = [asdict(entry) for entry in journal.entries]
    if journal.progress is not None:
        found["progress"] = asdict(journal.progress)
    return found


def in_lines(journal: Journal, now: datetime) -> Iterator[str]:
    """Yield what people read of it."""
    if (progress := journal.progress) is not None:
        yield ""
        yield "progress"
        note = "" if progress.note is None else f"  {progress.note}"
        yield f"  {progress.done:.0%}{note}  {moment(progress.at, now)}"
    if journal.entries:
        yield ""
        yield "journal"
    for entry in journal.entries:
        yield f"  {entry.name}  {_came(entry, now)}"


def _came(entry: JournalEntry, now: datetime) -> str:
    until = "" if entry.until is None else f" until {moment(entry.until, now)}"
    if entry.code == "sleep":
        return f"sleeps{until}" if entry.until is not None and entry.until > now else f"slept{until}"
    if entry.code == "wait_for" and not entry.done:
        return f"waits for a signal{until}"
    if entry.code == "wait_for" and entry.value is None:
        return f"no signal came{until}"
    value = compact(entry.value)
    return value if len(value) <= _WIDTH else f"{value[:_WIDTH]}..."


_WIDTH = 100
"""Characters of a value that are shown."""

"""What a person asks for of jobs, read from words: moments, spans, and what args have to contain."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from oban_sa.errors import InvalidOption, InvalidPeriod
from oban_sa.schedule.periods import seconds
from oban_sa.sql.wanted import Wanted
from oban_sa.wire import json_text


@dataclass(frozen=True, slots=True)
class Filters:
    """What is wanted of jobs; a `since` or `until` that is a span is counted back from the database's clock."""

    wanted: Wanted = field(default_factory=Wanted)
    since: datetime | timedelta | None = None
    until: datetime | timedelta | None = None

    @property
    def anything(self) -> bool:
        """Whether there is a filter at all."""
        return self.wanted.anything or self.since is not None or self.until is not None

    def at(self, now: datetime) -> Wanted:
        """Return what is wanted with spans turned into moments; `now` is the time by the database's clock."""
        return replace(self.wanted, since=_moment(self.since, now), until=_moment(self.until, now))


def when(word: str) -> datetime | timedelta:
    """Read a span of time, or a moment, in UTC where it has no offset; raises `InvalidOption` for other words."""
    try:
        moment = datetime.fromisoformat(word.strip())
    except ValueError:
        try:
            return timedelta(seconds=seconds(word))
        except InvalidPeriod as error:
            raise InvalidOption(
                f"{error}. A moment is written as 2026-11-01, 2026-11-01T09:30 or 2026-11-01T09:30+02:00"
            ) from None
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise InvalidOption(f"{word!r} is not a moment from the year 1 to 9999 in UTC") from None


def contained(path: str, value: str) -> tuple[str, ...]:
    """Return the JSON texts of which args or meta have to contain one: `a.b` is 7, as a number and as a text."""
    values: list[object] = [value]
    with contextlib.suppress(ValueError):  # what is no JSON is a text and nothing more
        values.append(json_text.read(value))
    nested = [nest(path, each) for each in values]
    return tuple(dict.fromkeys(json_text.write(each) for each in nested))


def nest(path: str, value: object) -> object:
    """Return the object that holds a value at a path: `a.b` and 7 make `{"a": {"b": 7}}`."""
    return functools.reduce(lambda inner, part: {part: inner}, reversed(path.split(".")), value)


def _moment(given: datetime | timedelta | None, now: datetime) -> datetime | None:
    if not isinstance(given, timedelta):
        return given
    try:
        return now - given
    except OverflowError:  # longer ago than there are years
        return datetime.min.replace(tzinfo=UTC)

"""The options that choose jobs: --state, --queue, --worker, --tag, --args, --meta, --since, --until."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from oban_sa.cli._database import Command
from oban_sa.cli.jobs.words import object_or_value, plain, plain_words
from oban_sa.errors import InvalidPeriod, nearest
from oban_sa.jobs.states import JobState
from oban_sa.models import validation
from oban_sa.schedule.periods import seconds
from oban_sa.sql.browse import Wanted
from oban_sa.wire import json_text

NAMED: Final = "--state, --queue, --worker, --tag, --args, --meta, --since, --until"


@dataclass(frozen=True, slots=True)
class Filters:
    """What is wanted of jobs; a `since` or `until` that is a span is counted back from the database's clock."""

    wanted: Wanted
    since: datetime | timedelta | None
    until: datetime | timedelta | None

    @property
    def anything(self) -> bool:
        """Whether there is a filter at all."""
        return self.wanted.anything or self.since is not None or self.until is not None

    def at(self, now: datetime) -> Wanted:
        """Return what is wanted with spans turned into moments; `now` is the time by the database's clock."""
        return replace(self.wanted, since=_moment(self.since, now), until=_moment(self.until, now))


def filters(function: Command) -> Command:
    """Add the options that choose jobs to a command, which then takes `filters`."""

    @functools.wraps(function)
    def command(*given: object, **others: Any) -> None:
        parts = {name: others.pop(name) for name in ("states", "queues", "workers", "tags", "args", "meta")}
        since, until = others.pop("since"), others.pop("until")
        function(*given, filters=Filters(Wanted(**parts), since, until), **others)

    states = f"In this state; repeatable. {', '.join(JobState)}."
    workers = "Of this worker; repeatable. The last part of its name will do."
    value = "JSON|KEY=VALUE"
    for option in (
        click.option("--until", metavar="WHEN", callback=_when, help="Due before then, as --since."),
        click.option(
            "--since", metavar="WHEN", callback=_when, help='Due since then: "2h" ago, or a moment, 2026-11-01T09:30.'
        ),
        click.option("--meta", multiple=True, metavar=value, callback=_contained, help="The same for meta."),
        click.option(
            "--args",
            multiple=True,
            metavar=value,
            callback=_contained,
            help="Whose args hold this: '{\"id\": 7}', or order.id=7 for what is inside, a number or a text.",
        ),
        click.option(
            "--tag", "tags", multiple=True, metavar="TAG", callback=_tags, help="With this tag; several: with all."
        ),
        click.option("--worker", "workers", multiple=True, metavar="NAME", callback=plain_words, help=workers),
        click.option(
            "--queue", "queues", multiple=True, metavar="NAME", callback=plain_words, help="Of this queue; repeatable."
        ),
        click.option("--state", "states", multiple=True, metavar="STATE", callback=_states, help=states),
    ):
        command = option(command)
    return command


def _states(_ctx: click.Context, _option: click.Parameter, given: Sequence[str]) -> tuple[JobState, ...]:
    """Read states; raises `click.BadParameter` with the nearest one for a word that is none."""
    choices = [state.value for state in JobState]
    for word in given:
        if word.lower() not in choices:
            raise click.BadParameter(f"{word!r} is no state{nearest(word.lower(), choices)} ({', '.join(choices)})")
    return tuple(dict.fromkeys(JobState(word.lower()) for word in given))


def _tags(ctx: click.Context, option: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    return tuple(validation.tags(plain_words(ctx, option, given)))


def _when(_ctx: click.Context, _option: click.Parameter, given: str | None) -> datetime | timedelta | None:
    return None if given is None else when(given)


def when(word: str) -> datetime | timedelta:
    """Read a span of time, or a moment, in UTC where it has no offset; raises `click.BadParameter` for other words."""
    try:
        moment = datetime.fromisoformat(word.strip())
    except ValueError:
        try:
            return timedelta(seconds=seconds(word))
        except InvalidPeriod as error:
            raise click.BadParameter(
                f"{error}. A moment is written as 2026-11-01, 2026-11-01T09:30 or 2026-11-01T09:30+02:00"
            ) from None
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise click.BadParameter(f"{word!r} is not a moment from the year 1 to 9999 in UTC") from None


def _moment(given: datetime | timedelta | None, now: datetime) -> datetime | None:
    if not isinstance(given, timedelta):
        return given
    try:
        return now - given
    except OverflowError:  # longer ago than there are years
        return datetime.min.replace(tzinfo=UTC)


def _contained(_ctx: click.Context, option: click.Parameter, given: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Read what args or meta have to contain: for each word the JSON texts of which one is enough."""
    return tuple(_readings(plain(word), f"--{option.name}") for word in given)


def _readings(word: str, option: str) -> tuple[str, ...]:
    read = object_or_value(word, option, nested=True)
    if isinstance(read, dict):
        return (json_text.write(read),)
    key, value = read
    values: list[object] = [value]
    with contextlib.suppress(ValueError):  # what is no JSON is a text and nothing more
        values.append(json_text.read(value))
    nested = [functools.reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), each) for each in values]
    return tuple(dict.fromkeys(json_text.write(each) for each in nested))

"""The options that choose jobs: --state, --queue, --worker, --tag, --args, --meta, --since, --until."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import click

from oban_sa.cli._database import Command
from oban_sa.cli.jobs.words import object_or_value, plain, plain_words
from oban_sa.client.filters import Filters, contained
from oban_sa.client.filters import when as read_when
from oban_sa.client.query import read_query
from oban_sa.errors import InvalidOption, nearest
from oban_sa.jobs.states import JobState
from oban_sa.models import validation
from oban_sa.sql.wanted import Wanted
from oban_sa.wire import json_text

NAMED: Final = "--state, --queue, --worker, --tag, --args, --meta, --since, --until"


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


def queried(words: Sequence[str], options: Filters) -> Filters:
    """Return the filters that a query says, or those of the options; raises `InvalidOption` where both say some."""
    if not words:
        return options
    if options.anything:
        raise InvalidOption(f"give a query, or {NAMED}, but not both")
    return read_query(" ".join(words))


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
        return read_when(word)
    except InvalidOption as error:
        raise click.BadParameter(str(error)) from None


def _contained(_ctx: click.Context, option: click.Parameter, given: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Read what args or meta have to contain: for each word the JSON texts of which one is enough."""
    return tuple(_readings(plain(word), f"--{option.name}") for word in given)


def _readings(word: str, option: str) -> tuple[str, ...]:
    read = object_or_value(word, option, nested=True)
    if isinstance(read, dict):
        return (json_text.write(read),)
    return contained(*read)

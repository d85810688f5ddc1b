"""The options of `jobs enqueue` and `jobs update` that set columns of a job: --args, --meta, --tag, --queue ..."""

from __future__ import annotations

import functools
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Final

import click

from oban_sa.cli._database import Command
from oban_sa.cli.jobs.filters import when
from oban_sa.cli.jobs.words import object_or_value, plain, plain_words
from oban_sa.errors import InvalidJob, InvalidOption, nearest
from oban_sa.service import imports
from oban_sa.wire import json_text
from oban_sa.workers.definition import Definition
from oban_sa.workers.registry import registry

Options = dict[str, Any]

_NAMES: Final = ("args", "meta", "tags", "queue", "priority", "max_attempts", "schedule_in", "scheduled_at")


def job_options(function: Command) -> Command:
    """Add these options to a command, which then takes `options`: what was given, by the names of Job's keywords."""

    @functools.wraps(function)
    def command(*given: object, **others: Any) -> None:
        options = {name: others.pop(name) for name in _NAMES}
        clear = others.pop("no_tags")
        if clear and options["tags"]:
            raise click.UsageError("--no-tags and --tag exclude each other")
        if options["schedule_in"] is not None and options["scheduled_at"] is not None:
            raise click.UsageError("--schedule-in and --schedule-at exclude each other")
        found = {name: value for name, value in options.items() if value not in (None, ())}
        function(*given, options={**found, **({"tags": []} if clear else {})}, **others)

    for option in (
        click.option(
            "--schedule-at", "scheduled_at", metavar="MOMENT", callback=_at, help="Run then; UTC if it has no offset."
        ),
        click.option(
            "--schedule-in", metavar="SPAN", callback=_in, help='Run after this span: "90s", "5 minutes", "1h30m".'
        ),
        click.option("--max-attempts", type=int, metavar="N", help="Attempts before it is given up; 20."),
        click.option("--priority", type=int, metavar="0-9", help="0, the first to run, to 9."),
        click.option("--queue", metavar="NAME", callback=_word, help='The queue; "default".'),
        click.option("--no-tags", is_flag=True, help="Have no tags."),
        click.option("--tag", "tags", multiple=True, metavar="TAG", callback=plain_words, help="A tag; repeatable."),
        click.option("--meta", multiple=True, metavar="JSON|KEY=VALUE", callback=_object, help="Its meta, as --args."),
        click.option(
            "--args",
            multiple=True,
            metavar="JSON|KEY=VALUE",
            callback=_object,
            help="Its args: '{\"id\": 7}', or id=7; repeatable. What is not JSON is a text: to=ada.",
        ),
    ):
        command = option(command)
    return command


def import_option(function: Command) -> Command:
    """Add --import to a command, which then takes `modules`."""
    return click.option(
        "--import",
        "modules",
        multiple=True,
        metavar="MODULE",
        help="Check by this module's workers: their names, their options and what their args may be; repeatable.",
    )(function)


def find_worker(worker: str, modules: Sequence[str]) -> Definition:
    """Import `modules` and return the worker of this name, or the one whose name ends with it after a dot.

    Raises `InvalidOption` where no worker or several have such a name, and what importing raises.
    """
    imports.load(modules)
    definitions = {each.name: each for each in registry}
    if worker in registry:
        return registry.find(worker)
    found = [each for name, each in definitions.items() if name.rpartition(".")[2] == worker]
    if len(found) > 1:
        raise InvalidOption(f"{worker!r} may be any of {', '.join(each.name for each in found)}; write its whole name")
    if not found:
        last = [name.rpartition(".")[2] for name in definitions]
        hint = nearest(worker, [*definitions, *last]) or f"; there are {', '.join(sorted(definitions)) or 'none'}"
        raise InvalidOption(f"no worker is called {worker!r} in {', '.join(modules)}{hint}")
    return found[0]


@contextmanager
def as_invalid_option() -> Generator[None]:
    """Turn `InvalidJob` into `InvalidOption`, a mistake in what was typed."""
    try:
        yield
    except InvalidJob as error:
        raise InvalidOption(f"{error}; nothing was written") from error


def _object(_ctx: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, object] | None:
    """Read an object that is given whole, value by value, or both; the last one wins."""
    found: dict[str, object] = {}
    for word in map(plain, given):
        found |= _read(word, f"--{option.name}")
    return found if given else None


def _read(word: str, option: str) -> dict[str, object]:
    read = object_or_value(word, option)
    if isinstance(read, dict):
        return read
    key, value = read
    with suppress(ValueError):
        return {key: json_text.read(value)}
    return {key: value}


def _word(_ctx: click.Context, _option: click.Parameter, given: str | None) -> str | None:
    return None if given is None else plain(given)


def _in(_ctx: click.Context, _option: click.Parameter, given: str | None) -> timedelta | None:
    if given is None:
        return None
    read = when(given)
    if not isinstance(read, timedelta):
        raise click.BadParameter(f"{given!r} is a moment; write --schedule-at {given}")
    return read


def _at(_ctx: click.Context, _option: click.Parameter, given: str | None) -> datetime | None:
    if given is None:
        return None
    read = when(given)
    if isinstance(read, timedelta):
        raise click.BadParameter(f"{given!r} is a span of time; write --schedule-in {given}")
    return read

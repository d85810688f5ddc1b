"""What a job is to hold, as it is typed for `jobs enqueue` and `jobs update`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final

import click

from oban_sa import jsontext
from oban_sa.cli.jobs.filters import when
from oban_sa.cli.jobs.typed import object_or_value, plain, plain_words
from oban_sa.errors import InvalidJob, InvalidOption, nearest
from oban_sa.runner.command import imports
from oban_sa.workers.definition import Definition
from oban_sa.workers.registry import registry

Options = dict[str, Any]

_NAMES: Final = ("args", "meta", "tags", "queue", "priority", "max_attempts", "schedule_in", "scheduled_at")


def holding(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add to a command what a job is to hold; it takes `options` with what was given, by the names that Job has."""

    @functools.wraps(function)
    def command(*given: Any, **others: Any) -> Any:
        options = {name: others.pop(name) for name in _NAMES}
        clear = others.pop("no_tags")
        if clear and options["tags"]:
            raise click.UsageError("--no-tags and --tag exclude each other")
        if options["schedule_in"] is not None and options["scheduled_at"] is not None:
            raise click.UsageError("--schedule-in and --schedule-at exclude each other")
        found = {name: value for name, value in options.items() if value not in (None, ())}
        return function(*given, options={**found, **({"tags": []} if clear else {})}, **others)

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


def import_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --import to a command, which then takes `modules`."""
    return click.option(
        "--import",
        "modules",
        multiple=True,
        metavar="MODULE",
        help="Check by this module's workers: their names, their options and what their args may be; repeatable.",
    )(function)


def known(worker: str, modules: Sequence[str]) -> Definition:
    """Return the worker of this name, or of which this is the last part, once `modules` are imported.

    Raises `InvalidOption` where none or several have such a name, and what importing raises.
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
def refusing() -> Generator[None]:
    """Show what a job can't be as a mistake in what was typed."""
    try:
        yield
    except InvalidJob as error:
        raise InvalidOption(f"{error}; nothing was written") from error


def _object(_ctx: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, Any] | None:
    """Read an object that is given whole, or value by value."""
    found: dict[str, Any] = {}
    for word in map(plain, given):
        found |= _read(word, f"--{option.name}")
    return found if given else None


def _read(word: str, option: str) -> dict[str, Any]:
    read = object_or_value(word, option)
    if isinstance(read, dict):
        return read
    key, value = read
    with suppress(ValueError):
        return {key: jsontext.read(value)}
    return {key: value}


def _word(_ctx: click.Context, _option: click.Parameter, given: str | None) -> str | None:
    return None if given is None else plain(given)


def _in(_ctx: click.Context, _option: click.Parameter, given: str | None) -> Any:
    if given is None:
        return None
    read = when(given)
    if not isinstance(read, timedelta):
        raise click.BadParameter(f"{given!r} is a moment; write --schedule-at {given}")
    return read


def _at(_ctx: click.Context, _option: click.Parameter, given: str | None) -> Any:
    if given is None:
        return None
    read = when(given)
    if isinstance(read, timedelta):
        raise click.BadParameter(f"{given!r} is a span of time; write --schedule-in {given}")
    return read

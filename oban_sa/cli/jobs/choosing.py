"""Which jobs a command is about: ids and filters, as they are typed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from oban_sa.errors import nearest
from oban_sa.states import JobState


def _states(_ctx: click.Context, _option: click.Parameter, given: Sequence[str]) -> tuple[JobState, ...]:
    """Read states, or say which ones were probably meant."""
    choices = [state.value for state in JobState]
    for word in given:
        if word.lower() not in choices:
            raise click.BadParameter(f"{word!r} is no state{nearest(word.lower(), choices)} ({', '.join(choices)})")
    return tuple(JobState(word.lower()) for word in given)


def read_ids(_ctx: click.Context, _argument: click.Parameter, given: str | Sequence[str]) -> int | tuple[int, ...]:
    """Read one id, or several."""
    if isinstance(given, str):
        return _id(given)
    return tuple(_id(word) for word in given)


def _id(word: str) -> int:
    number = int(word) if word.isascii() and word.isdigit() and len(word) < 20 else 0
    if not 0 < number < 2**63:
        raise click.BadParameter(f"{word!r} is no job's id, which is a number such as 123; `jobs list` shows them")
    return number


def filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --state, --queue and --worker to a command."""
    states = f"In this state; repeatable. {', '.join(JobState)}."
    workers = "Of this worker; repeatable. The last part of its name will do."
    for option in (
        click.option("--worker", "workers", multiple=True, metavar="NAME", help=workers),
        click.option("--queue", "queues", multiple=True, metavar="NAME", help="Of this queue; repeatable."),
        click.option("--state", "states", multiple=True, metavar="STATE", callback=_states, help=states),
    ):
        function = option(function)
    return function

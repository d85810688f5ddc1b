"""`jobs retry`, `cancel` and `delete`: jobs by id, or all that pass filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import click
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa.cli._connecting import asked, database_options, json_option
from oban_sa.cli._printing import count, document
from oban_sa.cli.jobs.choosing import filters, read_ids
from oban_sa.client import Oban
from oban_sa.errors import InvalidOption, JobNotFound
from oban_sa.models import Job
from oban_sa.settings import Settings
from oban_sa.sql import overview
from oban_sa.states import JobState

Verb: TypeAlias = Literal["retry", "cancel", "delete"]

_DONE: Final = {"retry": "made available", "cancel": "cancelled", "delete": "deleted"}
_KEYS: Final = {"retry": "retried", "cancel": "cancelled", "delete": "deleted"}
_MOST_IDS: Final = 10

_CHANGEABLE: Final = {
    "retry": frozenset(JobState) - {JobState.AVAILABLE, JobState.EXECUTING},
    "cancel": frozenset(JobState) - {JobState.COMPLETED, JobState.CANCELLED, JobState.DISCARDED},
    "delete": frozenset(JobState) - {JobState.EXECUTING},
}


def _changes(*, unasked: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add to a command what says which jobs it changes; `unasked` is the help of the option not to ask before."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            database_options,
            json_option,
            click.option("--yes", is_flag=True, help=unasked),
            filters,
            click.argument("ids", nargs=-1, metavar="[ID]...", callback=read_ids),
        ):
            function = option(function)
        return function

    return decorate


@click.command(
    "retry", help="Make jobs available at once, with an attempt left; those available or executing stay as they are."
)
@_changes(unasked="Do not ask before many are tried again.")
def retry(settings: Settings, **given: Any) -> None:
    """Retry jobs."""
    _change(settings, "retry", **given)


@click.command(
    "cancel", help="Cancel jobs. One that is executing is asked to stop; those that have ended stay as they are."
)
@_changes(unasked="Do not ask before several are cancelled.")
def cancel(settings: Settings, **given: Any) -> None:
    """Cancel jobs."""
    _change(settings, "cancel", **given)


@click.command("delete", help="Delete jobs. One that is executing is left alone: cancel it first.")
@_changes(unasked="Do not ask before several are deleted.")
def delete(settings: Settings, **given: Any) -> None:
    """Delete jobs."""
    _change(settings, "delete", **given)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What a command is about: jobs by id, or all that pass filters."""

    conditions: list[ColumnElement[bool]]
    ids: tuple[int, ...]

    @classmethod
    def read(cls, verb: Verb, ids: tuple[int, ...], **filters: Any) -> _Chosen:
        """Take ids or filters; refuses both, and neither."""
        conditions = overview.filtered(**filters)
        if ids and conditions:
            raise InvalidOption("give ids, or --state, --queue and --worker, but not both")
        if not ids and not conditions:
            raise InvalidOption(
                f"which jobs? Write their ids: jobs {verb} 123 124, or what they have in common: "
                f"jobs {verb} --queue mailers --state available"
            )
        return cls([Job.id.in_(ids)] if ids else conditions, tuple(dict.fromkeys(ids)))


def _change(settings: Settings, verb: Verb, *, ids: tuple[int, ...], yes: bool, as_json: bool, **filters: Any) -> None:
    chosen = _Chosen.read(verb, ids, **filters)
    changeable = _CHANGEABLE[verb]

    async def look(oban: Oban) -> dict[JobState, int]:
        async with AsyncSession(oban.engine) as session:
            if chosen.ids:
                found = set(await session.scalars(select(Job.id).where(*chosen.conditions)))
                _all_found(settings, [job_id for job_id in chosen.ids if job_id not in found])
            counted = await session.execute(
                select(Job.state, func.count()).where(*chosen.conditions).group_by(Job.state)
            )
            return {row[0]: row[1] for row in counted}

    async def change(oban: Oban) -> int:
        method = {"retry": oban.retry_jobs, "cancel": oban.cancel_jobs, "delete": oban.delete_jobs}[verb]
        return await method(list(chosen.ids)) if chosen.ids else await method(*chosen.conditions)

    there = asked(settings, look)
    affected = {state: number for state, number in there.items() if state in changeable}
    total = sum(affected.values())
    if total > 1 and not yes and (verb != "retry" or not chosen.ids):
        listed = ", ".join(f"{number:,} {state}" for state, number in sorted(affected.items()))
        click.confirm(f"{verb.capitalize()} {count(total, 'job')} ({listed})?", abort=True, err=True)
    changed = asked(settings, change) if total else 0
    left = {state: number for state, number in there.items() if state not in changeable}
    if as_json:
        document({_KEYS[verb]: changed, "left_alone": {state.value: number for state, number in left.items()}})
        return
    executing = affected.get(JobState.EXECUTING, 0) if verb == "cancel" else 0
    asked_to_stop = f", of which {executing:,} executing, asked to stop" if executing else ""
    click.echo(f"{count(changed, 'job')} {_DONE[verb]}{asked_to_stop}.")
    for state, number in sorted(left.items()):
        click.echo(f"{count(number, 'job')} left alone: {state.value}.")


def _all_found(settings: Settings, missing: Sequence[int]) -> None:
    if missing:
        named = ", ".join(str(job_id) for job_id in missing[:_MOST_IDS])
        rest = f" and {len(missing) - _MOST_IDS} more" if len(missing) > _MOST_IDS else ""
        raise JobNotFound(
            f"no job in schema {settings.schema!r} has the id {named}{rest}; it was deleted or pruned, or never was. "
            "Nothing was changed"
        )

"""`python -m oban_sa jobs`: look at jobs, try them again, cancel and delete them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

import click
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import printable
from oban_sa.cli._connecting import asked, database_options, json_option
from oban_sa.cli._groups import CONTEXT, Suggesting
from oban_sa.cli._printing import ago, compact, count, document, moment, pretty, say, span, table
from oban_sa.client import Oban
from oban_sa.errors import InvalidOption, JobNotFound, nearest
from oban_sa.models import Job
from oban_sa.settings import Settings
from oban_sa.sql import overview
from oban_sa.sql.keeping import BEGAN
from oban_sa.states import JobState

HELP = """Look at jobs, try them again, cancel them or delete them.

\b
Examples:
  python -m oban_sa jobs list                                      # the newest twenty
  python -m oban_sa jobs list --state retryable --queue mailers    # what failed and will be tried again
  python -m oban_sa jobs show 123                                  # all about one, with its errors
  python -m oban_sa jobs retry 123 124                             # try these again now
  python -m oban_sa jobs retry --state discarded --worker SendMail # and everything of a kind that was given up
  python -m oban_sa jobs cancel --queue mailers --state scheduled
  python -m oban_sa jobs delete --state completed --yes            # without being asked whether you are sure
  python -m oban_sa jobs list --state discarded --json | jq .jobs[].id
"""

Verb: TypeAlias = Literal["retry", "cancel", "delete"]

_DONE: Final = {"retry": "made available", "cancel": "cancelled", "delete": "deleted"}
_KEYS: Final = {"retry": "retried", "cancel": "cancelled", "delete": "deleted"}
_MOST_IDS: Final = 10
_ARGS_WIDTH: Final = 80


def _states(_ctx: click.Context, _option: click.Parameter, given: Sequence[str]) -> tuple[JobState, ...]:
    """Read states, or say which ones were probably meant."""
    choices = [state.value for state in JobState]
    for word in given:
        if word.lower() not in choices:
            raise click.BadParameter(f"{word!r} is no state{nearest(word.lower(), choices)} ({', '.join(choices)})")
    return tuple(JobState(word.lower()) for word in given)


def _ids(_ctx: click.Context, _argument: click.Parameter, given: str | Sequence[str]) -> int | tuple[int, ...]:
    """Read one id, or several."""
    if isinstance(given, str):
        return _id(given)
    return tuple(_id(word) for word in given)


def _id(word: str) -> int:
    number = int(word) if word.isascii() and word.isdigit() and len(word) < 20 else 0
    if not 0 < number < 2**63:
        raise click.BadParameter(f"{word!r} is no job's id, which is a number such as 123; `jobs list` shows them")
    return number


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
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


def _changes(*, unasked: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add to a command what says which jobs it changes; `unasked` is the help of the option not to ask before."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            database_options,
            json_option,
            click.option("--yes", is_flag=True, help=unasked),
            _filters,
            click.argument("ids", nargs=-1, metavar="[ID]...", callback=_ids),
        ):
            function = option(function)
        return function

    return decorate


command = Suggesting(
    "jobs", help=HELP, short_help="Look at jobs, retry, cancel and delete them.", context_settings=CONTEXT
)


@command.command("list", help="Show jobs, the newest first.")
@_filters
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most.")
@json_option
@database_options
def list_(
    settings: Settings,
    *,
    states: tuple[JobState, ...],
    queues: tuple[str, ...],
    workers: tuple[str, ...],
    limit: int,
    as_json: bool,
) -> None:
    """Print the newest jobs that pass the filters."""

    async def ask(oban: Oban) -> tuple[list[Job], datetime]:
        async with AsyncSession(oban.engine) as session:
            conditions = overview.filtered(states=states, queues=queues, workers=workers)
            found = await session.scalars(select(Job).where(*conditions).order_by(Job.id.desc()).limit(limit + 1))
            return list(found), await _now(session)

    jobs, now = asked(settings, ask)
    more, jobs = len(jobs) > limit, jobs[:limit]
    if as_json:
        document({"jobs": [_described(job) for job in jobs], "more": more})
        return
    if not jobs:
        click.echo("There are no such jobs." if states or queues or workers else "There are no jobs.")
        return
    columns = ("id", "state", "queue", "worker", "attempt", "when", "args")
    rows = [
        (
            job.id,
            job.state.value,
            job.queue,
            job.worker.rpartition(".")[2],
            f"{job.attempt}/{job.max_attempts}",
            _when(job, now),
            compact(job.args)[:_ARGS_WIDTH],
        )
        for job in jobs
    ]
    table(columns, rows, right=("id", "attempt"), wide="args")
    if more:
        click.echo(
            f"These are the newest {limit}; there are more. See them with --limit, or fewer with --state.", err=True
        )


@command.command(
    "show", help="Show everything about one job: args, meta, every error with its traceback, and when what happened."
)
@click.argument("job_id", metavar="ID", callback=_ids)
@json_option
@database_options
def show(settings: Settings, *, job_id: int, as_json: bool) -> None:
    """Print one job."""

    async def ask(oban: Oban) -> tuple[Job, datetime]:
        job = await oban.get_job(job_id)
        async with AsyncSession(oban.engine) as session:
            return job, await _now(session)

    job, now = asked(settings, ask)
    if as_json:
        document(_described(job))
        return
    say(f"Job {job.id}  {job.worker}")
    lines: list[tuple[str, object]] = [
        ("state", job.state.value),
        ("queue", job.queue),
        ("priority", job.priority),
        ("attempt", f"{job.attempt} of {job.max_attempts}"),
        ("tags", ", ".join(job.tags)),
        ("held by", " ".join(job.attempted_by or ())),
        *(
            (name.removesuffix("_at"), moment(getattr(job, name), now))
            for name in _MOMENTS
            if getattr(job, name) is not None
        ),
    ]
    for name, value in lines:
        if value != "":
            say(f"  {name:<10} {value}")
    for name, held in (("args", job.args), ("meta", job.meta)):
        click.echo(f"\n{name}")
        click.echo(_indented(pretty(held)))
    if job.meta.get("recorded") is True:
        click.echo("\nrecorded")
        click.echo(_indented(_recorded(job)))
    for known in map(_entry, job.errors):
        click.echo()
        say(f"error of attempt {_text(known.get('attempt', '?'))}  {_said_at(known.get('at'), now)}")
        click.echo(_indented(_text(known.get("error", "")).rstrip()))


@command.command(
    "retry", help="Make jobs available at once, with an attempt left; those available or executing stay as they are."
)
@_changes(unasked="Do not ask before many are tried again.")
def retry(settings: Settings, **given: Any) -> None:
    """Retry jobs."""
    _change(settings, "retry", **given)


@command.command(
    "cancel", help="Cancel jobs. One that is executing is asked to stop; those that have ended stay as they are."
)
@_changes(unasked="Do not ask before several are cancelled.")
def cancel(settings: Settings, **given: Any) -> None:
    """Cancel jobs."""
    _change(settings, "cancel", **given)


@command.command("delete", help="Delete jobs. One that is executing is left alone: cancel it first.")
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


_CHANGEABLE: Final = {
    "retry": frozenset(JobState) - {JobState.AVAILABLE, JobState.EXECUTING},
    "cancel": frozenset(JobState) - {JobState.COMPLETED, JobState.CANCELLED, JobState.DISCARDED},
    "delete": frozenset(JobState) - {JobState.EXECUTING},
}

_MOMENTS: Final = (
    "inserted_at",
    "scheduled_at",
    "attempted_at",
    "completed_at",
    "cancelled_at",
    "discarded_at",
)


def _described(job: Job) -> dict[str, Any]:
    """A job as JSON: every column, by its name."""
    return {
        "id": job.id,
        "state": job.state.value,
        "queue": job.queue,
        "worker": job.worker,
        "args": job.args,
        "meta": job.meta,
        "tags": job.tags,
        "errors": job.errors,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "priority": job.priority,
        "attempted_by": job.attempted_by,
        **{name: getattr(job, name) for name in _MOMENTS},
    }


def _when(job: Job, now: datetime) -> str:
    """What one wants to know first about a job in its state."""
    match job.state:
        case JobState.COMPLETED:
            return ago(job.completed_at, now)
        case JobState.CANCELLED:
            return ago(job.cancelled_at, now)
        case JobState.DISCARDED:
            return ago(job.discarded_at, now)
        case JobState.EXECUTING if job.attempted_at is not None:
            return f"for {span((now - (_began_at(job) or job.attempted_at)).total_seconds())}"
        case JobState.SCHEDULED | JobState.RETRYABLE | JobState.AVAILABLE:
            return ago(job.scheduled_at, now)
        case _:
            return ago(job.inserted_at, now)


def _began_at(job: Job) -> datetime | None:
    """The true start of an attempt that is kept young, as its meta has it."""
    match job.meta.get(BEGAN):
        case {"attempt": job.attempt, "at": str(at)}:
            with suppress(ValueError):
                return datetime.fromisoformat(at).replace(tzinfo=UTC)
        case _:
            pass
    return None


def _recorded(job: Job) -> str:
    try:
        return pretty(job.recorded())
    except Exception as error:
        return f"can't be decoded: {error}"


def _entry(error: Any) -> dict[str, Any]:
    """One of a job's errors, whatever stands there."""
    return error if isinstance(error, dict) else {"error": error}  # pyright: ignore[reportUnknownVariableType]


def _text(value: object) -> str:
    return value if isinstance(value, str) else compact(value)


def _said_at(text: object, now: datetime) -> str:
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return ""
    return "" if at is None else moment(at if at.tzinfo else at.replace(tzinfo=now.tzinfo), now)


def _indented(text: str) -> str:
    return printable.block(text, indent="  ")


async def _now(session: AsyncSession) -> datetime:
    """The database's clock, so that ages are right on a machine whose clock is not."""
    now: datetime = (await session.execute(overview.now())).scalar_one()
    return now.replace(tzinfo=UTC)

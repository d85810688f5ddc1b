"""`jobs retry`, `cancel` and `delete`: jobs by id, or all that pass filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click
from sqlalchemy import select

from oban_sa.cli._database import Command, database_options, json_option, run_with_client
from oban_sa.cli._output import document, say
from oban_sa.cli.jobs.apply import Change, Verb
from oban_sa.cli.jobs.filters import NAMED, filters
from oban_sa.cli.jobs.words import plain_words, read_ids
from oban_sa.client import Oban
from oban_sa.client.filters import Filters
from oban_sa.client.query import read_query
from oban_sa.client.read import read_session
from oban_sa.client.search import COUNTED, Counted, count_wanted
from oban_sa.describe.spans import count
from oban_sa.errors import InvalidOption, JobNotFound
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import Conflict
from oban_sa.models import Job
from oban_sa.service.command import Failed
from oban_sa.settings.settings import Settings
from oban_sa.sql import browse
from oban_sa.sql.wanted import Wanted

_DONE: Final = {"retry": "made available", "cancel": "cancelled", "delete": "deleted"}
_KEYS: Final = {"retry": "retried", "cancel": "cancelled", "delete": "deleted"}
_CHANGEABLE: Final = {
    "retry": frozenset(JobState) - {JobState.AVAILABLE, JobState.EXECUTING},
    "cancel": frozenset(JobState) - {JobState.COMPLETED, JobState.CANCELLED, JobState.DISCARDED},
    "delete": frozenset(JobState) - {JobState.EXECUTING},
}
_MOST_IDS: Final = 10


def _example(verb: str, *lines: str) -> str:
    return "\n".join(["\b", "Examples:", *(f"  python -m oban_sa jobs {verb} {line}" for line in lines)])


RETRY = f"""Make jobs available at once, with an attempt left; those available or executing stay as they are.

{
    _example(
        "retry",
        "123 124",
        "--state discarded --worker SendMail    # everything of a kind that was given up",
        "123 --attempts 5                       # and not give it up before the fifth failure",
        "--state discarded --args order.id=17 --yes",
    )
}

A job that had used up its attempts gets one more, or as many as --attempts says. A unique job is left alone where
another one stands in its way.
"""
CANCEL = f"""Cancel jobs. One that is executing is asked to stop; those that have ended stay as they are.

{_example("cancel", "123", "--queue mailers --state scheduled", "--worker SendMail --args to=ada --yes --json")}
"""
DELETE = f"""Delete jobs. One that is executing is left alone: cancel it first.

{
    _example(
        "delete",
        "123",
        "--state completed --until 30d     # all that were due more than 30 days ago",
        "--state discarded --tag import --yes",
    )
}
"""
CHOSEN = f"""
Jobs are given by id, by a query as `jobs list` takes it, or by {NAMED}.
They are counted before you are asked; of more than {COUNTED:,} the question says "or more".
"""
THROUGH = """
Without --state, --queue, --since or --until the whole table is searched, a part at a time, each in a transaction of
its own.
"""


def _changes(*, unasked: str) -> Callable[[Command], Command]:
    """Add ids, filters and --yes to a command that changes jobs; `unasked` is the help of --yes."""

    def decorate(function: Command) -> Command:
        for option in (
            database_options,
            json_option,
            click.option("--yes", is_flag=True, help=unasked),
            filters,
            click.argument("which", nargs=-1, metavar="[ID]... | [QUERY]", callback=_ids_or_query),
        ):
            function = option(function)
        return function

    return decorate


def _ids_or_query(
    ctx: click.Context, argument: click.Parameter, given: tuple[str, ...]
) -> int | tuple[int, ...] | Filters:
    """Read ids, or a query, which has a field with a colon somewhere."""
    if any(":" in word for word in given):
        return read_query(" ".join(plain_words(ctx, argument, given)))
    return read_ids(ctx, argument, given)


@click.command("retry", help=RETRY + CHOSEN + THROUGH, short_help="Make jobs available at once, with an attempt left.")
@click.option(
    "--attempts",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    metavar="N",
    help="Attempts that each has left at least.",
)
@_changes(unasked="Do not ask before many are tried again.")
def retry(settings: Settings, *, attempts: int, **given: Any) -> None:
    """Retry jobs."""
    _change(settings, "retry", options={"attempts": attempts}, **given)


@click.command("cancel", help=CANCEL + CHOSEN, short_help="Cancel jobs; those executing are asked to stop.")
@_changes(unasked="Do not ask before several are cancelled.")
def cancel(settings: Settings, **given: Any) -> None:
    """Cancel jobs."""
    _change(settings, "cancel", **given)


@click.command("delete", help=DELETE + CHOSEN + THROUGH, short_help="Delete jobs that are not executing.")
@_changes(unasked="Do not ask before several are deleted.")
def delete(settings: Settings, **given: Any) -> None:
    """Delete jobs."""
    _change(settings, "delete", **given)


def _change(
    settings: Settings,
    verb: Verb,
    *,
    which: tuple[int, ...] | Filters,
    filters: Filters,
    yes: bool,
    as_json: bool,
    options: dict[str, object] | None = None,
) -> None:
    if which and filters.anything:
        raise InvalidOption(f"give ids, or a query, or {NAMED}, but not both")
    ids, filters = ((), which) if isinstance(which, Filters) else (which, filters)
    if not ids and not filters.anything:
        raise InvalidOption(
            f"which jobs? Write their ids: jobs {verb} 123 124, or what they have in common: "
            f"jobs {verb} --queue mailers --state available"
        )
    changeable = _CHANGEABLE[verb]
    there = run_with_client(settings, lambda oban: _by_id(settings, oban, ids) if ids else count_wanted(oban, filters))
    affected = {state: number for state, number in there.states.items() if state in changeable}
    total = sum(affected.values())
    if not yes and (not there.all_of_them or (total > 1 and (verb != "retry" or not ids))):
        click.confirm(_question(verb, affected, there), abort=True, err=True)
    changed, refused, conflicts = 0, dict[int, str](), dict[int, Conflict]()
    if total or not there.all_of_them:
        change = Change(verb, changeable, options or {})
        changed = run_with_client(
            settings, lambda oban: change.by_id(oban, ids) if ids else change.all(oban, there.wanted)
        )
        refused, conflicts = change.refused, change.conflicts
    left = {state: number for state, number in there.states.items() if state not in changeable}
    if as_json:
        answer: dict[str, object] = {
            _KEYS[verb]: changed,
            "left_alone": {state.value: number for state, number in left.items()},
        }
        if conflicts:
            answer["conflicts"] = {
                str(job_id): {"id": other.id, "state": other.state.value} for job_id, other in conflicts.items()
            }
        if refused:
            answer["refused"] = {str(job_id): why for job_id, why in refused.items()}
        document(answer)
    else:
        executing = affected.get(JobState.EXECUTING, 0) if verb == "cancel" else 0
        asked_to_stop = f", of which {executing:,} executing, asked to stop" if executing else ""
        click.echo(f"{count(changed, 'job')} {_DONE[verb]}{asked_to_stop}.")
        for state, number in sorted(left.items()):
            click.echo(f"{count(number, 'job')} left alone: {state.value}.")
        _tell_conflicts(conflicts)
    for hint in there.hints:
        say(f"Note: {hint}", err=True)
    if refused:
        for job_id, why in list(refused.items())[:_MOST_IDS]:
            say(f"The database refused it for job {job_id}: {why}", err=True)
        raise Failed(f"the database refused it for {count(len(refused), 'job')}, as rules on your table say; see above")


def _tell_conflicts(conflicts: Mapping[int, Conflict]) -> None:
    for job_id, other in list(conflicts.items())[:_MOST_IDS]:
        click.echo(f"Job {job_id} left alone: job {other.id}, {other.state.value}, has the same unique key.")
    if len(conflicts) > _MOST_IDS:
        click.echo(f"{count(len(conflicts) - _MOST_IDS, 'more job')} left alone for such a reason; --json names all.")


def _question(verb: Verb, affected: dict[JobState, int], there: Counted) -> str:
    total = sum(affected.values())
    listed = ", ".join(f"{number:,} {state}" for state, number in sorted(affected.items()))
    if there.all_of_them:
        return f"{verb.capitalize()} {count(total, 'job')} ({listed})?"
    if not total:
        return f"None of the jobs that were searched is such a job; search all and {verb} those?"
    return f"{verb.capitalize()} {count(total, 'job')} or more ({listed} of those that were searched)?"


async def _by_id(settings: Settings, oban: Oban, ids: tuple[int, ...]) -> Counted:
    async with read_session(oban) as session:
        rows = await session.execute(select(Job.id, Job.state).where(browse.by_id(ids)))
        states: dict[int, JobState] = {row[0]: row[1] for row in rows}
    require_all(settings, [job_id for job_id in dict.fromkeys(ids) if job_id not in states])
    found = list(states.values())
    return Counted({state: found.count(state) for state in dict.fromkeys(found)}, True, [], Wanted())


def require_all(settings: Settings, missing: Sequence[int]) -> None:
    """Raise JobNotFound, which names them, where some ids are `missing`."""
    if missing:
        named = ", ".join(str(job_id) for job_id in missing[:_MOST_IDS])
        rest = f" and {len(missing) - _MOST_IDS} more" if len(missing) > _MOST_IDS else ""
        raise JobNotFound(
            f"no job in schema {settings.schema!r} has the id {named}{rest}; it was deleted or pruned, or never was. "
            "Nothing was changed"
        )

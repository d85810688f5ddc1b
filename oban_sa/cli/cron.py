"""`python -m oban_sa cron`: list the crontab, with each entry's last and next moment; pause and resume entries."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import click
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa.cli._database import database_options, instance_option, json_option, run_with_client
from oban_sa.cli._groups import CONTEXT, Suggesting
from oban_sa.cli._output import document, say, table
from oban_sa.client import Oban
from oban_sa.client.read import database_now, read_session
from oban_sa.describe.spans import ago
from oban_sa.errors import InvalidCron
from oban_sa.outbox.sessions import AnySession
from oban_sa.schedule.cron import Schedule, parse
from oban_sa.service import imports
from oban_sa.settings.settings import Settings
from oban_sa.sql import cron, overview
from oban_sa.workers.crontab import resolved
from oban_sa.workers.registry import registry

HELP = """Look at the crontab: which jobs are made when; pause and resume its entries.

\b
Examples:
  python -m oban_sa cron list                        # what runners have put into the database
  python -m oban_sa cron list --import myapp.jobs    # and what stands in the code and in oban.toml
  python -m oban_sa cron pause nightly               # no jobs of it, until it is resumed
  python -m oban_sa cron resume nightly
"""

PAUSE = """Make no more jobs of entries, until they are resumed.

Entries are named as `cron list` shows them. Jobs that were made already run. Ticks of a pause are not made up for.

\b
Examples:
  python -m oban_sa cron pause nightly
  python -m oban_sa cron pause nightly hourly
"""

RESUME = """Make jobs of entries again, from their next tick on.

\b
Examples:
  python -m oban_sa cron resume nightly
"""

command = Suggesting("cron", help=HELP, short_help="Look at the crontab; pause it.", context_settings=CONTEXT)

LIST_HELP = """Show each entry with its last and its next moment, in its own time zone.

Entries come from the database, where runners keep those they have led with. With --import they come from the code and
the settings file too, and each is shown with where it is known from: one that is only in the database is an old one,
which makes no more jobs; one that is only in the code waits for a runner to lead with it. Entries of another instance
than Oban are shown with --name; among Oban's own they stand as `<instance>: <name>`.
"""


class Change(Protocol):
    """What is done to an entry; a method of `Oban`."""

    def __call__(self, oban: Oban, /, name: str, *, session: AnySession | None = None) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry as it is listed; `schedule` is None where its expression can't be read."""

    name: str
    expression: str
    timezone: str
    worker: str
    options: Mapping[str, object]
    last_at: datetime | None
    schedule: Schedule | None
    known_from: tuple[str, ...]
    paused_at: datetime | None = None

    def next_after(self, now: datetime) -> datetime | None:
        return None if self.schedule is None else self.schedule.next_after(now)

    def local(self, moment: datetime) -> str:
        zone = UTC if self.schedule is None else self.schedule.zone
        try:
            return f"{moment.astimezone(zone):%a %Y-%m-%d %H:%M:%S %Z}"
        except OverflowError:  # a moment near the year 1 or 9999 may not exist in the entry's zone
            return f"{moment:%a %Y-%m-%d %H:%M:%S %Z}"


@command.command("list", help=LIST_HELP, short_help="Show each entry with its last and its next moment.")
@click.option(
    "--import",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Show what this module's workers ask for too; repeatable.",
)
@json_option
@instance_option
@database_options
def list_(settings: Settings, *, modules: tuple[str, ...], as_json: bool) -> None:
    """Print the crontab."""
    named = tuple(modules) or settings.imports
    imports.load(named, origin="--import" if modules else settings.origins.get("imports", "--import"))
    in_code = resolved(settings.crontab, registry, settings.allow) if named else ()

    async def read(oban: Oban) -> tuple[list[dict[str, Any]], datetime]:
        async with read_session(oban) as session:
            rows = [dict(row) for row in (await session.execute(overview.schedules())).mappings()]
            return rows, await database_now(session)

    rows, now = run_with_client(settings, read)
    entries = {entry.name: entry for row in rows if (entry := _from_row(row, settings.name)) is not None}
    for each in in_code:
        stored = entries.get(each.name)
        entries[each.name] = _Entry(
            name=each.name,
            expression=each.expression,
            timezone=each.timezone,
            worker=each.worker,
            options={
                **each.options(),
                **({"args": dict(each.args)} if each.args else {}),
                **({"days": each.days} if each.days else {}),
            },
            last_at=None if stored is None else stored.last_at,
            schedule=each.schedule,
            known_from=("code",) if stored is None else ("database", "code"),
            paused_at=None if stored is None else stored.paused_at,
        )
    found = sorted(entries.values(), key=lambda entry: (entry.worker, entry.name))
    if as_json:
        document({"instance": settings.name, "now": now, "entries": [_entry_as_json(entry, now) for entry in found]})
    elif not found:
        click.echo("No entries are known. Those that stand in the code are shown with --import myapp.jobs.")
    else:
        _print(found, now, compared=bool(named))


@command.command("pause", help=PAUSE, short_help=PAUSE.partition("\n")[0], no_args_is_help=True)
@click.argument("names", nargs=-1, metavar="NAME...", required=True)
@json_option
@instance_option
@database_options
def pause(settings: Settings, *, names: tuple[str, ...], as_json: bool) -> None:
    """Pause entries."""
    _change(settings, names, Oban.pause_cron, "paused", as_json=as_json)


@command.command("resume", help=RESUME, short_help=RESUME.partition("\n")[0], no_args_is_help=True)
@click.argument("names", nargs=-1, metavar="NAME...", required=True)
@json_option
@instance_option
@database_options
def resume(settings: Settings, *, names: tuple[str, ...], as_json: bool) -> None:
    """Resume entries."""
    _change(settings, names, Oban.resume_cron, "resumed", as_json=as_json)


def _change(settings: Settings, names: tuple[str, ...], do: Change, done: str, *, as_json: bool) -> None:
    async def change(oban: Oban) -> None:
        # All or none, where one of the names is wrong.
        async with AsyncSession(oban.engine) as session, session.begin():
            for name in names:
                await do(oban, name, session=session)

    run_with_client(settings, change)
    if as_json:
        document({"instance": settings.name, done: list(names)})
    else:
        say(f"{done.capitalize()} {', '.join(names)}.")


def _print(entries: list[_Entry], now: datetime, *, compared: bool) -> None:
    rows = [
        (
            entry.name,
            entry.expression,
            entry.timezone,
            entry.worker.rpartition(".")[2],
            "never" if entry.last_at is None else f"{entry.local(entry.last_at)} ({ago(entry.last_at, now)})",
            _next(entry, now),
            *((" and ".join(entry.known_from),) if compared else ()),
        )
        for entry in entries
    ]
    columns = ["name", "expression", "timezone", "worker", "last", "next"]
    table([*columns, "known from"] if compared else columns, rows, wide="worker")


def _next(entry: _Entry, now: datetime) -> str:
    if entry.paused_at is not None:
        return f"paused ({ago(entry.paused_at, now)})"
    if entry.schedule is None:
        return "can't be read"
    if entry.schedule.reboot:
        return "when a runner starts"
    moment = entry.next_after(now)
    return "never" if moment is None else f"{entry.local(moment)} ({ago(moment, now)})"


def _from_row(row: Mapping[str, Any], instance: str) -> _Entry | None:
    """Return a row of `oban_sa_crons` as an entry; None where it belongs to another instance."""
    name: str = row["name"]
    prefix = "" if instance == "Oban" else f"{instance}: "
    if not name.startswith(prefix):
        return None
    try:
        # Rows from before the option `days` existed have none; their expressions meant "either".
        schedule = parse(row["expression"], timezone=row["timezone"], days=row["opts"].get("days") or "either")
    except InvalidCron:
        schedule = None
    return _Entry(
        name=name.removeprefix(prefix),
        expression=row["expression"],
        timezone=row["timezone"],
        worker=row["worker"],
        options={key: value for key, value in row["opts"].items() if key != cron.LAST_JOB},
        last_at=row["last_at"],
        schedule=schedule,
        known_from=("database",),
        paused_at=row["paused_at"],
    )


def _entry_as_json(entry: _Entry, now: datetime) -> dict[str, object]:
    next_at = entry.next_after(now)
    return {
        "name": entry.name,
        "expression": entry.expression,
        "timezone": entry.timezone,
        "worker": entry.worker,
        "options": dict(entry.options),
        "last_at": entry.last_at,
        "next_at": next_at,
        "paused_at": entry.paused_at,
        "known_from": list(entry.known_from),
    }

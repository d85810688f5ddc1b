"""Pauses of crontab entries: rows of `oban_sa_cron_pauses`, which the claim of ticks and people read."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Executable, Table, Text, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from oban_sa.models import Cron, CronPause
from oban_sa.models.base import Expression
from oban_sa.sql.expressions import parameter

pauses: Table = CronPause.metadata.tables["public.oban_sa_cron_pauses"]
_crons: Table = Cron.metadata.tables["public.oban_sa_crons"]

SEPARATOR = ": "
"""What stands between an instance's name and the entry's, for instances other than Oban."""


def cron_key(name: str, instance: str) -> str:
    """Return the name under which an instance's entry is stored."""
    return name if instance == "Oban" else f"{instance}{SEPARATOR}{name}"


def entry_of(key: str, instance: str) -> str | None:
    """Return the name of an entry that is stored as `key`, or None where it belongs to another instance."""
    prefix = "" if instance == "Oban" else f"{instance}{SEPARATOR}"
    return key.removeprefix(prefix) if key.startswith(prefix) else None


def is_paused(name: Expression) -> ColumnElement[bool]:
    """Whether the entry of this name is paused."""
    return select(pauses.c.name).where(pauses.c.name == name).exists()


def pause() -> Executable:
    """Pause an entry that is stored; a row with `known`, how many have this name. Parameter: `key`."""
    found = select(_crons.c.name).where(_crons.c.name == parameter("key", Text())).cte("found")
    row = insert(pauses).from_select(["name"], select(found.c.name)).on_conflict_do_nothing()
    paused = row.returning(pauses.c.name).cte("paused")
    return select(func.count().label("known")).select_from(found).add_cte(paused)


def resume() -> Executable:
    """End the pause of an entry; a row with `known`, how many stored ones have this name, or had a pause."""
    key = parameter("key", Text())
    resumed = delete(pauses).where(pauses.c.name == key).returning(pauses.c.name).cte("resumed")
    stored = select(_crons.c.name).where(_crons.c.name == key)
    known = stored.union(select(resumed.c.name)).subquery("known")
    return select(func.count().label("known")).select_from(known)


def names() -> Executable:
    """Return the names of all entries that are stored, and of those paused, in their order."""
    every = select(_crons.c.name).union(select(pauses.c.name)).subquery("every")
    return select(every.c.name).order_by(every.c.name)


def listed() -> Executable:
    """Return all pauses, by name: rows of `name` and `paused_at`."""
    return select(pauses.c.name, pauses.c.paused_at).order_by(pauses.c.name)

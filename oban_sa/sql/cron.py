"""Turn the ticks of crontab entries into jobs, each once per cluster.

`oban_sa_crons.last_at` says how far an entry's time line is dealt with. A scheduler that read `seen` there claims
everything up to `until` by moving `last_at` from exactly `seen`: of several that try, in any order and at any time,
one succeeds. A claim, its jobs and their announcement are one statement, so that a node which stops in the middle
leaves nothing half done and holds no lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Double,
    Executable,
    Integer,
    Select,
    Table,
    TableValuedAlias,
    Text,
    bindparam,
    case,
    cast,
    column,
    delete,
    exists,
    func,
    insert,
    literal_column,
    null,
    select,
    true,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.types import TypeEngine

from oban_sa.jobs.states import FINAL
from oban_sa.models import Cron, Job, Leader
from oban_sa.models.base import Expression
from oban_sa.models.readable import readable, strange
from oban_sa.sql.cron_pauses import SEPARATOR, is_paused, pauses
from oban_sa.sql.expressions import array, materialized, parameter, utc_clock
from oban_sa.sql.insert import insert_with_ids
from oban_sa.sql.unique import claim as claim_keys
from oban_sa.sql.unique import hashed, identity, marked

_jobs: Table = Job.metadata.tables["public.oban_jobs"]
_crons: Table = Cron.metadata.tables["public.oban_sa_crons"]
_leaders: Table = Leader.metadata.tables["public.oban_leaders"]

_Members: TypeAlias = Mapping[str, TypeEngine[Any]]

LAST_JOB = "last_job_id"
"""The key of `oban_sa_crons.opts` under which an entry that must not overlap remembers its last job."""

ENTRY: _Members = {"key": Text(), "expression": Text(), "worker": Text(), "timezone": Text(), "opts": JSONB()}
"""An entry of the crontab: members of the objects in the parameter `entries` of `define`."""

CLAIM: _Members = {"key": Text(), "name": Text(), "seen": DateTime(), "until": DateTime(), "overlap": Boolean()}
"""The ticks to claim: members of the objects in the parameter `claims` of `claim`; `name` is the job's cron_name."""

JOB: _Members = {
    "key": Text(),
    "at": DateTime(),
    "worker": Text(),
    "queue": Text(),
    "args": JSONB(),
    "meta": JSONB(),
    "tags": ARRAY(Text()),
    "priority": Integer(),
    "max_attempts": Integer(),
}
"""A job to make for a claim: members of the objects in the parameter `jobs` of `claim`."""

UNIQUE_JOB: _Members = {
    **JOB,
    "number": Integer(),
    "subject": JSONB(),
    "states": JSONB(),
    "period": Double(),
    "joins": Boolean(),
}
"""The same where some jobs are unique: a `number` of its own for each, and `Unique.subject` and `Unique.terms`; those
of others are null."""


def look() -> Executable:
    """The database's clock, the lease, and the entries that are stored, in rows that repeat the first two.

    Columns: `now`, `node` and `elected_at` and `expires_at` of the lease, `key`, `expression`, `timezone`, `worker`,
    `opts` as JSON text, `last_at`, `defined_at`, `paused`. A lease that never ends counts as none. Parameters: `lease`
    and `keys`.
    """
    clock = materialized(select(utc_clock().label("now")).cte("clock"))
    lease = _leaders.alias("lease")
    cron = _crons.alias("cron")
    columns: list[Expression] = [
        clock.c.now,
        lease.c.node,
        readable(lease.c.elected_at, DateTime()).label("elected_at"),
        readable(lease.c.expires_at, DateTime()).label("expires_at"),
        cron.c.name.label("key"),
        cron.c.expression,
        cron.c.timezone,
        cron.c.worker,
        cast(cron.c.opts, Text).label("opts"),
        readable(cron.c.last_at, DateTime()).label("last_at"),
        readable(cron.c.updated_at, DateTime()).label("defined_at"),
    ]
    columns.append(is_paused(cron.c.name).label("paused"))
    return select(*columns).select_from(
        clock.outerjoin(
            lease, (lease.c.name == bindparam("lease", type_=Text())) & ~strange(lease.c.expires_at)
        ).outerjoin(cron, cron.c.name == func.any(array("keys", Text())))
    )


def define() -> Executable:
    """Store entries, new ones and changed ones; answers with the keys of those that were stored.

    An entry starts at the moment its expression or time zone is written, which is its `updated_at`.
    Parameters: `entries`, a JSON array of `ENTRY`, and `lease` and `node`, which must lead.
    """
    entry = _records("entries", ENTRY, "entry")
    rows = select(
        entry.c.key, entry.c.expression, entry.c.worker, entry.c.timezone, entry.c.opts, utc_clock(), utc_clock()
    )
    statement = postgresql_insert(_crons).from_select(
        ["name", "expression", "worker", "timezone", "opts", "inserted_at", "updated_at"], rows.where(_leads())
    )
    new = statement.excluded
    reset = (_crons.c.expression != new.expression) | (_crons.c.timezone != new.timezone) | strange(_crons.c.updated_at)
    last_job = func.jsonb_strip_nulls(
        func.jsonb_build_object(
            literal_column(f"'{LAST_JOB}'"), _crons.c.opts.op("->")(literal_column(f"'{LAST_JOB}'"))
        )
    )
    defined = (
        statement.on_conflict_do_update(
            index_elements=["name"],
            set_={
                "expression": new.expression,
                "worker": new.worker,
                "timezone": new.timezone,
                "opts": type_coerce(new.opts, JSONB()).op("||")(last_job),
                "updated_at": case((reset, utc_clock()), else_=_crons.c.updated_at),
            },
        )
        .returning(_crons.c.name)
        .cte("defined")
    )
    return select(defined.c.name)


def claim(*, unique: bool = False) -> Executable:
    """Claim ticks, make their jobs and announce them; a row per claim that succeeded.

    Columns: `key`, `busy` (an entry that must not overlap, whose last job is unfinished: the ticks are spent without
    jobs), `paused` (they are spent as well), `jobs` (how many were made). A pause that is committed before the
    statement begins is seen by it, whatever its sender has read. Parameters: `claims` and `jobs`, JSON arrays of
    `CLAIM` and `JOB`; `channel` to announce on, or None; `lease` and `node`, which must lead. With `unique` the jobs
    are of `UNIQUE_JOB`, and no job is made in whose way another stands. Nothing of that one is replaced.
    """
    claim = _records("claims", CLAIM, "claim")
    cron = _crons.alias("cron")
    noted = cron.c.opts.op("->>")(literal_column(f"'{LAST_JOB}'"))
    # Any program may have written there; what is no id must not fail the claims of all entries.
    last_job = case((noted.op("~")(literal_column("'^[0-9]{1,18}$'")), cast(noted, BigInteger)))
    final: list[ColumnElement[str]] = [literal_column(f"'{state}'") for state in sorted(FINAL)]
    unfinished = exists(select(_jobs.c.id).where(_jobs.c.id == last_job, _jobs.c.state.not_in(final)))
    claimed = (
        select(
            *(claim.c[name] for name in ("key", "name", "until", "overlap")),
            (~claim.c.overlap & unfinished).label("busy"),
            is_paused(cron.c.name).label("paused"),
        )
        .select_from(cron.join(claim, cron.c.name == claim.c.key))
        # As it was read: what Python has no moment for is moved on from there too.
        .where(readable(cron.c.last_at, DateTime()).is_not_distinct_from(claim.c.seen), _leads())
        # In one order, so that two that claim the same entries wait for each other instead of deadlocking.
        .order_by(cron.c.name)
        .with_for_update(of=cron)
        .cte("claimed_entries" if unique else "claimed")
    )
    job = _records("jobs", UNIQUE_JOB if unique else JOB, "job")
    written = [name for name in JOB if name not in ("key", "at")]
    wanted = (
        select(*(job.c[name] for name in written))
        .select_from(job.join(claimed, job.c.key == claimed.c.key))
        .where(~claimed.c.busy, ~claimed.c.paused)
        .order_by(job.c.at)
    )
    inserted = insert(_jobs).from_select(written, wanted)
    if unique:
        inserted = insert_with_ids([*written, "id"], _with_keys(wanted, job, written))
    made = inserted.returning(
        _jobs.c.id, _jobs.c.queue, _jobs.c.meta.op("->>")(literal_column("'cron_name'")).label("name")
    ).cte("made")
    last_made = select(func.max(made.c.id)).where(made.c.name == claimed.c.name).scalar_subquery()
    moved = (
        update(_crons)
        .where(_crons.c.name == claimed.c.key)
        .values(
            last_at=claimed.c.until,
            opts=case(
                (
                    ~claimed.c.overlap & ~claimed.c.busy & ~claimed.c.paused,
                    _crons.c.opts.op("||")(func.jsonb_build_object(literal_column(f"'{LAST_JOB}'"), last_made)),
                ),
                else_=_crons.c.opts,
            ),
        )
        .returning(_crons.c.name)
        .cte("moved")
    )
    channel = parameter("channel", Text())
    queues = select(made.c.queue).distinct().where(channel.is_not(None)).subquery("queues")
    payload = cast(func.json_build_object(literal_column("'queue'"), queues.c.queue), Text)
    announced = select(cast(func.pg_notify(channel, payload), Text).label("sent")).cte("announced")
    count = select(func.count()).select_from(made).where(made.c.name == claimed.c.name).scalar_subquery()
    columns: list[Expression] = [
        claimed.c.key,
        claimed.c.busy,
        claimed.c.paused,
        count.label("jobs"),
        # A CTE that nothing reads is not run unless it writes.
        select(func.count(announced.c.sent)).scalar_subquery().label("announced"),
    ]
    return select(*columns).select_from(claimed.join(moved, moved.c.name == claimed.c.key))


def forget(*, instance: bool) -> Executable:
    """Delete the pauses of entries that are in no crontab any more; rows of `name`.

    Parameters: `keys`, those that are in the crontab; `lease` and `node`, which must lead; and with `instance` the
    `prefix` of an instance's names. Without it names that may be of another instance are left alone.
    """
    mine = (
        func.starts_with(pauses.c.name, parameter("prefix", Text()))
        if instance
        else func.strpos(pauses.c.name, literal_column(f"'{SEPARATOR}'")) == literal_column("0")
    )
    gone = pauses.c.name != func.all(array("keys", Text()))
    return delete(pauses).where(mine, gone, _leads()).returning(pauses.c.name)


def _with_keys(wanted: Select[Any], job: TableValuedAlias, written: Sequence[str]) -> Select[Any]:
    """The jobs that may be inserted, with their ids: those that are not unique, and those that have got their keys.

    A job that loses its key to a transaction that commits meanwhile is not made either, as that one has just made one.
    """
    others = [job.c[name] for name in UNIQUE_JOB if name not in JOB]
    rows = materialized(wanted.add_columns(*others, job.c.at).cte("wanted_jobs"))
    relation: Any = select(
        rows.c.number,
        hashed(rows.c.subject).label("key"),
        cast(null(), BigInteger).label("id"),
        rows.c.states,
        rows.c.period,
        rows.c.joins,
        cast(null(), JSONB).label("replace"),
        utc_clock().label("scheduled_at"),
    ).where(rows.c.subject.is_not(None))
    winners = claim_keys(relation, locks=("share",)).winners.cte("winners")
    meta = case((winners.c.id.is_not(None), marked(rows.c.meta, winners.c.key)), else_=rows.c.meta)
    chosen = [meta if name == "meta" else rows.c[name] for name in written]
    return (
        select(*chosen, func.coalesce(winners.c.id, identity()).label("id"))
        .select_from(rows.outerjoin(winners, winners.c.number == rows.c.number))
        .where(rows.c.subject.is_(None) | winners.c.id.is_not(None))
        .order_by(rows.c.at)
    )


def _leads() -> ColumnElement[bool]:
    return exists(
        select(true()).where(
            _leaders.c.name == bindparam("lease", type_=Text()),
            _leaders.c.node == bindparam("node", type_=Text()),
            type_coerce(_leaders.c.expires_at, DateTime()) > utc_clock(),
        )
    )


def _records(given: str, members: _Members, name: str) -> TableValuedAlias:
    """The objects of a JSON array as rows."""
    text = cast(bindparam(given, type_=Text()), JSONB)
    return (
        func.jsonb_to_recordset(text)
        .table_valued(*(column(member, type_) for member, type_ in members.items()))
        .render_derived(name, with_types=True)
    )

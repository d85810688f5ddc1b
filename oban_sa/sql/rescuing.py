"""Find the dead by their silence, and give what they held to the living."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    DateTime,
    Delete,
    Double,
    Executable,
    Integer,
    Text,
    Update,
    Uuid,
    bindparam,
    case,
    cast,
    column,
    delete,
    exists,
    func,
    select,
    true,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert

from oban_sa.holders import OURS
from oban_sa.models.reading import strange
from oban_sa.sql.acking import error_entry
from oban_sa.sql.fetching import jobs
from oban_sa.sql.keeping import BEGAN
from oban_sa.sql.kindred import peers
from oban_sa.sql.literals import inline
from oban_sa.sql.marks import marked
from oban_sa.sql.moments import seconds_between, seconds_earlier, seconds_later, utc_clock, utc_now
from oban_sa.sql.producing import producers

HOLDER: ColumnElement[Any] = type_coerce(jobs.c.attempted_by, ARRAY(Text()))[inline("2")]
"""The uuid of the producer that holds a job, as text."""

LIMIT = 1000
"""Jobs rescued by one statement."""


def dead() -> Executable:
    """Producers that have been silent for longer than they said they would be: `uuid`, `node`, `queue`, `silent_for`.

    Each row says itself, in its meta, after how many seconds it is dead. Rows that say nothing belong to members of the
    family that look after their own; they are never touched.
    """
    promised = _number(producers.c.meta, "dead_after", Double())
    silent_for = seconds_between(producers.c.updated_at, utc_now())
    return (
        select(producers.c.uuid, producers.c.node, producers.c.queue, silent_for.label("silent_for"))
        # A beat is never at a moment that no clock says; whoever lives beats again.
        .where((silent_for > promised) | (strange(producers.c.updated_at) & promised.is_not(None)))
        .with_for_update(skip_locked=True)
    )


def rescuing(*, singly: bool = False, wait: bool = False) -> Executable:
    """Give back what the dead were running, an attempt spent: rows of `id`, `queue`, `worker`, `state`, `attempt`.

    A job whose attempts are spent is discarded. A row that is locked, as by a session that is just committing, waits
    for the next time. Parameters: `uuids` and `texts`, arrays: the dead, and what to say of each. `singly` only the job
    with the parameter `job_id` is; where it is to `wait`, it is retryable in a while, the parameter `seconds`.
    """
    said = func.unnest(
        cast(bindparam("uuids", type_=ARRAY(Text())), ARRAY(Text())),
        cast(bindparam("texts", type_=ARRAY(Text())), ARRAY(Text())),
    ).table_valued(column("uuid", Text()), column("text", Text()))
    said = said.render_derived("said")
    one = [jobs.c.id == bindparam("job_id", type_=BigInteger())] if singly else []
    orphans = (
        select(jobs.c.id, said.c.text)
        .select_from(jobs.join(said, said.c.uuid == HOLDER))
        .where(jobs.c.state == inline("'executing'"), *one)
        .limit(LIMIT)
        .with_for_update(skip_locked=True, of=jobs)
        .cte("orphans")
    )
    given = {**_given_on("'retryable'" if wait else "'available'"), "meta": _counted()}
    if wait:
        given["scheduled_at"] = seconds_later(utc_now(), bindparam("seconds", type_=Double()))
    return _changed(orphans, given, said=orphans.c.text)


def orphaned() -> Executable:
    """The ids of the jobs that the dead were running. Parameter: `uuids`."""
    uuids = cast(bindparam("uuids", type_=ARRAY(Text())), ARRAY(Text()))
    running, holder = jobs.c.state == inline("'executing'"), HOLDER
    return select(jobs.c.id).where(running, holder == func.any(uuids)).order_by(jobs.c.id).limit(LIMIT)


def ruling_out() -> Executable:
    """Discard a job that no rule of the application's lets wait any more. Parameters: `job_id`, `text`."""
    found = (
        select(jobs.c.id)
        .where(jobs.c.id == bindparam("job_id", type_=BigInteger()), cast(jobs.c.state, Text) == inline("'executing'"))
        .with_for_update(skip_locked=True)
        .cte("found")
    )
    return _changed(found, {"state": inline("'discarded'"), "discarded_at": utc_clock()})


def restoring() -> Executable:
    """Write the row of each producer of ours that holds jobs and has none: rows of `uuid`, `node`, `updated_at`.

    The row was removed while a fetch was under way, or was lost with a table that isn't logged. Where the producer
    lives, it beats in it from now on; where not, it's found dead by it, as every other. Parameters: `name`, the
    instance's; `dead_after`, in seconds.
    """
    uuid = case((HOLDER.op("~")(inline(f"'{OURS}'")), cast(HOLDER, Uuid())))
    node = func.coalesce(type_coerce(jobs.c.attempted_by, ARRAY(Text()))[inline("1")], inline("'unknown'"))
    holders = (
        select(uuid.label("uuid"), node.label("node"), jobs.c.queue, func.jsonb_agg(jobs.c.id).label("running"))
        .where(jobs.c.state == inline("'executing'"), uuid.is_not(None))
        .group_by(uuid, node, jobs.c.queue)
        .cte("holders")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    meta = func.jsonb_build_object(
        *(inline("'limit'"), func.jsonb_array_length(holders.c.running)),
        *(inline("'local_limit'"), func.jsonb_array_length(holders.c.running)),
        *(inline("'paused'"), inline("false")),
        *(inline("'running'"), holders.c.running),
        *(inline("'dead_after'"), cast(bindparam("dead_after", type_=Double()), Double)),
    )
    row = select(
        holders.c.uuid,
        cast(bindparam("name", type_=Text()), Text),
        holders.c.node,
        holders.c.queue,
        meta,
        utc_now(),
        utc_now(),
    ).where(~exists(select(producers.c.uuid).where(producers.c.uuid == holders.c.uuid)))
    columns = ["uuid", "name", "node", "queue", "meta", "started_at", "updated_at"]
    # Where the producer writes its row at the same moment, one of the two waits for the other, and there is one row.
    written = insert(producers).from_select(columns, row).on_conflict_do_nothing(index_elements=[producers.c.uuid])
    return written.returning(producers.c.uuid, producers.c.node, _naive(producers.c.updated_at))


def backdating() -> Update:
    """Let a row that was restored say since when its producer is missing. Parameters: `missing`, `restored`, `since`.

    The first is the producer's uuid, the others are moments: what the row says now, and what it is to say.
    """
    return (
        update(producers)
        .where(
            producers.c.uuid == bindparam("missing", type_=Uuid()),
            _naive(producers.c.updated_at) == bindparam("restored", type_=DateTime()),
        )
        .values(updated_at=bindparam("since", type_=DateTime()))
    )


def beaten() -> Executable:
    """Those of some producers whose rows say another moment than when they were restored: rows of `uuid`.

    Parameters: `uuids` and `moments`, arrays of equal length.
    """
    said = func.unnest(
        cast(bindparam("uuids", type_=ARRAY(Uuid())), ARRAY(Uuid())),
        cast(bindparam("moments", type_=ARRAY(DateTime())), ARRAY(DateTime())),
    ).table_valued(column("uuid", Uuid()), column("moment", DateTime()))
    said = said.render_derived("said")
    later = _naive(producers.c.updated_at) > said.c.moment
    return select(producers.c.uuid).select_from(producers.join(said, said.c.uuid == producers.c.uuid)).where(later)


def _naive(moment: ColumnElement[Any]) -> ColumnElement[Any]:
    return type_coerce(moment, DateTime())


def _counted() -> ColumnElement[Any]:
    """The meta of a job with one more rescue counted, as the family does, and nothing of when its attempt began."""
    rescued = func.coalesce(_number(jobs.c.meta, "rescued", Integer()), inline("0")) + inline("1")
    meta = func.coalesce(jobs.c.meta, inline("'{}'::jsonb"))
    is_object = func.jsonb_typeof(meta) == inline("'object'")
    left = case((is_object, meta.op("-")(inline(f"'{BEGAN}'"))), else_=meta)
    return left.op("||")(func.jsonb_build_object(inline("'rescued'"), rescued))


def _given_on(again: str = "'available'") -> dict[str, Any]:
    """What becomes of a job whose attempt nobody answers for: cancelled where that was asked for, else tried again."""
    spent = jobs.c.attempt >= jobs.c.max_attempts
    state = case((marked(), inline("'cancelled'")), (spent, inline("'discarded'")), else_=inline(again))
    return {
        "state": cast(state, jobs.c.state.type),
        "cancelled_at": case((marked(), utc_clock()), else_=jobs.c.cancelled_at),
        "discarded_at": case((spent & ~marked(), utc_clock()), else_=jobs.c.discarded_at),
    }


def burying() -> Delete:
    """Forget those of the dead that hold no job any more. Parameter: `uuids`, an array of texts."""
    uuids = cast(bindparam("uuids", type_=ARRAY(Text())), ARRAY(Text()))
    holds = select(jobs.c.id).where(jobs.c.state == inline("'executing'"), cast(producers.c.uuid, Text) == HOLDER)
    return delete(producers).where(cast(producers.c.uuid, Text) == func.any(uuids), ~holds.exists())


def abandoned(*, peers_known: bool) -> Executable:
    """Give back what nodes of other members of the family have run for longer than `after` seconds and left behind.

    Never what a producer of ours holds: whether that lives is known exactly. What a producer with a row holds, such as
    one of Oban for Python, counts as left behind once the row is silent for as long, and for THEIRS_DEAD_AFTER at
    least. Nodes of Elixir have no rows: what they hold is left behind where none of them leads, and never while one
    does, which has a lifeline of its own. Parameters: `after`, `text`. Elixir's table of peers may be missing.
    """
    ours = func.coalesce(HOLDER.op("~", is_comparison=True)(inline(f"'{OURS}'")), inline("false"))
    silence = func.greatest(cast(bindparam("after", type_=Double()), Double), inline(f"{THEIRS_DEAD_AFTER:g}"))
    known = select(producers.c.uuid).where(cast(producers.c.uuid, Text) == HOLDER)
    living = known.where(producers.c.updated_at >= seconds_earlier(utc_now(), silence)).exists()
    elixir = exists(select(peers.c.name).where(peers.c.expires_at > utc_clock()))
    unseen: ColumnElement[bool] = (known.exists() | ~elixir) if peers_known else true()
    lost = (
        select(jobs.c.id)
        .where(
            jobs.c.state == inline("'executing'"),
            jobs.c.attempted_at < seconds_earlier(utc_now(), bindparam("after", type_=Double())),
            ~ours,
            ~living,
            unseen,
        )
        .limit(LIMIT)
        .with_for_update(skip_locked=True)
        .cte("lost")
    )
    return _changed(lost, {**_given_on(), "meta": _counted()})


THEIRS_DEAD_AFTER: Final = 60.0
"""Seconds of silence after which Oban for Python itself takes a producer for dead."""


def exhausted() -> Executable:
    """Discard available jobs whose attempts are spent: no fetch ever takes them. Parameter: `text`.

    Since all others are taken before long, they are found at the head of each queue, and only there is looked.
    """
    available = jobs.c.state == inline("'available'")
    # A walk from queue to queue along the index; a DISTINCT would read every entry of it.
    queues = select(func.min(jobs.c.queue).label("queue")).where(available).cte("queues", recursive=True)
    following = select(func.min(jobs.c.queue)).where(available, jobs.c.queue > queues.c.queue).scalar_subquery()
    queues = queues.union_all(select(following).where(queues.c.queue.is_not(None)))
    head = (
        select(jobs.c.id)
        .where(available, jobs.c.queue == queues.c.queue)
        .order_by(jobs.c.priority, jobs.c.scheduled_at, jobs.c.id)
        .limit(LIMIT)
        .correlate(queues)
        .lateral("head")
    )
    heads = select(head.c.id).select_from(queues.join(head, true())).cte("heads")
    spent = (
        select(jobs.c.id)
        .where(
            jobs.c.id == heads.c.id,
            cast(jobs.c.state, Text) == inline("'available'"),
            jobs.c.attempt >= jobs.c.max_attempts,
        )
        .limit(LIMIT)
        .with_for_update(skip_locked=True, of=jobs)
        .cte("spent")
    )
    return _changed(spent, {"state": inline("'discarded'"), "discarded_at": utc_clock()})


def _changed(found: CTE, changes: Mapping[str, Any], *, said: ColumnElement[Any] | None = None) -> Executable:
    """Change the jobs found and note an error at each, which is the parameter `text` unless `said` otherwise."""
    text: ColumnElement[Any] = bindparam("text", type_=Text()) if said is None else said
    return (
        update(jobs)
        .where(jobs.c.id == found.c.id)
        .values(**changes, errors=jobs.c.errors.op("||")(error_entry(jobs.c.attempt, text)))
        .returning(jobs.c.id, jobs.c.queue, jobs.c.worker, jobs.c.state, jobs.c.attempt, jobs.c.max_attempts)
    )


def _number(meta: ColumnElement[Any], key: str, type_: Any) -> ColumnElement[Any]:
    """A number in a JSON object; NULL where something stands there that is none of the type, whoever wrote it."""
    found = meta.op("->>")(inline(f"'{key}'"))
    fits = "'^[0-9]{1,8}$'" if isinstance(type_, Integer) else "'^[0-9]{1,8}([.][0-9]+)?$'"
    return case((found.op("~")(inline(fits)), cast(found, type_)))

"""Find nodes that died by their silence, and give their jobs to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

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
    delete,
    exists,
    func,
    select,
    true,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert

from oban_sa.jobs.attempted_by import OURS
from oban_sa.models.base import Expression
from oban_sa.models.readable import strange
from oban_sa.sql.ack import error_entry
from oban_sa.sql.attempt_age import BEGAN
from oban_sa.sql.cancel_request import marked
from oban_sa.sql.expressions import (
    array,
    inline,
    materialized,
    parameter,
    seconds_between,
    seconds_earlier,
    seconds_later,
    unnest,
    utc_clock,
    utc_now,
)
from oban_sa.sql.family import peers
from oban_sa.sql.fetch import HOLDER, jobs
from oban_sa.sql.followers import FOLLOWED, Follower, changed_columns, follow
from oban_sa.sql.producers import producers

_SECONDS: Final = Double[float]()

LIMIT = 1000
"""Jobs rescued by one statement."""


def dead() -> Executable:
    """Producers that have been silent for longer than they said: rows of `uuid`, `node`, `queue`, `silent_for`.

    Each row says in its meta after how many seconds of silence it is dead. Rows that say nothing belong to members of
    the family that look after their own; they are never touched.
    """
    promised = _number(producers.c.meta, "dead_after", Double())
    silent_for = seconds_between(producers.c.updated_at, utc_now())
    return (
        select(producers.c.uuid, producers.c.node, producers.c.queue, silent_for.label("silent_for"))
        # No clock shows such a moment, so it is no beat; a node that lives beats again.
        .where((silent_for > promised) | (strange(producers.c.updated_at) & promised.is_not(None)))
        .with_for_update(skip_locked=True)
    )


def rescue(*, singly: bool = False, wait: bool = False, followers: Sequence[Follower] = ()) -> Executable:
    """Give back what the dead were running, with an attempt spent: rows of `RESCUED`.

    A job whose attempts are spent is discarded. A row that is locked, as by a session that is just committing, is left
    to the next time. Parameters: `uuids` and `texts`, arrays of the dead and of the error for their jobs; `singly`, for
    one job, also `job_id`; to let it `wait` as a retryable one, also `seconds`.
    """
    said = unnest(uuid=Text(), text=Text())
    one = [jobs.c.id == bindparam("job_id", type_=BigInteger())] if singly else []
    found = (
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
    return _changed(found, given, said=found.c.text, followers=followers)


def orphans() -> Executable:
    """The ids of the jobs that the dead were running. Parameter: `uuids`."""
    running, holder = jobs.c.state == inline("'executing'"), HOLDER
    return select(jobs.c.id).where(running, holder == func.any(array("uuids", Text()))).order_by(jobs.c.id).limit(LIMIT)


def discard(followers: Sequence[Follower] = ()) -> Executable:
    """Discard an executing job that a rule of the application lets wait in no state: a row of `RESCUED`.

    Parameters: `job_id`, `text`.
    """
    found = (
        select(jobs.c.id)
        .where(jobs.c.id == bindparam("job_id", type_=BigInteger()), cast(jobs.c.state, Text) == inline("'executing'"))
        .with_for_update(skip_locked=True)
        .cte("found")
    )
    return _changed(found, {"state": inline("'discarded'"), "discarded_at": utc_clock()}, followers=followers)


def restore() -> Executable:
    """Write the row of each producer of ours that holds jobs and has none: rows of `uuid`, `node`, `updated_at`.

    The row was removed while a fetch was under way, or was lost with a table that isn't logged. A producer that lives
    beats in it from now on; one that is dead is found by it. Parameters: `name`, the instance's; `dead_after`, in
    seconds.
    """
    uuid = case((HOLDER.op("~")(inline(f"'{OURS}'")), cast(HOLDER, Uuid())))
    node = func.coalesce(type_coerce(jobs.c.attempted_by, ARRAY(Text()))[inline("1")], inline("'unknown'"))
    holders = materialized(
        select(uuid.label("uuid"), node.label("node"), jobs.c.queue, func.jsonb_agg(jobs.c.id).label("running"))
        .where(jobs.c.state == inline("'executing'"), uuid.is_not(None))
        .group_by(uuid, node, jobs.c.queue)
        .cte("holders")
    )
    meta = func.jsonb_build_object(
        *(inline("'limit'"), func.jsonb_array_length(holders.c.running)),
        *(inline("'local_limit'"), func.jsonb_array_length(holders.c.running)),
        *(inline("'paused'"), inline("false")),
        *(inline("'running'"), holders.c.running),
        *(inline("'dead_after'"), parameter("dead_after", _SECONDS)),
    )
    row = select(
        holders.c.uuid,
        parameter("name", Text()),
        holders.c.node,
        holders.c.queue,
        meta,
        utc_now(),
        utc_now(),
    ).where(~exists(select(producers.c.uuid).where(producers.c.uuid == holders.c.uuid)))
    columns = ["uuid", "name", "node", "queue", "meta", "started_at", "updated_at"]
    # Where the producer writes its row at the same moment, one waits for the other, and there is one row.
    written = insert(producers).from_select(columns, row).on_conflict_do_nothing(index_elements=[producers.c.uuid])
    return written.returning(producers.c.uuid, producers.c.node, _naive(producers.c.updated_at))


def backdate() -> Update:
    """Write into a row that was restored since when its producer has been missing.

    Parameters: `missing`, the producer's uuid; `restored`, the moment that the row says now; `since`, the other one.
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
    """Those of some producers that have beaten since their rows were restored: rows of `uuid`.

    Parameters: `uuids` and `moments`, arrays of equal length.
    """
    said = unnest(uuid=Uuid(), moment=DateTime())
    later = _naive(producers.c.updated_at) > said.c.moment
    return select(producers.c.uuid).select_from(producers.join(said, said.c.uuid == producers.c.uuid)).where(later)


def _naive(moment: ColumnElement[datetime]) -> ColumnElement[datetime]:
    return type_coerce(moment, DateTime())


def _counted() -> Expression:
    """The meta of a job with one more rescue counted, as the family does, and nothing of when its attempt began."""
    rescued = func.coalesce(_number(jobs.c.meta, "rescued", Integer()), inline("0")) + inline("1")
    meta = func.coalesce(jobs.c.meta, inline("'{}'::jsonb"))
    is_object = func.jsonb_typeof(meta) == inline("'object'")
    left = case((is_object, meta.op("-")(inline(f"'{BEGAN}'"))), else_=meta)
    return left.op("||")(func.jsonb_build_object(inline("'rescued'"), rescued))


def _given_on(again: str = "'available'") -> dict[str, Expression]:
    """What becomes of a job whose node is gone: cancelled where that was requested, else discarded or tried again."""
    spent = jobs.c.attempt >= jobs.c.max_attempts
    state = case((marked(), inline("'cancelled'")), (spent, inline("'discarded'")), else_=inline(again))
    return {
        "state": cast(state, jobs.c.state.type),
        "cancelled_at": case((marked(), utc_clock()), else_=jobs.c.cancelled_at),
        "discarded_at": case((spent & ~marked(), utc_clock()), else_=jobs.c.discarded_at),
    }


def bury() -> Delete:
    """Remove the rows of those of the dead that hold no job any more. Parameter: `uuids`, an array of texts."""
    holds = select(jobs.c.id).where(jobs.c.state == inline("'executing'"), cast(producers.c.uuid, Text) == HOLDER)
    return delete(producers).where(cast(producers.c.uuid, Text) == func.any(array("uuids", Text())), ~holds.exists())


def abandoned(*, peers_known: bool, followers: Sequence[Follower] = ()) -> Executable:
    """Give back what nodes of other members of the family began more than `after` seconds ago and abandoned.

    Never what a producer of ours holds: whether that lives is known exactly. What a producer with a row holds, such as
    one of Oban for Python, counts as abandoned once the row is silent for as long, and for THEIRS_DEAD_AFTER at least.
    Nodes of Elixir have no rows: what they hold is abandoned where none of them leads, and never while one does, which
    has a lifeline of its own. Elixir's table of peers may be missing. Rows of `RESCUED`. Parameters: `after`, `text`.
    """
    ours = func.coalesce(HOLDER.op("~", is_comparison=True)(inline(f"'{OURS}'")), inline("false"))
    silence = func.greatest(parameter("after", _SECONDS), inline(f"{THEIRS_DEAD_AFTER:g}"))
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
    return _changed(lost, {**_given_on(), "meta": _counted()}, followers=followers)


THEIRS_DEAD_AFTER: Final = 60.0
"""Seconds of silence after which Oban for Python itself takes a producer for dead."""


def exhausted(followers: Sequence[Follower] = ()) -> Executable:
    """Discard available jobs whose attempts are spent, which no fetch takes: rows of `RESCUED`. Parameter: `text`.

    Since all others are taken before long, these stand at the head of each queue, and only that is read.
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
    return _changed(spent, {"state": inline("'discarded'"), "discarded_at": utc_clock()}, followers=followers)


RESCUED: Final = ("id", "queue", "worker", "state", "attempt", "max_attempts")
"""What is told of each job that was rescued or discarded."""


def _changed(
    found: CTE,
    changes: Mapping[str, Expression],
    *,
    said: ColumnElement[str] | None = None,
    followers: Sequence[Follower] = (),
) -> Executable:
    """Change the jobs found and add to the errors of each what is `said`, by default the parameter `text`."""
    text = bindparam("text", type_=Text()) if said is None else said
    changing = (
        update(jobs)
        .where(jobs.c.id == found.c.id)
        .values(**changes, errors=jobs.c.errors.op("||")(error_entry(jobs.c.attempt, text)))
    )
    if not followers:
        return changing.returning(*(jobs.c[name] for name in RESCUED))
    more = [jobs.c[name] for name in RESCUED if name not in FOLLOWED]
    acked = changing.returning(*changed_columns(), *more).cte("acked")
    return follow(select(*(acked.c[name] for name in RESCUED)), acked, followers)


def _number(meta: Expression, key: str, type_: Integer | Double[float]) -> ColumnElement[float]:
    """A number in a JSON object; NULL where another program wrote something else there."""
    found = meta.op("->>")(inline(f"'{key}'"))
    fits = "'^[0-9]{1,8}$'" if isinstance(type_, Integer) else "'^[0-9]{1,8}([.][0-9]+)?$'"
    return case((found.op("~")(inline(fits)), cast(found, type_)))

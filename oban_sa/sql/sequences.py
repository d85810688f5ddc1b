"""The jobs of a sequence run one at a time, in the order of their ids, whichever node and whichever fetch takes them.

A fetch knows nothing of sequences: it may take a job before its turn, and the statement of a plain queue stays as it
is. A job whose meta names a sequence is asked about after it was fetched and before its code begins:

    available ──fetched──> executing ──its turn──> the code runs ──> its outcome is written ──> `release`
        ^                      │ not its turn                                                       │
        └──── `release` ─── suspended, marked as `parked`, its attempt not spent <──────────────────┘ the next one

- `turn` decides. It is a job's turn where no job of the sequence with a lower id is unfinished, or halts the sequence,
  and no other one is executing. Two jobs never both have their turn, although nothing is locked: each row says
  `executing`, committed, before it is asked about. Of two that do so at the same time, at least one sees the other.
- A job that is not at its turn is parked, once: it is `suspended`, a state that no program of the family fetches. So
  the plain fetches of a queue do not meet it again, however many wait in a sequence.
- `release` makes the first job of a sequence available where that was parked and none executes. It decides nothing: a
  job that is released too early is parked once more. Each node calls it for the keys of jobs that it has ended or
  parked, after that was committed; the last of several sees what the others did. What no such node ended, a job that
  was cancelled, deleted, or run by another member of the family, is found by `sweep`.

Why not otherwise: a condition in the fetch would be paid by every queue, and a node that knows nothing of sequences
would break the order of all; jobs that are inserted as `suspended` would never run where another program inserts them;
a lock for each key would have to be held for as long as the code runs.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Executable,
    FromClause,
    Integer,
    Text,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from oban_sa.jobs.keys import HALTS, SEQUENCE
from oban_sa.sql.cancel_request import marked
from oban_sa.sql.expressions import array, inline, materialized, parameter, unnest, utc_clock
from oban_sa.sql.fence import by_holder
from oban_sa.sql.fetch import jobs
from oban_sa.sql.halts import UNFINISHED, has, sequence_of

PARKED: Final = "parked"
"""The key in the meta of a job that waits for its turn: the moment of the fetch that came too early.

One that is suspended for another reason, or was fetched since, has none that is its own.
"""

_NO_META: Final = inline("'{}'::jsonb")


def turn() -> Executable:
    """Ask whether it is the turn of jobs that were fetched, and park those of which it isn't: rows of `id`, `key`.

    And `turn`, whether it is the job's; NULL where its row was locked, so that it is to be asked about again. A job
    without a row is no longer this producer's. Parameters: `holder`, `ids`, and `unasked`, ids of jobs that the same
    producer has fetched and that have not had their turn, those of `ids` among them.
    """
    mine = materialized(
        select(jobs.c.id, jobs.c.queue, sequence_of(jobs.c.meta).label("key"))
        .where(
            jobs.c.id == func.any(array("ids", BigInteger())),
            cast(jobs.c.state, Text) == inline("'executing'"),
            by_holder(),
        )
        .cte("mine")
    )
    before, running = jobs.alias("before"), jobs.alias("running")
    earlier = select(before.c.id).where(*unfinished_of(before, mine.c.queue, mine.c.key), before.c.id < mine.c.id)
    others = select(running.c.id).where(
        *executing_of(running, mine.c.queue, mine.c.key),
        # Those of this producer are asked about after this one, and will see it.
        running.c.id != func.all(array("unasked", BigInteger())),
    )
    early = earlier.exists() | others.exists()
    asked = materialized(select(mine.c.id, mine.c.key, early.label("early")).cte("asked"))
    ids = func.array(select(asked.c.id).where(asked.c.early).scalar_subquery())
    found = materialized(
        select(jobs.c.id)
        .where(jobs.c.id == func.any(ids), cast(jobs.c.state, Text) == inline("'executing'"), by_holder())
        .with_for_update(skip_locked=True)
        .cte("found")
    )
    parked = (
        update(jobs)
        .where(jobs.c.id == func.any(func.array(select(found.c.id).scalar_subquery())))
        .values(
            state=cast(case((marked(), inline("'cancelled'")), else_=inline("'suspended'")), jobs.c.state.type),
            cancelled_at=case((marked(), utc_clock()), else_=jobs.c.cancelled_at),
            attempt=jobs.c.attempt - inline("1"),
            meta=func.coalesce(jobs.c.meta, _NO_META).op("||")(
                func.jsonb_build_object(inline(f"'{PARKED}'"), func.to_jsonb(jobs.c.attempted_at))
            ),
        )
        .returning(jobs.c.id)
        .cte("parked")
    )
    decided = case((~asked.c.early, inline("true")), (parked.c.id.is_not(None), inline("false")))
    return select(asked.c.id, asked.c.key, decided.label("turn")).select_from(
        asked.outerjoin(parked, parked.c.id == asked.c.id)
    )


def release() -> Executable:
    """Let the next job of each of some sequences be fetched, where none executes: the ids of those that were parked.

    Parameters: `of_queue`, and `keys`, an array.
    """
    wanted = unnest(key=Text())
    queue: ColumnElement[str] = bindparam("of_queue", type_=Text())
    first = _first(wanted, queue, wanted.c.key)
    released = _released(wanted.join(first, true()), first, queue, wanted.c.key)
    return select(released.c.id)


def sweep() -> Executable:
    """The same for all sequences behind one, in the order of `queue` and `key`, `limit` of them.

    One row: `queues`, an array of those of which jobs were released; `seen`, how many sequences were looked at; the
    last of these as `last_queue` and `last_key`; and those that are halted as `halted`, JSON as text: lists of `queue`,
    `key`, and `id` and `worker` of the job that did it, NULL where there are none. Parameters: `after_queue`,
    `after_key` and `limit`.
    """
    start, later = jobs.alias("start"), jobs.alias("later")
    behind = tuple_(parameter("after_queue", Text()), parameter("after_key", Text()))
    first = (
        select(start.c.queue, sequence_of(start.c.meta).label("key"), inline("1").label("n"))
        .where(*_unfinished(start), tuple_(start.c.queue, sequence_of(start.c.meta)) > behind)
        .order_by(start.c.queue, sequence_of(start.c.meta))
        .limit(literal_column("1"))
    )
    walk = select(first.subquery("first")).cte("walk", recursive=True)
    after = (
        select(later.c.queue, sequence_of(later.c.meta).label("key"))
        .where(*_unfinished(later), tuple_(later.c.queue, sequence_of(later.c.meta)) > tuple_(walk.c.queue, walk.c.key))
        .order_by(later.c.queue, sequence_of(later.c.meta))
        .limit(literal_column("1"))
        .correlate(walk)
        .lateral("after")
    )
    walk = walk.union_all(
        select(after.c.queue, after.c.key, walk.c.n + inline("1"))
        .select_from(walk.join(after, true()))
        .where(walk.c.n < parameter("limit", Integer()))
    )
    head = _first(walk, walk.c.queue, walk.c.key)
    heads = materialized(select(walk.c.queue, walk.c.key, *head.c).select_from(walk.join(head, true())).cte("heads"))
    released = _released(heads, heads, heads.c.queue, heads.c.key)
    said = func.jsonb_agg(func.jsonb_build_array(heads.c.queue, heads.c.key, heads.c.id, heads.c.worker))
    halted = select(cast(said, Text)).where(heads.c.state == inline("'discarded'"))
    last = select(walk.c.queue, walk.c.key).order_by(walk.c.n.desc()).limit(literal_column("1")).subquery("last")
    return select(
        func.array(select(released.c.queue).distinct().scalar_subquery()).label("queues"),
        select(func.count()).select_from(walk).scalar_subquery().label("seen"),
        select(last.c.queue).scalar_subquery().label("last_queue"),
        select(last.c.key).scalar_subquery().label("last_key"),
        halted.scalar_subquery().label("halted"),
    )


def _first(wanted: FromClause, queue: ColumnElement[str], key: ColumnElement[str]) -> FromClause:
    """The job of each sequence whose turn it is, or that halts it."""
    head = jobs.alias("head")
    return (
        select(head.c.id, head.c.state, head.c.meta, head.c.attempted_at, head.c.worker)
        .where(*unfinished_of(head, queue, key))
        .order_by(head.c.id)
        .limit(literal_column("1"))
        .correlate(wanted)
        .lateral("first")
    )


def _released(looked_at: FromClause, first: FromClause, queue: ColumnElement[str], key: ColumnElement[str]) -> CTE:
    """Make available the `first` job of sequences, where that was parked and none executes."""
    running = jobs.alias("running")
    # Where one executes, it releases the next when it ends; one that is released before would only be parked again.
    executes = select(running.c.id).where(*executing_of(running, queue, key)).exists()
    ids = select(first.c.id).select_from(looked_at).where(is_parked(first), ~executes)
    found = materialized(
        select(jobs.c.id)
        .where(jobs.c.id == func.any(func.array(ids.scalar_subquery())), is_parked(jobs))
        .with_for_update(skip_locked=True)
        .cte("found")
    )
    return (
        update(jobs)
        .where(jobs.c.id == func.any(func.array(select(found.c.id).scalar_subquery())))
        .values(state=inline("'available'"), meta=jobs.c.meta.op("-")(inline(f"'{PARKED}'")))
        .returning(jobs.c.id, jobs.c.queue)
        .cte("released")
    )


def is_parked(job: FromClause) -> ColumnElement[bool]:
    """Whether a job waits for its turn, and for nothing else: no fetch took it since it was parked."""
    mark = job.c.meta.op("->", return_type=JSONB())(inline(f"'{PARKED}'"))
    # As text, so that jobs are found by their ids, and not along an index of all that are suspended.
    return (cast(job.c.state, Text) == inline("'suspended'")) & (
        mark == func.to_jsonb(job.c.attempted_at, type_=JSONB())
    )


def _unfinished(job: FromClause) -> list[ColumnElement[bool]]:
    """The jobs that are in a sequence, as its index has them; one that has halted it is the first for good."""
    halts = (job.c.state == inline("'discarded'")) & has(HALTS, job.c.meta)
    return [has(SEQUENCE, job.c.meta), or_(job.c.state.in_(UNFINISHED), halts)]


def unfinished_of(job: FromClause, queue: ColumnElement[str], key: ColumnElement[str]) -> list[ColumnElement[bool]]:
    """The jobs that are in a sequence, and one that has halted it."""
    return [*_unfinished(job), job.c.queue == queue, sequence_of(job.c.meta) == key]


def executing_of(job: FromClause, queue: ColumnElement[str], key: ColumnElement[str]) -> list[ColumnElement[bool]]:
    """The jobs of a sequence that execute."""
    return [
        job.c.state == inline("'executing'"),
        has(SEQUENCE, job.c.meta),
        job.c.queue == queue,
        sequence_of(job.c.meta) == key,
    ]

"""The claim of unique keys: which of some jobs may be inserted, and which older job stands in the way of each other.

A key points at the newest job that was enqueued with it, in `oban_sa_uniques`. Whether that job stands in the way is
read from its own row. Where it does not, the pointer is moved to the new job, if it still points where it did when it
was read; so of several that claim one key at the same time one gets it, and the others wait for its commit.

How another statement composes it:

1. Make a relation with the columns of `WANTED`, one row for each job; `key()` makes the key of a job, and `identity()`
   the id of one that has none yet. A job that is stored already, such as one that is to be retried, gives its own id.
2. `claimed = claim(relation, locks=...)` makes the CTEs. `claimed.winners` has `number`, `key` and `id` of the jobs to
   insert, by these ids (`insert.inserting_values`, `with_ids`) and with the key under `unique` in their meta; or, where
   they are stored already, to change. Join it with the relation by `number`.
3. `claimed.held` has for the first job of each key the `blocker` that stands in its way, or NULL, with its `state` and
   `scheduled_at`.
4. A job that is in neither comes after another one of the same key, or has lost the key to a transaction that committed
   meanwhile. Claim those once more by another statement, which sees what this one has written.

All rows of a statement are claimed in the order of their keys, or two statements could wait for each other.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import (
    CTE,
    ColumnElement,
    Double,
    Executable,
    FromClause,
    Select,
    Sequence,
    Table,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    column,
    func,
    null,
    or_,
    select,
    true,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from oban_sa.jobs.unique import FIELDS, JOINED_FOR, MARK, NO_SUBJECT
from oban_sa.models.base import Expression
from oban_sa.models.unique import Unique
from oban_sa.sql.expressions import inline, materialized, seconds_earlier, utc_clock, utc_now
from oban_sa.sql.fetch import jobs

Rows: TypeAlias = Select[Any]
"""A SELECT, whatever its columns are."""

uniques: Final[Table] = Unique.metadata.tables["public.oban_sa_uniques"]

WANTED: Final = ("number", "key", "id", "states", "period", "joins", "replace", "scheduled_at")
"""The columns of a relation that is claimed.

- `number`: an integer of its own for each row. Of jobs with one key the first by this number is claimed.
- `key`: the unique key, a uuid.
- `id`: that of the job, or NULL for a new one.
- `states`: a jsonb array of the states in which an older job stands in the way.
- `period`: seconds, or NULL. An older job stands in the way only if it is scheduled later than this long before.
- `joins`: whether an older job that stands in the way is locked until the transaction ends, so that it starts after it.
- `replace`: a jsonb object of the states in which it is locked to be changed as well, or NULL; not looked at, and so
  not needed, without the lock "update".
- `scheduled_at`: the moment of the new job, a timestamp in UTC.
"""

LOCKS: Final = ("share", "update")
"""For rows with `joins`, and for those with `replace`."""

ONE: Final[Expression] = inline("1")
_VERSION: Final[Expression] = func.coalesce(uniques.c.version, uniques.c.job_id)
"""What tells a pointer from what it was before."""
_DUE: Final[Expression] = inline(f"interval '{JOINED_FOR} second'")


class Claim(NamedTuple):
    """The CTEs of a claim."""

    wanted: FromClause
    """The relation, with the `place` of each row among those of its key, from 1."""
    held: CTE
    """The first rows of each key: `number`, `key`, `id`, `version`, `blocker`, `state` and `scheduled_at`."""
    winners: Rows
    """`number`, `key` and `id` of those that have got their keys."""


def key(
    scope: Expression,
    *,
    worker: ColumnElement[str],
    queue: ColumnElement[str],
    args: Expression,
    meta: Expression,
) -> Expression:
    """The unique key of a job, a uuid: the same for the same values, whichever statement makes it.

    `scope` is `Unique.scope` as jsonb; `args` and `meta` are jsonb. What `keys` name and a job lacks counts as null.
    """
    named = jsonb(scope.op("->")(inline("'fields'")))
    parts: list[Expression] = [scope]
    for name, value, keys in zip(FIELDS, (worker, queue, args, meta), (None, None, "keys", "meta_keys"), strict=True):
        part: Expression = value
        if keys is not None:
            listed = jsonb(scope.op("->")(inline(f"'{keys}'")))
            each = func.jsonb_array_elements_text(listed).table_valued(column("name", Text), name=f"each_{name}")
            item = jsonb(value.op("->")(each.c.name))
            some = select(func.jsonb_object_agg(each.c.name, item)).select_from(each).scalar_subquery()
            # The mark of a key is no part of it: a job that is copied has that of the other.
            whole = value if name == "args" else unmarked(value)
            part = case((listed == inline("'[]'::jsonb"), whole), else_=some)
        parts.append(case((named.bool_op("?")(inline(f"'{name}'")), func.to_jsonb(part)), else_=null()))
    return hashed(func.jsonb_build_array(*parts))


def hashed(subject: Expression) -> Expression:
    """The unique key of what `Unique.subject` says, as jsonb, whose text is the same for the same values."""
    digest = func.sha256(func.convert_to(cast(subject, Text), inline("'UTF8'")))
    return cast(func.encode(func.substr(digest, inline("1"), inline("16")), inline("'hex'")), Uuid)


def jsonb(value: Expression) -> Expression:
    """Say that an expression is jsonb, without a cast."""
    return type_coerce(value, JSONB())


def marked(meta: Expression, key: Expression) -> Expression:
    """The meta of a job with its unique key, where a retry and people find it."""
    return meta.op("||")(func.jsonb_build_object(inline(f"'{MARK}'"), cast(key, Text)))


def unmarked(meta: Expression) -> Expression:
    """The meta of a job without what is not what the job is about, such as the key itself."""
    for mark in NO_SUBJECT:
        meta = meta.op("-")(inline(f"'{mark}'"))
    return meta


def holder() -> Executable:
    """The job that a key points at: a row of `id` and `state`, or none. Parameter: `key`, a text."""
    columns: list[Expression] = [jobs.c.id, cast(jobs.c.state, Text).label("state")]
    wanted = cast(cast(bindparam("key", type_=Text), Text), Uuid)
    return select(*columns).where(jobs.c.id == uniques.c.job_id, uniques.c.key == wanted)


def identity() -> ColumnElement[int]:
    """The next id of a job. The role needs USAGE on the sequence."""
    return _IDS.next_value()


_IDS: Final = Sequence("oban_jobs_id_seq", schema="public", metadata=None)


def claim(
    relation: FromClause | Rows, *, locks: Collection[str] = (), single: bool = False, stored: bool = False
) -> Claim:
    """Claim the keys of a relation with the columns of `WANTED`; what others it has stay in `wanted`.

    `locks` are those of `LOCKS` that its rows may ask for; `single` says that it has one row at most, whose number is
    0. `stored` says that its jobs are rows already, of which none stands in its own way; one that has been due for long
    still stands in theirs. In REPEATABLE READ a claim fails by 40001 where another transaction has committed the same
    key since the snapshot.
    """
    rows: FromClause = relation.subquery("relation") if isinstance(relation, Select) else relation
    place = ONE if single else func.row_number().over(partition_by=rows.c.key, order_by=rows.c.number)
    placed = select(*rows.c, place.label("place"))
    wanted: FromClause
    if single and "update" not in locks:
        wanted = placed.offset(0).subquery("wanted")  # or the key would be made at each place that has it
    else:
        wanted = materialized(placed.cte("wanted"))
    held = _held(wanted, locks, stored=stored)
    free: FromClause = _free_one(held) if single else _free(held, stored=stored)
    made = insert(uniques).from_select(
        ["key", "job_id", "version"], select(free.c.key, free.c.id, free.c.version).order_by(free.c.key)
    )
    claimed = (
        made.on_conflict_do_update(
            index_elements=[uniques.c.key],
            # A job that is stored may have held the key before; a transaction that saw it then must not take it for
            # what it saw. The ids of new jobs are new.
            set_={"job_id": made.excluded.job_id, "version": -func.txid_current() if stored else null()},
            # Compare and set: where another transaction was faster, no row comes back.
            where=made.excluded.version == _VERSION,
        )
        .returning(uniques.c.key, uniques.c.job_id)
        .cte("claimed")
    )
    number: Expression = inline("0") if single else held.c.number
    columns: list[Expression] = [number.label("number"), claimed.c.key, claimed.c.job_id.label("id")]
    winners = select(*columns)
    if not single:
        winners = winners.join_from(claimed, held, claimed.c.key == held.c.key)
    return Claim(wanted, held, winners)


def _held(wanted: FromClause, locks: Collection[str], *, stored: bool) -> CTE:
    # Look-ups of one row each, so that the plan depends on no value and no statistics, and the server keeps it.
    pointer = (
        select(uniques.c.job_id, _VERSION.label("version"))
        .where(uniques.c.key == wanted.c.key)
        .limit(ONE)
        .lateral("pointer")
    )
    seen = _blocker(wanted, pointer.c.job_id, stored=stored).lateral("seen")
    source: FromClause = wanted.join(pointer, true(), isouter=True).join(seen, true(), isouter=True)
    found: FromClause | _Either = seen
    changed: Expression | None = None
    if "update" in locks:
        changed = func.coalesce(jsonb(wanted.c.replace).bool_op("?")(seen.c.state), inline("false"))
    shared: Expression = wanted.c.joins if changed is None else and_(wanted.c.joins, ~changed)
    for lock, wants in (("share", shared), ("update", changed)):
        if lock in locks and wants is not None:
            # Of the newest version of the row, once a transaction that is changing it has ended: it may have started.
            # FOR NO KEY UPDATE, for two that share a lock and then both change the row would wait for each other.
            locked = (
                _blocker(wanted, seen.c.id, wants, stored=stored)
                .with_for_update(read=lock == "share", key_share=lock == "update", of=_older)
                .lateral(f"to_{lock}")
            )
            source = source.join(locked, true(), isouter=True)
            found = _Either(wants, locked, found)
    return materialized(
        select(
            *(wanted.c[name] for name in ("number", "key", "id")),
            pointer.c.version,
            *(_of(found, name).label(label) for name, label in _BLOCKER.items()),
        )
        .select_from(source)
        .where(wanted.c.place == ONE)
        # The order in which rows are locked.
        .order_by(wanted.c.key)
        .cte("held")
    )


class _Either(NamedTuple):
    """The row that was locked where a lock was wanted, and otherwise the one that was only read."""

    wants: Expression
    locked: FromClause
    read: FromClause | _Either


_BLOCKER: Final = {"id": "blocker", "state": "state", "scheduled_at": "scheduled_at"}
_older: Final = jobs.alias("older")


def _of(found: FromClause | _Either, name: str) -> Expression:
    if isinstance(found, _Either):
        return case((found.wants, found.locked.c[name]), else_=_of(found.read, name))
    return found.c[name]


def _blocker(wanted: FromClause, identity: ColumnElement[int], *conditions: Expression, stored: bool) -> Rows:
    """The job of this id, if it stands in the way."""
    period: Expression = cast(wanted.c.period, Double)
    older, state = _older.c, cast(_older.c.state, Text)
    if stored:
        more = older.id != wanted.c.id
    else:
        waits = or_(
            older.state == inline("'suspended'"),
            older.scheduled_at > utc_clock() - _DUE,
            # Of this very transaction, whose jobs are due since it began: no other has locked it yet.
            older.inserted_at == utc_now(),
        )
        more = or_(~wanted.c.joins, waits)
    columns: list[Expression] = [older.id, state.label("state"), older.scheduled_at]
    return (
        select(*columns)
        .where(
            *conditions,
            older.id == identity,
            jsonb(wanted.c.states).bool_op("?")(state),
            or_(period.is_(None), older.scheduled_at > seconds_earlier(wanted.c.scheduled_at, period)),
            more,
        )
        .limit(ONE)
    )


def _free(held: CTE, *, stored: bool) -> CTE:
    """The jobs in whose way no other stands, with ids in their order; the others take none from the sequence."""
    first = (
        select(held.c.number, held.c.key, held.c.id, held.c.version)
        .where(held.c.blocker.is_(None))
        .order_by(held.c.number)
        .subquery("first")
    )
    # The role that retries jobs may have no right on the sequence.
    chosen = first.c.id if stored else func.coalesce(first.c.id, identity())
    return materialized(select(first.c.number, first.c.key, first.c.version, chosen.label("id")).cte("free"))


def _free_one(held: CTE) -> FromClause:
    chosen = func.coalesce(held.c.id, identity())
    return select(held.c.key, held.c.version, chosen.label("id")).where(held.c.blocker.is_(None)).subquery("free")

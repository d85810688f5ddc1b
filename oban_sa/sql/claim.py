"""The claim of the keys of given jobs, before they are inserted, and what is sent beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    CompoundSelect,
    DateTime,
    Double,
    FromClause,
    Integer,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    cast,
    func,
    null,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, INTERVAL, JSONB
from sqlalchemy.types import TypeEngine

from oban_sa.jobs import values
from oban_sa.models.base import Expression
from oban_sa.sql.expressions import inline, seconds_later, utc_clock, utc_now
from oban_sa.sql.fetch import jobs
from oban_sa.sql.insert import recordset
from oban_sa.sql.unique import ONE, Rows, claim, hashed, jsonb, marked, uniques

_Type: TypeAlias = type[TypeEngine[Any]]


@cache
def claiming(locks: frozenset[str] = frozenset(), *, single: bool = False) -> CompoundSelect[object]:
    """Claim the keys of jobs that are to be inserted after that. Parameters: those of `one`, if `single`, or of `many`.

    Rows of `number`, `key`, `id`, `blocker`, `state`, `scheduled_at` and `fields`: with an `id` for a job that may be
    inserted by it, with a `blocker` for one in whose way another stands, and with neither for one that comes after
    another of the same key. `state` and `scheduled_at` are what the blocker had, and `fields` a JSON array of what was
    replaced in it. There is no row for a job that has lost its key to a transaction that committed meanwhile; claim it
    once more. Statements differ by the `locks` that their rows may ask for.
    """
    types = _ROW if "update" in locks else {name: kind for name, kind in _ROW.items() if name not in _REPLACING}
    each = _parameters(types) if single else _listed(types)
    moment = func.coalesce(
        cast(each["scheduled_at"], DateTime),
        seconds_later(select(utc_clock()).scalar_subquery(), each["span"]),
        utc_now(),
    )
    columns: list[Expression] = [hashed(each["subject"]).label("key"), moment.label("scheduled_at")]
    columns += [each[name].label(name) for name in types if name not in {"subject", "scheduled_at", "span"}]
    relation = select(*columns)
    claimed = claim(relation, locks=locks, single=single)
    wanted, held, winners = claimed.wanted, claimed.held, claimed.winners.subquery("winners")
    fields: Expression = null()
    blocked: FromClause = held
    if "update" in locks:
        replaced = _replaced(wanted, held)
        blocked = held.outerjoin(replaced, replaced.c.number == held.c.number)
        fields = replaced.c.fields
    nothing = (cast(null(), BigInteger), cast(null(), Text), cast(null(), DateTime), cast(null(), Text))
    names = ("number", "key", "id", "blocker", "state", "scheduled_at", "fields")

    def answer(*columns: Expression) -> Rows:
        return select(*(each.label(name) for name, each in zip(names, columns, strict=True)))

    identity = cast(null(), BigInteger)
    seen = (held.c.blocker, held.c.state, held.c.scheduled_at, cast(fields, Text))
    answers = [
        answer(winners.c.number, cast(winners.c.key, Text), winners.c.id, *nothing),
        answer(held.c.number, cast(held.c.key, Text), identity, *seen)
        .select_from(blocked)
        .where(held.c.blocker.is_not(None)),
    ]
    if not single:
        after = answer(wanted.c.number, cast(wanted.c.key, Text), identity, *nothing)
        answers.append(after.where(wanted.c.place > ONE))
    return union_all(*answers)


_REPLACING: Final[dict[str, _Type]] = {
    "replace": JSONB,
    "worker": Text,
    "queue": Text,
    "args": JSONB,
    "meta": JSONB,
    "state": Text,
    "tags": Text,
    "max_attempts": Integer,
    "priority": Integer,
}
"""What is replaced in which state, and by what."""

_ROW: Final[dict[str, _Type]] = {
    "number": Integer,
    "subject": JSONB,
    "id": BigInteger,
    "states": JSONB,
    "period": Double,
    "joins": Boolean,
    "scheduled_at": Text,
    "span": Double,
    **_REPLACING,
}
"""What is said of a job: `Unique.terms` and `Unique.subject`, and what a job consists of."""


def many(jobs: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Return the parameter of `claiming` for several jobs: for each what `_ROW` has, of which NULL may be missing."""
    return {"rows": values.dumps([{"number": number, **job} for number, job in enumerate(jobs)])}


def one(job: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters of `claiming` for a single job."""
    given: dict[str, object] = {f"{_PREFIX}number": 0}
    for name, value in job.items():
        given[_PREFIX + name] = values.dumps(value) if _ROW[name] is JSONB and value is not None else value
    return given


_PREFIX: Final = "of_"  # parameters that are named like columns would become values of the UPDATE


def _parameters(types: Mapping[str, _Type]) -> Mapping[str, Expression]:
    sent = {name: Text if kind is JSONB else kind for name, kind in types.items()}
    return {name: cast(bindparam(_PREFIX + name, type_=sent[name]), kind) for name, kind in types.items()}


def _listed(types: Mapping[str, _Type]) -> Mapping[str, Expression]:
    each = recordset(types)
    return {name: each.c[name] for name in types}


def _replaced(wanted: FromClause, held: CTE) -> CTE:
    """Give older jobs what newer ones replace in them: `number` and `fields`."""
    fields = jsonb(jsonb(wanted.c.replace).op("->")(held.c.state))

    def either(name: str, new: Expression) -> Expression:
        return case((fields.bool_op("?")(inline(f"'{name}'")), new), else_=jobs.c[name])

    states: dict[str, Expression] = {
        name: cast(inline(f"'{name}'"), jobs.c.state.type) for name in ("available", "scheduled", "retryable")
    }
    stays = jobs.c.state == states["retryable"]
    state = case(
        (jobs.c.state == cast(inline("'suspended'"), jobs.c.state.type), jobs.c.state),
        (wanted.c.state == inline("'available'"), states["available"]),
        (and_(wanted.c.state == inline("'scheduled'"), ~stays), states["scheduled"]),
        else_=jobs.c.state,
    )
    # An available job whose attempts are all spent would never be fetched, and fewer than were made are refused.
    attempts = func.greatest(wanted.c.max_attempts, jobs.c.attempt + inline("1"))
    return (
        update(jobs)
        .where(
            jobs.c.id == held.c.blocker,
            wanted.c.number == held.c.number,
            jsonb(wanted.c.replace).bool_op("?")(held.c.state),
        )
        .values(
            state=case((fields.bool_op("?")(inline("'scheduled_at'")), state), else_=jobs.c.state),
            scheduled_at=either("scheduled_at", wanted.c.scheduled_at),
            worker=either("worker", wanted.c.worker),
            queue=either("queue", wanted.c.queue),
            args=either("args", wanted.c.args),
            meta=either("meta", marked(jsonb(wanted.c.meta), held.c.key)),
            tags=either("tags", cast(wanted.c.tags, ARRAY(Text))),
            max_attempts=either("max_attempts", attempts),
            priority=either("priority", wanted.c.priority),
        )
        .returning(wanted.c.number, fields.label("fields"))
        .cte("replaced")
    )


IDS: Final = any_(cast(bindparam("ids", type_=Text), ARRAY(BigInteger)))
"""Any of some ids. Parameter: `ids`, an array as text."""

GIVE_BACK: Final = (
    update(uniques)
    .where(uniques.c.key == cast(bindparam("of_key", type_=Text), Uuid))
    .values(job_id=cast(bindparam("to_id", type_=BigInteger), BigInteger))
)
"""Let a key point at a job again. Parameters: `of_key`, a text, and `to_id`."""

_MILLISECONDS: Final = 250
"""Less than PostgreSQL's `deadlock_timeout`, which is a second unless the server says otherwise."""

_setting: Final = func.current_setting(inline("'lock_timeout'"))
_shorter: Final = case(
    (_setting == inline("'0'"), inline(f"'{_MILLISECONDS}ms'")),
    (cast(_setting, INTERVAL) < inline(f"interval '{_MILLISECONDS} milliseconds'"), _setting),
    else_=inline(f"'{_MILLISECONDS}ms'"),
)

HURRY: Final = select(_setting.label("before"), func.set_config(inline("'lock_timeout'"), _shorter, inline("true")))
"""Wait for no lock longer than a deadlock takes to be found, until the savepoint is rolled back; return what was set
`before`."""

TAKE_TIME: Final = select(
    func.set_config(inline("'lock_timeout'"), cast(bindparam("before", type_=Text), Text), inline("true"))
)
"""Wait for locks as `before`."""

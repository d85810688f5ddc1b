"""Statements that insert jobs: one, or many at once, from values or from the rows of a query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Double,
    FromClause,
    Insert,
    Integer,
    Select,
    Text,
    bindparam,
    case,
    cast,
    column,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from oban_sa.jobs import values
from oban_sa.jobs.states import JobState
from oban_sa.models.base import Expression
from oban_sa.models.readable import readable
from oban_sa.sql.expressions import seconds_later, utc_clock, utc_now
from oban_sa.sql.fetch import jobs
from oban_sa.sql.notify import NOTIFY, NOTIFY_ONE

COLUMNS: Final = ("worker", "queue", "state", "args", "meta", "tags", "max_attempts", "priority", "scheduled_at")
"""What a job that was never tried consists of; defaults fill the rest, whoever made the table."""

Form: TypeAlias = Literal["one", "alike", "different"]
"""How jobs are given to `inserting_values`: one; several that differ in their args alone; several that differ."""


class Kind(NamedTuple):
    """What a job consists of beside its args, as PostgreSQL reads it; jobs of one kind share one statement."""

    worker: str
    queue: str
    state: str
    max_attempts: int
    priority: int
    tags: str
    """An array of texts, written as `array_text` does."""
    meta: str
    """A JSON object."""
    scheduled_at: str | None
    """A moment in UTC, ISO 8601 without a time zone; None: the database's now."""
    span: float | None
    """Seconds from what the database's clock shows to `scheduled_at`, where that is None."""


@cache
def inserting_values(form: Form, *, returning: bool, notifying: bool, with_ids: bool = False) -> Insert | Select[Any]:
    """Insert jobs in their order, and send notifications in the same statement where `notifying`.

    The parameters are those of `alike` or `different`, whichever the form is, and for "one" the fields of a `Kind` and
    `args`, a JSON object; and those of a `notify.Notice`, for "one" of one payload. With `returning` there is a row for
    each job, in their order: `id`, `inserted_at` and `scheduled_at`, the moments naive and in UTC. With `with_ids`,
    which "alike" has not, the parameters say the ids, and they are in their order.
    """
    if with_ids:
        made = insert_with_ids([*COLUMNS, "id"], _ROWS_WITH_IDS[form]())
    else:
        made = insert(jobs).from_select(list(COLUMNS), _ROWS[form]())
    if form == "one":
        answered = _answered(jobs.c) if returning else []
        # A CTE would take the server a quarter longer for one row, which needs no order.
        told = [NOTIFY_ONE.label("announced")] if notifying else []
        return made.returning(*answered, *told) if answered or told else made
    if not returning:
        return NOTIFY.add_cte(made.cte("made")) if notifying else made
    written = made.returning(jobs.c.id, jobs.c.inserted_at, jobs.c.scheduled_at).cte("made")
    # In the order of the ids, which is that of the jobs, since no order of rows that RETURNING gives is promised.
    rows = select(*_answered(written.c)).order_by(written.c.id)
    if not notifying:
        return rows
    # A subquery that refers to no row of ours is run once for all of them.
    sent = select(func.count()).select_from(NOTIFY.subquery("sent"))
    return rows.add_columns(sent.scalar_subquery().label("announced"))


def _answered(written: Any) -> list[Expression]:
    moments = (readable(written[name], DateTime()).label(name) for name in ("inserted_at", "scheduled_at"))
    return [written.id, *moments]


def insert_with_ids(columns: Sequence[str], rows: Select[Any]) -> Insert:
    """Insert rows of jobs whose ids are given; `columns` has "id"."""
    made: Insert = _InsertIds(jobs).from_select(list(columns), rows)
    return made


class _InsertIds(Insert):
    """An INSERT of ids that are given, also into the tables of oban-py, where they are `GENERATED ALWAYS`."""

    inherit_cache = True


@compiles(_InsertIds)
def _render_insert_ids(element: _InsertIds, compiler: SQLCompiler, **kw: Any) -> str:
    rendered = str(compiler.visit_insert(element, **kw))  # type: ignore[no-untyped-call]
    return rendered.replace(") SELECT ", ") OVERRIDING SYSTEM VALUE SELECT ", 1)


def alike(kind: Kind, args: Iterable[str]) -> dict[str, Any]:
    """Return the parameters that insert a job of one kind for each of `args`, which are JSON objects."""
    return {**kind._asdict(), "args": f"[{','.join(args)}]"}


def different(rows: Iterable[tuple[Kind, str]], ids: Sequence[int] | None = None) -> dict[str, Any]:
    """Return the parameters that insert a job for each of `rows`: a kind, and args that are a JSON object.

    `ids` are theirs, for a statement `with_ids`.
    """
    starts: dict[Kind, str] = {}
    written: list[str] = []
    for number, (kind, args) in enumerate(rows):
        if (start := starts.get(kind)) is None:
            start = starts[kind] = values.dumps(kind._asdict())[:-1]
        identity = "" if ids is None else f',"id":{ids[number]}'
        written.append(f'{start},"number":{number}{identity},"args":{args}}}')
    return {"rows": f"[{','.join(written)}]"}


def _one() -> Select[Any]:
    return select(*_selected(_parameters(), bindparam("args", type_=Text)))


def _alike() -> Select[Any]:
    listed = func.json_array_elements(cast(bindparam("args", type_=Text), JSON))
    each = listed.table_valued(column("args", JSON), with_ordinality="number").render_derived(name="each")
    return select(*_selected(_parameters(), each.c.args)).order_by(each.c.number)


def _different() -> Select[Any]:
    each = recordset({"number": Integer, "args": JSONB, **_TYPES})
    return select(*_selected(each.c, each.c.args)).order_by(each.c.number)


def _one_with_id() -> Select[Any]:
    return _one().add_columns(cast(bindparam("id", type_=BigInteger), BigInteger))


def _different_with_ids() -> Select[Any]:
    each = recordset({"number": Integer, "args": JSONB, "id": BigInteger, **_TYPES})
    return select(*[*_selected(each.c, each.c.args), each.c.id]).order_by(each.c.number)


def recordset(types: Mapping[str, Any]) -> Any:
    """The objects of the parameter `rows`, a JSON array as text, as rows with these columns."""
    listed = func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON))
    each = listed.table_valued(*(column(name, kind) for name, kind in types.items()))
    return each.render_derived(name="each", with_types=True)


_ROWS: Final = {"one": _one, "alike": _alike, "different": _different}
_ROWS_WITH_IDS: Final = {"one": _one_with_id, "different": _different_with_ids}

_TYPES: Final[Mapping[str, Any]] = {
    "worker": Text,
    "queue": Text,
    "state": Text,
    "max_attempts": Integer,
    "priority": Integer,
    "tags": Text,
    "meta": Text,
    "scheduled_at": Text,
    "span": Double,
}
"""The fields of a `Kind` as they are sent: texts and numbers, which all drivers send alike."""


def _parameters() -> dict[str, Expression]:
    return {name: bindparam(name, type_=kind) for name, kind in _TYPES.items()}


def _selected(kind: Any, args: Expression) -> list[Expression]:
    """The `COLUMNS` of a job, from a `Kind` whose fields are expressions, each cast because drivers name no types."""
    # A subquery is run once: spans of the same length lead to the same moment.
    later = seconds_later(select(utc_clock()).scalar_subquery(), kind["span"])
    chosen: dict[str, Expression] = {
        "worker": cast(kind["worker"], Text),
        "queue": cast(kind["queue"], Text),
        "state": cast(kind["state"], jobs.c.state.type),
        "args": cast(args, JSONB),
        "meta": cast(kind["meta"], JSONB),
        "tags": cast(kind["tags"], ARRAY(Text)),
        "max_attempts": cast(kind["max_attempts"], Integer),
        "priority": cast(kind["priority"], Integer),
        "scheduled_at": func.coalesce(cast(kind["scheduled_at"], DateTime), later, utc_now()),
    }
    return [chosen[name].label(name) for name in COLUMNS]


def inserting(rows: FromClause, columns: Mapping[str, Expression]) -> Select[Any]:
    """Insert a job for each of `rows`, in their order; answer by `queue` the `number`, and if any is `available`.

    `columns` are those of `COLUMNS` without `state`. Where `scheduled_at` is NULL, or missing, it is now. Jobs
    scheduled for later are scheduled, all others available.
    """
    chosen = with_state(columns)
    made = (
        insert(jobs)
        .from_select(list(COLUMNS), select(*(chosen[name].label(name) for name in COLUMNS)).select_from(rows))
        .returning(jobs.c.queue, jobs.c.state)
        .cte("made")
    )
    found: Any = func.bool_or(made.c.state == _state(JobState.AVAILABLE))
    counted: Any = select(made.c.queue, func.count().label("number"), found.label("available"))
    return counted.group_by(made.c.queue)  # type: ignore[no-any-return]


def with_state(columns: Mapping[str, Expression]) -> dict[str, Expression]:
    """Add to the columns of new jobs their `state` and, where it is NULL or missing, their `scheduled_at`."""
    now: Any = utc_now()
    chosen = {**columns, "scheduled_at": now, "state": _state(JobState.AVAILABLE)}
    if "scheduled_at" in columns:
        chosen["scheduled_at"] = moment = func.coalesce(columns["scheduled_at"], now)
        # The clock, because spans are counted by it: a span of nothing must not be later than the transaction's now.
        later = moment > utc_clock()
        chosen["state"] = case((later, _state(JobState.SCHEDULED)), else_=_state(JobState.AVAILABLE))
    return chosen


def _state(state: JobState) -> Expression:
    return cast(text(state), jobs.c.state.type)


def text(value: str) -> Expression:
    """A text whose type the database is told by every driver."""
    return cast(literal(str(value), Text), Text)


def integer(value: int) -> Expression:
    """A whole number whose type the database is told by every driver."""
    return cast(literal(value, Integer), Integer)


def labels(tags: Iterable[str]) -> Expression:
    """A list of texts; as one text, because drivers differ in how they send lists."""
    return cast(text(array_text(tags)), ARRAY(Text))


def array_text(texts: Iterable[str]) -> str:
    """Write texts as PostgreSQL writes an array of them."""
    quoted = ('"' + each.replace("\\", "\\\\").replace('"', '\\"') + '"' for each in texts)
    return "{" + ",".join(quoted) + "}"

"""`enqueue_select`: the rows of a query become jobs without leaving the database."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, TypedDict, cast, overload

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Double,
    Interval,
    Numeric,
    Select,
    SelectBase,
    SQLColumnExpression,
    Subquery,
    case,
    func,
    inspect,
    literal,
    type_coerce,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import INTERVAL, JSONB
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from oban_sa import hooks
from oban_sa.arguments.mismatch import step
from oban_sa.bulk.unique import UniqueSelect, Written, check
from oban_sa.errors import InvalidArguments, InvalidJob, InvalidOption, articled
from oban_sa.jobs.keys import HALTS, PARTITION, SEQUENCE, OnFailure, Path
from oban_sa.jobs.unique import Unique
from oban_sa.models import Job, validation
from oban_sa.models.base import Expression
from oban_sa.models.selects import is_distinct
from oban_sa.models.types import UTCDateTime
from oban_sa.outbox.admission import plain
from oban_sa.outbox.outbox import Outbox
from oban_sa.outbox.references import entity_name
from oban_sa.outbox.sessions import AnySession, session_behind, unscoped
from oban_sa.schedule.periods import Period, seconds
from oban_sa.sql.expressions import seconds_later, utc_clock
from oban_sa.sql.insert import inserting, integer, labels, text
from oban_sa.sql.json import constant, converter, document
from oban_sa.sql.keys import inside, key_of
from oban_sa.workers.definition import Definition, definition_of
from oban_sa.workers.function import Calls, Function
from oban_sa.workers.keys import NONE, OPTIONS, KeyOf, Keys
from oban_sa.workers.other_queues import instead
from oban_sa.workers.signature import Signature

if TYPE_CHECKING:
    from typing import Unpack

Target: TypeAlias = type[Any] | Function[..., ..., Any] | Calls[..., object]
"""What jobs are for: a class with `@worker`, a function with `@job`, or what its `options(...)` returns."""


class SelectOptions(TypedDict, total=False):
    """What all the jobs of a select are told alike, or each by an expression over its row."""

    queue: str | SQLColumnExpression[str]
    priority: int | SQLColumnExpression[int]
    max_attempts: int
    tags: Iterable[str] | None
    meta: dict[str, Any] | None
    partition: KeyOf | None
    sequence: KeyOf | None
    on_failure: OnFailure
    unique: bool | Unique | None
    deadline: Period | None
    scheduled_at: datetime | SQLColumnExpression[Any] | None
    schedule_in: Period | SQLColumnExpression[Any] | None


_OPTIONS: Final = frozenset(SelectOptions.__annotations__)
_BY_ROW: Final = ("queue", "priority", "scheduled_at", "schedule_in")


class Enqueued(int):
    """How many jobs a select has become, as an int; `conflicts` is the number of rows that became none.

    In the way of these another job stood, or an earlier row of the select with the same unique key.
    """

    conflicts: int

    def __new__(cls, count: int = 0, conflicts: int = 0) -> Self:
        """Make one."""
        made = super().__new__(cls, count)
        made.conflicts = conflicts
        return made

    def __reduce__(self) -> tuple[type[Enqueued], tuple[int, int]]:
        """Copy and pickle both."""
        return Enqueued, (int(self), self.conflicts)


@overload
def enqueue_select(
    session: Session | scoped_session[Any], worker: Target, rows: SelectBase, /, **options: Unpack[SelectOptions]
) -> Enqueued: ...
@overload
def enqueue_select(
    session: AsyncSession | async_scoped_session[Any],
    worker: Target,
    rows: SelectBase,
    /,
    **options: Unpack[SelectOptions],
) -> Coroutine[Any, Any, Enqueued]: ...
def enqueue_select(
    session: AnySession, worker: Any, rows: Any, /, **options: Any
) -> Enqueued | Coroutine[Any, Any, Enqueued]:
    """Write a job of `worker` for each row of a select, in the session's transaction, and return how many.

        enqueue_select(session, send_welcome, select(User.id.label("user_id")).where(User.welcomed_at.is_(None)))

    With an asynchronous session it is awaited. It is one statement, written at once, after a flush of what is pending.
    The columns are the args, by their labels; each value is written as `new` would write it. Options come before those
    of the worker; `queue`, `priority`, `scheduled_at` and `schedule_in` may also be expressions over the tables of the
    select. Jobs with a moment that is still to come are scheduled, by the database's clock.

    Unique jobs claim their keys in the same statement, and those in whose way another stands are not made; the answer
    is an int, and its `conflicts` says how many these were. Of several rows with one key the first becomes a job.

    No `Job` is made in this process, so hooks see none, but those of `hooks.in_statement` and
    `hooks.around_statement`. Where jobs need what another adds, give it as `meta` or select it as a column, or make the
    jobs here, with enqueue_many.

    Raises before anything is sent: `InvalidArguments` for a column that the worker doesn't take, one that it lacks, or
    one whose type JSON can't hold, `InvalidJob` and `InvalidOption` for options, and for unique jobs of which one
    statement can't decide. A NaN in a row fails the statement. Raises `UniqueBusy` as a flush does.
    """
    target = session_behind(session)
    definition, given = _defined(worker)
    options = {**definition.options.for_job(), **definition.stamped({**given, **options})}
    _check_options(options, definition)
    queue = options["queue"]
    told = hooks.Statement(definition.name, None if _is_expression(queue) else queue)
    with ExitStack() as stack:
        said = plain(hooks.said_for_all(told, stack), "meta")
        statement = _statement(target, definition, rows, options, said)
        found = unscoped(session)
        if isinstance(found, AsyncSession):
            return _awaited(found, statement, told, stack.pop_all())
        return _written(target, statement, told)


async def _awaited(
    session: AsyncSession, statement: Select[Any] | UniqueSelect, told: hooks.Statement, stack: ExitStack
) -> Enqueued:
    with stack:
        return await session.run_sync(_written, statement, told)


def _written(session: Session, statement: Select[Any] | UniqueSelect, told: hooks.Statement) -> Enqueued:
    if session.autoflush:
        session.flush()
    connection = session.connection(bind_arguments={"mapper": Job.__mapper__})
    if isinstance(statement, UniqueSelect):
        written = statement.write(connection)
    else:
        found: Any = connection.execute(statement).all()
        available = {row.queue for row in found if row.available}
        written = Written({row.queue: row.number for row in found}, conflicts=0, queues=available)
    told.made = written.made
    if written.number:
        outbox = Outbox.of(session)
        outbox.receive(session, connection, written.queues)
        outbox.count(session, connection, {(queue, told.worker): made for queue, made in written.made.items()})
    return Enqueued(written.number, written.conflicts)


def _statement(
    session: Session, definition: Definition, rows: Any, options: dict[str, Any], said: Mapping[str, Any]
) -> Select[Any] | UniqueSelect:
    signature = definition.body.signature()
    keys = definition.keys if OPTIONS.isdisjoint(options) else (definition.keys or NONE).replaced(options)
    _check_rows(session, rows)
    by_row = {name: value for name in _BY_ROW if _is_expression(value := options.get(name))}
    if (unique := Unique.of(options.get("unique"))) is not None:
        moment = next((name for name in ("scheduled_at", "schedule_in") if options.get(name) is not None), None)
        span = seconds(options["schedule_in"]) if moment == "schedule_in" and moment not in by_row else None
        check(unique, worker=definition.name, moment=moment, by_row=moment in by_row, span=span)
        options["meta"] = unique.marked(options.get("meta") or {})
    if by_row:
        rows = _with_columns(rows, by_row)
    made: Subquery = rows.subquery("made_of")
    columns = {key: column for key, column in made.c.items() if not key.startswith(_PREFIX)}
    for place, key in enumerate(columns, 1):
        if "%(" in key or key.startswith("_no_label"):
            raise InvalidArguments(f'column {place} of the select has no name; write .label("...")', path="args")
    signature.names.check(columns)
    args = {key: _converted(column, key, signature) for key, column in columns.items()}
    args |= {name: constant(value) for name, value in signature.defaults.items() if name not in args}
    chosen: dict[str, Any] = {"worker": text(definition.name), "args": document(args)}
    # What all of them have in common.
    meta: dict[str, Any] = {**said, **plain(options.get("meta"), "meta")}
    chosen |= _described(options, meta, {name: made.c[_PREFIX + name] for name in by_row})
    if keys is not None:
        chosen["meta"] = _with_keys(keys, chosen, args, meta)
    return inserting(made, chosen) if unique is None else UniqueSelect(made, chosen, unique)


_PREFIX: Final = "oban_option_"


def _defined(worker: Any) -> tuple[Definition, Mapping[str, Any]]:
    if isinstance(worker, SelectBase):
        raise TypeError("the worker comes before the select; write enqueue_select(session, worker, select(...))")
    if isinstance(worker, Calls):
        return worker.definition, worker.given
    return definition_of(worker), {}


def _check_options(options: Mapping[str, Any], definition: Definition) -> None:
    if definition.options.encrypt:
        raise InvalidOption(
            f"args of {definition.name} are encrypted, which the database can't do to the rows of a select; read the "
            "rows, and write enqueue_many(session, jobs)"
        )
    for name in options:
        if name not in _OPTIONS:
            known = instead(name, _OPTIONS) or f"; there are {', '.join(sorted(_OPTIONS))}"
            raise InvalidOption(f"enqueue_select takes no {name!r} for jobs of {definition.name}{known}")
    if options.get("scheduled_at") is not None and options.get("schedule_in") is not None:
        raise InvalidJob("scheduled_at and schedule_in both say when; give one of them")
    for name in ("max_attempts", "tags", "meta"):
        if _is_expression(options.get(name)):
            raise InvalidOption(f"{name} is the same for all jobs of a select, and this is an expression; give a value")


def _check_rows(session: Session, rows: Any) -> None:
    if not isinstance(rows, SelectBase):
        hint = (
            "write select(rows)" if hasattr(rows, "__clause_element__") or hasattr(rows, "c") else "write select(...)"
        )
        raise TypeError(f"enqueue_select takes a select, and this is {articled(type(rows).__name__)}; {hint}")
    try:
        here, there = session.get_bind(Job.__mapper__), session.get_bind(clause=rows)
    except SQLAlchemyError:  # a select of no table, or an application's own way to choose
        return
    if here.engine is not there.engine:
        raise InvalidOption(
            f"the rows are in {there.engine.url!r} and jobs in {here.engine.url!r}, and no statement reaches both; "
            f"read the rows and write enqueue_many(session, jobs)"
        )


def _with_columns(rows: SelectBase, by_row: Mapping[str, Any]) -> SelectBase:
    if is_distinct(rows) or not isinstance(rows, Select):
        raise InvalidOption(
            f"{next(iter(by_row))} is an expression, which can't be added to a DISTINCT or a UNION; write "
            f"it over a subquery: found = rows.subquery(), then select(found.c...) with found.c as the option"
        )
    selected = cast("Select[Any]", rows)
    return selected.add_columns(*(value.label(_PREFIX + name) for name, value in by_row.items()))


def _converted(column: ColumnElement[Any], name: str, signature: Signature) -> ColumnElement[Any]:
    convert = converter(column.type)
    if isinstance(convert, str):
        raise InvalidArguments(f"args{step(name)} {convert}", path=f"args{step(name)}")
    written = convert(column)
    if (entity := signature.entities.get(name)) is None:
        return written
    mapper = inspect(entity)
    if len(mapper.primary_key) > 1:
        raise InvalidArguments(
            f"args{step(name)} is a {entity.__name__}, whose key has {len(mapper.primary_key)} columns; "
            f"make its jobs one by one, with enqueue_many",
            path=f"args{step(name)}",
        )
    return document({"entity": constant(entity_name(mapper)), "id": written})


def _described(
    options: Mapping[str, Any], meta: Mapping[str, Any], by_row: Mapping[str, ColumnElement[Any]]
) -> dict[str, Any]:
    """Return the columns of the jobs that are not args."""
    described: dict[str, Any] = {
        "queue": by_row["queue"] if "queue" in by_row else text(validation.name(options["queue"], "queue")),
        "priority": by_row["priority"] if "priority" in by_row else integer(validation.priority(options["priority"])),
        "max_attempts": integer(validation.max_attempts(options["max_attempts"])),
        "tags": labels(validation.tags(options.get("tags"))),
        "meta": constant(meta),
    }
    if "scheduled_at" in by_row:
        described["scheduled_at"] = _moment(by_row["scheduled_at"])
    elif "schedule_in" in by_row:
        described["scheduled_at"] = _later(by_row["schedule_in"])
    elif (at := validation.due(options.get("scheduled_at"))) is not None:
        described["scheduled_at"] = sql_cast(literal(at, UTCDateTime()), DateTime())
    elif (span := options.get("schedule_in")) is not None:
        described["scheduled_at"] = seconds_later(utc_clock(), literal(seconds(span), Double()))
    return described


def _with_keys(
    keys: Keys, chosen: Mapping[str, Expression], args: Mapping[str, Expression], meta: Mapping[str, object]
) -> Expression:
    """Return the meta of the jobs with their keys, which are NULL where the value of a row is."""

    def part(path: Path) -> Expression:
        match path:
            case ("args", name, *inner) if name in args:
                return inside(args[name], tuple(inner))
            case ("meta", name, *inner) if name in meta:
                return inside(constant(meta[name]), tuple(inner))
            case ("worker",):
                return func.to_jsonb(chosen["worker"], type_=JSONB())
            case _:
                raise InvalidJob(f"the jobs of this select have no {'.'.join(path)}, in which their key is to be")

    made: dict[str, Expression] = {}
    for name, source in ((PARTITION, keys.partition), (SEQUENCE, keys.sequence)):
        if callable(source):
            raise InvalidOption(
                f"the {name} of these jobs is a function, and no function is called for the rows of a select; write "
                f'{name}="args.<a column>", or make the jobs here, with enqueue_many'
            )
        if source is not None:
            key = key_of(source, part)
            # As `Keys.write` does: a partition that is NULL is the one without a name, a sequence that is NULL is none.
            made[name] = func.to_jsonb(func.coalesce(key, text("")) if name == PARTITION else key, type_=JSONB())
    written: Expression = func.jsonb_strip_nulls(document(made), type_=JSONB())
    if keys.halts:
        halts = case((made[SEQUENCE].is_not(None), constant({HALTS: True})), else_=constant({}))
        written = written.op("||", return_type=JSONB())(halts)
    return chosen["meta"].op("||", return_type=JSONB())(written)


def _moment(column: ColumnElement[Any]) -> ColumnElement[Any]:
    kind = column.type
    if isinstance(kind, UTCDateTime):
        return type_coerce(column, DateTime())
    if not isinstance(kind, DateTime):
        raise InvalidOption(f"scheduled_at is an expression of type {type(kind).__name__}; it needs a DateTime")
    return func.timezone("UTC", column, type_=DateTime()) if kind.timezone else column


def _later(column: ColumnElement[Any]) -> ColumnElement[Any]:
    if isinstance(column.type, (Interval, INTERVAL)):
        return type_coerce(utc_clock() + column, DateTime())
    if isinstance(column.type, Numeric) or column.type.python_type is int:
        return seconds_later(utc_clock(), column)
    kind = type(column.type).__name__
    raise InvalidOption(f"schedule_in is an expression of type {kind}; it needs an Interval, or a number of seconds")


def _is_expression(value: Any) -> bool:
    return isinstance(value, ColumnElement) or hasattr(value, "__clause_element__")

"""`enqueue_select`: the rows of a query become jobs without leaving the database."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypedDict, cast, overload

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
    func,
    inspect,
    literal,
    type_coerce,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from oban_sa import values
from oban_sa.enqueueing import AnySession, session_behind
from oban_sa.errors import InvalidArguments, InvalidJob, InvalidOption, articled
from oban_sa.models import Job, rules
from oban_sa.models.types import UTCDateTime
from oban_sa.outbox import Outbox
from oban_sa.periods import Period, seconds
from oban_sa.sql.documents import constant, converter, document
from oban_sa.sql.inserting import inserting, integer, labels, text
from oban_sa.sql.moments import seconds_later, utc_clock
from oban_sa.targets import entity_name
from oban_sa.workers.borrowed import instead
from oban_sa.workers.definition import Definition, definition_of
from oban_sa.workers.fitting import step
from oban_sa.workers.function import Calls, Function
from oban_sa.workers.naming import Names, names_of

if TYPE_CHECKING:
    from typing import Unpack

Target: TypeAlias = type[Any] | Function[..., ..., Any] | Calls[...]
"""What jobs are for: a class with `@worker`, a function with `@job`, or what its `options(...)` returns."""


class SelectOptions(TypedDict, total=False):
    """What all the jobs of a select are told alike, or each by an expression over its row."""

    queue: str | SQLColumnExpression[str]
    priority: int | SQLColumnExpression[int]
    max_attempts: int
    tags: Iterable[str] | None
    meta: dict[str, Any] | None
    scheduled_at: datetime | SQLColumnExpression[Any] | None
    schedule_in: Period | SQLColumnExpression[Any] | None


_OPTIONS: Final = frozenset(SelectOptions.__annotations__)
_BY_ROW: Final = ("queue", "priority", "scheduled_at", "schedule_in")


@overload
def enqueue_select(
    session: Session | scoped_session[Any], worker: Target, rows: SelectBase, /, **options: Unpack[SelectOptions]
) -> int: ...
@overload
def enqueue_select(
    session: AsyncSession | async_scoped_session[Any],
    worker: Target,
    rows: SelectBase,
    /,
    **options: Unpack[SelectOptions],
) -> Coroutine[Any, Any, int]: ...
def enqueue_select(session: AnySession, worker: Any, rows: Any, /, **options: Any) -> int | Coroutine[Any, Any, int]:
    """Write a job of `worker` for each row of a select, in the session's transaction, and return how many.

        enqueue_select(session, send_welcome, select(User.id.label("user_id")).where(User.welcomed_at.is_(None)))

    With an asynchronous session it is awaited. It is one statement, written at once, after a flush of what is pending;
    no Job is made, so hooks see none. The columns are the args, by their labels; each value is written as `new` would
    write it. Options come before those of the worker; `queue`, `priority`, `scheduled_at` and `schedule_in` may also be
    expressions over the tables of the select. Jobs with a moment that is still to come are scheduled, by the database's
    clock.

    Raises before anything is sent: `InvalidArguments` for a column that the worker doesn't take, one that it lacks, or
    one whose type JSON can't hold, `InvalidJob` and `InvalidOption` for options. A NaN in a row fails the statement.
    """
    target = session_behind(session)
    statement = _statement(target, worker, rows, options)
    if isinstance(session, async_scoped_session):
        session = cast("AsyncSession", session.registry())
    if isinstance(session, AsyncSession):
        return session.run_sync(_written, statement)
    return _written(target, statement)


def _written(session: Session, statement: Select[Any]) -> int:
    if session.autoflush:
        session.flush()
    connection = session.connection(bind_arguments={"mapper": Job.__mapper__})
    found: Any = connection.execute(statement).all()
    if found:
        Outbox.of(session).receive(session, connection, {row.queue for row in found if row.available})
    return sum(row.number for row in found)


def _statement(session: Session, worker: Any, rows: Any, options: Mapping[str, Any]) -> Select[Any]:
    definition, given = _defined(worker)
    names = names_of(definition)
    options = {**definition.options.for_job(), **given, **options}
    _check_options(options, definition)
    _check_rows(session, rows)
    by_row = {name: value for name in _BY_ROW if _is_expression(value := options.get(name))}
    if by_row:
        rows = _with_columns(rows, by_row)
    made: Subquery = rows.subquery("made_of")
    columns = {key: column for key, column in made.c.items() if not key.startswith(_PREFIX)}
    for place, key in enumerate(columns, 1):
        if "%(" in key or key.startswith("_no_label"):
            raise InvalidArguments(f'column {place} of the select has no name; write .label("...")', path="args")
    names.check(columns)
    args = {key: _converted(column, key, names) for key, column in columns.items()}
    args |= {name: constant(value) for name, value in names.defaults.items() if name not in args}
    chosen: dict[str, Any] = {"worker": text(definition.name), "args": document(args)}
    chosen |= _described(options, {name: made.c[_PREFIX + name] for name in by_row})
    return inserting(made, chosen)


_PREFIX: Final = "oban_option_"


def _defined(worker: Any) -> tuple[Definition, Mapping[str, Any]]:
    if isinstance(worker, SelectBase):
        raise TypeError("the worker comes before the select; write enqueue_select(session, worker, select(...))")
    if isinstance(worker, Calls):
        return worker._definition, worker._options
    return definition_of(worker), {}


def _check_options(options: Mapping[str, Any], definition: Definition) -> None:
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
    if not isinstance(rows, Select) or rows._distinct:
        raise InvalidOption(
            f"{next(iter(by_row))} is an expression, which can't be added to a DISTINCT or a UNION; write "
            f"it over a subquery: found = rows.subquery(), then select(found.c...) with found.c as the option"
        )
    selected = cast("Select[Any]", rows)
    return selected.add_columns(*(value.label(_PREFIX + name) for name, value in by_row.items()))


def _converted(column: ColumnElement[Any], name: str, names: Names) -> ColumnElement[Any]:
    convert = converter(column.type)
    if isinstance(convert, str):
        raise InvalidArguments(f"args{step(name)} {convert}", path=f"args{step(name)}")
    written = convert(column)
    if (entity := names.entities.get(name)) is None:
        return written
    mapper = inspect(entity)
    if len(mapper.primary_key) > 1:
        raise InvalidArguments(
            f"args{step(name)} is a {entity.__name__}, whose key has {len(mapper.primary_key)} columns; "
            f"make its jobs one by one, with enqueue_many",
            path=f"args{step(name)}",
        )
    return document({"entity": constant(entity_name(mapper)), "id": written})


def _described(options: Mapping[str, Any], by_row: Mapping[str, ColumnElement[Any]]) -> dict[str, Any]:
    """Return the columns of the jobs that are not args."""
    meta = values.to_json(rules.json_object(options.get("meta"), "meta"), where="meta")
    if values.has_references(meta):
        raise InvalidArguments(
            "meta holds ref(...), and all jobs of a select have the same; write the value", path="meta"
        )
    described: dict[str, Any] = {
        "queue": by_row["queue"] if "queue" in by_row else text(rules.name(options["queue"], "queue")),
        "priority": by_row["priority"] if "priority" in by_row else integer(rules.priority(options["priority"])),
        "max_attempts": integer(rules.max_attempts(options["max_attempts"])),
        "tags": labels(rules.tags(options.get("tags"))),
        "meta": constant(meta),
    }
    if "scheduled_at" in by_row:
        described["scheduled_at"] = _moment(by_row["scheduled_at"])
    elif "schedule_in" in by_row:
        described["scheduled_at"] = _later(by_row["schedule_in"])
    elif (at := rules.due(options.get("scheduled_at"))) is not None:
        described["scheduled_at"] = sql_cast(literal(at, UTCDateTime()), DateTime())
    elif (span := options.get("schedule_in")) is not None:
        described["scheduled_at"] = seconds_later(utc_clock(), literal(seconds(span), Double()))
    return described


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

"""How values of the job tables look in Python, with any driver, and in the tables of any member of the family."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import DateTime, Dialect, Enum, Integer, Text, TypeDecorator, cast, func, null, text, type_coerce
from sqlalchemy.dialects.postgresql import ARRAY, ENUM, JSONB, JSONPATH
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter, ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeEngine

from oban_sa.errors import InvalidArguments, InvalidJob
from oban_sa.jobs import values
from oban_sa.jobs.states import JobState
from oban_sa.jobs.values import JSONDict
from oban_sa.models.base import Expression
from oban_sa.models.readable import array_text_of, column_read, readable, text_of
from oban_sa.wire import json_text

State = Enum(
    JobState,
    name="oban_job_state",
    schema="public",
    values_callable=lambda _: [state.value for state in JobState],  # pyright: ignore[reportUnknownLambdaType]
)
"""`oban_job_state`; comes out as `JobState` and takes plain strings too."""


class UTCDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime in Python, a `timestamp without time zone` in the database; a naive one is taken as UTC.

    What the database has before the year 1 or after 9999, or infinite, comes out as the nearest moment Python knows.
    """

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is None:
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def column_expression(self, column: Expression) -> Expression:
        return column_read(column, readable(column, self), self)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Labels(TypeDecorator[list[str]]):
    """A list of strings; NULL, which Elixir's tables allow, comes out as an empty list, and is left out of others."""

    impl = ARRAY(Text)
    cache_ok = True

    def coerce_compared_value(self, op: OperatorType | None, value: object) -> TypeEngine[Any]:
        return Integer() if isinstance(value, int) else self  # the number of an element: Job.tags[1]

    def process_result_value(self, value: Sequence[object] | None, dialect: Dialect) -> list[str]:
        return labels_from_database(value)


def labels_from_database(value: Any) -> list[str]:
    """Read an array of text, which may be NULL, hold NULL, and have other arrays inside."""
    if not value:
        return []
    if all(type(entry) is str for entry in value):
        return list(value)
    found: list[str] = []
    for entry in value:
        if isinstance(entry, (list, tuple)):
            found += labels_from_database(entry)
        elif entry is not None:
            found.append(str(entry))
    return found


if TYPE_CHECKING:
    _JSONBComparator = JSONB.Comparator[Any]
    _ARRAYComparator = ARRAY.Comparator[Any]
else:
    _JSONBComparator = JSONB.Comparator  # SQLAlchemy 2.0.30 has it without parameters
    _ARRAYComparator = ARRAY.Comparator


class JSONObject(TypeDecorator[JSONDict]):
    """A JSON object; what JSON has no word for is converted, or refused with the path that leads to it.

    `where` is how paths start: `args` or `meta`. NULL, which Elixir's tables allow for `meta`, comes out as `{}`, and
    so does a meta that is no object; args come out as they are. Integers come out exactly, of any size.
    """

    impl = JSONB(none_as_null=True)
    cache_ok = True

    class Comparator(TypeDecorator.Comparator[Any], _JSONBComparator):
        """What JSONB can do; an item inside the object is any JSON value, so it is typed JSONB."""

        def __getitem__(self, index: Any) -> Expression:
            return type_coerce(self.expr, JSONB())[index]

    comparator_factory = Comparator  # pyright: ignore[reportAssignmentType]

    def __init__(self, where: str = "args") -> None:
        super().__init__()
        self.where = where

    def coerce_compared_value(self, op: OperatorType | None, value: object) -> TypeEngine[Any]:
        return self.impl_instance.coerce_compared_value(op, value)

    def bind_processor(self, dialect: Dialect) -> Any:
        where = self.where

        def process(value: object) -> str | None:
            return None if value is None else _object_to_text(value, where)

        return process

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        return args_from_database if self.where == "args" else object_from_database

    def column_expression(self, column: Expression) -> Expression:
        return column_read(column, text_of(column), self)


class Errors(TypeDecorator[list[JSONDict]]):
    """What went wrong, attempt by attempt, as `{"at", "attempt", "error"}`.

    Elixir's tables hold it as `jsonb[]`, Python's as `jsonb`; both are read, and written by letting the database
    look the column's type up in the table's own row type. In a statement `Job.errors[1]` is the first entry, as in any
    array of PostgreSQL's, and `contains` looks for entries that have these keys and values.
    """

    impl = ARRAY(JSONB)
    cache_ok = True

    class Comparator(TypeDecorator.Comparator[Any], _ARRAYComparator):
        """What an array can do; entries are reached in a way that both types have."""

        # Subscripts count from 1 in an array and from 0 in JSON, which has no slices either.
        def __getitem__(self, index: Any) -> Expression:
            entries = type_coerce(func.to_jsonb(self.expr), JSONB())
            if not isinstance(index, slice):
                return entries.op("->", return_type=JSONB())(cast(index, Integer) - 1)
            return type_coerce(func.jsonb_path_query_array(entries, _path(index)), JSONB())

        def contains(self, other: object, **kw: object) -> ColumnElement[bool]:
            return type_coerce(func.to_jsonb(self.expr), JSONB()).contains(other, **kw)

    comparator_factory = Comparator  # pyright: ignore[reportAssignmentType]

    def bind_expression(self, bindparam: BindParameter[Any]) -> Expression:
        return errors_expression(type_coerce(bindparam, _JSONText()))

    def bind_processor(self, dialect: Dialect) -> Any:
        return _to_text

    def column_expression(self, column: Expression) -> Expression:
        return column_read(column, array_text_of(column), self)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        return errors_from_database


def _path(entries: Any) -> Expression:
    """Return the JSON path of entries from one number to another, both included, as slices of arrays are."""
    first = 0 if entries.start is None else max(entries.start - 1, 0)
    if entries.stop is None:
        return cast(f"$[{first} to last]", JSONPATH)
    # No path goes to before the first.
    return cast(f"$[{first} to {entries.stop - 1}]" if entries.stop > first else "$[last + 1]", JSONPATH)


class _JSONText(TypeDecorator[object]):
    impl = Text
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Any:
        return _to_text


_JOB_ROW = ENUM(name="oban_jobs", schema="public", create_type=False)
"""The row type of the table; an ENUM because that is the type whose name follows the schema map."""


def errors_expression(entries: Expression) -> Expression:
    """Return the value of the column `errors`, of the type that the table has, from JSON text."""
    written = func.jsonb_build_object(text("'errors'"), cast(entries, JSONB))
    return _ErrorsOf(func.jsonb_populate_record(cast(null(), _JOB_ROW), written))


class _ErrorsOf(FunctionElement[object]):
    """The field `errors` of a row."""

    name = "errors_of"
    inherit_cache = True


@compiles(_ErrorsOf)
def _render_errors_of(element: _ErrorsOf, compiler: SQLCompiler, **kw: object) -> str:
    return f"({compiler.process(element.clauses.clauses[0], **kw)}).errors"


def args_from_database(value: object) -> JSONDict:
    """Read `args` as any driver brings them: an object, unless another program wrote something else."""
    found: JSONDict | None = _read(value)
    return {} if found is None else found


def object_from_database(value: object) -> JSONDict:
    """Read an object as any driver brings it; `{}` where it is none."""
    found = _read(value)
    return found if values.is_object(found) else {}


def errors_from_database(value: Any) -> list[JSONDict]:
    """Read `errors` as any driver brings it from a column of either type; what is no list is the only one."""
    if value is None:
        return []
    if isinstance(value, list):
        return [_read(entry) for entry in value]  # pyright: ignore[reportUnknownVariableType]
    found = _read(value)
    return found if isinstance(found, list) else [found]  # pyright: ignore[reportUnknownVariableType]


def _read(value: Any) -> Any:
    if not isinstance(value, (str, bytes)):
        return value
    try:
        return json_text.read(value)
    except ValueError:  # the driver has read it already, and it was text
        return value


def _to_text(value: object) -> str | None:
    return None if value is None else values.dumps(values.to_json(value, where="errors"))


def _object_to_text(value: Any, where: str) -> str:
    if type(value) is dict and (written := values.dumps_at_once(value)) is not None:
        return written.decode()
    if not isinstance(value, dict):
        raise InvalidJob(f"{where} must be a dict, got {type(value).__name__}")
    converted = values.to_json(value, where=where)
    if values.has_references(converted):
        raise InvalidArguments(
            f"{where} holds a ref() that was never resolved; enqueue the job with enqueue(session, job)", path=where
        )
    return values.dumps(converted)


class ScheduledAt(UTCDateTime):
    """A moment which, left out or None in an INSERT, is the database's now.

    None is sent as a value instead of leaving the column out, so that jobs with and without a schedule share one
    INSERT; the database puts its own clock in.
    """

    cache_ok = True
    should_evaluate_none = True

    def bind_expression(self, bindparam: BindParameter[Any]) -> Expression:
        return _OrNow(type_coerce(bindparam, UTCDateTime()))


class _OrNow(FunctionElement[datetime]):
    """Its argument; inside an INSERT, the database's now where the argument is NULL."""

    name = "or_now"
    inherit_cache = True


@compiles(_OrNow)
def _render_or_now(element: _OrNow, compiler: SQLCompiler, **kw: object) -> str:
    inner = compiler.process(element.clauses.clauses[0], **kw)
    return f"coalesce({inner}, timezone('UTC', now()))" if compiler.isinsert else inner


class ErrorEntries(list[JSONDict]):
    """Errors on their way into an INSERT.

    As an SQL expression, and not a plain value, they are kept out of batches, whose SELECT would cast the column to
    `jsonb[]` where the table has `jsonb`.
    """

    def __clause_element__(self) -> Expression:
        return errors_expression(BindParameter[Any](None, list(self), type_=_JSONText()))

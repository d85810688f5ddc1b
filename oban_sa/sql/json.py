"""Columns as JSON, written by the database as `values.to_json` writes what the columns are in Python.

What each type becomes:

- text, whole numbers, bools, UUID and JSON: themselves. A Numeric: its text. A Float, and a Numeric that Python gets as
  a float: a number. A NaN or an infinity has no JSON, and PostgreSQL says so: `invalid input syntax for type json`.
  It says so too of JSON that holds a number with a fraction which no double holds.
- a DateTime, Date or Time: ISO 8601 text; a DateTime with a time zone is in UTC, with the offset `+00:00`.
- an Enum of Python's: the value of the member. An ARRAY of these: a list. Of an ARRAY that holds arrays only texts,
  whole numbers, bools and UUIDs are, and the others fail the statement as a NaN does.

Other types are refused, and so are those that Python code converts, whose values the database does not know.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    ARRAY,
    JSON,
    Boolean,
    Date,
    DateTime,
    Double,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    String,
    Text,
    Time,
    TypeDecorator,
    Uuid,
    case,
    cast,
    func,
    literal,
    null,
    select,
    type_coerce,
)
from sqlalchemy import column as sql_column
from sqlalchemy.dialects.postgresql import INTERVAL, JSONB, JSONPATH, aggregate_order_by
from sqlalchemy.types import NullType, TypeEngine

from oban_sa.jobs import values
from oban_sa.models.base import Expression
from oban_sa.models.types import JSONObject, Labels, UTCDateTime

Convert: TypeAlias = Callable[[Expression], Expression]
"""Makes an expression of type JSONB; NULL stays NULL, which is a null inside an object."""

_NO_DOUBLE: Final = f'$.** ? (@.type() == "number" && @.abs() >= {int(sys.float_info.max)} && @.floor() != @)'
"""The path to numbers that are too large for a double and no integers."""

_PAIRS_AT_ONCE: Final = 40
"""A function of PostgreSQL takes at most a hundred arguments."""


def document(pairs: Mapping[str, Expression]) -> Expression:
    """A JSON object of expressions that are JSON already."""
    items = list(pairs.items())
    parts = [_object(items[start : start + _PAIRS_AT_ONCE]) for start in range(0, len(items), _PAIRS_AT_ONCE)]
    whole = parts[0] if parts else cast(literal("{}", Text), JSONB)
    for part in parts[1:]:
        whole = whole.op("||", return_type=JSONB())(part)
    return type_coerce(whole, JSONB)


def constant(value: object) -> Expression:
    """Plain JSON values, as an expression."""
    return cast(literal(values.dumps(value), Text), JSONB)


def converter(kind: Any) -> Convert | str:
    """Return what writes columns of a type as JSON, or what to write instead of such a column."""
    if isinstance(kind, UTCDateTime):
        return lambda column: _when(type_coerce(column, DateTime()), offset="+00:00")
    if isinstance(kind, JSONObject):
        return lambda column: _json(type_coerce(column, JSONB))
    if isinstance(kind, Labels):
        return _as_it_is
    if isinstance(kind, _DECORATOR) and not isinstance(kind, Interval):
        if _converts(kind):
            stored = type(kind.impl_instance).__name__
            return f"is converted by Python code; to take it as it is stored, write type_coerce(column, {stored}())"
        return converter(kind.impl_instance)
    return _of_plain(kind)


def _of_plain(kind: Any) -> Convert | str:
    if isinstance(kind, Enum):
        return _enum(kind)
    if isinstance(kind, _LIST):
        item: Any = kind.item_type
        if isinstance(item, _PLAIN) and not isinstance(item, Enum):
            return _as_it_is
        each = converter(item)
        if isinstance(each, str) or (kind.dimensions or 1) > 1:
            return f"is an ARRAY of {type(item).__name__}; read the rows and write enqueue_many(session, jobs)"
        return _array(item, each)
    for types, convert in _CONVERTERS:
        if isinstance(kind, types):
            return convert(kind)
    for types, instead in _INSTEAD:
        if isinstance(kind, types):
            return instead
    return f"is of type {type(kind).__name__}, which JSON can't hold; write cast(column, Text)"


def _object(items: Sequence[tuple[str, Expression]]) -> Expression:
    flat: list[Expression] = []
    for name, value in items:
        flat += [cast(literal(name, Text), Text), value]
    return func.jsonb_build_object(*flat, type_=JSONB)


def _as_it_is(column: Expression) -> Expression:
    return func.to_jsonb(column, type_=JSONB)


def _array(item: TypeEngine[Any], convert: Convert) -> Convert:
    def array(column: Expression) -> Expression:
        # to_jsonb would write what the database calls the elements: the name of an Enum's member, and not its value.
        each = func.unnest(column).table_valued(sql_column("value", item), with_ordinality="place").render_derived()
        listed = func.jsonb_agg(aggregate_order_by(convert(each.c.value), each.c.place), type_=JSONB)
        written = func.coalesce(select(listed).scalar_subquery(), cast(literal("[]", Text), JSONB), type_=JSONB)
        # Of an array of arrays that would make one, so its text is sent, which is no JSON: the statement fails.
        one = func.coalesce(func.array_ndims(column), 1) == 1
        return case((column.is_(None), null()), (one, written), else_=cast(cast(column, Text), JSONB))

    return array


def _number(column: Expression) -> Expression:
    # By its text, which is no JSON where it says NaN or Infinity; to_jsonb would make a string of those.
    return cast(cast(column, Text), JSONB)


def _json(column: Expression) -> Expression:
    # A number with a fraction that no double holds stops every program of the family that reads it into one. What
    # fails is the cast of a text that is no JSON and says why; a constant one would be cast for any row.
    found = func.jsonb_path_exists(column, cast(literal(_NO_DOUBLE, Text), JSONPATH), type_=Boolean)
    refused = cast(func.concat("no double holds a number of ", cast(column, Text), type_=Text), JSONB)
    return case((found, refused), else_=column)


def _decimal(column: Expression) -> Expression:
    return func.to_jsonb(cast(_number(column), Text), type_=JSONB)


def _when(column: Expression, *, offset: str = "") -> Expression:
    text = func.replace(func.to_char(column, 'YYYY-MM-DD"T"HH24:MI:SS.US', type_=Text), ".000000", "", type_=Text)
    written = func.to_jsonb(text + cast(literal(offset, Text), Text) if offset else text, type_=JSONB)
    return _finite(column, written)


def _finite(column: Expression, written: Expression) -> Expression:
    return case((func.isfinite(column), written), else_=cast(cast(column, Text), JSONB))


def _time(column: Expression) -> Expression:
    text = func.replace(func.to_char(cast(column, INTERVAL), "HH24:MI:SS.US"), ".000000", "", type_=Text)
    return func.to_jsonb(text, type_=JSONB)


def _enum(kind: Enum) -> Convert | str:
    members = kind.enum_class
    if members is None:
        return lambda column: func.to_jsonb(cast(column, Text), type_=JSONB)
    each = list(members)
    if len(each) != len(kind.enums):
        each = list(members.__members__.values())  # aliases have labels too
    labels = dict(zip(kind.enums, each, strict=True))
    written = {label: values.dumps(values.to_json(member.value)) for label, member in labels.items()}

    def convert(column: Expression) -> Expression:
        text = cast(column, Text)
        if all(values.dumps(label) == value for label, value in written.items()):
            return func.to_jsonb(text, type_=JSONB)
        return case(*((text == label, cast(literal(value, Text), JSONB)) for label, value in written.items()))

    return convert


def _converts(kind: TypeDecorator[Any]) -> bool:
    own = type(kind)
    return any(
        getattr(own, name) is not getattr(TypeDecorator, name)
        for name in ("process_result_value", "result_processor", "column_expression")
    )


# As Any, because strict checkers know nothing of what these are of.
_DECORATOR: Final[Any] = TypeDecorator
_LIST: Final[Any] = ARRAY
_PLAIN: Final = (String, Integer, Boolean, Uuid)

_CONVERTERS: Final[tuple[tuple[Any, Callable[[Any], Convert]], ...]] = (
    (JSONB, lambda kind: _json),
    (JSON, lambda kind: lambda column: _json(cast(column, JSONB))),
    (_PLAIN, lambda kind: _as_it_is),
    (DateTime, lambda kind: _zoned if kind.timezone else _when),
    (Date, lambda kind: lambda column: _finite(column, _as_it_is(column))),
    (Time, lambda kind: _as_it_is if kind.timezone else _time),
    (Float, lambda kind: _decimal if kind.asdecimal else _number),
    (Numeric, lambda kind: _decimal if kind.asdecimal else lambda column: _number(cast(column, Double))),
)
_INSTEAD: Final[tuple[tuple[Any, str], ...]] = (
    (NullType, "has no type that is known here; write type_coerce(column, Integer), or func.f(..., type_=Integer)"),
    ((Interval, INTERVAL), 'is an interval; write extract("epoch", column)'),
    (LargeBinary, 'holds bytes; write func.encode(column, "base64", type_=Text)'),
)


def _zoned(column: Expression) -> Expression:
    return _when(func.timezone("UTC", column, type_=DateTime()), offset="+00:00")

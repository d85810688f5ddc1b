from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import math
import pathlib
import sys
from collections import OrderedDict, UserDict
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import orjson
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from oban_sa.errors import InvalidArguments, InvalidJob
from oban_sa.jobs.references import Reference, ref
from oban_sa.jobs.values import (
    MAX_DEPTH,
    dumps,
    dumps_at_once,
    from_json,
    has_references,
    is_flat,
    replace_references,
    to_json,
)
from tests.strategies import LARGEST, SMALLEST, json_objects, json_values

KEY = UUID("12345678-1234-5678-1234-567812345678")


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)


class Colour(enum.Enum):
    RED = "red"
    PAIR = ("r", 1)
    BROKEN = b"red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    HELLO = "hello"


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "not what it holds"


class Number(int):
    def __int__(self) -> int:
        return 0


class Point(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Welcome:
    user_id: Any
    at: datetime | None = None


@dataclasses.dataclass(slots=True)
class Node:
    next: Any = None


class Order(pydantic.BaseModel):
    id: UUID
    total: Decimal
    note: Any = None


class Parcel(msgspec.Struct, rename="camel"):
    parcel_id: int
    sent_at: datetime | None = None
    note: Any = None


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


# What becomes what


@given(json_values)
def test_json_comes_out_as_it_went_in(value):
    plain = to_json(value)
    assert plain == value
    assert json.dumps(plain) == json.dumps(value)  # 1, 1.0 and True are equal, and not the same


@given(json_values)
def test_what_was_converted_is_written_and_read_back_the_same(value):
    assert from_json(dumps(to_json(value))) == value


@given(json_objects)
def test_containers_are_new_so_that_later_changes_do_not_reach_a_job(value):
    plain = to_json(value)
    assert plain is not value
    for key, item in value.items():
        assert plain[key] is not item or not isinstance(item, (list, dict))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        (Point(1, 2), [1, 2]),
        (OrderedDict(b=1, a=(2,)), {"b": 1, "a": [2]}),
        (datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC), "2026-03-04T05:06:07.000089+00:00"),
        (datetime(2026, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=-3))), "2026-03-04T05:06:00-03:00"),
        (datetime(2026, 3, 4, 5, 6, 7), "2026-03-04T05:06:07"),
        (date(2026, 3, 4), "2026-03-04"),
        (time(5, 6, 7), "05:06:07"),
        (KEY, str(KEY)),
        (Decimal("1.50"), "1.50"),
        (Decimal("1E+5"), "1E+5"),
        (Colour.RED, "red"),
        (Colour.PAIR, ["r", 1]),
        (Level.HIGH, 3),
        (Word.HELLO, "hello"),
        ({Word.HELLO: 1, Text("key"): 2, Colour.RED: 3}, {"hello": 1, "key": 2, "red": 3}),
        (Text("text"), "text"),
        (Number(7), 7),
        (True, True),
        (Welcome(7), {"user_id": 7, "at": None}),
        (Welcome({"deep": [Welcome(KEY)]}), {"user_id": {"deep": [{"user_id": str(KEY), "at": None}]}, "at": None}),
        (Node(Node()), {"next": {"next": None}}),
        (Order(id=KEY, total=Decimal("9.90")), {"id": str(KEY), "total": "9.90", "note": None}),
        (Order(id=KEY, total=Decimal(1), note=[KEY]), {"id": str(KEY), "total": "1", "note": [str(KEY)]}),
        (Parcel(1, datetime(2026, 1, 1, tzinfo=UTC)), {"parcelId": 1, "sentAt": "2026-01-01T00:00:00Z", "note": None}),
        (Parcel(1, note={1: 2}), {"parcelId": 1, "sentAt": None, "note": {"1": 2}}),
        (SMALLEST, SMALLEST),
        (LARGEST, LARGEST),
        ("ünïcödé 🎉", "ünïcödé 🎉"),
    ],
    ids=repr,
)
def test_values_of_python_have_a_form_in_json(value, expected):
    plain = to_json({"value": value})["value"]
    assert plain == expected
    assert json.dumps(plain) == json.dumps(expected)
    assert to_json(value) == expected


@pytest.mark.parametrize("value", [Text("text"), Number(7), Word.HELLO, Level.HIGH])
def test_subclasses_become_the_plain_type(value):
    assert type(to_json(value)) in (str, int)
    assert type(to_json([value])[0]) in (str, int)


@given(st.datetimes(timezones=st.none() | st.just(UTC) | st.timezones()))
def test_a_datetime_is_read_back_as_the_moment_it_was(moment):
    read = datetime.fromisoformat(to_json(moment))
    assert read.utcoffset() == moment.utcoffset()
    assert read.replace(tzinfo=None) == moment.replace(tzinfo=None)


# What is refused, and where it stands


@pytest.mark.parametrize(
    ("args", "path", "words"),
    [
        ({"items": [1, 2, 3, {"price": math.nan}]}, "args.items[3].price", "is nan, which JSON can't hold"),
        ({"a": math.inf}, "args.a", "is inf"),
        ({"a": [-math.inf]}, "args.a[0]", "is -inf"),
        ({"a b": {1, 2}}, 'args["a b"]', r"is a set, .*write sorted\(value\) or list\(value\)"),
        ({"a": frozenset()}, "args.a", "is a frozenset"),
        ({"a": b"x"}, "args.a", r"is a bytes, .*write text: \.decode\(\)"),
        ({"a": bytearray(b"x")}, "args.a", "is a bytearray"),
        ({"a": "x\0y"}, "args.a", "contains a NUL character"),
        ({"a": Text("x\0y")}, "args.a", "contains a NUL character"),
        ({"a": "é\0"}, "args.a", "contains a NUL character"),
        ({"a": "\ud800"}, "args.a", "contains a lone surrogate"),
        ({"a": ["x", "\udfff\ud800"]}, "args.a[1]", "contains a lone surrogate"),
        ({"x\0y": 1}, 'args["x\\u0000y"]', "is a key that contains a NUL character"),
        ({"a": {"\ud800": 1}}, 'args.a["\\ud800"]', "is a key that contains a lone surrogate"),
        ({"a": 2**63}, "args.a", r"is an integer outside 64 bits; write it as text: str\(value\)"),
        ({"a": -(2**63) - 1}, "args.a", "outside 64 bits"),
        ({"a": Number(2**63)}, "args.a", "outside 64 bits"),
        ({"a": 10**5000}, "args.a", "outside 64 bits"),
        ({3: 1}, "args[3]", r"is a key of type int, and keys of a JSON object are text; write str\(key\)"),
        ({"a": {None: 1}}, "args.a[None]", "is a key of type NoneType"),
        ({"a": {(1, 2): 1}}, "args.a[(1, 2)]", "is a key of type tuple"),
        ({Level.HIGH: 1}, "args[<Level.HIGH: 3>]", "is a key of type Level"),
        ({True: 1}, "args[True]", "is a key of type bool"),
        ({"a": Decimal("NaN")}, "args.a", r"is Decimal\('NaN'\), which is no number"),
        ({"a": Decimal("-Infinity")}, "args.a", "which is no number"),
        ({"a": Colour.BROKEN}, "args.a", "is a bytes"),
        ({"a": timedelta(1)}, "args.a", r"write value\.total_seconds\(\)"),
        ({"a": 1j}, "args.a", "is a complex"),
        ({"a": pathlib.PurePosixPath("/x")}, "args.a", r"write str\(value\)"),
        ({"a": MappingProxyType({})}, "args.a", r"write dict\(value\)"),
        ({"a": UserDict()}, "args.a", r"write dict\(value\)"),
        ({"a": range(3)}, "args.a", r"write list\(value\)"),
        ({"a": (x for x in "ab")}, "args.a", r"is a generator, .*write list\(value\)"),
        ({"a": object()}, "args.a", "is an object, which JSON can't hold"),
        ({"a": print}, "args.a", "is a builtin_function_or_method"),
        ({"a": Welcome}, "args.a", "is the class Welcome, not a value"),
        ({"user": User(id=1)}, "args.user", r"is a mapped User; write ref\(obj\)"),
        ({"a": Welcome(user_id={1})}, "args.a.user_id", "is a set"),
        ({"a": Order(id=KEY, total=Decimal(1), note={"x": math.nan})}, "args.a.note.x", "is nan"),
        ({"a": Order(id=KEY, total=Decimal(1), note={"x": object()})}, "args.a.note.x", "is an object"),
        ({"a": Order(id=KEY, total=Decimal(1), note=[1, (2, math.inf)])}, "args.a.note[1][1]", "is inf"),
        ({"a": Parcel(1, note={"x": object()})}, "args.a.note.x", "is an object"),
        ({"a": Parcel(1, note=math.nan)}, "args.a.note", "is nan"),
        ({"a": Point({1}, 2)}, "args.a[0]", "is a set"),
        ({"ключ": {1}}, "args.ключ", "is a set"),
        ({"": {1}}, 'args[""]', "is a set"),
        ({'"': {1}}, 'args["\\""]', "is a set"),
        ({1}, "args", "is a set"),
        (math.nan, "args", "is nan"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_json_can_not_hold_is_refused_by_the_path_to_it(args, path, words):
    with pytest.raises(InvalidArguments, match=words) as refused:
        to_json(args)
    assert refused.value.path == path
    assert str(refused.value).startswith(f"{path} ")
    assert isinstance(refused.value, InvalidJob)


def test_the_path_starts_with_what_was_looked_at():
    with pytest.raises(InvalidArguments, match=r"^meta\.a\[0\] is a set"):
        to_json({"a": [set()]}, where="meta")


def test_an_awaitable_is_refused_with_the_advice_to_await_it():
    async def price():
        return 1

    coroutine = price()
    with pytest.raises(InvalidArguments, match=r"is a coroutine, .*await it first"):
        to_json({"price": coroutine})
    coroutine.close()


def test_a_model_that_can_not_be_dumped_is_refused_by_its_path_and_its_own_words():
    class Broken:
        def model_dump(self, **options):
            raise RuntimeError("half built")

    with pytest.raises(InvalidArguments, match=r"^args\.model is a Broken that can't be dumped: half built") as refused:
        to_json({"model": Broken()})
    assert isinstance(refused.value.__cause__, RuntimeError)


def cycle_of_lists() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def cycle_of_dicts() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["again"] = [value]
    return value


def cycle_of_dataclasses() -> Node:
    node = Node()
    node.next = node
    return node


class Endless:
    def model_dump(self, **options: Any) -> Endless:
        return self


@pytest.mark.parametrize(
    "value",
    [cycle_of_lists(), cycle_of_dicts(), cycle_of_dataclasses(), Endless()],
    ids=["list", "dict", "class", "model"],
)
def test_a_value_that_contains_itself_is_refused(value):
    with pytest.raises(InvalidArguments, match="or contains itself") as refused:
        to_json({"value": value})
    assert refused.value.path.startswith("args.value")
    assert len(str(refused.value)) < 500


def test_nesting_is_bounded_and_everything_within_the_bound_can_be_written():
    assert from_json(dumps(to_json(nested(MAX_DEPTH)))) == nested(MAX_DEPTH)
    with pytest.raises(InvalidArguments, match=f"nested more than {MAX_DEPTH} levels deep"):
        to_json(nested(MAX_DEPTH + 1))
    with pytest.raises(InvalidArguments, match="levels deep"):
        to_json(nested(50_000))


def test_a_caller_whose_own_stack_is_nearly_full_gets_the_same_refusal():
    def deep(left):
        return to_json(nested(MAX_DEPTH)) if left == 0 else deep(left - 1)

    frame, used = sys._getframe(), 0
    while frame is not None:
        frame, used = frame.f_back, used + 1
    with pytest.raises(InvalidArguments, match="levels deep"):
        deep(sys.getrecursionlimit() - used - 100)


def test_a_huge_key_does_not_make_a_huge_message():
    with pytest.raises(InvalidArguments) as refused:
        to_json({"x" * 10_000: {"y " * 10_000: set()}})
    assert len(str(refused.value)) < 500


anything = st.recursive(
    json_values
    | st.floats()
    | st.integers()
    | st.integers(2**53, 2**64)
    | st.binary()
    | st.text()
    | st.datetimes()
    | st.decimals()
    | st.uuids()
    | st.sampled_from([*Colour, Level.HIGH, Word.HELLO, Text("x"), Number(1), "\\u0000", "null"]),
    lambda inner: (
        st.lists(inner) | st.tuples(inner) | st.sets(st.integers()) | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=8,
)


@given(anything)
def test_what_is_written_at_once_is_what_the_long_way_leads_to(value):
    written = dumps_at_once(value)
    if written is not None:
        assert written.decode() == dumps(to_json(value))


@pytest.mark.parametrize("value", [{"a": [1, 2.5, "é", True, {"b": {}}]}, {}, [[]], "x", 2**53 - 1, KEY])
def test_plain_values_are_written_at_once(value):
    assert dumps_at_once(value) is not None


@pytest.mark.parametrize(
    "value",
    [
        {"a": math.nan},
        [math.inf],
        {"a": "\0"},
        {"a\0": 1},
        "\ud800",
        2**63,
        -(2**64),
        {1: 2},
        Reference(object()),
        b"x",
        Decimal("NaN"),
        orjson.Fragment(b"no JSON"),
        nested(MAX_DEPTH - 1),  # two more stand around it
    ],
)
def test_what_has_to_be_refused_is_never_written_at_once(value):
    assert dumps_at_once({"x": [value]}) is None


@given(anything)
def test_what_is_flat_stays_as_it_is(value):
    if value and is_flat(value):
        plain = to_json(value)
        assert [(key, item, type(item)) for key, item in plain.items()] == [
            (key, item, type(item)) for key, item in value.items()
        ]


@pytest.mark.parametrize("value", [{}, None, {"a": 1}, {"a": "b", "c": None, "d": True, "e": SMALLEST}])
def test_plain_values_side_by_side_are_flat(value):
    assert is_flat(value)


@pytest.mark.parametrize(
    "value",
    [
        *(2**63, -(2**64), math.nan, 1.5, "\0", "\ud800", "é", b"x", KEY, Decimal(1)),
        *(Level.HIGH, Word.HELLO, Colour.RED, [], {}, {"a": 1}, (1,), Reference(object()), ref(User())),
    ],
)
def test_what_has_to_be_looked_at_is_not_flat(value):
    assert not is_flat({"a": 1, "x": value})


@pytest.mark.parametrize("key", [1, None, "\0", "\ud800", "é", Word.HELLO])
def test_keys_that_have_to_be_looked_at_are_not_flat(key):
    assert not is_flat({"a": 1, key: 1})


@pytest.mark.parametrize("value", [[1], (1,), "x", OrderedDict(a=1), KEY, ref(User())])
def test_only_a_dict_is_flat(value):
    assert not is_flat(value)


@given(anything)
def test_anything_either_becomes_json_that_postgresql_can_hold_or_is_refused(value):
    with contextlib.suppress(InvalidArguments):
        plain = to_json(value)
        assert from_json(dumps(plain)) == plain
        assert all(allowed(each) for each in every(plain))


def every(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from every(item)
    if isinstance(value, list):
        for item in value:
            yield from every(item)


def allowed(value: Any) -> bool:
    if type(value) is str:
        return "\0" not in value and bool(value.encode()) == bool(value)
    if type(value) is int:
        return SMALLEST <= value <= LARGEST
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (bool, dict, list)


# References


def test_references_stay_where_they_stand():
    user = User()
    reference = ref(user)
    plain = to_json({"user": reference, "list": [ref(user, "id")], "model": Welcome(reference)})
    assert plain["user"] is reference
    assert plain["list"][0].attribute == "id"
    assert plain["model"]["user_id"] is reference


def test_references_inside_models_stay_too():
    reference = ref(User())
    assert to_json(Order(id=KEY, total=Decimal(1), note=reference))["note"] is reference
    assert to_json(Parcel(1, note=[reference])) == {"parcelId": 1, "sentAt": None, "note": [reference]}


@given(json_values)
def test_json_alone_has_no_references_and_stays_the_same_when_they_are_replaced(value):
    def never(reference: Reference) -> Any:
        raise AssertionError(reference)

    assert not has_references(value)
    assert replace_references(value, never) == value


@pytest.mark.parametrize(
    "wrap", [lambda r: r, lambda r: [1, r], lambda r: {"a": {"b": [r]}}, lambda r: {"a": 1, "b": r}]
)
def test_a_reference_is_found_and_replaced_wherever_it_stands(wrap):
    value = wrap(ref(User(), "id"))
    assert has_references(value)
    assert replace_references(value, lambda reference: reference.attribute) == wrap("id")
    assert has_references(value)  # a rolled back flush resolves it once more


def test_what_a_reference_stands_for_becomes_json_as_anything_else_does():
    assert replace_references({"id": ref(1)}, lambda reference: KEY) == {"id": str(KEY)}
    with pytest.raises(InvalidArguments, match=r"^args\.ids\[1\] is a bytes") as refused:
        replace_references({"ids": [1, ref(1)]}, lambda reference: b"x")
    assert refused.value.path == "args.ids[1]"
    with pytest.raises(InvalidArguments, match=r"^meta\.id is a set"):
        replace_references({"id": ref(1)}, lambda reference: {1}, where="meta")


def test_text_that_is_not_json_is_refused():
    for text in ("", "{", "NaN", b"\xff"):
        with pytest.raises(ValueError):
            from_json(text)

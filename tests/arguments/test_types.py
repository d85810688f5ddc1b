"""Every kind of type that arguments may have goes into a row and comes back as it was."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, Required, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pydantic
import pytest
import typing_extensions
from pydantic.alias_generators import to_camel

from oban_sa import Worker, job, worker
from oban_sa.errors import InvalidArguments
from oban_sa.jobs.references import ref
from oban_sa.jobs.values import dumps, to_json
from oban_sa.models import Job
from oban_sa.workers import Registry, definition_of
from tests.arguments.mapped import User
from tests.support import run_python

T = TypeVar("T")

KEY = UUID(int=7)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    key: UUID
    inner: list[Node] = dataclasses.field(default_factory=list["Node"])
    prices: dict[str, Decimal] | None = None
    pair: tuple[date, Color] | None = None
    kind: Literal["a", 3] | None = None


class Plain(TypedDict, total=False):
    key: Required[UUID]
    color: Color


class OfExtensions(typing_extensions.TypedDict):
    key: UUID
    color: NotRequired[Color]


class Point(NamedTuple):
    key: UUID
    at: datetime


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid")

    key: UUID
    at: datetime
    price: Decimal
    color: Color


class Aliased(pydantic.BaseModel):
    key: UUID = pydantic.Field(alias="theKey")
    price: float | None = None
    user: Any = None


class Named(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)

    key: UUID = pydantic.Field(alias="theKey")


class Struct(msgspec.Struct, rename="camel", tag=True):
    the_key: UUID
    at: datetime
    price: Decimal
    color: Color
    inner: list[Struct] = []


class Optional(pydantic.BaseModel):
    value: int | None = pydantic.Field(default=None, alias="theValue")
    read: int | None = pydantic.Field(default=None, validation_alias="readAs")
    both: int | None = pydantic.Field(default=None, alias="in", serialization_alias="out")


class Nesting(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    inner: Optional
    chosen: int = pydantic.Field(validation_alias=pydantic.AliasChoices("first", "second"))
    deep: int = pydantic.Field(validation_alias=pydantic.AliasPath("way", "there"))
    data: pydantic.Json[list[int]]

    @pydantic.computed_field
    def twice(self) -> int:
        return self.chosen * 2


class Camel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=to_camel, extra="forbid")

    some_tags: set[str]
    by_number: dict[int, str]


@pydantic.dataclasses.dataclass
class OfPydantic:
    key: UUID = pydantic.Field(alias="theKey")


class Corner(enum.Enum):
    ORIGIN = (0, 0)
    RIGHT = (1, 0)


class Holiday(enum.Enum):
    NEW_YEAR = date(2026, 1, 1)


class Price(enum.Enum):
    LOW = Decimal("1.10")


@dataclasses.dataclass
class Box(Generic[T]):
    content: T
    more: list[T]


@dataclasses.dataclass
class KeyBox(Box[UUID], Generic[T]):
    other: T


class Holding(TypedDict, Generic[T]):
    it: T


class Two(NamedTuple, Generic[T]):
    a: T
    b: T


class Numbered(msgspec.Struct):
    names: dict[int, str]


@dataclasses.dataclass
class Constrained:
    many: Annotated[int, pydantic.Field(ge=1)]


class Event(pydantic.BaseModel):
    on: date


class Paid(Event):
    amount: Decimal


Pair = typing_extensions.TypeAliasType("Pair", tuple[T, T], type_params=(T,))
JSON = typing_extensions.TypeAliasType(
    "JSON", "dict[str, JSON] | list[JSON] | str | int | float | bool | None", type_params=()
)

VALUES: list[tuple[Any, Any, Any]] = [
    (Node, Node(key=KEY, inner=[Node(key=KEY)], prices={"x": Decimal("1.50")}, pair=(NOW.date(), Color.RED)), None),
    (Node, Node(key=KEY, kind=3), None),
    (Plain, {"key": KEY, "color": Color.RED}, {"key": str(KEY), "color": "red"}),
    (OfExtensions, {"key": KEY, "color": Color.RED}, {"key": str(KEY), "color": "red"}),
    (Point, Point(KEY, NOW), [str(KEY), NOW.isoformat()]),
    (Strict, Strict(key=KEY, at=NOW, price=Decimal("1.10"), color=Color.RED), None),
    (Aliased, Aliased(theKey=KEY), {"key": str(KEY), "price": None, "user": None}),
    (Named, Named(key=KEY), {"key": str(KEY)}),
    (Struct, Struct(KEY, NOW, Decimal("1.5"), Color.RED, [Struct(KEY, NOW, Decimal(1), Color.RED)]), None),
    (datetime | date, NOW.date(), "2026-03-01"),
    (datetime | date, NOW, NOW.isoformat()),
    (list[Color | None], [Color.RED, None], ["red", None]),
    (dict[str, list[Point]], {"a": [Point(KEY, NOW)]}, None),
    (time, time(1, 2), "01:02:00"),
    (Literal[Color.RED], Color.RED, "red"),
    (Optional, Optional(theValue=1, readAs=2, **{"in": 3}), {"value": 1, "read": 2, "both": 3}),
    (
        Nesting,
        Nesting(inner=Optional(theValue=1), first=2, way={"there": 3}, data="[4]"),
        {"inner": {"value": 1, "read": None, "both": None}, "chosen": 2, "deep": 3, "data": "[4]"},
    ),
    (Camel, Camel(someTags={"b", "a"}, byNumber={1: "x"}), {"some_tags": ["a", "b"], "by_number": {"1": "x"}}),
    (OfPydantic, OfPydantic(theKey=KEY), {"key": str(KEY)}),
    (set[int], {10, 9, 1}, [1, 9, 10]),
    (frozenset[UUID], frozenset({KEY}), [str(KEY)]),
    (set[Color | int], {Color.RED, 1}, None),
    (dict[int, str], {1: "a", -20: "b"}, {"1": "a", "-20": "b"}),
    (dict[date, int], {NOW.date(): 1}, {"2026-03-01": 1}),
    (dict[UUID, UUID], {KEY: KEY}, {str(KEY): str(KEY)}),
    (dict[Color, int], {Color.RED: 1}, {"red": 1}),
    (dict[Holiday, int], {Holiday.NEW_YEAR: 1}, {"2026-01-01": 1}),
    (dict[Literal[1, 2], bool], {2: True}, {"2": True}),
    (dict[float, int], {1.5: 1, 1e22: 2}, None),
    (dict[bool, int], {True: 1, False: 0}, {"true": 1, "false": 0}),
    (Corner, Corner.RIGHT, [1, 0]),
    (Holiday, Holiday.NEW_YEAR, "2026-01-01"),
    (Price, Price.LOW, "1.10"),
    (Box[UUID], Box(KEY, [KEY]), {"content": str(KEY), "more": [str(KEY)]}),
    (Box[Box[date]], Box(Box(NOW.date(), []), []), None),
    (KeyBox[date], KeyBox(KEY, [], NOW.date()), {"content": str(KEY), "more": [], "other": "2026-03-01"}),
    (Holding[UUID], {"it": KEY}, {"it": str(KEY)}),
    (Two[date], Two(NOW.date(), NOW.date()), ["2026-03-01", "2026-03-01"]),
    (Pair[UUID], (KEY, KEY), [str(KEY), str(KEY)]),
    (JSON, {"a": [1, None, {"b": [True, 1.5]}]}, {"a": [1, None, {"b": [True, 1.5]}]}),
    (Numbered, Numbered({1: "a"}), {"names": {"1": "a"}}),
    (pydantic.PositiveInt, 7, 7),
    (Constrained, Constrained(1), {"many": 1}),
    (pydantic.Json[list[int]], [1], [1]),
    (pydantic.HttpUrl, pydantic.HttpUrl("https://example.com/"), "https://example.com/"),
    (Event | Paid, Paid(on=NOW.date(), amount=Decimal("1.10")), {"on": "2026-03-01", "amount": "1.10"}),
    (Event | Paid, Event(on=NOW.date()), {"on": "2026-03-01"}),
    (UUID | str, KEY, str(KEY)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "written"), VALUES)
def test_a_value_comes_back_as_it_was(kind: Any, value: Any, written: Any) -> None:
    @job(registry=Registry())
    def keep(it: kind) -> Any:
        return it

    stored = json.loads(dumps(to_json(keep.new(value).args)))
    assert written is None or stored == {"it": written}
    came = definition_of(keep).call(Job("w", args=stored))
    assert (came, type(came)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (Node, {"key": str(KEY), "inner": [{"key": "x"}]}, "keep: args.it.inner[0].key must be a UUID, not 'x'"),
        (OfExtensions, {"color": "red"}, "keep: args.it lacks 'key', which OfExtensions needs"),
        (Point, [str(KEY), "noon"], "keep: args.it[1] must be an ISO 8601 date and time, not 'noon'"),
        (Point, [str(KEY)], f"keep: args.it must be a list of 2, not ['{KEY}']"),
        (Strict, {"key": 7}, "keep: args.it.key doesn't fit Strict: UUID input should be a string, bytes or UUID obj"),
        (
            Struct,
            {"type": "Struct", "theKey": 7},
            "keep: args.it.theKey doesn't fit Struct: Expected `uuid`, got",
        ),
        (Color | None, "blue", "keep: args.it must be one of 'red', not 'blue'"),
        (Decimal, "one", "keep: args.it must be a decimal number, not 'one'"),
        (Literal["a", "b"], "c", "keep: args.it must be one of 'a', 'b', not 'c'"),
        (Corner, [2, 0], "keep: args.it must be one of (0, 0), (1, 0), not [2, 0]"),
        (pydantic.PositiveInt, -1, "keep: args.it must be greater than 0, not -1"),
        (pydantic.PositiveInt, "7", "keep: args.it must be a whole number, not '7'"),
        (list[pydantic.NonNegativeInt], [1, -1], "keep: args.it[1] must be greater than or equal to 0, not -1"),
        (Constrained, {"many": 0}, "keep: args.it.many must be greater than or equal to 1, not 0"),
        (Annotated[str, pydantic.Field(max_length=2)], "abc", "keep: args.it is refused: string should have at most 2"),
        (Box[UUID], {"content": "x", "more": []}, "keep: args.it.content must be a UUID, not 'x'"),
        (Pair[int], [1, "x"], "keep: args.it[1] must be a whole number, not 'x'"),
        (dict[int, str], {"x": "a"}, "keep: args.it has the key 'x', which must be a whole number, not 'x'"),
        (dict[int, str], {"01": "a"}, "keep: args.it has the key '01', which must be a whole number, not '01'"),
        (set[Any], [[1]], "keep: args.it can't be a set: unhashable type: 'list'"),
    ],
)
def test_what_no_longer_fits_is_named_with_what_was_expected_and_found(kind: Any, given: Any, message: str) -> None:
    @job(registry=Registry())
    def keep(it: kind) -> Any:
        return it

    with pytest.raises(InvalidArguments) as refused:
        definition_of(keep).call(Job("w", args={"it": given}))
    assert str(refused.value).startswith(message)
    assert (refused.value.traced, refused.value.__cause__) == (False, None)


def test_rows_with_aliases_are_read_as_they_were() -> None:
    keep = job(registry=Registry())(_keep_nesting)
    row = {
        "inner": {"theValue": 1, "readAs": 2, "in": 3},
        "second": 2,
        "way": {"there": 3},
        "data": "[4]",
    }
    came = definition_of(keep).call(Job("w", args={"it": row}))
    assert came == Nesting(inner=Optional(theValue=1, readAs=2, **{"in": 3}), first=2, way={"there": 3}, data="[4]")


def _keep_nesting(it: Nesting) -> Nesting:
    return it


def test_numbers_of_any_size_reach_a_model() -> None:
    class Big(pydantic.BaseModel):
        number: int

    @worker(registry=Registry())
    class Keep(Worker[Big]):
        def process(self, args: Big) -> int:
            return args.number

    assert definition_of(Keep).call(Job("w", args={"number": 2**80})) == 2**80


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is newer")
def test_types_of_the_newer_syntax_are_opened() -> None:
    scope: dict[str, Any] = {"__name__": __name__, "dataclass": dataclasses.dataclass, "UUID": UUID}
    exec(
        "type Pair[T] = tuple[T, T]\n"
        "type JSON = dict[str, JSON] | list[JSON] | str | int | None\n"
        "type Keys = Pair[UUID]\n"
        "@dataclass\nclass Box[T]:\n    content: T\n    more: 'list[T]'\n",
        scope,
    )
    for kind, value in (
        (scope["Pair"][UUID], (KEY, KEY)),
        (scope["Keys"], (KEY, KEY)),
        (scope["JSON"], {"a": [1, None, {"b": "c"}]}),
        (scope["Box"][UUID], scope["Box"](KEY, [KEY])),
    ):
        keep = job(registry=Registry())(_kept(kind))
        assert definition_of(keep).call(Job("w", args=to_json(keep.new(value).args))) == value


def _kept(kind: Any) -> Any:
    def keep(it: Any) -> Any:
        return it

    keep.__annotations__ = {"it": kind}
    return keep


def test_a_model_says_what_it_found() -> None:
    @worker(registry=Registry())
    class Keep(Worker[Strict]):
        def process(self, args: Strict) -> None: ...

    row = {"key": str(KEY), "at": str(NOW), "price": "cheap", "color": "red"}
    with pytest.raises(InvalidArguments, match=r"^Keep: args.price doesn't fit Strict: .*, and is 'cheap'$"):
        definition_of(Keep).call(Job("w", args=row))


def test_a_model_with_aliases_is_looked_at_as_closely() -> None:
    with pytest.raises(InvalidArguments, match=r"args.it.price is nan"):
        to_json({"it": Aliased(theKey=KEY, user=1, price=float("nan"))})
    late = ref(User())
    assert to_json({"it": Aliased(theKey=KEY, user=late)}) == {"it": {"key": str(KEY), "price": None, "user": late}}


def test_pydantic_and_msgspec_are_needed_by_those_who_use_them_alone() -> None:
    done = run_python(
        "-c",
        "import sys; sys.modules['pydantic'] = sys.modules['msgspec'] = None\n"
        "import dataclasses, uuid\n"
        "from oban_sa import job, Job\n"
        "from oban_sa.workers import definition_of\n"
        "@dataclasses.dataclass\n"
        "class Point:\n    key: uuid.UUID\n"
        "@job\n"
        "def keep(it: Point): return it\n"
        "made = keep.new(Point(uuid.UUID(int=7)))\n"
        "assert definition_of(keep).call(Job('w', args=made.args)) == Point(uuid.UUID(int=7))\n",
    )
    assert done.returncode == 0, done.stderr

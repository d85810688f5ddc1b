"""Every kind of type that arguments may have goes into a row and comes back as it was."""

from __future__ import annotations

import dataclasses
import enum
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Literal, NamedTuple, NotRequired, Required, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
import typing_extensions

from oban_sa import Worker, job, worker
from oban_sa.errors import InvalidArguments
from oban_sa.models import Job
from oban_sa.references import ref
from oban_sa.values import dumps, to_json
from oban_sa.workers import Registry, definition_of
from tests.support import run_python
from tests.workers.entities import User

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


VALUES: list[tuple[Any, Any, Any]] = [
    (Node, Node(key=KEY, inner=[Node(key=KEY)], prices={"x": Decimal("1.50")}, pair=(NOW.date(), Color.RED)), None),
    (Node, Node(key=KEY, kind=3), None),
    (Plain, {"key": KEY, "color": Color.RED}, {"key": str(KEY), "color": "red"}),
    (OfExtensions, {"key": KEY, "color": Color.RED}, {"key": str(KEY), "color": "red"}),
    (Point, Point(KEY, NOW), [str(KEY), NOW.isoformat()]),
    (Strict, Strict(key=KEY, at=NOW, price=Decimal("1.10"), color=Color.RED), None),
    (Aliased, Aliased(theKey=KEY), {"theKey": str(KEY), "price": None, "user": None}),
    (Named, Named(key=KEY), {"key": str(KEY)}),
    (Struct, Struct(KEY, NOW, Decimal("1.5"), Color.RED, [Struct(KEY, NOW, Decimal(1), Color.RED)]), None),
    (datetime | date, NOW.date(), "2026-03-01"),
    (datetime | date, NOW, NOW.isoformat()),
    (list[Color | None], [Color.RED, None], ["red", None]),
    (dict[str, list[Point]], {"a": [Point(KEY, NOW)]}, None),
    (time, time(1, 2), "01:02:00"),
    (Literal[Color.RED], Color.RED, "red"),
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
    assert to_json({"it": Aliased(theKey=KEY, user=late)}) == {"it": {"theKey": str(KEY), "price": None, "user": late}}


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

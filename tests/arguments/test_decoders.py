"""Typed values out of JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, NewType, NotRequired, Optional, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sa.arguments.decoders import Decoders, Misfit, as_is
from oban_sa.errors import InvalidArguments
from oban_sa.jobs import values

T = TypeVar("T")
UserId = NewType("UserId", int)


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


@dataclass(frozen=True)
class Line:
    id: UUID
    price: Decimal
    color: Color = Color.RED


@dataclass
class Order:
    lines: list[Line]
    at: datetime
    due: date | None = None
    notes: dict[str, Line] = field(default_factory=dict)
    total: int = field(default=0, init=False)


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)


@dataclass
class Picky:
    a: int

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ValueError("a is negative")


@dataclass
class Box(Generic[T]):
    content: T


class Typed(TypedDict):
    id: UUID
    name: NotRequired[str]


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    id: UUID
    at: datetime
    inner: Line | None = None


class Struct(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    user_id: UUID
    when: date


ONE = UUID(int=1)
LINE = Line(ONE, Decimal("1.10"), Color.BLUE)
ORDER = Order([LINE], datetime(2026, 1, 2, 3, 4, 5, 6), date(2026, 1, 3), {"x": LINE})


def decoded(annotation: Any, value: Any) -> Any:
    """Return what becomes of a value that is written as JSON and read under an annotation."""
    return Decoders().of(annotation)(values.from_json(values.dumps(values.to_json(value))))


def refused(annotation: Any, json: Any) -> str:
    """Return what the error says about a JSON value under an annotation."""
    with pytest.raises(Misfit) as caught:
        Decoders().of(annotation)(json)
    error = caught.value.at("args")
    assert str(error).startswith(error.path)
    return str(error)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 7),
        (float, 1.5),
        (float, 1),
        (str, "x"),
        (bool, True),
        (None, None),
        (UUID, ONE),
        (datetime, datetime(2026, 1, 2, 3, 4, 5, 6)),
        (date, date(2026, 1, 2)),
        (time, time(1, 2, 3)),
        (Decimal, Decimal("1.10")),
        (Color, Color.BLUE),
        (Level, Level.LOW),
        (Literal["a", 1], "a"),
        (Literal[Color.RED], Color.RED),
        (UserId, 7),
        (Annotated[UUID, "the user"], ONE),
        (UUID | None, None),
        (Optional[UUID], ONE),  # noqa: UP045 - the old way must work too
        (int | UUID, ONE),
        (int | str | None, "x"),
        (datetime | date | None, date(2026, 1, 2)),
        (datetime | date, datetime(2026, 1, 2)),
        (list[UUID], [ONE]),
        (Sequence[UUID], [ONE]),
        (tuple[UUID, ...], (ONE, ONE)),
        (tuple[UUID, int], (ONE, 1)),
        (dict[str, UUID], {"a": ONE}),
        (Mapping[str, list[Color]], {"a": [Color.RED]}),
        (list, [1, "x"]),
        (dict, {"a": [1]}),
        (Line, LINE),
        (Order, ORDER),
        (Tree, Tree("a", [Tree("b"), Tree("c", [Tree("d")])])),
        (Typed, {"id": ONE}),
        (Typed, {"id": ONE, "name": "x"}),
        (Model, Model(id=ONE, at=datetime(2026, 1, 2), inner=LINE)),
        (Struct, Struct(ONE, date(2026, 1, 2))),
        (list[Model | Struct], [Struct(ONE, date(2026, 1, 2)), Model(id=ONE, at=datetime(2026, 1, 2))]),
        (Box[int], Box(7)),
        (Any, {"a": 1}),
        (object, [1]),
        (T, "x"),
    ],
)
def test_a_value_comes_back_as_its_annotation_says(annotation: Any, value: Any) -> None:
    back = decoded(annotation, value)
    assert back == value
    assert type(back) is type(value)


def test_sets_are_made_of_lists() -> None:
    assert decoded(set[UUID], [ONE, ONE]) == {ONE}
    assert decoded(frozenset[int], [1, 1]) == frozenset({1})


@pytest.mark.parametrize(
    ("annotation", "json", "message"),
    [
        (int, "7", "args must be a whole number, not '7'"),
        (int, 7.5, "args must be a whole number, not 7.5"),
        (float, "7", "args must be a number, not '7'"),
        (str, 7, "args must be a text, not 7"),
        (bool, 1, "args must be true or false, not 1"),
        (None, 1, "args must be null, not 1"),
        (UUID, "x", "args must be a UUID, not 'x'"),
        (UUID, 7, "args must be a UUID, not 7"),
        (datetime, "x", "args must be an ISO 8601 date and time, not 'x'"),
        (date, "2026-13-01", "args must be an ISO 8601 date, not '2026-13-01'"),
        (Decimal, "x", "args must be a decimal number, not 'x'"),
        (Decimal, True, "args must be a decimal number, not True"),
        (Color, "green", "args must be one of 'red', 'blue', not 'green'"),
        (Color, [], "args must be one of 'red', 'blue', not []"),
        (Literal["a", "b"], "c", "args must be one of 'a', 'b', not 'c'"),
        (Literal["a"], [], "args must be one of 'a', not []"),
        (UUID | None, "x", "args must be a UUID, not 'x'"),
        (int | UUID, "x", "args must be a whole number, not 'x', or must be a UUID, not 'x'"),
        (list[UUID], {}, "args must be a list, not {}"),
        (list[UUID], [str(ONE), "x"], "args[1] must be a UUID, not 'x'"),
        (tuple[int, int], [1], "args must be a list of 2, not [1]"),
        (tuple[int, str], [1, 2], "args[1] must be a text, not 2"),
        (dict[str, UUID], {"a b": "x"}, "args[\"a b\"] must be a UUID, not 'x'"),
        (Line, [], "args must be an object with the fields of Line, not []"),
        (Line, {"id": str(ONE)}, "args lacks 'price', which Line needs"),
        (Line, {"id": str(ONE), "prise": 1}, "args has 'prise', which Line doesn't; did you mean 'price'?"),
        (Order, {"lines": [{"id": 1}], "at": "x"}, "args.lines[0].id must be a UUID, not 1"),
        (Typed, {"name": "x"}, "args lacks 'id', which Typed needs"),
        (Typed, {"id": str(ONE), "nam": "x"}, "args has 'nam', which Typed doesn't; did you mean 'name'?"),
        (Picky, {"a": -1}, "args is no Picky: a is negative"),
        (str, 7 * [{"a": "long"}] * 9, f"args must be a text, not {str([{'a': 'long'}] * 63)[:57]}..."),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_path(annotation: Any, json: Any, message: str) -> None:
    assert refused(annotation, json) == message


def test_models_refuse_in_their_own_words_with_our_path() -> None:
    assert refused(list[Model], [{"id": str(ONE), "at": "x"}]).startswith(
        "args[0].at doesn't fit Model: Input should be"
    )
    assert refused(Model, {"id": str(ONE), "at": "2026-01-01T00:00:00", "inner": {"id": 1, "price": 1}}).startswith(
        "args.inner.id doesn't fit Model:"
    )
    assert refused(list[Struct], [{"userId": 1, "when": "2026-01-01"}]) == (
        "args[0].userId doesn't fit Struct: Expected `uuid`, got `int`"
    )
    assert "unknown field `extra`" in refused(Struct, {"extra": 1})


def test_a_number_becomes_the_decimal_that_it_reads_as() -> None:
    assert Decoders().of(Decimal)(0.1) == Decimal("0.1")
    assert Decoders().of(Decimal)(7) == Decimal(7)


def test_a_field_that_the_class_computes_is_passed_over() -> None:
    plain = values.to_json(ORDER)
    assert plain["total"] == 0
    assert Decoders().of(Order)({**plain, "total": 9}).total == 0


def test_what_is_not_known_is_left_alone() -> None:
    class Other:
        pass

    assert Decoders().of(Other) is as_is
    assert Decoders().of(bytes) is as_is


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.uuids() | st.dates(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_no_json_value_makes_a_decoder_fail_with_anything_but_a_misfit(value: Any) -> None:
    try:
        plain = values.to_json(value)
    except InvalidArguments:
        return
    for annotation in (Order, Tree, Typed, Model, Struct, list[UUID], dict[str, Color], int | datetime | None, Level):
        with contextlib.suppress(Misfit):
            Decoders().of(annotation)(plain)

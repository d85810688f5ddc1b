"""What would come back as something else than was given is refused where a job is made, and nothing else is."""

from __future__ import annotations

import dataclasses
import enum
import traceback
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from pydantic import Field

from oban_sa import Worker, job, worker
from oban_sa.errors import InvalidArguments, InvalidOption
from oban_sa.jobs.values import to_json
from oban_sa.models import Job
from oban_sa.workers import Registry, definition_of

KEY = UUID(int=7)
DAY = date(2026, 1, 2)
SECRET = "hunter2"


class Shade(enum.StrEnum):
    DARK = "dark"


class Level(enum.IntEnum):
    LOW = 1


class Login(pydantic.BaseModel):
    name: str
    password: pydantic.SecretStr = Field(alias="pass")


class Logins(pydantic.RootModel[dict[int, Login]]):
    pass


class Masked(pydantic.BaseModel):
    card: str

    @pydantic.field_serializer("card")
    def mask(self, card: str) -> str:
        return "*" * 12 + card[-4:]


class Revealed(pydantic.BaseModel):
    password: pydantic.SecretStr

    @pydantic.field_serializer("password", when_used="json")
    def reveal(self, password: pydantic.SecretStr) -> str:
        return password.get_secret_value()


class Excluding(pydantic.BaseModel):
    kept: int
    left_out: int = Field(default=0, exclude=True)


class Shouting(pydantic.BaseModel):
    text: str

    @pydantic.field_validator("text")
    @classmethod
    def shout(cls, text: str) -> str:
        return text + "!"


class City(pydantic.BaseModel):
    name: str


class Capital(City):
    of: str = ""


class Country(pydantic.BaseModel):
    name: str


class Swapped(pydantic.BaseModel):
    a: int = Field(alias="b")
    b: int = Field(alias="a")


class Chosen(pydantic.BaseModel):
    it: str | Shade
    private: str = "x"
    _private: int = pydantic.PrivateAttr(default=0)


class Loose(pydantic.BaseModel):
    anything: Any
    more: dict[str, Any] = {}


@dataclass
class Base:
    a: int


@dataclass
class Sub(Base):
    b: int = 0


@dataclass
class Twin:
    a: int


@dataclass
class Derived:
    a: int
    factor: InitVar[int] = 2
    product: int = field(init=False, default=0)

    def __post_init__(self, factor: int) -> None:
        self.product = self.a * factor


@dataclass
class Needing:
    a: int
    factor: InitVar[int]


@dataclass(eq=False)
class Unequal:
    a: int


@dataclass
class Odd:
    a: int
    seen: list[int] = field(default_factory=list, compare=False)

    def __eq__(self, other: object) -> bool:
        raise TypeError("can't tell")


@dataclass
class Hidden:
    number: int
    card: str = field(default="", repr=False)
    pin: Annotated[int, Field(ge=1000)] | None = field(default=None, repr=False)


@dataclass
class Holder:
    anything: Any
    open: dict[str, Any] = field(default_factory=dict)


class Point(NamedTuple):
    x: int
    y: int


class Struct(msgspec.Struct):
    a: int


class SubStruct(Struct):
    b: int = 0


def worker_of(kind: Any) -> Any:
    """Return a worker that takes and returns one value of a kind."""

    def keep(it: Any) -> Any:
        return it

    keep.__annotations__ = {"it": kind}
    return job(registry=Registry())(keep)


def refused(kind: Any, value: Any) -> str:
    """Return why a value is refused when a job is made; nothing that leads to the error shows a secret."""
    with pytest.raises(InvalidArguments) as caught:
        worker_of(kind).new(value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def delivered(kind: Any, value: Any) -> Any:
    """Return what a worker gets that was given a value."""
    keep = worker_of(kind)
    return definition_of(keep).call(Job("w", args=to_json(keep.new(value).args)))


LOGIN = Login.model_validate({"name": "x", "pass": SECRET})
MASKED_SECRET = "password is a SecretStr, which is masked when it is written; give the worker what it needs"


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Login, LOGIN, f"args.it.{MASKED_SECRET}"),
        (list[Login], [LOGIN], f"args.it[0].{MASKED_SECRET}"),
        (Logins, Logins({1: LOGIN}), f'args.it["1"].{MASKED_SECRET}'),
        (Any, LOGIN, f"args.it.{MASKED_SECRET}"),
        (str, pydantic.SecretStr(SECRET), "args.it is a SecretStr, which is masked when it is written; give the"),
        (
            Masked,
            Masked(card=SECRET),
            "args.it.card is a value that is not shown, and would come back as something else; a serializer masks it",
        ),
        (Excluding, Excluding(kept=1, left_out=2), "args.it.left_out is 2, and would come back as 0"),
        (Shouting, Shouting(text="a"), "args.it.text is 'a!', and would come back as 'a!!'"),
        (Annotated[int, pydantic.AfterValidator(lambda it: it + 1)], 1, "args.it is 2, and would come back as 3"),
        (Swapped, Swapped(a=1, b=2), "args.it.a is 2, and would come back as 1"),
        (list[City], [Capital(name="x", of="y")], "args.it[0] is Capital(name='x', of='y'), and would come back as"),
        (City, Country(name="x"), "args.it is Country(name='x'), and would come back as City(name='x'); the"),
        (City | Country, Country(name="x"), "args.it is Country(name='x'), and would come back as City(name='x'); the"),
        (Base, Sub(1, 2), "args.it has 'b', which Base doesn't"),
        (Twin | Base, Base(1), "args.it is Base(a=1), and would come back as Twin(a=1); the first member of the union"),
        (Struct, SubStruct(1, 2), "args.it is SubStruct(a=1, b=2), and would come back as Struct(a=1)"),
        (Derived, Derived(1, 5), "args.it.product is 5, and would come back as 2"),
        (Needing, Needing(1, 5), "args.it lacks 'factor', which Needing needs; it is an InitVar, which"),
        (str | date, DAY, "args.it is datetime.date(2026, 1, 2), and would come back as '2026-01-02'; the first"),
        (dict[str, str | UUID], {"a": KEY}, f"args.it.a is {KEY!r}, and would come back as '{KEY}'; the first"),
        (str | Shade, Shade.DARK, "args.it is <Shade.DARK: 'dark'>, and would come back as 'dark'; the first"),
        (Chosen, Chosen.model_construct(it=Shade.DARK), "args.it.it is <Shade.DARK: 'dark'>, and would come back"),
        (str, DAY, "args.it is datetime.date(2026, 1, 2), and would come back as '2026-01-02'"),
        (datetime, DAY, "args.it is datetime.date(2026, 1, 2), and would come back as datetime.datetime(2026, 1, 2"),
        (list[int], {2, 1}, "args.it is {1, 2}, and would come back as [1, 2]; write sorted(value), or annotate it"),
        (int, {1}, "args.it is a set, which JSON can't hold; write sorted(value) or list(value)"),
        (Any, {1}, "args.it is a set, which JSON can't hold; write sorted(value) or list(value)"),
        (list[Any], [{1}], "args.it[0] is a set, which JSON can't hold"),
        (Holder, Holder({1: 2}), "args.it.anything[1] is a key of type int, and keys of a JSON object are text; write"),
        (dict[str, int], {1: 2}, "args.it has the key 1, which would come back as '1'; write str(key), or"),
        (dict[int, int], {1: 2, "1": 3}, "args.it has two keys that are the same text once they are written; keep one"),
        (set[int], {"x"}, "args.it[0] must be a whole number, not 'x'"),
    ],
)  # fmt: skip
def test_what_would_come_back_as_something_else_is_refused(kind: Any, value: Any, message: str) -> None:
    assert refused(kind, value).startswith(message)


HOUR_TWICE = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)


@pytest.mark.parametrize(
    ("kind", "value", "came"),
    [
        (Sequence[int], (1, 2), [1, 2]),
        (Sequence[int] | int, (1, 2), [1, 2]),
        (list[int], (1, 2), [1, 2]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (set[int], [2, 1], {1, 2}),
        (Mapping[str, int], OrderedDict(a=1), {"a": 1}),
        (dict[str, int] | None, OrderedDict(a=1), {"a": 1}),
        (str, Shade.DARK, "dark"),
        (int, Level.LOW, 1),
        (int | None, Level.LOW, 1),
        (str | UUID, str(KEY), str(KEY)),
        (UUID, str(KEY), KEY),
        (Decimal, 0.1, Decimal("0.1")),
        (float, 1, 1),
        (Base, {"a": 1}, Base(1)),
        (City, {"name": "x"}, City(name="x")),
        (Revealed, Revealed(password=pydantic.SecretStr("x")), Revealed(password=pydantic.SecretStr("x"))),
        (Base | Sub, Sub(1, 2), Sub(1, 2)),
        (Base | Sub, Base(1), Base(1)),
        (City | Capital, Capital(name="x", of="y"), Capital(name="x", of="y")),
        (City | Capital, City(name="x"), City(name="x")),
        (Loose, Loose(anything=DAY, more={"a": KEY}), Loose(anything="2026-01-02", more={"a": str(KEY)})),
        (Holder, Holder(DAY, {"a": KEY}), Holder("2026-01-02", {"a": str(KEY)})),
        (Point, Point(1, 2), Point(1, 2)),
        (Annotated[str, pydantic.StringConstraints(strip_whitespace=True)], " x ", "x"),
    ],
)  # fmt: skip
def test_what_means_the_same_is_let_pass(kind: Any, value: Any, came: Any) -> None:
    assert (found := delivered(kind, value)) == came
    assert type(found) is type(came)


def test_an_hour_that_happens_twice_is_the_same_moment() -> None:
    came = delivered(datetime, HOUR_TWICE)
    assert came.astimezone(UTC) == HOUR_TWICE.astimezone(UTC) == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


def test_classes_that_can_not_be_compared_are_compared_by_their_fields() -> None:
    assert delivered(Unequal, Unequal(7)).a == 7
    assert delivered(Odd, Odd(7, seen=[1])).seen == [1]
    private = Chosen(it="x")
    private._private = 5
    assert delivered(Chosen, private).model_dump() == {"it": "x", "private": "x"}


def test_a_dict_gives_an_init_var_its_value() -> None:
    taken = []

    @dataclass
    class Scaled:
        a: int
        factor: InitVar[int]

        def __post_init__(self, factor: int) -> None:
            taken.append(factor)

    assert delivered(Scaled, {"a": 1, "factor": 5}) == Scaled(1, 5)
    assert 5 in taken


def test_a_class_that_takes_its_args_whole_is_guarded_as_well() -> None:
    @worker(registry=Registry())
    class Keep(Worker[Excluding]):
        def process(self, args: Excluding) -> None: ...

    with pytest.raises(InvalidArguments, match=r"^args.left_out is 2, and would come back as 0$"):
        Keep.new(Excluding(kept=1, left_out=2))
    assert Keep.new(Excluding(kept=1)).args == {"kept": 1}


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (Login, {"name": "x", "pass": [SECRET]}),
        (Login, {"name": "x", "password": [SECRET]}),
        (Login, SECRET),
        (list[Login], [{"name": "x", "pass": [SECRET]}]),
        (City | Login, {"pass": [SECRET]}),
        (pydantic.SecretStr, [SECRET]),
        (Hidden, {"number": 1, "card": [SECRET]}),
        (Hidden, {"number": 1, "pin": SECRET}),
        (Hidden, [SECRET]),
        (Hidden | int, [SECRET]),
    ],
)
def test_no_message_shows_a_secret(kind: Any, row: Any) -> None:
    keep = worker_of(kind)
    with pytest.raises(InvalidArguments) as at_the_run:
        definition_of(keep).call(Job("w", args={"it": row}))
    assert SECRET not in str(at_the_run.value)
    assert str(at_the_run.value).startswith("keep: args.it")
    assert SECRET not in refused(kind, row)


def test_what_is_no_secret_is_still_shown() -> None:
    with pytest.raises(InvalidArguments, match=r"^args.it.number must be a whole number, not 'x'$"):
        worker_of(Hidden).new({"number": "x", "card": SECRET})
    with pytest.raises(InvalidArguments, match=r"^args.it.name doesn't fit Login: .*, and is 5$"):
        worker_of(Login).new({"name": 5, "pass": SECRET})


def test_a_validator_can_not_tell_a_secret_either() -> None:
    class Telling(pydantic.BaseModel):
        password: pydantic.SecretStr

        @pydantic.field_validator("password", mode="before")
        @classmethod
        def long_enough(cls, password: str) -> str:
            raise ValueError(f"{password} is too short")

    assert refused(Telling, {"password": SECRET}) == (
        "args.it.password doesn't fit Telling: is refused by a validator, and is a value that is not shown"
    )


def test_a_pydantic_that_reads_models_by_one_name_only_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydantic, "VERSION", "2.10.6")
    with pytest.raises(
        InvalidOption, match=r"^City is pydantic's, and this is pydantic 2.10.6,.* install pydantic 2.11 "
    ):
        worker_of(City).new(City(name="x"))


def test_a_set_may_be_a_default() -> None:
    @job(registry=Registry())
    def keep(it: frozenset[str] = frozenset({"b", "a"}), loose=frozenset({"c"})) -> Any:  # type: ignore[no-untyped-def]
        return it, loose

    made = keep.new()
    assert made.args == {"it": ["a", "b"]}
    assert definition_of(keep).call(Job("w", args=made.args)) == (frozenset({"a", "b"}), frozenset({"c"}))


def test_a_constraint_that_nothing_would_read_is_refused() -> None:
    with pytest.raises(
        InvalidOption, match=r"^it of .*few\(\) has Field\(...\) for its default, which only models read"
    ):

        @job(registry=Registry())
        def few(it: int = Field(ge=1)) -> None: ...

    @dataclass
    class Few:
        it: int = Field(ge=1)

    with pytest.raises(InvalidOption, match=r"^it of Few has Field\(...\) for its default"):
        worker_of(Few).new(Few(1))
    assert refused(Annotated[int, Field(max_length=3)], 5).startswith("args.it is refused: unable to apply constraint")


def test_the_fields_of_a_value_are_not_read_twice_where_it_is_equal() -> None:
    asked = []

    @dataclasses.dataclass
    class Counting:
        a: int

        def __eq__(self, other: object) -> bool:
            asked.append(other)
            return isinstance(other, Counting) and other.a == self.a

    assert delivered(list[Counting], [Counting(1), Counting(2)]) == [Counting(1), Counting(2)]
    assert len(asked) == 4  # two where the job was made, two here

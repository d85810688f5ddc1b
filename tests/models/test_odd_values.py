"""Values that no job can have are refused in words, however odd they are, and never by what they do themselves."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session, sessionmaker

from oban_sa import Job, Oban, enqueue, enqueue_many
from oban_sa.errors import InvalidArguments, InvalidJob, ObanError

FIELDS = (
    "worker", "queue", "state", "attempt", "max_attempts", "priority", "args", "meta", "errors", "tags", "attempted_by",
    "inserted_at", "scheduled_at", "schedule_in", "id",
)  # fmt: skip
UPDATED = ("args", "max_attempts", "meta", "priority", "queue", "schedule_in", "scheduled_at", "tags", "worker")


def fails(*_: Any) -> Any:
    raise RuntimeError("odd")


class Broken:
    __repr__ = __str__ = __bool__ = __eq__ = __len__ = __iter__ = fails
    __hash__ = fails  # type: ignore[assignment]


class BrokenText(str):
    __slots__ = ()
    __repr__ = __str__ = __eq__ = strip = __len__ = __contains__ = fails  # type: ignore[assignment]
    __hash__ = fails  # type: ignore[assignment]


class BrokenNumber(int):
    __repr__ = __str__ = __eq__ = __le__ = __lt__ = __gt__ = __ge__ = __int__ = __index__ = fails
    __hash__ = fails  # type: ignore[assignment]


class BrokenDict(dict[Any, Any]):
    __repr__ = __str__ = __eq__ = __bool__ = __len__ = __iter__ = items = keys = fails  # type: ignore[assignment]


class BrokenKind(type):
    def __repr__(cls) -> str:
        raise RuntimeError("odd")


class OfBrokenKind(metaclass=BrokenKind):
    pass


class Array:
    """As numpy's."""

    def __eq__(self, other: object) -> Any:
        return Array()

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    def tolist(self) -> list[int]:
        return [1]


def deep(wrap: Callable[[Any], Any]) -> Any:
    value: Any = wrap(None)
    for _ in range(20_000):
        value = wrap(value)
    return value


def within_itself(value: Any) -> Any:
    value.append(value) if isinstance(value, list) else value.update(a=value)
    return value


def broken() -> Iterator[str]:
    yield "a"
    raise RuntimeError("odd")


ODD: dict[str, Callable[[], Any]] = {
    "deep lists": lambda: deep(lambda inner: [inner]),
    "deep dicts": lambda: deep(lambda inner: {"a": inner}),
    "a list in itself": lambda: within_itself([]),
    "a dict in itself": lambda: within_itself({}),
    "a broken object": Broken,
    "a class": lambda: Broken,
    "a broken text": lambda: BrokenText("x"),
    "a broken number": lambda: BrokenNumber(3),
    "a broken dict": lambda: BrokenDict(a=1),
    "a class that can't be shown": lambda: OfBrokenKind,
    "an object of it": OfBrokenKind,
    "an array": Array,
    "a broken generator": broken,
    "bytes": lambda: b"x",
    "True": lambda: True,
    "a huge integer": lambda: 10**5_000,
    "a dict of one": lambda: {"a": 10**5_000},
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "a NUL": lambda: "a\0b",
    "a lone surrogate": lambda: "\ud800",
    "a broken object in a list": lambda: [Broken()],
    "a broken text in a list": lambda: [BrokenText("x")],
    "a deep list in a list": lambda: [deep(lambda inner: [inner])],
    "a deep list in a dict": lambda: {"a": deep(lambda inner: [inner])},
    "None and bytes in a list": lambda: [None, b"x"],
    "the end of time in New York": lambda: dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-5))),
    "the longest span": lambda: dt.timedelta.max,
}


def refused_or_made(make: Callable[[], Any]) -> Any:
    """What `make` makes, or None where it refuses in words of ours that are not too long."""
    try:
        return make()
    except ObanError as error:
        said = str(error)
    assert 0 < len(said) < 1_000
    return None


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("field", FIELDS)
def test_a_job_is_made_or_refused_in_words(field: str, name: str) -> None:
    job = refused_or_made(lambda: Job(**{"worker": "w", field: ODD[name]()}))
    if job is not None:
        assert str(job)
        assert repr(job)
        for column in ("worker", "queue"):
            assert type(getattr(job, column)) is str
        for column in ("attempt", "max_attempts", "priority"):
            assert type(getattr(job, column)) is int
        for column in ("tags", "attempted_by"):
            assert all(type(text) is str for text in getattr(job, column))


@pytest.mark.parametrize("name", ODD)
def test_an_update_is_made_or_refused_in_words(name: str) -> None:
    for field in UPDATED:
        job = Job("w")
        before = dict(vars(job))
        if refused_or_made(lambda field=field, job=job: job.update({field: ODD[name]()})) is None:  # type: ignore[misc]
            assert {key: vars(job)[key] for key in before} == before


@pytest.mark.parametrize("name", ODD)
def test_what_is_enqueued_is_stored_or_refused_by_its_path(sync_sessions: sessionmaker[Session], name: str) -> None:
    for make in (
        lambda: Job("w", args={"a": ODD[name]()}),
        lambda: Job("w", meta={"a": ODD[name]()}),
        lambda: Job("w", args=ODD[name]()),
    ):
        for enter in (enqueue, lambda session, job: enqueue_many(session, [job])):
            job = refused_or_made(make)
            if job is None:
                continue
            path = "args"
            with sync_sessions() as session:
                try:
                    enter(session, job)
                    session.flush()
                except InvalidArguments as error:
                    path = error.path or ""
                session.rollback()
            assert path.startswith(("args", "meta"))


@pytest.mark.parametrize("name", ODD)
async def test_what_is_copied_is_stored_or_refused_by_its_path(engine: AsyncEngine, name: str) -> None:
    client = Oban(engine)
    for make in (lambda: Job("w", args={"a": ODD[name]()}), lambda: Job("w", meta={"a": ODD[name]()})):
        path = "args.a"
        try:
            await client.enqueue_many([make()])
        except InvalidArguments as error:
            path = error.path or ""
        assert path.startswith(("args.a", "meta.a"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": ["a"] * 100}, r"queue must be a string, got \['a', 'a'.*\.\.\.$"),
        ({"priority": True}, "priority must be a whole number, got True"),
        ({"priority": 10**5_000}, "priority must be at most 2147483647, got this int"),
        ({"tags": [b"x"]}, r"tags must be a list of strings, and in it stands b'x'"),
        ({"tags": [["x"]]}, r"tags must be a list of strings, and in it stands \['x'\]"),
        ({"tags": {"a": 1}}, r"tags must be a list of strings, got \{'a': 1\}"),
        ({"tags": broken()}, "tags must be a list of strings, and .* can't be read: odd"),
        ({"tags": ["\ud800"]}, r"tags must not contain lone surrogates, .* got '\\ud800'"),
        ({"queue": "\ud800"}, r"queue must not contain lone surrogates"),
        ({"meta": [1]}, r"meta must be a dict, got list; write meta=\{\.\.\.\}"),
        ({"errors": [{"at": {1, 2}}]}, r"errors\[0\]\.at is a set, which JSON can't hold"),
        (
            {"scheduled_at": ODD["the end of time in New York"]()},
            "scheduled_at must be a moment from the year 1 to 9999",
        ),
    ],
)
def test_what_is_refused_is_named_with_what_to_write(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidJob, match=words):
        Job("w", **options)


def test_tags_may_come_from_anything_that_gives_texts_and_numbers() -> None:
    assert Job("w", tags=(str(n) for n in range(2))).tags == ["0", "1"]
    assert Job("w", tags={5, "B", None}).tags == ["5", "b"]  # type: ignore[arg-type]
    assert Job("w", tags=[BrokenText("x")]).tags == ["x"]

"""The journal of an attempt, over tables that are a dict."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from oban_sa import Cancel, Job, Record, Snooze, telemetry
from oban_sa.errors import InvalidArguments, InvalidOption, StepChanged
from oban_sa.jobs.answers import Answer
from oban_sa.steps import results
from oban_sa.steps.journal import Entry, Journal, driven

T = TypeVar("T")


@dataclass
class Kept:
    """Tables in memory; `reads` counts."""

    entries: dict[str, Entry] = field(default_factory=dict)
    reads: int = 0

    async def read(self) -> Iterable[Entry]:
        self.reads += 1
        await asyncio.sleep(0)
        return list(self.entries.values())

    async def write(self, entry: Entry, *, delay: float | None = None) -> Entry:
        return self.entries.setdefault(entry.name, entry)

    async def mark(self) -> None: ...

    def in_thread(self, awaitable: Awaitable[T]) -> T:
        return asyncio.run(awaited(awaitable))


async def awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


def made(kept: Kept, *, fresh: bool = False) -> Journal:
    return Journal(kept, Job("w", id=1), source=telemetry.Source(node="n"), marked=False, fresh=fresh)


async def test_steps_at_the_same_time_wait_for_one_read() -> None:
    kept = Kept({"a": Entry("a", "f", "1")})
    journal = made(kept)
    found = await asyncio.gather(*(journal.find("a", "f") for _ in range(5)))
    assert [entry is not None and entry.plain for entry in found] == [1] * 5
    assert kept.reads == 1


async def test_a_fresh_journal_is_not_read() -> None:
    kept = Kept()
    assert await made(kept, fresh=True).find("a", "f") is None
    assert kept.reads == 0


def test_it_is_read_from_a_thread() -> None:
    kept = Kept({"a": Entry("a", "f", "1")})
    entry = driven(made(kept).find("a", "f"))
    assert entry is not None
    assert entry.plain == 1


def test_names_count_on() -> None:
    journal = made(Kept())
    assert [journal.key("a"), journal.key("b"), journal.key("a"), journal.next_key("a")] == ["a", "b", "a#2", "a#3"]


@pytest.mark.parametrize("name", ["", " ", "a#2", ":progress", "x" * 301, "a\0", "\ud800", None, 3])
def test_a_name_that_can_t_be_told_from_others_is_refused(name: Any) -> None:
    for ask in (made(Kept()).key, made(Kept()).next_key):
        with pytest.raises(InvalidOption, match="name"):
            ask(name)


async def test_an_entry_of_another_kind_is_refused_always() -> None:
    journal = made(Kept({"a": Entry("a", "sleep")}))
    with pytest.raises(StepChanged, match="has 'a' as a sleep, and this is the result of charge"):
        await journal.find("a", "charge")


def test_code_in_a_thread_that_pauses_is_refused() -> None:
    with pytest.raises(RuntimeError, match="has awaited something"):
        driven(asyncio.sleep(0))


def test_results_come_back_as_the_annotation_says() -> None:
    def pair() -> tuple[int, str]:
        return (1, "a")

    def bare():  # type: ignore[no-untyped-def]
        return (1, "a")

    def nothing() -> None: ...

    def wrong() -> int: ...  # type: ignore[empty-body]

    assert results.read([1, "a"], pair, "k") == (1, "a")
    assert results.read([1, "a"], bare, "k") == [1, "a"]
    assert results.read(None, nothing, "k") is None
    with pytest.raises(InvalidArguments, match="result of step 'k' must be a whole number"):
        results.read("x", wrong, "k")


def test_results_that_are_no_json_name_the_place() -> None:
    with pytest.raises(InvalidArguments) as refused:
        results.written({"a": [1, {2}.__iter__()]}, results.of_step("k"))
    assert refused.value.path == "result of step 'k'.a[1]"


async def test_an_attempt_that_is_cut_short_while_it_writes_is_one_with_a_journal() -> None:
    """What it has sent may be written all the same, and the next attempt has to read it."""

    class Hangs(Kept):
        async def write(self, entry: Entry, *, delay: float | None = None) -> Entry:
            await asyncio.Event().wait()
            return entry

    journal = made(Hangs(), fresh=True)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(journal.write(Entry("a", "f", "1")), 0.01)
    assert journal.wrote


@pytest.mark.parametrize("answer", [Cancel("no"), Snooze(3), Record(1)])
def test_an_answer_of_the_job_is_no_result(answer: Answer) -> None:
    with pytest.raises(InvalidArguments, match=rf"answer of the job.* write raise {type(answer).__name__}\("):
        results.written(answer, results.of_step("k"))


def test_a_result_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "LIMIT", 10)
    assert results.written("x" * 8, results.of_step("k")) == '"xxxxxxxx"'
    with pytest.raises(
        InvalidArguments, match="of step 'k' has 11 characters as JSON, and 10 are kept at most; keep it"
    ):
        results.written("x" * 9, results.of_step("k"))


def version() -> int:
    return 1


def test_a_function_that_is_called_like_a_kind_of_entry_is_none() -> None:
    assert results.code_of(version) == f"{__name__}.version"
    assert results.code_of(asyncio.sleep) == "asyncio.tasks.sleep"
    assert results.code_of(made) == "made"


def test_what_surely_blocks_the_loop_is_known_by_its_annotation() -> None:
    def unknown(): ...  # type: ignore[no-untyped-def]
    def awaitable() -> Awaitable[int]: ...  # type: ignore[empty-body]
    def anything() -> Any: ...
    async def asynchronous() -> int: ...  # type: ignore[empty-body]

    @functools.wraps(version)
    def wrapper() -> Any: ...

    def nothing() -> None: ...
    def number() -> int: ...  # type: ignore[empty-body]
    def numbers() -> list[int]: ...  # type: ignore[empty-body]
    def data() -> Entry: ...  # type: ignore[empty-body]

    assert [results.is_plain(each) for each in (unknown, awaitable, anything, asynchronous, wrapper)] == [False] * 5
    assert [results.is_plain(each) for each in (nothing, number, numbers, data)] == [True] * 4

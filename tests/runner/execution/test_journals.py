"""The journals of a runner: what goes into one statement, and what does not."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from typing import Any

import pytest

from oban_sa import Oban, current_job, progress, step
from oban_sa.runner.execution import journals
from oban_sa.workers import Registry, job
from tests.runner.conftest import Harness


async def test_an_entry_that_can_t_be_written_fails_no_step_of_another_job(
    harness: Harness, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A name that no text of the database can be; it is refused before, and others may be found.
    monkeypatch.setattr("oban_sa.steps.journal.checked_name", lambda name, *_: name)
    called: Counter[str] = Counter()

    async def effect(name: str) -> int:
        called[name] += 1
        return called[name]

    @job(registry=registry, max_attempts=3, backoff=lambda _: 0)
    async def good(number: int) -> None:
        for n in range(5):
            await step(f"n{n}", effect, f"{number} {n}")

    @job(registry=registry, max_attempts=1)
    async def bad() -> None:
        await asyncio.gather(*(step(f"\ud800{n}", effect, f"bad {n}") for n in range(20)))

    ids = await harness.enqueue(bad.new(), *(good.new(number) for number in range(4)))
    async with harness.runner():
        refused = await harness.becomes(ids[0], "discarded")
        for job_id in ids[1:]:
            assert (await harness.becomes(job_id, "completed")).errors == []
    assert "surrogates not allowed" in refused.errors[0]["error"]
    assert set(called.values()) == {1}


async def test_a_statement_writes_as_much_as_it_may_and_no_more(
    harness: Harness, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SIZE", 100)

    async def long(number: int) -> str:
        return str(number) * 60

    @job(registry=registry)
    async def work() -> None:
        found = await asyncio.gather(*(step(f"n{n}", long, n) for n in range(10)))
        assert found == [str(n) * 60 for n in range(10)]

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert len(await harness.sql("SELECT name FROM oban_sa_journal")) == 10


async def test_progress_that_is_said_at_the_same_time_is_written_in_turn(
    harness: Harness, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    oban = Oban(harness.engine)
    refused: list[Exception] = []
    fetch = journals.Journals.fetch

    async def watched(self: journals.Journals, *args: Any, **values: object) -> Any:
        try:
            return await fetch(self, *args, **values)
        except Exception as error:
            refused.append(error)
            raise

    monkeypatch.setattr(journals.Journals, "fetch", watched)

    @job(registry=registry, max_attempts=1)
    async def on_loop() -> None:
        await asyncio.gather(*(progress(1, f"note {n}") for n in range(20)))

    @job(registry=registry, max_attempts=1)
    def in_threads() -> None:
        failed: list[BaseException] = []

        def say(number: int) -> None:
            try:
                for _ in range(10):
                    progress(1, f"note {number}")
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=contextvars.copy_context().run, args=(say, n)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []

    ids = await harness.enqueue(on_loop.new(), in_threads.new())
    async with harness.runner():
        for job_id in ids:
            assert (await harness.becomes(job_id, "completed")).errors == []
            said = await oban.progress(job_id)
            assert said is not None
            assert said.done == 1.0
    last = await oban.progress(ids[0])
    assert last is not None
    assert last.note == "note 19"
    assert refused == []


async def test_a_progress_with_a_note_that_no_database_holds_is_written_all_the_same(
    harness: Harness, registry: Registry
) -> None:
    @job(registry=registry, max_attempts=1)
    async def work() -> None:
        await progress(0.5, f"half\0\ud800 of {current_job().id}")

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    said = await Oban(harness.engine).progress(job_id)
    assert said is not None
    assert said.note == f"half\ufffd? of {job_id}"

"""The row of a producer: jobs are fetched only under a row that stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from oban_sa import job, telemetry
from oban_sa.runner.queue.exchange import Tables
from oban_sa.runner.queue.states import Row, State
from oban_sa.schedule import clock
from tests.runner.conftest import Harness
from tests.runner.queue.test_locks import holding
from tests.support import eventually


@pytest.fixture
def nothing(harness: Harness) -> Any:
    @job(registry=harness.registry, queue="later")
    async def nothing() -> None: ...

    return nothing


async def test_a_queue_that_is_started_at_run_time_fetches_though_its_row_was_removed_before_it_was_heard_of(
    harness: Harness, nothing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of another queue that blocks the loop keeps the node from hearing of the row, so nothing beats for it."""
    register, monotonic, ahead = Tables.register, clock.monotonic, [0.0]

    async def hears_late(self: Tables, row: Mapping[str, Any]) -> bool:
        fresh = await register(self, row)
        if row["queue"] == "later" and not ahead[0]:
            ahead[0] = 600.0
            await harness.sql("DELETE FROM oban_producers WHERE queue = 'later'")
        return fresh

    monkeypatch.setattr(Tables, "register", hears_late)
    monkeypatch.setattr(clock, "monotonic", lambda: monotonic() + ahead[0])
    async with harness.runner(heartbeat_every=60, dead_after=600) as runner:
        runner._queues.start("later", 1, paused=False)
        [job_id] = await harness.enqueue(nothing.new())
        await harness.becomes(job_id, "completed")


async def test_a_row_that_is_written_only_at_the_second_try_was_never_lost(
    harness: Harness, of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    register, failed = Tables.register, []

    async def second_time(self: Tables, row: Mapping[str, Any]) -> bool:
        if not failed:
            failed.append(row)
            raise ConnectionResetError("gone")
        return await register(self, row)

    monkeypatch.setattr(Tables, "register", second_time)
    async with harness.runner():
        [[rows]] = await harness.sql("SELECT count(*) FROM oban_producers")
    assert (len(failed), rows) == (1, 1)
    assert of(telemetry.ProducerLost) == []


async def test_what_was_fetched_runs_though_the_news_of_a_job_given_back_could_not_be_told(
    harness: Harness, nothing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce, failed = Tables.announce, []

    async def fails_once(self: Tables) -> None:
        if not failed:
            failed.append(True)
            raise ConnectionResetError("gone")
        await announce(self)

    monkeypatch.setattr(Tables, "announce", fails_once)
    # The one statement gives the first job back, whose worker is unknown here, and fetches the second.
    _, known = await harness.enqueue(
        nothing.options(queue="default").new().update({"worker": "unknown", "priority": 0}),
        nothing.options(queue="default", priority=1).new(),
    )
    async with harness.runner(queues={"default": 1}):
        assert (await harness.becomes(known, "completed")).attempt == 1
    assert failed == [True]


async def test_a_row_that_is_being_removed_is_not_written_again_by_the_heartbeat(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave, kept = Tables.leave, []

    async def removes(self: Tables, uuid: UUID) -> None:
        kept.append(runner._queues.rows())
        await leave(self, uuid)

    monkeypatch.setattr(Tables, "leave", removes)
    async with harness.runner() as runner:
        assert [row["queue"] for row in runner._queues.rows()] == ["default"]
    assert kept == [[]]


async def test_a_queue_that_is_stopped_while_its_row_is_being_written_never_begins(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    async with harness.runner(dead_after=60) as runner:
        async with holding(harness, "LOCK TABLE oban_producers IN SHARE MODE"):
            runner._queues.start("later", 1, paused=False)
            producer = runner._queues.serving["later"]
            await eventually(lambda: producer.registration.row is Row.SENT)
            runner._queues.stop("later")
            assert producer.state is State.DRAINING
        await eventually(lambda: producer.state is State.STOPPED)
        assert await harness.sql("SELECT queue FROM oban_producers") == [("default",)]
    assert producer.cycled_at is None
    assert "could not be started" not in caplog.text


async def test_a_look_at_all_queues_does_not_stand_in_for_a_row_that_may_be_gone(harness: Harness) -> None:
    """As after a standstill: the database answers, and others may have taken this node for dead meanwhile."""
    async with harness.runner(dead_after=60, poll_every=60) as runner:
        [producer] = runner._queues.all
        await eventually(lambda: producer.registration.surely_there() and producer.cycled_at is not None)
        producer.registration.doubt()
        producer.looked(clock.monotonic(), waits=False, size=0)
        assert not producer.registration.surely_there()
        await eventually(producer.registration.surely_there)

"""What is counted of the events of a runner."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from oban_sa import telemetry
from oban_sa.jobs.states import JobState
from oban_sa.prometheus import counts as module
from oban_sa.prometheus.counts import OTHER, Counts, Enqueued
from oban_sa.prometheus.families import SECONDS

SOURCE = telemetry.Source(node="one")


@pytest.fixture
def counts() -> Iterator[Counts]:
    made = Counts(SOURCE)
    yield made
    made.close()


def stop(queue: str = "mailers", *, source: telemetry.Source = SOURCE, duration: float = 0.02) -> telemetry.JobStop:
    return telemetry.JobStop(
        runner=source,
        job_id=1,
        worker="shop.Mail",
        queue=queue,
        attempt=1,
        max_attempts=20,
        queue_time=0.3,
        state=JobState.COMPLETED,
        duration=duration,
    )


def test_attempts_are_counted_by_queue_worker_and_state(counts: Counts) -> None:
    telemetry.emit(stop())
    telemetry.emit(stop())
    telemetry.emit(
        telemetry.JobException(
            runner=SOURCE,
            job_id=2,
            worker="shop.Mail",
            queue="mailers",
            attempt=1,
            max_attempts=20,
            state=JobState.RETRYABLE,
            duration=1.5,
        )
    )
    assert counts.snapshot()["oban_job_runs_total"] == {
        ("mailers", "shop.Mail", "completed"): 2,
        ("mailers", "shop.Mail", "retryable"): 1,
    }


def test_seconds_are_put_into_the_bucket_whose_bound_they_do_not_exceed(counts: Counts) -> None:
    for seconds in (0.005, 0.0051, 10_000.0):
        telemetry.emit(stop(duration=seconds))
    found = counts.snapshot()["oban_job_run_seconds"]["mailers", "shop.Mail"]
    assert isinstance(found, list)
    *buckets, total = found
    assert {bound: count for bound, count in zip((*SECONDS, "more"), buckets, strict=True) if count} == {
        0.005: 1,
        0.01: 1,
        "more": 1,
    }
    assert total == pytest.approx(10_000.0101)


def test_other_events_are_counted_too(counts: Counts) -> None:
    telemetry.emit(telemetry.ProducerFetch(runner=SOURCE, queue="mailers", demand=5, count=2, duration=0.002))
    telemetry.emit(telemetry.ProducerAck(runner=SOURCE, queue="mailers", count=5, stale=2, duration=0.002))
    telemetry.emit(telemetry.LifelineRescue(runner=SOURCE, count=3, duration=0.1))
    telemetry.emit(telemetry.PrunerPrune(runner=SOURCE, count=100, duration=0.1))
    found = counts.snapshot()
    assert found["oban_acks_stale_total"] == {("mailers",): 2}
    assert found["oban_rescued_total"] == {(): 3}
    assert found["oban_pruned_total"] == {(): 100}
    assert set(found["oban_fetch_seconds"]) == set(found["oban_ack_seconds"]) == {("mailers",)}


def test_other_runners_of_the_process_are_not_counted(counts: Counts) -> None:
    telemetry.emit(stop(source=telemetry.Source(node="one")))  # equal, and another runner all the same
    assert counts.snapshot() == {}


def enqueued(*, schema: str = "public") -> telemetry.JobsEnqueued:
    source = telemetry.Source(node="the program", schema=schema)
    return telemetry.JobsEnqueued(runner=source, queue="mailers", worker="shop.Mail", count=3)


def test_of_several_runners_on_a_schema_one_counts_what_the_program_enqueues(counts: Counts) -> None:
    second, elsewhere = Counts(telemetry.Source(node="two")), Counts(telemetry.Source(node="one", schema="billing"))
    try:
        telemetry.emit(enqueued())
        telemetry.emit(enqueued(schema="billing"))
        found = [each.snapshot().get("oban_jobs_enqueued_total") for each in (counts, second, elsewhere)]
        assert found == [{("mailers", "shop.Mail"): 3}, None, {("mailers", "shop.Mail"): 3}]
        counts.close()
        telemetry.emit(enqueued())
        assert second.snapshot()["oban_jobs_enqueued_total"] == {("mailers", "shop.Mail"): 3}
    finally:
        second.close()
        elsewhere.close()


def test_a_program_without_a_runner_counts_what_it_enqueues() -> None:
    counter = Enqueued()
    telemetry.emit(enqueued())
    telemetry.emit(enqueued(schema="billing"))
    counter.close()
    telemetry.emit(enqueued())
    assert counter.metrics() == {"oban_jobs_enqueued_total": {("mailers", "shop.Mail"): 6}}


def test_a_program_that_makes_up_names_does_not_fill_the_memory(
    counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    for number in range(10):
        telemetry.emit(stop(f"tenant-{number}"))
    runs = counts.snapshot()["oban_job_runs_total"]
    assert len(runs) == 4
    assert runs[OTHER, OTHER, OTHER] == 7


def test_a_snapshot_does_not_change_afterwards(counts: Counts) -> None:
    telemetry.emit(stop())
    before = counts.snapshot()
    copy = {name: {key: str(value) for key, value in metrics.items()} for name, metrics in before.items()}
    telemetry.emit(stop())
    assert {name: {key: str(value) for key, value in metrics.items()} for name, metrics in before.items()} == copy


def test_once_closed_it_counts_no_more() -> None:
    counts = Counts(SOURCE)
    counts.close()
    telemetry.emit(stop())
    assert counts.snapshot() == {}

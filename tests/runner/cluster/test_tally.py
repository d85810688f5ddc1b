"""What attempts came to is counted by minute, all of it, in bounded memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from oban_sa.jobs.states import JobState
from oban_sa.runner.cluster import tally as module
from oban_sa.runner.cluster.tally import CLASSES, OF_MANY, OTHER, SERIES, Tally
from oban_sa.schedule import clock
from oban_sa.wire.sketches import quantiles

DUE = datetime(2026, 1, 1, tzinfo=UTC)


def columns(worker: str = "w", *, queue: str = "default", waited: float = 0.5) -> dict[str, Any]:
    return {
        "queue": queue,
        "worker": worker,
        "scheduled_at": DUE,
        "attempted_at": DUE + timedelta(seconds=waited),
    }


def ended(tally: Tally, *, run: float = 0.1, state: JobState = JobState.COMPLETED, **more: Any) -> None:
    error = more.pop("error", None)
    tally.ended(columns(**more), state, error, clock.monotonic() - run)


def test_an_attempt_is_counted_by_what_it_came_to_and_how_long_it_took() -> None:
    tally = Tally()
    ended(tally)
    ended(tally, state=JobState.RETRYABLE, error=ValueError("x"))
    ended(tally, state=JobState.DISCARDED, error=KeyError("x"))
    ended(tally, state=JobState.CANCELLED, error=KeyError("not a failure"))
    ended(tally, worker="other", run=2.0)
    [minute] = tally.take().values()
    counts = minute["default", "w"]
    assert counts.outcomes == {"completed": 1, "retryable": 1, "discarded": 1, "cancelled": 1}
    assert counts.failures == {"ValueError": 1, "KeyError": 1}
    assert quantiles(counts.wait, [0.5])[0] == pytest.approx(0.5, rel=0.02)
    assert (quantiles(minute["default", "w"].run, [0.0])[0] or 0) >= 0.098
    assert (quantiles(minute["default", "other"].run, [0.5])[0] or 0) >= 1.96
    assert tally.take() == {}


def test_what_ended_in_another_minute_is_counted_there(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally()
    now = [120.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    tally.set_clock(6_000.0 + 59.0, at=120.0)
    for seconds in (0.0, 0.5, 1.0, 1.5, 61.0):
        now[0] = 120.0 + seconds
        ended(tally)
    taken = tally.take()
    assert {minute: of["default", "w"].outcomes["completed"] for minute, of in taken.items()} == {
        100: 2,
        101: 2,
        102: 1,
    }
    assert sum(sum(of["default", "w"].run.values()) for of in taken.values()) == 5


def test_of_very_many_some_are_measured_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[float] = []
    bin_of = module.bin_of
    monkeypatch.setattr(module, "bin_of", lambda seconds: measured.append(seconds) or bin_of(seconds))
    tally = Tally()
    for number in range(2_500):
        ended(tally, run=0.01 if number % 100 < 90 else 1.0)
    [minute] = tally.take().values()
    counts = minute["default", "w"]
    assert counts.outcomes == {"completed": 2_500}
    assert sum(counts.run.values()) == sum(counts.wait.values()) == 2_500
    assert quantiles(counts.run, [0.5])[0] == pytest.approx(0.01, rel=0.5)
    assert (quantiles(counts.run, [0.99])[0] or 0) >= 0.98
    assert len(measured) == 2 * (1_000 + -(-1_000 // OF_MANY) + -(-500 // OF_MANY))


def test_queues_that_have_gone_are_forgotten_and_each_time_begins_with_all_measured() -> None:
    tally = Tally()
    for _ in range(module.AT_ONCE + 1):
        ended(tally, queue="busy")
    ended(tally, queue="gone")
    tally.take()
    for _ in range(2):
        ended(tally, queue="busy")
    [minute] = tally.take().values()
    assert sum(minute["busy", "w"].run.values()) == 2
    assert list(tally.completed) == ["busy"]
    assert tally.completed["busy"].mask == 0
    tally.take()
    assert tally.completed == {}


def test_workers_classes_and_minutes_beyond_a_number_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally()
    for number in range(SERIES + 5):
        ended(tally, worker=f"w{number}")
    for number in range(CLASSES + 5):
        ended(tally, worker="w0", state=JobState.RETRYABLE, error=type(f"E{number}", (Exception,), {})())
    [minute] = tally.take().values()
    assert len(minute) == SERIES + 1
    assert minute["default", OTHER].outcomes == {"completed": 5}
    assert len(minute["default", "w0"].failures) == CLASSES + 1
    assert minute["default", "w0"].failures[OTHER] == 5
    ended(tally, state=JobState.RETRYABLE, error=type("E" * 500, (Exception,), {})())
    [minute] = tally.take().values()
    assert list(minute["default", "w"].failures) == ["E" * 100]

    monkeypatch.setattr(module, "MINUTES", 3)
    for number in range(6):
        tally.set_clock(60.0 * number, at=clock.monotonic() - 0.5)
        ended(tally, state=JobState.RETRYABLE, error=ValueError())
    assert len(tally.take()) == 3

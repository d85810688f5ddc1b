"""Workers in processes that have to find them first."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from oban_sa.errors import AttemptError, InvalidArguments, WorkerNotFound
from oban_sa.models import Job
from oban_sa.outcomes import Record, Snooze
from oban_sa.workers import definition_of
from oban_sa.workers.definition import call_by_name
from tests.workers import elsewhere


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def row(**values: Any) -> dict[str, Any]:
    """Return the row of a job that is being attempted."""
    empty = {column.name: None for column in Job.__table__.columns}
    now = datetime.now(UTC)
    return {
        **empty, "id": 7, "state": "executing", "queue": "q", "worker": "w", "args": {}, "meta": {}, "errors": [],
        "attempt": 1, "max_attempts": 20, "priority": 0, "tags": [], "attempted_by": ["n"], "inserted_at": now,
        "scheduled_at": now, **values,
    }  # fmt: skip


def test_a_process_imports_the_worker_and_runs_it_with_the_row_s_values(pool: ProcessPoolExecutor) -> None:
    definition = definition_of(elsewhere.Add)
    total, pid, *seen = pool.submit(
        call_by_name, definition.name, definition.module, row(args={"numbers": [1, 2]}, attempt=3, meta={"a": 1})
    ).result()
    assert total == 3
    assert pid != os.getpid()
    assert seen == [7, 7, 3, {"a": 1}]


@pytest.mark.parametrize(("how", "answer"), [("snooze", Snooze(60)), ("record", Record({"a": 1}))])
def test_answers_cross_back(pool: ProcessPoolExecutor, how: str, answer: object) -> None:
    definition = definition_of(elsewhere.fail)
    found = pool.submit(call_by_name, definition.name, definition.module, row(args={"how": how})).result()
    assert found == answer
    assert getattr(found, "encoded", None) == getattr(answer, "encoded", None)


def test_errors_cross_back_whatever_they_are_made_of(pool: ProcessPoolExecutor) -> None:
    definition = definition_of(elsewhere.fail)
    for how, kind, message in (
        ("key", KeyError, "missing"),
        ("stubborn", AttemptError, "StubbornError: stubborn"),
        ("exit", SystemExit, "3"),
    ):
        with pytest.raises(kind, match=message) as caught:
            pool.submit(call_by_name, definition.name, definition.module, row(args={"how": how})).result()
        assert "elsewhere.py" in str(caught.value.__cause__)
    with pytest.raises(InvalidArguments, match="args lacks 'how'"):
        pool.submit(call_by_name, definition.name, definition.module, row()).result()


def test_a_worker_that_is_not_there_is_said_to_be_missing(pool: ProcessPoolExecutor) -> None:
    with pytest.raises(WorkerNotFound, match=r"tests\.workers\.elsewhere\.Gone"):
        pool.submit(call_by_name, "tests.workers.elsewhere.Gone", "tests.workers.elsewhere", row()).result()

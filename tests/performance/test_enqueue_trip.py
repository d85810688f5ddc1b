"""How many files of the package a program enters to enqueue one job and commit it.

A reader who follows one job has to open as many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session

from oban_sa import Job, enqueue, job, worker
from oban_sa.workers import Registry
from tests.performance.trips import Trip, counted
from tests.places import AppDatabase

REGISTRY = Registry()
MOST_FILES = {"a function": 14, "a class": 14, "no worker": 10}


@job(name="trips.send", registry=REGISTRY)
async def send(user_id: int) -> None: ...


@worker(name="trips.Send", registry=REGISTRY)
class Send:
    async def process(self, job: Job) -> None: ...


WAYS: dict[str, Callable[[Session], Any]] = {
    "a function": lambda session: send.enqueue(session, 7),  # type: ignore[attr-defined]
    "a class": lambda session: enqueue(session, Send.new({"user_id": 7})),  # type: ignore[attr-defined]
    "no worker": lambda session: session.add(Job("trips.send", args={"user_id": 7})),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_job_that_is_enqueued_and_committed_enters_few_files(app_db: AppDatabase, way: str) -> None:
    def work(session: Session) -> Trip:
        with counted() as trip:
            trip.begin()
            WAYS[way](session)
            session.commit()
            trip.end()
        return trip

    app_db.run(work)  # what is done once in a process
    trip = app_db.run(work)

    print(trip)
    assert len(trip.files) <= MOST_FILES[way], str(trip)

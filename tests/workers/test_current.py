"""`current_job()`, wherever the code of a job may be."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from oban_sa.errors import ObanError
from oban_sa.models import Job
from oban_sa.workers import current_job, running


def test_there_is_no_current_job_outside_of_a_worker() -> None:
    with pytest.raises(LookupError, match="no job is running here") as caught:
        current_job()
    assert isinstance(caught.value, ObanError)


def test_the_job_is_current_inside_and_not_after() -> None:
    outer, inner = Job("outer"), Job("inner")
    with running(outer):
        with running(inner):
            assert current_job() is inner
        assert current_job() is outer
    with pytest.raises(LookupError):
        current_job()


def test_an_error_ends_it_too() -> None:
    with pytest.raises(ValueError, match="x"), running(Job("w")):
        raise ValueError("x")
    with pytest.raises(LookupError):
        current_job()


async def test_tasks_and_threads_below_know_the_job_and_neighbours_do_not() -> None:
    async def ask() -> Job:
        await asyncio.sleep(0)
        return current_job()

    async def attempt(job: Job) -> bool:
        with running(job):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(ask())
            return task.result() is job and await asyncio.to_thread(current_job) is job and await ask() is job

    assert await asyncio.gather(*(attempt(Job(f"w{number}")) for number in range(5))) == [True] * 5
    with pytest.raises(LookupError):
        current_job()


def test_a_thread_by_hand_needs_a_copy_of_the_context() -> None:
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(current_job())
        except LookupError:
            answers.append(None)

    job = Job("w")
    with running(job):
        context = contextvars.copy_context()
        for thread in (threading.Thread(target=ask), threading.Thread(target=context.run, args=(ask,))):
            thread.start()
            thread.join()
    assert answers == [None, job]

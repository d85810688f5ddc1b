"""What a worker of chunks is, and what is refused where it is written."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Chunk, ChunkResult, Job
from oban_sa.errors import InvalidArguments, InvalidOption, ObanError
from oban_sa.workers import Registry, job, worker


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": 0}, "size is the number of jobs in a chunk, 1 to 1000, not 0"),
        ({"size": 1001}, "not 1001"),
        ({"size": True}, "not True"),
        ({"within": -1}, "-1"),
        ({"by": "tenant"}, 'did you mean "args.tenant"'),
        ({"by": lambda job: 1}, "by="),
    ],
)
def test_a_chunk_that_can_not_be_meant_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said.replace("(", r"\(")):
        Chunk(**given)


def test_a_span_of_time_becomes_seconds() -> None:
    assert Chunk(5, within="2 minutes").within == 120
    assert Chunk() == Chunk(100, within=1)


async def no_jobs(session: AsyncSession) -> None: ...
async def one_job(job: Job) -> None: ...
async def args_beside(jobs: list[Job], tenant: int) -> None: ...
async def the_wrong_session(jobs: list[Job], session: Session) -> None: ...
async def two_sessions(jobs: list[Job], a: AsyncSession, b: AsyncSession) -> None: ...
async def by_keyword(*, jobs: list[Job]) -> None: ...


@pytest.mark.parametrize("function", [no_jobs, one_job, args_beside, the_wrong_session, two_sessions, by_keyword])
def test_a_function_that_takes_something_else_is_refused(function: Any) -> None:
    with pytest.raises(InvalidOption, match=function.__name__):
        job(registry=Registry(), chunk=Chunk())(function)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chunk": 100}, r"chunk is a Chunk, as Chunk\(100"),
        ({"chunk": Chunk(), "executor": "process"}, "no other process"),
        ({"chunk": Chunk(), "sequence": "args.x"}, "one at a time"),
        ({"chunk": Chunk(), "record": True}, r"return ChunkResult\(record="),
        ({"chunk": Chunk(by="args.x"), "encrypt": True}, r"no job can be found by=args\.x; write by=\"meta"),
        ({"chunk": Chunk(by=("worker", "args.x")), "encrypt": True}, "encrypted args"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):

        @job(registry=Registry(), **options)
        def index(jobs: list[Job]) -> None: ...


def test_a_class_is_refused() -> None:
    with pytest.raises(InvalidOption, match="Index has chunk=, which is for functions"):

        @worker(registry=Registry(), chunk=Chunk())
        class Index:
            async def process(self, jobs: list[Job]) -> None: ...


def test_jobs_are_made_with_any_args_by_name() -> None:
    @job(registry=Registry(), chunk=Chunk(), name="index", queue="index")
    async def index(jobs: list[Job]) -> None: ...

    made = index.options(priority=2).new(document_id=7, tags=["a"])
    assert (made.worker, made.queue, made.priority, made.args) == (
        *("index", "index", 2),
        {"document_id": 7, "tags": ["a"]},
    )
    with pytest.raises(TypeError, match="by name"):
        index.new(7)
    with pytest.raises(InvalidArguments):
        index.new(document=object())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"retry": [1]}, "retry of a ChunkResult is a dict of jobs, not a list"),
        ({"cancel": {7: "x"}}, "names 7, which is no job of this chunk"),
    ],
)
def test_a_result_that_can_not_be_meant_says_so(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ObanError, match=said):
        ChunkResult(**given).answers([])

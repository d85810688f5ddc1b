"""Jobs that begin at the same time read what they waited for by one statement, and none of them fails another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest

from oban_sa import Record, Workflow, deps, enqueue
from oban_sa.runner.database.connection import Line
from oban_sa.runner.database.prepared import Prepared
from oban_sa.runner.execution.dependencies import RunnersDependencies
from oban_sa.workers import Registry, job
from tests.runner.conftest import Harness


async def test_members_that_begin_together_share_a_statement(
    harness: Harness, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read = RunnersDependencies._rows

    async def counted(self: RunnersDependencies, make: Any, given: Mapping[str, Any]) -> Any:
        asked.append(len(given["jobs"]))
        return await read(self, make, given)

    monkeypatch.setattr(RunnersDependencies, "_rows", counted)
    found: dict[int, object] = {}

    @job(registry=registry)
    async def number(value: int) -> Record[int]:
        return Record(value)

    @job(registry=registry)
    async def then(value: int) -> None:
        found[value] = deps()["first"].result

    async with harness.sessions.begin() as session:
        for value in range(40):
            flow = Workflow()
            flow.add("first", number.new(value))
            flow.add("then", then.new(value), deps="first")
            enqueue(session, flow)
    await harness.drain(queues={"default": 40})
    assert found == {value: value for value in range(40)}
    assert sum(asked) == 40
    assert len(asked) < 40


async def test_one_that_can_not_be_read_fails_no_other(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = Line.fetch

    async def refusing(self: Line, prepared: Prepared, /, *rest: Any, **given: Any) -> Any:
        if 2 in given.get("jobs", ()):
            raise asyncpg.DataError("not this one")
        return await fetch(self, prepared, *rest, **given)

    monkeypatch.setattr(Line, "fetch", refusing)
    from oban_sa.runner.database.database import Database

    reading = RunnersDependencies(Database(harness.engine))
    answers = await asyncio.gather(
        *(reading._rows_of(job) for job in (1, 2, 3)),
        return_exceptions=True,
    )
    assert [answers[0], answers[2]] == [[], []]
    assert isinstance(answers[1], asyncpg.DataError)
    await reading.close()

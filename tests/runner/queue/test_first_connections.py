"""What a starting runner connects side by side, and what becomes of it where the tables are not there."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from oban_sa import Runner, telemetry
from oban_sa.errors import SchemaMissing
from oban_sa.runner.cluster.notifier import Notifier
from oban_sa.runner.queue.first_connections import connect_all
from tests.support import eventually, sync_url


async def _once(step: Any) -> Any:
    return await step()


async def test_the_others_are_made_while_the_database_says_what_it_has() -> None:
    connected, listening, accepted = asyncio.Event(), asyncio.Event(), []

    async def begin(reached: Any) -> str:
        assert not listening.is_set()
        assert not connected.is_set()
        reached()
        await connected.wait()
        return "tables"

    async def connect() -> None:
        connected.set()

    async def checked(has: Any) -> None:
        accepted.append(has)

    parts: Any = (SimpleNamespace(begin=begin), SimpleNamespace(start=listening.set), SimpleNamespace(connect=connect))
    async with asyncio.timeout(10):
        await connect_all(*parts, taken=_once, checked=checked)
    assert accepted == ["tables"]
    assert listening.is_set()


async def test_a_start_without_tables_gives_up_what_was_connected_beside(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Notifier] = []
    start = Notifier.start

    def noted(self: Notifier) -> None:
        begun.append(self)
        start(self)

    monkeypatch.setattr(Notifier, "start", noted)
    told: list[telemetry.Event] = []
    detach = telemetry.attach(told.append, telemetry.NotifierConnected, telemetry.NotifierDisconnected)
    engine = create_async_engine(sync_url(empty_database_url, "asyncpg"))
    runner = Runner(engine, queues={"default": 1, "mailers": 1})
    try:
        with pytest.raises(SchemaMissing):
            await connect_all(
                runner._database, runner._notifier, runner._queues, taken=runner._taken, checked=runner._checked
            )
        (notifier,) = begun
        assert notifier._task is not None
        assert notifier._task.done()
        await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})  # closing takes a moment
    finally:
        detach()
        await runner._close()
        await engine.dispose()
    assert told == []

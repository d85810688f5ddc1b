"""A runner that works off what is in the table, and notes from when to when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.shares import Progress, Share
from benchmarks.turn import queue_names
from oban_sa import Queue, Runner, telemetry
from oban_sa.workers import Registry


def engine_for(url: str, **options: Any) -> AsyncEngine:
    return create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"), **options)


async def worked(
    options: dict[str, Any],
    progress: Progress,
    go: Callable[[], Coroutine[Any, Any, None]],
    queue: Queue | int,
    registry: Registry,
    executed: list[int],
) -> Share:
    """Work from the beginning of the first fetch to the last written outcome, or to the end of the last workflow.

    Other queues beside those of the turn come from the option `besides`.
    """
    share = Share(executed)

    def fetched(event: telemetry.ProducerFetch) -> None:
        share.began(time.perf_counter() - event.duration)

    def written(event: telemetry.ProducerAck) -> None:
        share.ended()
        share.cycles.append(event.duration * 1000)
        progress.add(event.count - event.stale)

    def booked(event: telemetry.SettlerSettle) -> None:
        share.ended()
        progress.add(event.closed)

    detaches = [
        telemetry.attach(fetched, telemetry.ProducerFetch),
        telemetry.attach(written, telemetry.ProducerAck),
        telemetry.attach(booked, telemetry.SettlerSettle),
    ]
    engine = engine_for(options["url"])
    await go()
    queues = {**dict.fromkeys(queue_names(options), queue), **options.get("besides", {})}
    async with Runner(engine, queues=queues, registry=registry, node=f"bench.{id(share)}.{time.time_ns()}"):
        async with asyncio.timeout(300):
            await progress.over()
        share.over()
    for detach in detaches:
        detach()
    await engine.dispose()
    return share

"""A lone async job beside jobs that block their threads: `benchmarks.beside`, as turns."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import async_sessionmaker

from benchmarks.beside import BEAT, WARM, asks, measured, registry, sleeps
from benchmarks.ground import Ground
from benchmarks.turn import Turn, play
from benchmarks.working import engine_for
from oban_sa import Runner, enqueue_many


def _kind(worker: Any) -> Any:
    async def lone(turn: Turn) -> None:
        engine = engine_for(turn.url)
        ground, blocking = Ground(turn.url, engine), turn.options["blocking"]
        queues = {"quick": 10, "blocking": blocking}
        turn.ready()
        async with Runner(engine, queues=queues, registry=registry, heartbeat_every=BEAT, grace=0):
            await measured(ground, WARM)
            if worker is not None:
                async with async_sessionmaker(engine, expire_on_commit=False).begin() as session:
                    # So many that they outlast the measurement; what is left is given back.
                    enqueue_many(session, [worker.new() for _ in range(turn.jobs * blocking)])
            latencies, _ = await measured(ground, turn.jobs)
            turn.done(samples=latencies)
        await engine.dispose()
        turn.check("jobs that started", len(latencies), turn.jobs)

    return lone


KINDS = {"unblocked": _kind(None), "sleeping": _kind(sleeps), "asking": _kind(asks)}

if __name__ == "__main__":
    play(KINDS, "sqlalchemy", "asyncpg", "uvloop")

"""Sixteen writers that commit a row and a job each, announced or silent: `benchmarks.writers`, as turns."""

from __future__ import annotations

from typing import Any

from benchmarks.ground import Ground
from benchmarks.turn import Turn, play
from benchmarks.working import engine_for
from benchmarks.writers import Base, round_of, through_connection, through_sessions


def _kind(*, sessions: bool, announce: bool) -> Any:
    async def commits(turn: Turn) -> None:
        writers, seconds = turn.options["writers"], turn.options["over"]
        engine = engine_for(turn.url, pool_size=writers, max_overflow=0)
        ground = Ground(turn.url, engine)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        if sessions:
            made = [await through_sessions(engine, announce=announce) for _ in range(writers)]
        else:
            made = [await through_connection(ground, announce=announce) for _ in range(writers)]
        turn.ready()
        taken = await round_of(ground, made, seconds)
        count = round(taken.rate * seconds)
        turn.done(jobs=count, seconds=seconds, cpu=taken.cpu * count / 1e6)
        await engine.dispose()

    return commits


KINDS = {
    "silent": _kind(sessions=True, announce=False),
    "announcing": _kind(sessions=True, announce=True),
    "bare_silent": _kind(sessions=False, announce=False),
    "bare_notifying": _kind(sessions=False, announce=True),
}

if __name__ == "__main__":
    play(KINDS, "sqlalchemy", "asyncpg", "uvloop")

"""How soon a process that was just started begins its first job.

    python -m benchmarks.command.startup postgresql://...

is the floor: connect, fetch, and say when.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence

from benchmarks import filling
from benchmarks.turn import Turn

SAYS = "began "


async def first_job(turn: Turn, command: Sequence[str]) -> None:
    """Start the process as often as there are jobs; each time one job waits for it.

    It is started once before: by then what is imported is compiled, as it is where pip has installed it. `contest` lets
    its processes write bytecode.
    """
    await _started(turn, command)
    turn.ready()
    samples = [each for _ in range(turn.jobs) for each in await _started(turn, command)]
    turn.check("processes that began their job", len(samples), turn.jobs)
    turn.done(samples=samples)
    await filling.check(turn, jobs=turn.jobs + 1)


async def _started(turn: Turn, command: Sequence[str]) -> list[float]:
    """Start the process and wait until it ends: after how many milliseconds each job began, of which there is one."""
    await _make_job(turn)
    asked = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=dict(os.environ)
    )
    assert process.stdout is not None
    began: list[float] = []
    while line := (await asyncio.wait_for(process.stdout.readline(), 60)).decode():
        if line.startswith(SAYS):
            began.append((float(line.removeprefix(SAYS)) - asked) * 1000)
    await process.wait()
    return began


async def _make_job(turn: Turn) -> None:
    import asyncpg

    connection = await asyncpg.connect(turn.url)
    await connection.execute("INSERT INTO oban_jobs (worker, queue) VALUES ('benchmarks.began', 'bench')")
    await connection.close()


async def bare(url: str) -> None:
    """Connect, fetch, say when, ack."""
    import asyncpg

    from benchmarks import floor

    connection = await asyncpg.connect(url)
    rows = await connection.fetch(floor.FETCH, 10, ["floor", "0"])
    print(f"{SAYS}{time.perf_counter()!r}", flush=True)
    await connection.execute(floor.ACK, [row["id"] for row in rows])
    await connection.close()


if __name__ == "__main__":
    asyncio.run(bare(sys.argv[1]))

"""What counting attempts for the dashboard's metrics costs a runner: drains with it and without, in turns.

    python -m benchmarks.metered [--jobs 50000] [--pairs 12] [--concurrency 50]

Each pair drains the same jobs, which do nothing, once with `metrics_every` as it is by default and once with None, in
this order and the other in turns. A drain runs from the runner's start to its end, so what it writes when it stops is
in it. CPU is that of this process, and that of the server with all its processes.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
from collections.abc import Sequence

from benchmarks import gauges
from benchmarks.ground import Ground, main, parser, table, watch
from oban_sa import Runner, job
from oban_sa.settings.settings import Settings
from oban_sa.workers import Registry

registry = Registry()


@job(queue="bench", registry=registry, name="benchmarks.nothing")
async def nothing() -> None:
    """Do nothing."""


async def drained(ground: Ground, options: argparse.Namespace, *, counted: bool) -> tuple[float, float, float]:
    """Seconds by the clock, of this process's CPU, and of the server's."""
    await ground.clear()
    connection = await ground.connect()
    await connection.execute(
        "INSERT INTO oban_jobs (worker, queue) "
        "SELECT 'benchmarks.nothing', 'bench' FROM generate_series(1, $1::bigint)",
        options.jobs,
    )
    await connection.execute("VACUUM ANALYZE oban_jobs")
    await connection.execute("TRUNCATE oban_sa_metrics")
    await connection.execute("CHECKPOINT")
    postmaster = await gauges.postmaster_of(connection)
    gc.collect()
    before = await _server(ground, postmaster)
    runner = Runner(
        ground.engine,
        queues={"bench": options.concurrency},
        registry=registry,
        metrics_every=Settings().metrics_every if counted else None,
    )
    with watch() as spent:
        await runner.run(until_idle=True)
    after = await _server(ground, postmaster)
    written = await connection.fetchval(
        "SELECT sum(CAST(outcomes ->> 'completed' AS bigint))::bigint FROM oban_sa_metrics "
        "WHERE step = 60 AND worker = '*'"
    )
    if (written or 0) != (options.jobs if counted else 0):
        raise SystemExit(f"{written} of {options.jobs} attempts were counted; nothing is measured")
    await connection.close()
    server = after.since(before) if before is not None and after is not None else float("nan")
    return spent[0].seconds, spent[0].cpu, server


async def _server(ground: Ground, postmaster: int | None) -> gauges.Run | None:
    connection = await ground.connect()
    try:
        found = await gauges.read(connection, "postgres", postmaster=postmaster, nodes=(), counting=None)
    finally:
        await connection.close()
    return found.server


async def measure(ground: Ground, options: argparse.Namespace) -> None:
    rows: list[list[object]] = []
    ratios: list[tuple[float, ...]] = []
    await drained(ground, options, counted=True)
    for pair in range(options.pairs):
        found: dict[bool, tuple[float, float, float]] = {}
        for counted in (True, False) if pair % 2 else (False, True):
            found[counted] = await drained(ground, options, counted=counted)
        ratio = tuple(one / other for one, other in zip(found[True], found[False], strict=True))
        ratios.append(ratio)
        rows.append([f"pair {pair + 1}", *found[False], *found[True], *(f"{each:.3f}" for each in ratio)])
        print(rows[-1], flush=True)
    columns = ("seconds", "CPU", "server's CPU")
    table(["", *(f"{each}, without" for each in columns), *(f"{each}, with" for each in columns), *columns], rows)
    for name, each in zip(columns, zip(*ratios, strict=True), strict=True):
        median, (low, high) = statistics.median(each), _interval(each)
        print(f"{name}: {median:.3f} of a drain without; the median of 95 % of resamples is {low:.3f} to {high:.3f}")


def _interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Where the median lies in 95 of 100 samples that are drawn from these again."""
    drawn = random.Random(1)
    found = sorted(statistics.median(drawn.choices(ratios, k=len(ratios))) for _ in range(10_000))
    return found[250], found[9_750]


def run(arguments: list[str] | None = None) -> None:
    options = parser(__doc__ or "")
    options.add_argument("--jobs", type=int, default=50_000)
    options.add_argument("--pairs", type=int, default=12)
    options.add_argument("--concurrency", type=int, default=50)
    main(options.parse_args(arguments), measure)


if __name__ == "__main__":
    run()

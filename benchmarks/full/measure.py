"""What everything costs beside very many jobs that are over: seconds, and buffers, which no other load changes.

    python -m benchmarks --rows 100000000 --keep     # or make bench BENCH_ARGS="--rows 100000000 --keep"

It takes some 55 GB of disk for a hundred million rows, most of an hour to fill the table, and a few minutes to measure.
With `--keep` the table stays, and the next run measures at once; what was pruned meanwhile is gone. Prints a table, and
writes the same as JSON where `--results` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from benchmarks.full import pages
from benchmarks.full.explain import buffers, explaining
from benchmarks.full.table import full
from benchmarks.ground import Ground, table
from benchmarks.machine import machine
from benchmarks.turn import percentile
from oban_sa import Oban, Runner, job, telemetry
from oban_sa.cli import group
from oban_sa.jobs.retention import Prune
from oban_sa.workers import Registry

DRAINED, PICKED, STAGED, RESCUED = 20_000, 200, 10_000, 5_000
PRUNING = 10.0
"""Seconds in which jobs are pruned."""

LOOKS = (
    "jobs list",
    "jobs list --state discarded",
    "jobs list --state discarded --queue hooks",
    "jobs list --state completed --queue queue1 --limit 100",
    "jobs list --queue nosuch",
    "jobs list --state available --oldest",
    "jobs list --since 2h --until 1h",
    "jobs list --worker Nope",
    "jobs list --args user=77",
    "jobs list --tag nope",
    "jobs list --state discarded --worker Nope",
    "jobs list --queue queue1 --args user=77",
    "jobs show 7",
    "jobs cancel --queue nosuch",
    "jobs retry --state discarded --queue nosuch",
    "queues list",
    "status",
    "cron list",
    "metrics",
    "metrics --since 7d --by queue",
)

registry = Registry()
arrived: list[asyncio.Future[float]] = []


@job(queue="bench", registry=registry, name="benchmarks.nothing")
async def nothing() -> None:
    """Do nothing."""


@job(queue="bench", registry=registry, name="benchmarks.lone")
async def lone() -> None:
    arrived[-1].set_result(time.perf_counter())


@dataclass(frozen=True)
class Measured:
    """One thing that was measured; `buffers` of all its statements together, or of each job.

    What a runner does at the same time by itself counts for its jobs too, most of it where these are few.
    """

    name: str
    what: str
    seconds: float
    buffers: float


async def measure(server_url: str, rows: int, *, keep: bool, results: Path | None) -> None:
    """Make the table, do everything once beside it, and show what it took."""
    logging.getLogger("oban_sa.runner").setLevel(logging.ERROR)
    async with full(server_url, rows, keep=keep) as ground:
        sizes = await _sizes(ground)
        found = [await _looked(ground, words) for words in LOOKS]
        found += [await _paged(ground, path) for path in pages.PAGES]
        found += [await _counted(ground), await _drained(ground), await _picked_up(ground), await _staged(ground)]
        found += [await _rescued(ground), await _pruned(ground)]
        server = await _asked(ground, "SELECT current_setting('server_version')")
    print(f"beside {rows:,} finished jobs\n")
    table(["relation", "MB"], [[name, size / 1e6] for name, size in sizes.items()])
    table(["", "ms", "buffers", "what"], [[each.name, each.seconds * 1000, each.buffers, each.what] for each in found])
    if results is None:
        return
    document = {
        "rows": rows,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "server": server,
        "bytes": sizes,
        "measured": [asdict(each) for each in found],
    }
    await asyncio.to_thread(results.write_text, json.dumps(document, indent=2) + "\n")
    print(f"{results} is written", file=sys.stderr)


async def _sizes(ground: Ground) -> dict[str, int]:
    connection = await ground.connect()
    rows = await connection.fetch(
        "SELECT relname, pg_relation_size(oid) AS bytes FROM pg_class WHERE relname LIKE 'oban\\_jobs%' AND relkind IN "
        "('r', 'i') UNION ALL SELECT 'the database', pg_database_size(current_database()) ORDER BY 2 DESC"
    )
    await connection.close()
    return {row["relname"]: row["bytes"] for row in rows}


# What people look at


async def _looked(ground: Ground, words: str) -> Measured:
    """Run a command as at a terminal: the best of three, and then once more to count its buffers."""
    given = [*words.split(), "--database-url", ground.url]
    taken = [await asyncio.to_thread(_run, given) for _ in range(3)]
    plans: list[dict[str, Any]] = []
    with explaining(lambda _, plan: plans.append(plan)):
        await asyncio.to_thread(_run, given)
    return Measured(
        words,
        f"{len(plans)} statements; the first time {taken[0] * 1000:,.0f} ms",
        min(taken),
        sum(map(buffers, plans)),
    )


def _run(words: list[str]) -> float:
    began = time.perf_counter()
    answer = CliRunner().invoke(group, words)
    if answer.exit_code:
        raise SystemExit(f"{' '.join(words[:-2])} failed: {answer.output}")
    return time.perf_counter() - began


async def _paged(ground: Ground, path: str) -> Measured:
    """Ask for a page of the dashboard: p50, and once more to count its buffers."""
    first, half, most = await pages.timed(ground, path)
    read = await pages.read(ground, path)
    what = f"{len(read)} statements; the first time {first * 1000:,.0f} ms, p95 {most * 1000:,.0f} ms"
    return Measured(path, what, half, sum(count for count, _ in read))


async def _counted(ground: Ground) -> Measured:
    oban = Oban(ground.engine)
    async with _buffers(ground) as buffers:
        began = time.perf_counter()
        counts = await oban.count_jobs()
        taken = time.perf_counter() - began
    return Measured("count_jobs()", f"{len(counts)} states and queues", taken, buffers[0])


# What runners do


async def _drained(ground: Ground) -> Measured:
    done = asyncio.Event()
    written = 0

    def acked(of: telemetry.ProducerAck) -> None:
        nonlocal written
        written += of.count
        if written >= DRAINED:
            done.set()

    await Oban(ground.engine).enqueue_many(nothing.new() for _ in range(DRAINED))
    detach = telemetry.attach(acked, telemetry.ProducerAck)
    async with _buffers(ground) as buffers:
        began = time.perf_counter()
        async with _runner(ground):
            await asyncio.wait_for(done.wait(), 600)
            taken = time.perf_counter() - began
    detach()
    what = f"of each of {DRAINED:,} jobs; {DRAINED / taken:,.0f} jobs/s"
    return Measured("drain", what, taken / DRAINED, buffers[0] / DRAINED)


async def _picked_up(ground: Ground) -> Measured:
    oban = Oban(ground.engine)
    samples: list[float] = []
    async with _runner(ground), _buffers(ground) as buffers:
        for _ in range(PICKED):
            arrived.append(asyncio.get_running_loop().create_future())
            began = time.perf_counter()
            await oban.enqueue(lone.new())
            samples.append(await asyncio.wait_for(arrived[-1], 60) - began)
    half, most = percentile(samples, 0.5), percentile(samples, 0.99)
    return Measured(
        "pickup", f"from enqueue to start, of {PICKED}; p99 {most * 1000:.1f} ms", half, buffers[0] / PICKED
    )


async def _staged(ground: Ground) -> Measured:
    await _asked(
        ground,
        "INSERT INTO oban_jobs (worker, queue, state, scheduled_at) SELECT 'benchmarks.due', 'staged', 'scheduled', "
        f"timezone('UTC', now()) FROM generate_series(1, {STAGED})",
    )
    return await _told(ground, "stage", telemetry.StagerStage, STAGED)


async def _rescued(ground: Ground) -> Measured:
    uuid = "00000000-0000-4000-8000-00000000dead"
    await _asked(
        ground,
        "INSERT INTO oban_producers (uuid, name, node, queue, meta, updated_at) VALUES "
        f"""('{uuid}', 'Oban', 'dead.1', 'lost', '{{"dead_after": 2}}', timezone('UTC', now()) - interval '1 hour')""",
    )
    await _asked(
        ground,
        "INSERT INTO oban_jobs (worker, queue, state, attempt, attempted_at, attempted_by) SELECT 'benchmarks.lost', "
        f"'lost', 'executing', 1, timezone('UTC', now()), '{{dead.1,{uuid}}}' FROM generate_series(1, {RESCUED})",
    )
    return await _told(ground, "rescue", telemetry.LifelineRescue, RESCUED)


async def _pruned(ground: Ground) -> Measured:
    prune = Prune(completed="1 minute", cancelled="1 minute", discarded="1 minute")
    return await _told(ground, "prune", telemetry.PrunerPrune, sys.maxsize, prune=prune)


async def _told(ground: Ground, name: str, kind: Any, wanted: int, *, prune: Prune | None = None) -> Measured:
    """What a runner says that it did, until it has done all that is wanted or the time for it is over."""
    count, spent = 0, 0.0
    done = asyncio.Event()

    def told(of: Any) -> None:
        nonlocal count, spent
        count, spent = count + of.count, spent + of.duration
        if count >= wanted:
            done.set()

    detach = telemetry.attach(told, kind)
    async with _buffers(ground) as buffers, _runner(ground, prune=prune):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), PRUNING if prune is not None else 60)
    detach()
    if not count or (prune is None and count < wanted):
        raise SystemExit(f"{name}: {count:,} of {wanted:,} jobs; nothing is counted")
    what = f"of each of {count:,} jobs; {count / spent:,.0f} jobs/s while at it"
    return Measured(name, what, spent / count, buffers[0] / count)


def _runner(ground: Ground, prune: Prune | None = None) -> Runner:
    return Runner(
        ground.engine, queues={"bench": 50}, registry=registry, prune=prune, heartbeat_every=0.5, dead_after=2
    )


@asynccontextmanager
async def _buffers(ground: Ground) -> AsyncIterator[list[int]]:
    """Count the buffers that everybody in this database reads during a block; the one entry is there after it."""
    found: list[int] = []
    before = await _read(ground)
    yield found
    found.append(await _read(ground) - before)


async def _read(ground: Ground) -> int:
    await ground.engine.dispose()
    await asyncio.sleep(2)  # connections report what they did when they end, or within a second
    return int(
        await _asked(ground, "SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = current_database()")
    )


async def _asked(ground: Ground, statement: str) -> Any:
    connection = await ground.connect()
    try:
        return await connection.fetchval(statement, timeout=600)
    finally:
        await connection.close()

"""Health: what is wrong with the tables, the server and the nodes, and what to do about each finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import RowMapping
from starlette.responses import Response

from oban_sa.client import Oban, QueueCheck
from oban_sa.client.read import database_now, read_session
from oban_sa.describe.spans import span
from oban_sa.errors import SchemaError
from oban_sa.jobs.states import JobState
from oban_sa.sql import health as sql
from oban_sa.sql import overview
from oban_sa.sql.lease import lease_name
from oban_sa.web.access import Access
from oban_sa.web.page import Page
from oban_sa.web.pages.queues import SILENT

OLD: Final = 300.0
"""Seconds of a transaction that keeps dead rows from being removed."""
WAITING: Final = 300.0
"""Seconds that an available job may wait."""
OVERDUE: Final = 30.0
"""Seconds after which a due job should have become available."""
DEAD: Final = 0.5
"""Dead rows for each live one, of a table of some size."""
SOME: Final = 50_000
USED: Final = 0.5
"""Share of the server's queue of notifications."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is good, or not, and what to do about it."""

    level: Literal["good", "slow", "bad"]
    title: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was read; spans are seconds."""

    schema: str | None
    """What is wrong with the tables, None where nothing is."""
    server: RowMapping
    tables: Sequence[RowMapping]
    overdue: float | None
    waiting: RowMapping | None
    leader: str | None
    checks: Sequence[QueueCheck]
    unserved: dict[str, int]


async def health(page: Page) -> Response:
    """Show the findings, the worst first, and the tables."""
    seen, now = await _look(page.instance.reader, page.access)
    found = sorted(findings(seen), key=lambda finding: ("bad", "slow", "good").index(finding.level))
    return page.render(
        "health.html", title="Health", now=now, findings=found, tables=seen.tables, version=seen.server["version"]
    )


def findings(seen: _Seen) -> list[Finding]:
    """Return what there is to say, one finding for each thing that was looked at."""
    return [
        _tables(seen),
        _leader(seen),
        _nodes(seen),
        _unserved(seen),
        _waiting(seen),
        _overdue(seen),
        _transaction(seen),
        _notifications(seen),
        _dead_rows(seen),
    ]


async def _look(reader: Oban, access: Access) -> tuple[_Seen, datetime]:
    try:
        await reader.verify()
        schema = None
    except SchemaError as error:
        schema = str(error)
    counts = [each for each in await reader.count_jobs(exactly_to=100) if access.sees(each.queue)]
    checks = [each for each in await reader.check_queues() if access.sees(each.queue)]
    others = await reader.check_elsewhere()
    available = {each.queue: each.count for each in counts if each.state is JobState.AVAILABLE}
    served = {each.queue for each in checks if each.silent_for < SILENT} | {each.queue for each in others}
    async with read_session(reader) as session:
        now = await database_now(session)
        server = (await session.execute(sql.server())).mappings().one()
        tables = (await session.execute(sql.tables(reader.schema))).mappings().all()
        overdue = (await session.execute(sql.overdue(reader.schema))).scalar_one()
        given = {"queues": sorted(available)}
        waiting = (await session.execute(overview.waiting_longest(), given)).mappings().first()
        leases = (await session.execute(overview.leases(), {"names": [lease_name(reader.name)]})).mappings().all()
    leader = next((row["node"] for row in leases if row["expired_for"] < 0), None)
    unserved = {name: count for name, count in sorted(available.items()) if name not in served}
    return _Seen(schema, server, tables, overdue, waiting, leader, checks, unserved), now


def _tables(seen: _Seen) -> Finding:
    if seen.schema is None:
        return Finding("good", "The tables are as this version needs them.")
    return Finding("bad", seen.schema.splitlines()[0], "Run `python -m oban_sa migrate`, or the migration of your own.")


def _leader(seen: _Seen) -> Finding:
    if seen.leader is not None:
        return Finding("good", f"{seen.leader} leads.")
    return Finding(
        "bad",
        "No node leads.",
        "Without a leader no scheduled or retryable job becomes available, no crontab runs, and nothing is rescued or "
        "pruned. Start a runner: `python -m oban_sa runner --import myapp.jobs`.",
    )


def _nodes(seen: _Seen) -> Finding:
    silent = sorted({each.node for each in seen.checks if each.silent_for >= SILENT})
    alive = {each.node for each in seen.checks if each.silent_for < SILENT}
    if silent:
        return Finding(
            "slow" if alive else "bad",
            f"Silent for {SILENT:g} seconds or longer: {', '.join(silent[:10])}.",
            "These have died, or can't reach the database. Their jobs are rescued by the leader, and their rows are "
            "removed then. Look at their logs; where they were stopped on purpose, nothing is to be done.",
        )
    if not alive:
        return Finding("bad", "No node of this instance runs.", "Start one: `python -m oban_sa runner`.")
    return Finding("good", f"{len(alive)} of {len(alive)} nodes send heartbeats.")


def _unserved(seen: _Seen) -> Finding:
    if not seen.unserved:
        return Finding("good", "Every queue with available jobs has a node.")
    listed = ", ".join(f"{name} ({count:,})" for name, count in list(seen.unserved.items())[:10])
    return Finding(
        "bad",
        f"Available jobs that no node takes: {listed}.",
        "Give a runner these queues, `--queues NAME:10`, or move the jobs: `jobs update ID --queue OTHER`.",
    )


def _waiting(seen: _Seen) -> Finding:
    if seen.waiting is None:
        return Finding("good", "No job waits.")
    seconds = float(seen.waiting["waiting_for"])
    title = f"The oldest available job waits for {span(seconds)}: job {seen.waiting['id']} in {seen.waiting['queue']}."
    if seconds < WAITING:
        return Finding("good", title)
    return Finding(
        "slow",
        title,
        "More comes in than is worked off, or its queue is paused or stopped. Raise the queue's limit, start more "
        "nodes, or look at what the running jobs wait for.",
    )


def _overdue(seen: _Seen) -> Finding:
    if seen.overdue is None or seen.overdue < OVERDUE:
        return Finding("good", "Scheduled and retryable jobs become available when they are due.")
    return Finding(
        "bad",
        f"A job has been due for {span(seen.overdue)} and is not available yet.",
        "The leader does this every second. See whether a node leads, and look for `stager` in its log.",
    )


def _transaction(seen: _Seen) -> Finding:
    age: float | None = seen.server["oldest"]
    if age is None or age < OLD:
        return Finding("good", "No transaction is old enough to keep dead rows.")
    pid = seen.server["pid"]
    return Finding(
        "slow",
        f"A transaction has been open for {span(age)} (pid {pid}).",
        "Until it ends no dead row of any table can be removed, and fetching gets slower. Find it in "
        f"`pg_stat_activity`; `SELECT pg_terminate_backend({pid})` ends its session.",
    )


def _notifications(seen: _Seen) -> Finding:
    usage = float(seen.server["notify_usage"] or 0.0)
    if usage < USED:
        return Finding("good", f"The server's queue of notifications is {usage:.0%} full.")
    return Finding(
        "bad",
        f"The server's queue of notifications is {usage:.0%} full.",
        "A session that listens has been in a transaction for long; when the queue is full, commits that notify fail. "
        "End that session.",
    )


def _dead_rows(seen: _Seen) -> Finding:
    bad = [row for row in seen.tables if row["dead"] > SOME and row["dead"] > DEAD * max(1, row["live"])]
    if not bad:
        return Finding("good", "Autovacuum keeps up with dead rows.")
    names = ", ".join(f"{row['name']} ({row['dead']:,} dead, {row['live']:,} live)" for row in bad)
    return Finding(
        "slow",
        f"Many dead rows: {names}.",
        "Vacuum can't keep up, or an old transaction keeps it from removing them. Run `VACUUM (ANALYZE)` on the table, "
        "and let autovacuum run more often for it.",
    )

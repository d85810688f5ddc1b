"""What a server and other processes have spent: WAL, commits, statements, connections, and CPU under Linux.

Statements are counted by the server, with the extension pg_stat_statements, so that all contenders are counted alike:
each execution counts once, whichever driver sent it, `BEGIN`, `COMMIT` and `LISTEN` too. The private server has the
extension loaded and counts only where `compute_query_id` is on, which a database is told with `count_statements`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg

TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
SETTINGS = {"shared_preload_libraries": "pg_stat_statements", "compute_query_id": "off"}
"""A server's, on which statements can be counted, at no cost where they are not."""


@dataclass(frozen=True)
class Run:
    """How long some processes ran on a processor, in seconds.

    `living` has those that live, by their ids: first by the kernel's clock of nanoseconds, then by its ticks of 10 ms.
    Rounded to ticks, a hundred idle connections would be nothing but the error. `ended` are the children of one process
    that have ended, in ticks, since that is all that the kernel keeps of them.
    """

    living: Mapping[int, tuple[float, float]]
    ended: float = 0.0

    def since(self, before: Run) -> float:
        """Seconds since then. Each process is measured by one clock, since the two differ by more than their units."""
        living = sum(now - before.living.get(pid, (0.0, 0.0))[0] for pid, (now, _) in self.living.items())
        gone = sum(ticks for pid, (_, ticks) in before.living.items() if pid not in self.living)
        return living + max(0.0, self.ended - before.ended - gone)


@dataclass(frozen=True)
class Gauges:
    """Counters at one moment; None where one can't be read.

    `server` and `nodes` are processes: all of the server, and some others. `wal` is the whole server's, in bytes.
    `commits`, `statements` and `connections` are of one database. A connection that works tells its commits at most
    once a second.
    """

    wal: int
    commits: int
    connections: int
    statements: int | None
    server: Run | None
    nodes: Run | None


async def read(
    connection: asyncpg.Connection,
    database: str,
    *,
    postmaster: int | None,
    nodes: Iterable[int],
    counting: asyncpg.Connection | None,
) -> Gauges:
    """Look at all counters; `connection` and `counting` are to other databases than the one that is looked at.

    `counting` is to a database that has the extension pg_stat_statements. `nodes` are ids of processes that lead a
    session of the system's; the processes that they started count with them.
    """
    [row] = await connection.fetch(READ, database)
    return Gauges(
        wal=row["wal"],
        commits=row["commits"],
        connections=row["connections"],
        statements=None if counting is None else await counting.fetchval(STATEMENTS, row["oid"]),
        server=None if postmaster is None else _server(postmaster),
        nodes=_run(_sessions(nodes)),
    )


READ = """
SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint AS wal, database.oid, stats.xact_commit AS commits,
       (SELECT count(*) FROM pg_stat_activity WHERE datid = database.oid AND backend_type = 'client backend')
           AS connections
FROM pg_database AS database JOIN pg_stat_database AS stats ON stats.datid = database.oid
WHERE database.datname = $1
"""
STATEMENTS = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE dbid = $1"


async def count_statements(connection: asyncpg.Connection, database: str) -> None:
    """Have the statements of a database counted on connections that are opened from now on."""
    await connection.execute(f"ALTER DATABASE {database} SET compute_query_id = on")


async def forget_statements(counting: asyncpg.Connection, database: str) -> None:
    """Forget those of a database, so that the server has room for the next one's."""
    await counting.execute("SELECT pg_stat_statements_reset(0, oid, 0) FROM pg_database WHERE datname = $1", database)


async def counts_statements(counting: asyncpg.Connection) -> bool:
    """Make the extension in a database of one's own; return whether the server counts statements with it."""
    try:
        await counting.execute("CREATE EXTENSION pg_stat_statements")
        await counting.fetchval(STATEMENTS, 0)
        await counting.execute("SET compute_query_id = on")  # an account that may not do this can't count either
    except asyncpg.PostgresError:
        return False
    return True


async def postmaster_of(connection: asyncpg.Connection) -> int | None:
    """The process id of the server, where it runs on this machine and may be looked at."""
    try:
        folder: str = await connection.fetchval("SHOW data_directory")
        lines = (Path(folder) / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        pid, backend = int(lines[0]), await connection.fetchval("SELECT pg_backend_pid()")
    except (asyncpg.PostgresError, OSError, ValueError, IndexError):
        return None
    return pid if _parent(backend) == pid else None


def memory(nodes: Iterable[int]) -> float | None:
    """Megabytes of memory that processes, and those that they started, hold now, all together."""
    found = [_memory(pid) for pid in _sessions(nodes)]
    return sum(found) or None


def _memory(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:")) * 1024 / 1e6


def _server(postmaster: int) -> Run | None:
    """The server and all its processes, those that ended too."""
    run = _run([pid for pid in _all() if pid == postmaster or _parent(pid) == postmaster])
    return None if run is None else Run(run.living, sum(int(field) for field in _stat(postmaster)[13:15]) / TICK)


def _run(pids: Iterable[int]) -> Run | None:
    living = {pid: ran for pid in pids if (ran := _ran(pid)) is not None}
    return Run(living) if living else None


def _ran(pid: int) -> tuple[float, float] | None:
    """Seconds that a process, with all its threads, ran on a processor, by both clocks; None where it is gone."""
    fields = _stat(pid)
    if not fields:
        return None
    ticks = sum(int(field) for field in fields[11:13]) / TICK
    try:
        threads = [Path(f"/proc/{pid}/task/{thread}/schedstat") for thread in os.listdir(f"/proc/{pid}/task")]
        return sum(int(each.read_text(encoding="ascii").split()[0]) for each in threads) / 1e9, ticks
    except (OSError, IndexError, ValueError):  # a kernel that does not keep it
        return ticks, ticks


def _sessions(leaders: Iterable[int]) -> list[int]:
    """The processes of the sessions that are led by these."""
    wanted = {str(pid) for pid in leaders}
    return [pid for pid in _all() if wanted.intersection(_stat(pid)[3:4])] if wanted else []


def _all() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _parent(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if len(fields) > 1 else None


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # The name of the command may hold blanks and parentheses.
    return text.rpartition(")")[2].split()

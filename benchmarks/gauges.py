"""What a server has spent: WAL, commits, and CPU where it runs on this machine under Linux."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import asyncpg

TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Gauges:
    """Counters at one moment; `cpu` is None where it can't be read."""

    wal: int
    cpu: float | None


async def read(connection: asyncpg.Connection, postmaster: int | None) -> Gauges:
    """Look at the counters of the whole server."""
    wal: int = await connection.fetchval("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint")
    return Gauges(wal, None if postmaster is None else _cpu(postmaster))


async def commits(connection: asyncpg.Connection, database: str) -> int:
    """Transactions committed in a database; those of a connection are sure to be in it once that is closed."""
    found: int = await connection.fetchval("SELECT xact_commit FROM pg_stat_database WHERE datname = $1", database)
    return found


async def postmaster_of(connection: asyncpg.Connection) -> int | None:
    """The process id of the server, where it runs on this machine and may be looked at."""
    try:
        folder: str = await connection.fetchval("SHOW data_directory")
        lines = (Path(folder) / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        pid, backend = int(lines[0]), await connection.fetchval("SELECT pg_backend_pid()")
    except (asyncpg.PostgresError, OSError, ValueError, IndexError):
        return None
    return pid if _parent(backend) == pid else None


def _cpu(postmaster: int) -> float:
    """Seconds of CPU of the server and all its processes, those that ended too."""
    total = 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or (entry.name != str(postmaster) and _parent(int(entry.name)) != postmaster):
            continue
        fields = _stat(int(entry.name))
        # Of itself and, for the postmaster alone, of its children that ended.
        total += sum(int(field) for field in (fields[11:15] if entry.name == str(postmaster) else fields[11:13]))
    return total / TICK


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

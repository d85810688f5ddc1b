"""Every setting, one row each.

A row makes the field of `Settings`, the flag and its help, the variable, the key in files, the line of `--dry-run`, the
row in `docs/settings.md`, and the check of the keyword of `Runner`. What it does is written where the field is used.
"""

# ruff: noqa: RUF009 - option() makes fields, as dataclasses.field() does

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.jobs.retention import Prune, read_prune
from oban_sa.settings import keywords, parsers
from oban_sa.settings.option import Kind, option
from oban_sa.settings.parsers import above_zero
from oban_sa.settings.queues import DEFAULT_QUEUES, Served, parse_queues

DATABASE: Final = "Where jobs are"
WORK: Final = "What is done"
SESSIONS: Final = "Sessions that workers get"
PROCESSES: Final = "More than one processor"
TIME: Final = "Time"
OTHERS: Final = "What others see"


def default_node() -> str:
    """Return `host.pid`: two runners on one machine are two nodes."""
    return f"{socket.gethostname() or 'localhost'}.{os.getpid()}"


def _node(given: object) -> str:
    return default_node() if given is None else parsers.identity(given)


def _above_zero(zero: str) -> Kind[float]:
    return Kind(above_zero(zero), "SECONDS")


URL: Final = Kind(parsers.url, "URL")
FOLDER: Final = Kind(parsers.folder, "[FOLDER]", bare=parsers.EMBEDDED_FOLDER)
FILE: Final = Kind(parsers.file, "FILE")
SCHEMAS: Final = Kind(parsers.schemas, "NAME", keyword=keywords.schemas, many=True)
MODEL_SCHEMAS: Final = Kind(parsers.translate, "NAME", keyword=keywords.translate, many=True)
QUEUES: Final = Kind(parse_queues, "QUEUES", keyword=keywords.queues)
CRONTAB: Final = Kind(parsers.crontab, keyword=keywords.crontab)
MODULES: Final = Kind(parsers.modules, "MODULE", keyword=keywords.modules, many=True)
OBJECT: Final = Kind(parsers.named_object, "MODULE:NAME", imported=True)
OBJECTS: Final = Kind(parsers.named_objects, "MODULE:NAME", imported=True, many=True)
SWITCH: Final = Kind(parsers.switch, keyword=keywords.switch)
COUNT: Final = Kind(parsers.count, "N", keyword=parsers.strict_count)
PORT: Final = Kind(parsers.port, "PORT", keyword=keywords.port)
NAME: Final = Kind(parsers.identity, "NAME")
NODE: Final = Kind(parsers.identity, "NAME", keyword=_node)
HOST: Final = Kind(parsers.identity, "HOST")
SPAN: Final = Kind(parsers.span, "SECONDS")
INTERVAL: Final = Kind(parsers.interval, "SECONDS")
INTERVAL_OR_NONE: Final = Kind(parsers.interval_or_none, "SECONDS")
PRUNE: Final = Kind(read_prune, "AGE")
LEVEL: Final = Kind(parsers.choice(parsers.LOG_LEVELS), "LEVEL")
FORMAT: Final = Kind(parsers.choice(parsers.LOG_FORMATS), "FORMAT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The rows, in the order of the help; spans of time are seconds."""

    database_url: str | None = option(
        None, URL, DATABASE, "The database; postgresql:// is taken as asyncpg", synonyms=("dsn",)
    )
    embedded: Path | None = option(
        None, FOLDER, DATABASE, f"Start a private PostgreSQL in this folder, {parsers.EMBEDDED_FOLDER} by default"
    )
    schemas: tuple[str, ...] = option(
        ("public",),
        SCHEMAS,
        DATABASE,
        "The schema that holds the tables",
        name="schema",
        synonyms=("prefix",),
        repeatable="repeatable, to work in several",
        runner=True,
    )
    pooler: bool = option(
        False, SWITCH, DATABASE, "The database is behind a pooler in transaction mode: prepare no statements"
    )
    listen_url: str | None = option(None, URL, DATABASE, "A direct URL for LISTEN, beside a pooler", runner=True)

    imports: tuple[str, ...] = option(
        (), MODULES, WORK, "A module that defines workers, such as myapp.jobs", key="import", runner=True
    )
    queues: Mapping[str, Served] = option(
        DEFAULT_QUEUES,
        QUEUES,
        WORK,
        "Queues and how many jobs each runs at once",
        make=lambda: dict(DEFAULT_QUEUES),
        runner=True,
    )
    allow: tuple[str, ...] = option(
        (), MODULES, WORK, "Workers below this module are imported when a job names one", runner=True
    )
    crontab: tuple[CronEntry, ...] = option(
        (), CRONTAB, WORK, "Jobs that are made again and again", only="file", synonyms=("cron",), runner=True
    )
    middleware: tuple[str, ...] = option(
        (),
        OBJECTS,
        WORK,
        "Put this function around every attempt",
        repeatable="repeatable, the outermost first",
    )
    keys_file: Path | None = option(None, FILE, WORK, "The keys of encrypted args, a line for each, the newest first")
    until_idle: bool = option(False, SWITCH, WORK, "Exit once nothing is available, executing or due", only="flag")
    dry_run: bool = option(False, SWITCH, WORK, "Check settings, imports and tables, print them, and exit", only="flag")

    sessions: str | None = option(
        None, OBJECT, SESSIONS, "The application's sessionmaker, which makes the sessions of attempts"
    )
    translate: tuple[str | None, ...] = option(
        (),
        MODEL_SCHEMAS,
        SESSIONS,
        "A schema of your models that stands for the runner's in the sessions of jobs, or none",
        runner=True,
    )
    idle_in_transaction_after: float | None = option(
        30.0,
        _above_zero("every transaction is idle for 0 seconds; write for example 30"),
        SESSIONS,
        "Name the job whose session waits in an open transaction for so long",
        runner=True,
        none=True,
    )
    connections: int | None = option(
        None, COUNT, SESSIONS, "Connections of the application's pool for attempts", only="keyword", runner=True
    )

    processes: int = option(1, COUNT, PROCESSES, "Run N runners that share the limits of queues")
    process_pool: int | None = option(
        None,
        COUNT,
        PROCESSES,
        'Processes for jobs with executor="process", at most',
        says="the number of processors",
        runner=True,
    )
    recycle_after: int | None = option(
        None, COUNT, PROCESSES, "Jobs after which such a process is replaced by a new one", says="never", runner=True
    )

    grace: float = option(15.0, SPAN, TIME, "What running jobs get at shutdown", runner=True)
    poll_every: float = option(1.0, INTERVAL, TIME, "Time between looks for jobs nobody announced", runner=True)
    stage_every: float = option(1.0, INTERVAL, TIME, "Longest time between looks for due jobs", runner=True)
    heartbeat_every: float = option(5.0, INTERVAL, TIME, "Time between signs of life", runner=True)
    dead_after: float = option(30.0, INTERVAL, TIME, "Silence after which a node is dead", runner=True)
    abandoned_after: float | None = option(
        None, INTERVAL, TIME, "Age at which a running job is rescued whose node is unknown", says="never", runner=True
    )
    keep_young_after: float | None = option(
        60.0,
        INTERVAL_OR_NONE,
        TIME,
        "Age that no running job shows to other Obans in its tables, or none",
        runner=True,
        none=True,
    )
    unknown_after: float | None = option(
        3600.0,
        _above_zero("0 seconds leave no other program the time to take a job; write for example 60"),
        TIME,
        "Time after which a job fails whose worker no program knows",
        runner=True,
        none=True,
    )
    blocked_after: float | None = option(
        1.0,
        _above_zero("every loop is blocked for 0 seconds; write for example 1"),
        TIME,
        "Name the code that blocks the event loop for so long",
        runner=True,
        none=True,
    )
    metrics_every: float | None = option(
        10.0,
        INTERVAL_OR_NONE,
        TIME,
        "Time between writes of what this node did, for the dashboard's metrics, or none",
        runner=True,
        none=True,
    )
    prune: Prune | None = option(
        Prune(),
        PRUNE,
        TIME,
        "Age at which jobs that are over are deleted: 7days, or completed:1h,discarded:30days, or never",
        says="1 day, discarded jobs 7 days",
        runner=True,
        none=True,
    )

    node: str = option(
        "", NODE, OTHERS, "Who this runner is, unlike any other", says="host.pid", make=default_node, runner=True
    )
    name: str = option("Oban", NAME, OTHERS, "The instance, as dashboards know it", runner=True)
    metrics: bool = option(False, SWITCH, OTHERS, "Tell Oban Web what this node does", runner=True)
    health_port: int | None = option(None, PORT, OTHERS, "Serve /live and /ready on this port", runner=True)
    health_host: str = option("127.0.0.1", HOST, OTHERS, "Address to serve them on", runner=True)
    prometheus: bool = option(
        False, SWITCH, OTHERS, "Count for Prometheus, and serve /metrics on the health port", runner=True
    )
    log_level: str = option("info", LEVEL, OTHERS, ", ".join(parsers.LOG_LEVELS))
    log_format: str = option("text", FORMAT, OTHERS, " or ".join(parsers.LOG_FORMATS))

"""What is measured: each scenario by its name, who takes part, and with how much work."""

from __future__ import annotations

from typing import Any

from benchmarks.flows.scenarios import FLOWS
from benchmarks.scenario import Scenario

ALL = ("floor", "oban_sa", "oban", "pgqueuer", "procrastinate", "chancy")
BOTH = ("floor", "oban_sa")
SLOW = {"oban": 0.5, "procrastinate": 0.2, "chancy": 0.5}
"""Shares of the jobs that slow contenders get, so that a run ends; less work makes none of them slower."""


def _drain(name: str, title: str, *, about: float = 3.0, **given: Any) -> Scenario:
    known = ("contenders", "kinds", "finished", "large", "held")
    fields = {key: given.pop(key) for key in known if key in given}
    options = {"jobs": 20_000, "concurrency": 50, **given}
    return Scenario(name, title, "drain", options=options, shares=SLOW, about=about, **fields)


def _flush(size: int, jobs: int) -> Scenario:
    peers = ALL if size == 10_000 else BOTH
    return Scenario(
        f"flush_{size}",
        f"Enqueue {size:,} in a session's flush",
        "enqueue_flush",
        contenders=peers,
        kinds=dict.fromkeys(ALL[2:], "enqueue_many"),
        options={"jobs": jobs, "batch": size},
    )


def _idle(name: str, title: str, *, nodes: int = 1, queues: int = 1, about: float = 14) -> Scenario:
    options = {"jobs": 1, "nodes": nodes, "queues": queues, "over": 10.0}
    given: dict[str, Any] = {"contenders": ALL[1:], "options": options, "counted": True, "unit": "statements/s"}
    return Scenario(name, title, "rest", "rest", about=about, **given)


def _crowd(nodes: int, title: str, *, about: float) -> Scenario:
    options = {"jobs": 200, "warm": 40, "every": 0.05, "nodes": nodes}
    given: dict[str, Any] = {"contenders": ALL, "options": options, "counted": True, "unit": "ms"}
    return Scenario(f"crowd_{nodes}", title, "crowd", "crowd", about=about, **given)


def _limited(name: str, title: str, called: str, *, about: float = 8, **given: Any) -> Scenario:
    """A drain in a queue with limits, in turns with the same in a queue without."""
    contenders = given.pop("contenders", BOTH)
    return Scenario(
        name,
        title,
        "drain",
        contenders=contenders,
        kinds={**dict.fromkeys(contenders[1:], "drain_limited"), "oban_sa": given.pop("drained", "drain_limited")},
        modules=dict.fromkeys(BOTH, "benchmarks.ours"),
        called={"floor": "a plain queue", "oban_sa": called},
        options={"jobs": 20_000, "concurrency": 50, "processes": 2, **given},
        shares=SLOW,
        about=about,
    )


SCENARIOS = (
    _drain("drain_10", "Drain, concurrency 10", contenders=ALL, concurrency=10, about=6),
    _drain("drain_50", "Drain, concurrency 50", contenders=ALL, about=5),
    _drain("drain_200", "Drain, concurrency 200", contenders=ALL, concurrency=200, about=5),
    _drain(
        "drain_command",
        "Drain by the command, concurrency 200",
        kinds={"oban_sa": "drain_command"},
        concurrency=200,
        about=4,
    ),
    _drain("processes_2", "Drain by 2 processes, concurrency 50 each", processes=2, about=4),
    _drain("processes_4", "Drain by 4 processes, concurrency 50 each", processes=4, about=5),
    _drain("finished_1m", "Drain beside 1,000,000 finished rows", finished=1_000_000, about=6),
    _drain("finished_10m", "Drain beside 10,000,000 finished rows", finished=10_000_000, large=True, about=60),
    _drain("queues_8", "Drain of eight queues, concurrency 10 each", queues=8, concurrency=10),
    _drain("priorities", "Drain of ten priorities", priorities=True),
    _drain("args_2kb", "Drain with 2 kB of args", bytes=2000),
    _drain("held_horizon", "Drain beside a long transaction", held=True, about=4),
    Scenario(
        "session_jobs",
        "Drain of jobs that write a row, concurrency 10",
        "bare",
        kinds={"oban_sa": "ours"},
        modules=dict.fromkeys(BOTH, "benchmarks.effects"),
        called={"floor": "a bare SQLAlchemy loop", "oban_sa": "session workers"},
        options={"jobs": 3000, "concurrency": 10},
        about=5,
    ),
    _limited(
        "limit_global",
        "Drain within a global limit of 100, by 2 processes, concurrency 50 each",
        "a global limit",
        contenders=(*BOTH, "pgqueuer"),
        limits={"global_limit": 100},
    ),
    _limited(
        "limit_keys",
        "Drain by partitions, 10,000 keys with 5 at once of each",
        "partitions",
        limits={"by": "partition", "each": 5},
        keys=10_000,
    ),
    _limited(
        "limit_keys_2ms",
        "The same of jobs that take 2 ms, concurrency 10 each",
        "partitions",
        limits={"by": "partition", "each": 5},
        keys=10_000,
        # With fifty at once their time would allow for more jobs a second than any queue here does.
        concurrency=10,
        jobs=10_000,
        worker="benchmarks.waiting",
    ),
    _limited(
        "limit_rate",
        "Drain within a rate that never ends",
        "a rate",
        limits={"rate": "1000000/second"},
    ),
    _limited(
        "unique_drain",
        "Drain of unique jobs",
        "unique jobs",
        drained="drain_unique",
        processes=1,
    ),
    Scenario(
        "latency_idle",
        "Pickup of a lone job",
        "latency",
        "latency",
        contenders=ALL,
        options={"jobs": 350},
        unit="ms",
        about=7,
    ),
    Scenario(
        "latency_inside",
        "Pickup of a lone job inside of the application",
        "latency",
        "latency",
        contenders=ALL,
        options={"jobs": 350, "inside": True},
        unit="ms",
        about=6,
    ),
    Scenario(
        "latency_loaded",
        "Pickup at 500 jobs a second",
        "loaded",
        "latency",
        options={"jobs": 2500, "rate": 500, "concurrency": 50},
        unit="ms",
        about=6,
    ),
    Scenario(
        "beside_threads",
        "Pickup of a lone async job beside 20 blocking threads",
        "unblocked",
        "latency",
        kinds={"oban_sa": "sleeping"},
        modules=dict.fromkeys(BOTH, "benchmarks.blocking"),
        called={"floor": "with nothing beside it", "oban_sa": "beside blocking threads"},
        options={"jobs": 300, "blocking": 20},
        unit="ms",
        about=10,
    ),
    Scenario(
        "beside_sessions",
        "Pickup of a lone async job beside 20 blocking sessions",
        "unblocked",
        "latency",
        kinds={"oban_sa": "asking"},
        modules=dict.fromkeys(BOTH, "benchmarks.blocking"),
        called={"floor": "with nothing beside it", "oban_sa": "beside blocking sessions"},
        options={"jobs": 300, "blocking": 20},
        unit="ms",
        about=10,
    ),
    Scenario(
        "schedule",
        "Start of scheduled jobs after their moment",
        "schedule",
        "latency",
        contenders=("oban_sa",),
        options={"jobs": 1000, "over": 10.0},
        unit="ms",
        about=14,
    ),
    Scenario(
        "enqueue_one",
        "Enqueue one by one, a transaction for each",
        "enqueue_one",
        contenders=ALL,
        options={"jobs": 1000},
        counted=True,
    ),
    Scenario(
        "enqueue_direct",
        "Enqueue one by one, outside of a session",
        "enqueue_one",
        contenders=ALL,
        kinds={"oban_sa": "enqueue_direct"},
        options={"jobs": 1000},
        counted=True,
    ),
    Scenario(
        "enqueue_unique",
        "Enqueue unique jobs one by one, a transaction for each",
        "enqueue_one",
        contenders=(*BOTH, "pgqueuer", "chancy"),
        kinds=dict.fromkeys(("oban_sa", "pgqueuer", "chancy"), "enqueue_unique"),
        modules=dict.fromkeys(BOTH, "benchmarks.ours"),
        called={"floor": "plain jobs", "oban_sa": "unique jobs"},
        options={"jobs": 1000},
        counted=True,
    ),
    _flush(10, 5000),
    _flush(100, 10_000),
    _flush(1000, 20_000),
    _flush(10_000, 10_000),
    Scenario(
        "enqueue_session",
        "Enqueue 10,000 in a session's transaction, not kept in it",
        "enqueue_flush",
        contenders=ALL,
        kinds={**dict.fromkeys(ALL[2:], "enqueue_many"), "oban_sa": "enqueue_session"},
        options={"jobs": 10_000, "batch": 10_000},
    ),
    Scenario(
        "enqueue_copy",
        "Enqueue 50,000 at once, by COPY",
        "enqueue_copy",
        contenders=ALL,
        kinds=dict.fromkeys(ALL[2:], "enqueue_many"),
        options={"jobs": 50_000},
        shares=SLOW,
        about=5,
    ),
    Scenario(
        "startup",
        "Start of the process to its first job",
        "startup",
        "latency",
        options={"jobs": 5},
        unit="ms",
        about=6,
    ),
    _idle("idle", "One node at rest, one queue"),
    _idle("idle_queues", "One node at rest, ten queues", queues=10),
    _idle("idle_nodes", "Twenty nodes at rest, one queue", nodes=20, about=25),
    _crowd(1, "One node, a job each 50 ms", about=18),
    _crowd(20, "Twenty nodes, a job each 50 ms", about=27),
    Scenario(
        "session_nothing",
        "A transaction that enqueues nothing",
        "alone",
        kinds={"oban_sa": "nothing"},
        modules=dict.fromkeys(BOTH, "benchmarks.application"),
        called={"floor": "SQLAlchemy alone", "oban_sa": "with oban_sa imported"},
        options={"jobs": 2000},
        counted=True,
        unit="commits/s",
    ),
    Scenario(
        "session_one",
        "A transaction that enqueues one job",
        "alone",
        kinds={"oban_sa": "one"},
        modules=dict.fromkeys(BOTH, "benchmarks.application"),
        called={"floor": "SQLAlchemy alone, no job", "oban_sa": "with one job"},
        options={"jobs": 2000},
        counted=True,
        unit="commits/s",
    ),
    Scenario(
        "session_ref",
        "A transaction that enqueues one job with a reference to its row",
        "alone",
        kinds={"oban_sa": "referring"},
        modules=dict.fromkeys(BOTH, "benchmarks.application"),
        called={"floor": "SQLAlchemy alone, no job", "oban_sa": "with one job and its ref"},
        options={"jobs": 2000},
        counted=True,
        unit="commits/s",
    ),
    Scenario(
        "writers_16",
        "Sixteen sessions that each commit a row and a job",
        "silent",
        kinds={"oban_sa": "announcing"},
        modules=dict.fromkeys(BOTH, "benchmarks.announcing"),
        called={"floor": "announcements off", "oban_sa": "announcements on"},
        options={"jobs": 1, "writers": 16, "over": 3.0},
        unit="commits/s",
        about=5,
    ),
    Scenario(
        "writers_16_bare",
        "Sixteen bare connections that do the same",
        "bare_silent",
        kinds={"oban_sa": "bare_notifying"},
        modules=dict.fromkeys(BOTH, "benchmarks.announcing"),
        called={"floor": "without NOTIFY", "oban_sa": "a NOTIFY in each"},
        options={"jobs": 1, "writers": 16, "over": 3.0},
        unit="commits/s",
        about=5,
    ),
    *FLOWS,
)

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}

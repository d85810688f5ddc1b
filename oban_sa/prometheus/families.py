"""What is measured: each family of metrics, its labels, and how the figures of several processes become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

KindOf: TypeAlias = Literal["counter", "gauge", "histogram"]
"""The types of the exposition format."""

Merge: TypeAlias = Literal["sum", "max", "min"]
"""How the values of one metric of several processes become one."""

SECONDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(30.0, 60.0, 300.0, 900.0, 3600.0),
)
"""Upper bounds of the buckets of all histograms: jobs take milliseconds, or hours."""


@dataclass(frozen=True, slots=True)
class Family:
    """Metrics of one name; `labels` are the names of their labels, whose values tell them apart."""

    name: str
    kind: KindOf
    text: str
    labels: tuple[str, ...] = ()
    merge: Merge = "sum"


RUNS: Final = Family(
    "oban_job_runs_total",
    "counter",
    "Attempts that ended, by the state of the job after it",
    ("queue", "worker", "state"),
)
RUN_SECONDS: Final = Family("oban_job_run_seconds", "histogram", "Seconds that attempts took", ("queue", "worker"))
WAIT_SECONDS: Final = Family(
    "oban_job_wait_seconds",
    "histogram",
    "Seconds from when a job was due until it was fetched",
    ("queue", "worker"),
)
ENQUEUED: Final = Family(
    "oban_jobs_enqueued_total", "counter", "Jobs that this program has enqueued and committed", ("queue", "worker")
)
RUNNING: Final = Family("oban_jobs_running", "gauge", "Attempts that are running", ("queue",))
LIMIT: Final = Family("oban_queue_limit", "gauge", "Jobs that may run at once", ("queue",))
PAUSED: Final = Family("oban_queue_paused", "gauge", "1 where the queue is paused", ("queue",), "max")
FETCH_SECONDS: Final = Family("oban_fetch_seconds", "histogram", "Seconds that fetches took", ("queue",))
ACK_SECONDS: Final = Family("oban_ack_seconds", "histogram", "Seconds that writing outcomes took", ("queue",))
STALE: Final = Family(
    "oban_acks_stale_total", "counter", "Outcomes that were refused, as their attempt had lost its job", ("queue",)
)
JOBS: Final = Family("oban_jobs", "gauge", "Jobs in the table, by the leader alone", ("queue", "state"), "max")
CAPPED: Final = Family(
    "oban_jobs_capped", "gauge", "1 where there are more jobs than oban_jobs counts", ("queue", "state"), "max"
)
OLDEST: Final = Family(
    "oban_queue_oldest_seconds",
    "gauge",
    "Seconds for which the first available job of a queue has waited, by the leader alone",
    ("queue",),
    "max",
)
LEADER: Final = Family("oban_leader", "gauge", "1 where this process has the node that leads")
NODES: Final = Family("oban_nodes", "gauge", "Nodes that live, by the leader alone", ("queue",), "max")
RESCUED: Final = Family("oban_rescued_total", "counter", "Jobs of dead nodes that were given to others")
PRUNED: Final = Family("oban_pruned_total", "counter", "Jobs that were deleted as they were over")
TICKS: Final = Family("oban_cron_jobs_total", "counter", "Jobs that the crontab made")
LAG: Final = Family("oban_loop_lag_seconds", "gauge", "Seconds for which the event loop stands still", (), "max")
NOTIFIER: Final = Family("oban_notifier_up", "gauge", "1 where notifications arrive, 0 where the node polls", (), "min")

FAMILIES: Final = {
    family.name: family
    for family in (
        *(ENQUEUED, RUNS, RUN_SECONDS, WAIT_SECONDS, RUNNING, LIMIT, PAUSED, FETCH_SECONDS, ACK_SECONDS, STALE),
        *(JOBS, CAPPED, OLDEST, LEADER, NODES, RESCUED, PRUNED, TICKS, LAG, NOTIFIER),
    )
}
"""All families by their names, in the order in which they are shown."""

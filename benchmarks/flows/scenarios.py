"""What is measured of workflows, steps and signals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.scenario import Scenario

BOTH = ("floor", "oban_sa")
TURNS = dict.fromkeys(BOTH, "benchmarks.flows.turns")
WAITING = dict.fromkeys(BOTH, "benchmarks.flows.waiting")
CHANCY = {"chancy": "benchmarks.peers.chancy_flows"}
EIGHT = {"queues": 8, "concurrency": 10, "cycles": True}
"""Eight queues of one process, so that as many connections write outcomes at the same time."""


def _beside(name: str, title: str, kind: str, called: Mapping[str, str], **given: Any) -> Scenario:
    """Play a `kind` of turn in turns with the `plain` kind, and by others where `contenders` names them."""
    contenders = given.pop("contenders", BOTH)
    plain = given.pop("plain", "plain")
    return Scenario(
        name,
        title,
        plain,
        contenders=contenders,
        kinds=dict.fromkeys(contenders[1:], kind),
        modules={**TURNS, **CHANCY},
        called=called,
        **given,
    )


FLOWS = (
    _beside(
        "flow_pairs",
        "Workflows of two jobs, by 4 processes, concurrency 50 each",
        "pairs",
        {"floor": "plain jobs", "oban_sa": "workflows", "dbos": "dbos, two steps"},
        contenders=(*BOTH, "chancy", "dbos"),
        options={"jobs": 100_000, "concurrency": 50, "processes": 4},
        shares={"chancy": 0.04, "dbos": 0.04},
        about=25,
    ),
    _beside(
        "flow_fan_in",
        "One job that waits for all others, eight queues, concurrency 10 each",
        "fan_in",
        {"floor": "plain jobs", "oban_sa": "a workflow", "dbos": "dbos, child workflows"},
        contenders=(*BOTH, "chancy", "dbos"),
        options={"jobs": 10_000, **EIGHT},
        shares={"chancy": 0.1, "dbos": 0.1},
        about=8,
    ),
    _beside(
        "flow_fan_out",
        "40,000 jobs that wait for one, beside 20,000 plain ones, eight queues, concurrency 10 each",
        "fan_out",
        {"floor": "plain jobs", "oban_sa": "a workflow"},
        options={"jobs": 60_000, **EIGHT},
        about=14,
    ),
    _beside(
        "flow_graft",
        "A workflow while a transaction that has grafted stays open, eight queues, concurrency 10 each",
        "graft_open",
        {"floor": "committed at once", "oban_sa": "stays open"},
        plain="graft",
        options={"jobs": 10_000, **EIGHT},
        about=8,
    ),
    _beside(
        "flow_chain",
        "From one job of a chain of 200 to the next",
        "chain",
        {"floor": "each enqueues the next", "oban_sa": "a workflow", "dbos": "dbos, steps"},
        plain="by_hand",
        contenders=(*BOTH, "chancy", "dbos"),
        measures="latency",
        options={"jobs": 200, "concurrency": 10},
        unit="ms",
        about=5,
    ),
    _beside(
        "flow_enqueue",
        "Enqueue workflows of two jobs, a hundred in a transaction",
        "enqueue_pairs",
        {"floor": "plain jobs", "oban_sa": "workflows", "chancy": "chancy, one in each", "dbos": "dbos, one in each"},
        plain="enqueue_plain",
        contenders=(*BOTH, "chancy", "dbos"),
        options={"jobs": 20_000},
        shares={"chancy": 0.1, "dbos": 0.1},
        counted=True,
        about=6,
    ),
    Scenario(
        "steps",
        "Ten durable steps in each of 1,000 jobs, concurrency 20",
        "steps",
        contenders=("oban_sa", "dbos"),
        modules=WAITING,
        options={"jobs": 1000, "steps": 10, "concurrency": 20},
        unit="steps/s",
        about=6,
    ),
    Scenario(
        "signals",
        "From sending a signal to the code of one of 1,000 jobs that wait",
        "signals",
        "latency",
        contenders=("oban_sa", "dbos"),
        modules=WAITING,
        options={"jobs": 1000, "concurrency": 10},
        unit="ms",
        about=20,
    ),
)

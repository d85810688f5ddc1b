"""What runs under faults, and who is there beside the runners: jobs alone, or workflows and batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.acceptance.chaos import audit, flow_jobs, plan, workers
from tests.acceptance.chaos.enqueuing import Crowd, Enqueuer, Recent
from tests.acceptance.chaos.faults import Faults
from tests.acceptance.chaos.flow_enqueuing import FlowEnqueuer, Roots, Sender
from tests.acceptance.chaos.flow_faults import FlowFaults

ENQUEUERS: Final = 3

_LEFT: Final = text(
    "SELECT count(*) AS left, (SELECT max(n) FROM chaos_changes) AS last, count(*) FILTER (WHERE state = 'executing' "
    "AND EXISTS (SELECT FROM oban_producers WHERE uuid::text = attempted_by[2])) AS held FROM oban_jobs "
    "WHERE state::text NOT IN ('completed', 'cancelled', 'discarded')"
)

_LEFT_OF_FLOWS: Final = text(
    f"SELECT j.left + f.left + n.left AS left, j.last, j.held FROM ({_LEFT.text}) AS j "
    "CROSS JOIN (SELECT count(*) AS left FROM oban_sa_flows WHERE completed_at IS NULL) AS f "
    "CROSS JOIN (SELECT count(*) AS left FROM oban_sa_endings) AS n"
)


@dataclass(frozen=True, slots=True)
class People:
    """Those who are there beside the runners: what makes the faults, and what they do meanwhile."""

    faults: Callable[..., Faults]
    enqueuing: Sequence[Coroutine[Any, Any, None]]
    """What ends soon after nothing more is to be enqueued."""
    lasting: Sequence[Coroutine[Any, Any, None]] = ()
    """What goes on until all is over."""


def _with_jobs(seed: int, crowd: Crowd, lossy: AsyncEngine, _: AsyncEngine) -> People:
    recent = Recent()
    enqueuers = [
        Enqueuer(
            f"{number}",
            lossy,
            draw=random.Random(f"enqueuer {seed} {number}"),
            enqueued=recent.add,
            crowd=crowd,
        )
        for number in range(ENQUEUERS)
    ]
    return People(partial(Faults, recent=recent), [each.run() for each in enqueuers])


def _with_flows(seed: int, crowd: Crowd, lossy: AsyncEngine, engine: AsyncEngine) -> People:
    roots = Roots()
    enqueuers = [
        FlowEnqueuer(lossy, looking=engine, draw=random.Random(f"enqueuer {seed} {number}"), roots=roots, crowd=crowd)
        for number in range(ENQUEUERS)
    ]
    sender = Sender(engine, draw=random.Random(f"sender {seed}"), crowd=crowd)
    faults = partial(FlowFaults, roots=roots, recent=Recent())
    return People(faults, [each.run() for each in enqueuers], [sender.run()])


@dataclass(frozen=True, slots=True)
class Scene:
    """The module of the jobs, its tables and queues, what is kept and what is waited for, and people.

    `people` takes the seed, the crowd, an engine that loses answers and one that does not.
    """

    jobs: str
    tables: Sequence[str]
    queues: Mapping[str, int]
    questions: Mapping[str, str]
    left: TextClause
    people: Callable[[int, Crowd, AsyncEngine, AsyncEngine], People]


JOBS: Final = Scene(workers.__name__, workers.TABLES, plan.QUEUES, audit.QUESTIONS, _LEFT, _with_jobs)
FLOWS: Final = Scene(
    flow_jobs.__name__, flow_jobs.TABLES, flow_jobs.QUEUES, audit.QUESTIONS_OF_FLOWS, _LEFT_OF_FLOWS, _with_flows
)

"""What `Oban` tells of a job that has not begun: what it waits for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from sqlalchemy import RowMapping

from oban_sa.client.jobs import job_of
from oban_sa.client.queues import in_force, limits_of
from oban_sa.client.selection import one
from oban_sa.client.transactions import Transactions, Work
from oban_sa.jobs.attempted_by import OURS
from oban_sa.jobs.durable import WAITS_FOR
from oban_sa.jobs.flow import LANE
from oban_sa.jobs.keys import PARTITION, SEQUENCE
from oban_sa.jobs.states import STAGEABLE, JobState
from oban_sa.models import Job
from oban_sa.schedule.periods import Period, seconds
from oban_sa.sql.planner import plainly
from oban_sa.sql.producers import LIMITS
from oban_sa.sql.queues import decisions
from oban_sa.sql.unknown_workers import NOTED, named
from oban_sa.wire import json_text
from oban_sa.wire.messages import EVERY

if TYPE_CHECKING:
    from oban_sa.jobs.limits import Limits

Why: TypeAlias = Literal[
    "schedule",
    "signal",
    "workflow",
    "sequence",
    "halted",
    "suspended",
    "unserved",
    "paused",
    "unknown_worker",
    "limit",
    "global_limit",
    "no_key",
    "partition",
    "rate",
]
"""The kind of what a job waits for; `Wait` says what each means."""

DEAD_AFTER: Final = 30.0
"""Seconds without a heartbeat after which a node is taken for dead; the default of runners."""

_LATEST: Final = datetime.max.replace(microsecond=0, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing that a job waits for; `str()` of it is a sentence, without the full stop.

    | `why` | what it waits for |
    |---|---|
    | schedule | the moment `until`; one that has passed: a node that makes the job available |
    | signal | the signal `names`, `until` then at most where that is said |
    | workflow | `names`, members and groups of its workflow that have not ended, ten at most, and `more` |
    | sequence | `job_id`, which comes first in its sequence `key` |
    | halted | people, since `job_id` was discarded and halted its sequence `key` |
    | suspended | what has suspended it |
    | unserved | a node that serves its queue |
    | paused | that its queue is resumed, on `nodes` |
    | unknown_worker | a program that knows its worker; `nodes` do not |
    | limit | a slot of its queue on `nodes`: `executing` of `limit` are in use |
    | global_limit | a slot of its queue in the cluster: `executing` of `limit` |
    | no_key | the key of its partition, which a node gives it within a second |
    | partition | a slot of its partition `key`: `executing` of `limit` |
    | rate | the rate of its queue, or of its partition `key`: `limit` starts in `per` seconds are spent `until` then |
    """

    why: Why
    key: str | None = None
    executing: int | None = None
    limit: int | None = None
    per: float | None = None
    until: datetime | None = None
    job_id: int | None = None
    names: tuple[str, ...] = ()
    more: int = 0
    nodes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return what is said, by name, and the sentence as `text`."""
        said: dict[str, object] = {
            each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default
        }
        return {**said, "text": str(self)}

    def __str__(self) -> str:
        until = "" if self.until is None else f"{self.until:%Y-%m-%d %H:%M:%S} UTC"
        match self.why:
            case "schedule":
                return f"its moment, {until}"
            case "signal":
                return f"the signal {', '.join(self.names)}" + (f", until {until} at most" if until else "")
            case "workflow":
                more = f" and {self.more} others" if self.more else ""
                return f"{', '.join(self.names) or 'its release'}{more}, in its workflow"
            case "sequence":
                return f"job {self.job_id}, which comes first in its sequence, {self.key}"
            case "halted":
                return f"a decision: job {self.job_id} was discarded, which halted its sequence, {self.key}"
            case "suspended":
                return "its release: it is suspended"
            case "unserved":
                return "a node that serves its queue: none does"
            case "paused":
                return f"its queue to be resumed: it is paused on {_listed(self.nodes) or 'all nodes'}"
            case "unknown_worker":
                return f"a program that knows its worker: {_listed(self.nodes)} does not"
            case "limit":
                return f"a free slot on {_listed(self.nodes)}: {self._use()}"
            case "global_limit":
                return f"a free slot of its queue in the cluster: {self._use()}"
            case "no_key":
                return "the key of its partition, which a node gives it within a second"
            case "partition":
                return f"a free slot of its partition, {self.key}: {self._use()}"
            case "rate":
                whose = "its queue" if self.key is None else f"its partition, {self.key}"
                return f"the rate of {whose}, which is spent until {until}"

    def _use(self) -> str:
        return f"{self.executing} of {self.limit} execute"


@dataclass(frozen=True, slots=True)
class _Node:
    """A queue on a node that lives."""

    name: str
    limit: int | None
    paused: bool
    running: int
    unknown: tuple[str, ...]
    limits: Limits | None


class WaitControl:
    """The method that tells what a job waits for."""

    name: str
    _transactions: Transactions

    async def waits_for(self, job: int | Job, *, dead_after: Period = DEAD_AFTER) -> list[Wait]:
        """Return what a job waits for, by the tables as they are; raises `JobNotFound`.

            for each in await oban.waits_for(4711):
                print(f"it waits for {each}")

        The list is empty for a job that executes or has ended, and for one that the next free slot takes. Where several
        nodes serve the queue and one of them may take the job, it waits for none of what keeps the others from it. A
        node that is silent for `dead_after` serves nothing. It reads a few entries of an index for each question, and
        locks and writes nothing.
        """
        chosen, dead_after = one(job), seconds(dead_after)

        def work(work: Work) -> list[Wait]:
            work.execute(plainly())
            job = job_of(work, chosen)
            return _of_job(work, job) + (
                _of_queue(work, job, self.name, dead_after) if job.state is JobState.AVAILABLE else []
            )

        return await self._transactions.run(work)


def moment(seconds: float) -> datetime:
    """Return a moment that is so many seconds after 1970, the latest there is where that is later."""
    return datetime.fromtimestamp(min(seconds, _LATEST), UTC)


def _of_job(work: Work, job: Job) -> list[Wait]:
    """Return what the job itself, its sequence and its workflow make it wait for."""
    waits: list[Wait] = []
    signal = job.meta.get(WAITS_FOR)
    if isinstance(signal, str) and job.state in (JobState.SUSPENDED, JobState.SCHEDULED):
        until = job.scheduled_at if job.state is JobState.SCHEDULED else None
        waits.append(Wait("signal", names=(signal,), until=until))
    elif job.state in STAGEABLE:
        waits.append(Wait("schedule", until=job.scheduled_at))
    elif job.state is JobState.SUSPENDED and LANE in job.meta:
        waits.append(_workflow(work, job.id))
    key = job.meta.get(SEQUENCE)
    if isinstance(key, str) and job.state in (*STAGEABLE, JobState.AVAILABLE, JobState.SUSPENDED):
        from oban_sa.sql.waits import ahead

        for row in work.execute(ahead(), {"queue": job.queue, "key": key, "job_id": job.id}):
            if row.id not in [each.job_id for each in waits]:
                waits.append(Wait("halted" if row.halts else "sequence", key=key, job_id=row.id))
    if job.state is JobState.SUSPENDED and not waits:
        waits.append(Wait("suspended"))
    return waits


def _workflow(work: Work, job_id: int) -> Wait:
    from oban_sa.sql.waits import unmet

    rows = work.execute(unmet(work.schema), {"job_id": job_id}).all()
    waiting = max((row.waiting or 0 for row in rows), default=0)
    return Wait("workflow", names=tuple(row.name for row in rows), more=max(waiting - len(rows), 0))


def _of_queue(work: Work, job: Job, name: str, dead_after: float) -> list[Wait]:
    """Return what keeps each node that serves the queue from taking an available job; nothing where one may."""
    from oban_sa.sql.waits import serving

    rows = work.execute(serving(), {"queue": job.queue}).mappings().all()
    nodes = [_node(row) for row in rows if row["name"] is not None and row["silent_for"] < dead_after]
    if not nodes:
        # A node of Elixir has no row: it is seen while it executes something.
        if any(row["name"] is None and re.match(OURS, row["uuid"] or "") is None for row in rows):
            return []
        return [Wait("unserved"), *_decided(work, job.queue, name)]
    known = _Known(work, job)
    refusals = [(each, known.refusals(each)) for each in nodes]
    return _joined(refusals) if all(each for _, each in refusals) else []


def _decided(work: Work, queue: str, name: str) -> list[Wait]:
    kept = {row.name: json_text.read(row.meta) for row in work.execute(decisions())}
    pauses = [each for each in in_force(kept, name) if each.node is None and each.queue in (queue, EVERY)]
    return [Wait("paused")] if pauses else []


class _Known:
    """What keeps nodes from taking one job; what is used of equal limits is looked up once."""

    def __init__(self, work: Work, job: Job) -> None:
        self._work = work
        self._job = job
        self._looked: list[tuple[Limits, list[Wait]]] = []

    def refusals(self, node: _Node) -> list[Wait]:
        version = self._job.meta.get("args_version", 1)
        worker = {self._job.worker, f"{self._job.worker} (args of version {version})"}
        refused: list[Wait] = []
        if node.paused:
            refused.append(Wait("paused", nodes=(node.name,)))
        if worker & set(node.unknown):
            refused.append(Wait("unknown_worker", nodes=(node.name,)))
        if node.limit is not None and node.running >= node.limit:
            refused.append(Wait("limit", nodes=(node.name,), executing=node.running, limit=node.limit))
        return refused if node.limits is None else refused + self._of_limits(node.limits)

    def _of_limits(self, limits: Limits) -> list[Wait]:
        for known, waits in self._looked:
            if known == limits:
                return waits
        waits = _of_limits(self._work, self._job, limits)
        self._looked.append((limits, waits))
        return waits


def _of_limits(work: Work, job: Job, limits: Limits) -> list[Wait]:
    from oban_sa.jobs.rates import Kept, left, weight
    from oban_sa.sql.rates import name_of
    from oban_sa.sql.waits import used

    rate = limits.rate
    key = job.meta.get(PARTITION) if limits.by is not None else ""
    if not isinstance(key, str):
        return [Wait("no_key")]
    rated = None if rate is None or rate.shared or limits.by is None else key
    given = {"queue": job.queue, "key": key, "most": limits.global_limit or 0, "each": limits.each or 0}
    row = work.execute(used(), {**given, "rate_name": name_of(job.queue), "rate_key": rated or ""}).one()
    waits: list[Wait] = []
    if limits.global_limit is not None and row.executing >= limits.global_limit:
        waits.append(Wait("global_limit", executing=row.executing, limit=limits.global_limit))
    # Above `each` it may have what no other partition wants, which can't be known without asking all of them.
    if limits.each is not None and row.of_key >= limits.each and not limits.burst:
        waits.append(Wait("partition", key=key, executing=row.of_key, limit=limits.each))
    if rate is not None and row.width is not None:
        kept = Kept.read(row.width, row.newest, row.counts, row.full_at)
        _, until = left(rate, kept, now=row.now, wants=weight(rate, job.args, job.meta))
        if until is not None:
            waits.append(Wait("rate", key=rated, limit=rate.n, per=rate.span, until=moment(until)))
    return waits


def _joined(refusals: Sequence[tuple[_Node, list[Wait]]]) -> list[Wait]:
    """Return what keeps nodes from a job, each kind once: what nodes say of themselves is added up."""
    found: dict[tuple[object, ...], Wait] = {}
    for _, waits in refusals:
        for each in waits:
            same = (each.why,) if each.nodes else (each.why, each.key, each.limit, each.per)
            before = found.get(same)
            if before is not None and each.nodes:
                each = replace(
                    each,
                    executing=None if each.executing is None else each.executing + (before.executing or 0),
                    limit=None if each.limit is None else each.limit + (before.limit or 0),
                    nodes=before.nodes + each.nodes,
                )
            found[same] = each
    return list(found.values())


def _node(row: RowMapping) -> _Node:
    meta: Mapping[str, object] = row["meta"] if isinstance(row["meta"], dict) else {}
    limit = meta.get("local_limit", meta.get("limit"))
    return _Node(
        name=row["node"],
        limit=limit if isinstance(limit, int) else None,
        paused=meta.get("paused") is True,
        running=row["running"],
        unknown=tuple(named(meta.get(NOTED))),
        limits=limits_of(meta.get(LIMITS)),
    )


def _listed(names: Sequence[str]) -> str:
    """Return names as a list in words, the first few."""
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} others"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))

"""A model of how flows are booked, in plain Python, and random flows for it and the tables."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from uuid import UUID

from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session

from oban_sa import Batch, Job, Workflow, enqueue
from oban_sa.flows.parts import Member
from oban_sa.jobs.flow import LANE, lane_of
from oban_sa.outbox.flow import stage
from oban_sa.outbox.flow_rows import MemberRow, Tree
from oban_sa.outbox.staged import Joining
from oban_sa.sql.settle import settle

LETTERS = {"completed": "c", "cancelled": "x", "discarded": "d"}
BITS = {"x": 1, "d": 2, "g": 4}


def random_flow(chance: random.Random, *, depth: int = 1) -> Workflow:
    """A workflow of members, groups and, up to a depth, workflows inside, that wait for some of those before."""
    flow = Workflow()
    for number in range(chance.randint(2, 7)):
        before = list(flow.parts)
        deps = chance.sample(before, min(len(before), chance.choice([0, 1, 1, 2, 3])))
        forgive = {each: word for each in deps if (word := chance.choice([(), (), "discarded", "cancelled", "all"]))}
        kind = chance.random()
        if kind < 0.15:
            jobs = [Job("w") for _ in range(chance.randint(0, 3))]
            flow.add_many(f"g{number}", jobs, deps=deps, forgive=forgive)  # type: ignore[arg-type]
        elif kind < 0.27 and any(isinstance(each, Member) for each in flow.parts.values()):
            by = chance.choice([each for each in flow.parts.values() if isinstance(each, Member)])
            flow.graft(f"p{number}", by=by, deps=deps)
        elif kind < 0.4 and depth:
            inner = random_flow(chance, depth=depth - 1)
            flow.add_workflow(f"s{number}", inner, deps=deps, forgive=forgive)  # type: ignore[arg-type]
        else:
            flow.add(f"m{number}", Job("w"), deps=deps, forgive=forgive)  # type: ignore[arg-type]
    return flow


def joined(
    engine: Engine,
    root: UUID,
    flow: UUID,
    name: str,
    parents: Mapping[int, int],
    gates: Mapping[UUID, int],
) -> int:
    """Write a job that joins a flow, as a graft or by an append; its id."""
    job = Job("w")
    meta = {LANE: lane_of(root)}
    row = MemberRow(job=job, flow_id=flow, name=name, parents={}, gates=gates, meta=meta, stored=parents)
    with Session(engine, expire_on_commit=False) as session:
        stage(session, Joining(), Tree(flows=(), members=(row,), joins=root))
        session.commit()
    return job.id


def written(engine: Engine, flow: Workflow | Batch) -> Tree:
    """Write a workflow and return its rows; the ids of the jobs can be read."""
    with Session(engine, expire_on_commit=False) as session:
        enqueue(session, flow)
        session.commit()
    return flow.tree()


class Model:
    """What the jobs of one tree are, and what has been booked of them."""

    def __init__(self, tree: Tree) -> None:
        self.states = {each.job.id: "suspended" if each.waiting else "available" for each in tree.members}
        self.parents = {
            each.job.id: {parent.id: bits for parent, bits in each.parents.items()} for each in tree.members
        }
        self.gates = {each.job.id: dict(each.gates) for each in tree.members}
        self.flow_of = {each.job.id: each.flow_id for each in tree.members}
        self.paths = {each.id: each.path for each in tree.flows}
        self.settled: dict[int, str | None] = dict.fromkeys(self.states)
        self.doomed: set[int] = set()
        self.retried: set[int] = set()
        """Those that are to be counted anew."""
        self.noted: list[tuple[int, bool]] = []
        self.holders = {held: each.job.id for each in tree.members for held in each.holds}
        """By a graft, the member that may fill it."""
        self.places = {
            each.id: ({job.id: bits for job, bits in each.parents.items()}, dict(each.gates))
            for each in tree.flows
            if each.holders
        }
        self.uncounted: set[int] = set()
        """Those that have joined, and are not booked yet."""
        self.is_cancelled = False

    def members(self, flow: UUID) -> list[int]:
        """The members of a flow and of those inside."""
        return [job for job, of in self.flow_of.items() if flow in self.paths[of] and job not in self.uncounted]

    def counters(self, flow: UUID) -> tuple[int, ...]:
        """Total, unfinished, completed, cancelled, discarded."""
        found = Counter(self.settled[job] for job in self.members(flow))
        held = flow in self.holders and self.settled[self.holders[flow]] is None
        return found.total(), found[None] + held, found["c"], found["x"], found["d"] + found["g"]

    def ended(self, flow: UUID) -> str | None:
        """How a flow ended; None while it is not over."""
        _, unfinished, _, cancelled, discarded = self.counters(flow)
        return None if unfinished else "d" if discarded else "x" if cancelled else "c"

    def needs(self, job: int) -> list[tuple[str | None, int]]:
        """What became of that which a job waits for, and which bits it forgives."""
        return [(self.settled[each], bits) for each, bits in self.parents[job].items()] + [
            (self.ended(each), bits) for each, bits in self.gates[job].items()
        ]

    def waiting(self, job: int) -> int:
        """How many dependencies of a job are not met."""
        return sum(not met(state, bits) for state, bits in self.needs(job))

    def end(self, job: int, state: str) -> None:
        """A job ended so, or was deleted; noted."""
        self.states[job] = state
        self.noted.append((job, False))

    def join(self, job: int, flow: UUID, parents: Mapping[int, int], gates: Mapping[UUID, int]) -> None:
        """A job joined a flow; noted."""
        self.states[job], self.settled[job] = "suspended", None
        self.parents[job], self.gates[job], self.flow_of[job] = dict(parents), dict(gates), flow
        self.uncounted.add(job)
        self.noted.append((job, True))

    def cancel(self) -> list[int]:
        """All that has not ended is cancelled, and what joins from now on; noted."""
        live = [job for job, state in self.states.items() if state in ("suspended", "available")]
        for job in live:
            self.end(job, "cancelled")
        self.is_cancelled = True
        return live

    def in_order(self, jobs: Iterable[int]) -> list[int]:
        """Some jobs, each after those that it waits for."""
        graph = {
            job: {*parents, *(each for gate in self.gates[job] for each in self.members(gate))}
            for job, parents in self.parents.items()
        }
        chosen = set(jobs)
        return [job for job in TopologicalSorter(graph).static_order() if job in chosen]

    def retry(self, jobs: Iterable[int]) -> None:
        """Some jobs that have ended are to run again, after what they wait for; noted."""
        for job in jobs:
            self.states[job] = "suspended"
            self.retried.add(job)
            self.noted.append((job, True))
            self.is_cancelled = False

    def book(self) -> None:
        """Book the notes, and what follows, until there are none."""
        self._follow()
        while self.noted:
            job, recount = self.noted.pop(0)
            before, state = self.settled[job], self.states[job]
            if state == "deleted":
                self.settled[job] = before or "g"
            else:
                self.settled[job] = LETTERS.get(state, None if recount else before)
            if recount:
                self.retried.discard(job)
                self.doomed.discard(job)
                if job in self.uncounted and self.is_cancelled:
                    self.doomed.add(job)
                self.uncounted.discard(job)
            if recount or self.settled[job] != before:
                for each in self.states:
                    if (
                        self.settled[each] is None
                        and each not in self.uncounted
                        and any(failed(*need) for need in self.needs(each))
                    ):
                        self.doomed.add(each)
            self._follow()

    def _follow(self) -> None:
        for job, state in self.states.items():
            if state == "suspended" and self.settled[job] is None and job not in self.retried | self.uncounted:
                if job in self.doomed:
                    self.end(job, "cancelled")
                elif not self.waiting(job):
                    self.states[job] = "available"


def met(state: str | None, forgives: int) -> bool:
    """Whether a dependency is met."""
    return state == "c" or bool(forgives & BITS.get(state or "", 0))


def failed(state: str | None, forgives: int) -> bool:
    """Whether it never will be."""
    return state is not None and not met(state, forgives)


def note(connection: Connection, root: UUID, jobs: Iterable[int]) -> None:
    """Leave notes of jobs."""
    for job in jobs:
        given = {"lane": lane_of(root), "job": job}
        connection.execute(text("INSERT INTO oban_sa_endings (lane, job_id) VALUES (:lane, :job)"), given)


def book(engine: Engine, root: UUID, *, limit: int = 1000, after: int = 0) -> int:
    """Book all notes of the lane of a tree, so many at once; how many statements it took."""
    given = {"lanes": [lane_of(root)], "limit": limit, "afters": [after], "channel": "", "announcing": False}
    statements = 0
    while True:
        with engine.begin() as connection:
            row = connection.execute(settle("public"), given).mappings().one()
        statements += 1
        if not row["noted"]:
            return statements
        assert statements < 10_000


def compare(engine: Engine, model: Model) -> None:
    """Assert that the tables say what the model says."""
    with engine.connect() as connection:
        jobs = {row.id: row.state for row in connection.execute(text("SELECT id, state FROM oban_jobs"))}
        found = {job: jobs.get(job, "deleted") for job in model.states}
        assert found == model.states, {job: state for job, state in found.items() if state != model.states[job]}
        members = connection.execute(text("SELECT job_id, settled, waiting, doomed FROM oban_sa_members")).all()
        mine = {row.job_id: row for row in members if row.job_id in model.states}
        assert {job: row.settled for job, row in mine.items()} == model.settled
        unsettled = [job for job, settled in model.settled.items() if settled is None]
        assert {job: mine[job].waiting for job in unsettled} == {job: model.waiting(job) for job in unsettled}
        columns = "id, total, unfinished, completed, cancelled, discarded, completed_at, cancelled_at"
        for row in connection.execute(text(f"SELECT {columns} FROM oban_sa_flows")):
            if row.id in model.paths:
                assert tuple(row)[1:6] == model.counters(row.id), row.id
                assert (row.completed_at is None) == (model.ended(row.id) is None)

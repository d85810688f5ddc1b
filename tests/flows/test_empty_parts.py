"""A group of nothing, and a workflow of nothing but such groups, are to others as if something were in them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from oban_sa import Job, Workflow, enqueue
from oban_sa.testing import drain
from oban_sa.workers import Registry, job
from tests.flows.settling import Model

REGISTRY = Registry()


@job(registry=REGISTRY, max_attempts=1)
def fail() -> None:
    raise ValueError("no")


@job(registry=REGISTRY)
def well() -> None: ...


class Filled:
    """Random workflows, whose empty groups have a member, or none; all others are alike."""

    def __init__(self, seed: int, *, filled: bool) -> None:
        self.chance = random.Random(seed)
        self.filled = filled
        self.jobs = 0
        self.extra = 1000

    def job(self) -> Job:
        self.jobs += 1
        return Job("w", id=self.jobs)

    def group(self) -> list[Job]:
        if self.chance.random() < 0.4:
            return [self.job() for _ in range(self.chance.randint(1, 2))]
        self.extra += 1
        return [Job("w", id=self.extra)] if self.filled else []

    def flow(self, depth: int = 2) -> Workflow:
        flow = Workflow()
        for number in range(self.chance.randint(1, 5)):
            before = list(flow.parts)
            deps = self.chance.sample(before, min(len(before), self.chance.choice([0, 1, 1, 2, 3])))
            words: list[Any] = [(), (), "cancelled", "discarded", "all"]
            how: Any = {"deps": deps, "forgive": {each: self.chance.choice(words) for each in deps}}
            kind = self.chance.random()
            if kind < 0.4:
                flow.add(f"m{number}", self.job(), **how)
            elif kind < 0.7 or not depth:
                flow.add_many(f"g{number}", self.group(), **how)
            else:
                flow.add_workflow(f"s{number}", self.flow(depth - 1), **how)
        return flow


def ends(seed: int, *, filled: bool) -> tuple[dict[int, str], list[int]]:
    """What becomes of the jobs, of which some fail, and in which order those that run do so."""
    flow = Filled(seed, filled=filled).flow()
    model = Model(flow.tree())
    ran: list[int] = []
    model.book()
    while live := [each for each, state in model.states.items() if state == "available"]:
        for each in live:
            chance = random.Random(f"{seed} {each}")
            model.end(
                each,
                chance.choice(["completed", "completed", "discarded", "cancelled"]) if each < 1000 else "completed",
            )
            ran.append(each)
        model.book()
    return {each: state for each, state in model.states.items() if each < 1000}, ran


def test_the_same_becomes_of_others_where_a_group_is_empty() -> None:
    for seed in range(1500):
        assert ends(seed, filled=False)[0] == ends(seed, filled=True)[0], seed


def test_what_waits_for_nothing_but_empty_parts_does_not_begin_early() -> None:
    for seed in range(300):
        jobs = {each.job.id: each for each in Filled(seed, filled=False).flow().tree().members}
        _, ran = ends(seed, filled=False)
        for place, each in enumerate(ran):
            assert {parent.id for parent in jobs[each].parents} <= set(ran[:place]) | (jobs.keys() - set(ran))


def inner(build: Callable[[Workflow], object]) -> Workflow:
    flow = Workflow()
    build(flow)
    return flow


@pytest.mark.parametrize(
    ("build", "state"),
    [
        (lambda flow: flow.add_many("none", [], deps="a"), "cancelled"),
        (lambda flow: flow.add_many("none", [], deps="a", forgive="all"), "completed"),
        (lambda flow: flow.add_workflow("none", inner(lambda flow: flow.add_many("g", [])), deps="a"), "cancelled"),
    ],
)
def test_a_failure_before_an_empty_part_reaches_what_is_behind_it(sync_engine: Engine, build: Any, state: str) -> None:
    flow = Workflow()
    flow.add("a", fail.new())
    build(flow)
    flow.add("m", well.new(), deps="none")
    assert drained(sync_engine, flow) == {"a": "discarded", "m": state}


def test_in_a_workflow_that_is_not_to_begin_nothing_begins_behind_an_empty_group(sync_engine: Engine) -> None:
    def build(flow: Workflow) -> None:
        flow.add_many("none", [])
        flow.add("m", well.new(), deps="none")

    flow = Workflow()
    flow.add("a", fail.new())
    flow.add_workflow("inner", inner(build), deps="a")
    assert drained(sync_engine, flow) == {"a": "discarded", "m": "cancelled"}


@pytest.mark.parametrize("deps", [["a", "none"], ["none", "a"]])
def test_what_is_waited_for_in_two_ways_has_to_end_as_both_forgive(sync_engine: Engine, deps: list[str]) -> None:
    flow = Workflow()
    flow.add("a", fail.new())
    flow.add_many("none", [], deps="a")
    flow.add("m", well.new(), deps=deps, forgive={"a": "all"})
    assert drained(sync_engine, flow) == {"a": "discarded", "m": "cancelled"}


def test_many_empty_groups_in_a_row_are_gone_through_once() -> None:
    flow = Workflow()
    flow.add("a", well.new())
    before = ["a"]
    for number in range(60):  # two ways at each, and so more than there is time for
        names = [f"{number} left", f"{number} right"]
        for name in names:
            flow.add_many(name, [], deps=before)
        before = names
    flow.add("m", well.new(), deps=before)
    [member] = [each for each in flow.tree().members if each.name == "m"]
    assert len(member.parents) == 1
    assert len(member.gates) == 120


def drained(engine: Engine, flow: Workflow) -> dict[str, str]:
    with Session(engine) as session:
        enqueue(session, flow)
        session.commit()
    drain(engine, registry=REGISTRY, with_safety=True)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT meta ->> 'name' AS name, CAST(state AS text) AS state FROM oban_jobs"))
        return {row.name: row.state for row in rows}

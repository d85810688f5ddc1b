"""Unique jobs against a model: what a session, runners, people and strangers do, in any order."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session, SessionTransaction

from oban_sa import Job, Oban, Unique, enqueue, enqueue_many
from oban_sa.jobs.states import JobState
from oban_sa.sql.leftovers import forget_keys
from tests.support import sync_url

RULES = {
    "incomplete": Unique(fields=["args"], keys=["key"], group="incomplete"),
    "successful": Unique(fields=["args"], keys=["key"]),
    "all": Unique(fields=["args"], keys=["key"], group="all"),
}
STATES = {name: {state.value for state in rule.blocking} for name, rule in RULES.items()}
CLOSED = STATES["incomplete"]
"""What no job gets into again that is out of it, but by a retry, or a stranger."""

names = st.sampled_from(sorted(RULES))
keys = st.integers(0, 2)
places = st.integers(0, 7)


@dataclass
class World:
    """What is stored: of each job its key, state and rule; and which job each key points at."""

    jobs: dict[int, tuple[int, str, str]] = field(default_factory=dict)
    pointers: dict[int, int] = field(default_factory=dict)
    loose: set[int] = field(default_factory=set)
    """Keys of which a stranger has made a job wait again, so that two may."""

    def blocker(self, key: int, name: str, *, but: int | None = None) -> int | None:
        holder = self.pointers.get(key)
        if holder is None or holder == but or holder not in self.jobs:
            return None
        return holder if self.jobs[holder][1] in STATES[name] else None

    def set_state(self, identity: int, state: str) -> None:
        key, _, name = self.jobs[identity]
        self.jobs[identity] = key, state, name

    def at(self, place: int, *states: str) -> int | None:
        found = [each for each, (_, state, _) in sorted(self.jobs.items()) if not states or state in states]
        return found[place % len(found)] if found else None


class Machine(RuleBasedStateMachine):
    """One session, and others that act between its transactions: they would wait for it otherwise."""

    url: str

    @initialize()
    def begin(self) -> None:
        self.engine: Engine = create_engine(sync_url(self.url))
        self.oban = Oban(create_async_engine(self.url))  # which connects to nothing
        with self.engine.begin() as connection:
            connection.execute(text("DELETE FROM oban_jobs"))
            connection.execute(text("DELETE FROM oban_sa_uniques"))
        self.session = Session(self.engine, expire_on_commit=False)
        self.committed, self.world = World(), World()
        self.savepoints: list[tuple[SessionTransaction, World]] = []
        self.is_open = False

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.session.close()
            self.engine.dispose()

    # the session

    @rule(pairs=st.lists(st.tuples(keys, names), min_size=1, max_size=3), one_flush=st.booleans())
    def enqueue(self, pairs: list[tuple[int, str]], one_flush: bool) -> None:
        self.is_open = True
        made = [
            Job("app.Work", args={"key": key}, priority=place % 3, unique=RULES[name])
            for place, (key, name) in enumerate(pairs)
        ]
        if one_flush:
            enqueue_many(self.session, made)
            self.session.flush()
        for job, (key, name) in zip(made, pairs, strict=True):
            if not one_flush:
                enqueue(self.session, job)
                self.session.flush()
            blocker = self.world.blocker(key, name)
            assert (job.conflict and job.conflict.id) == blocker, (job.conflict, self.world)
            if blocker is None:
                assert job.id not in self.world.jobs
                self.world.jobs[job.id] = key, "available", name
                self.world.pointers[key] = job.id
            else:
                assert job.id == blocker and job.state == self.world.jobs[blocker][1]

    @precondition(lambda self: len(self.savepoints) < 3)
    @rule()
    def savepoint(self) -> None:
        self.is_open = True
        before = copy.deepcopy(self.world)
        self.savepoints.append((self.session.begin_nested(), before))

    @precondition(lambda self: self.savepoints)
    @rule(keeps=st.booleans())
    def end_savepoint(self, keeps: bool) -> None:
        savepoint, before = self.savepoints.pop()
        if keeps:
            savepoint.commit()
        else:
            savepoint.rollback()
            self.world = before

    @precondition(lambda self: self.is_open)
    @rule(keeps=st.booleans())
    def end(self, keeps: bool) -> None:
        if keeps:
            while self.savepoints:
                self.savepoints.pop()[0].commit()
            self.session.commit()
            self.committed = copy.deepcopy(self.world)
        else:
            self.session.rollback()
            self.world = copy.deepcopy(self.committed)
        self.savepoints, self.is_open = [], False
        self.session.expunge_all()

    # people, in the session or beside it

    @rule(chosen=st.lists(places, min_size=1, max_size=4))
    def retry(self, chosen: list[int]) -> None:
        ids = {found for place in chosen if (found := self.world.at(place)) is not None}
        retried = self.run(lambda oban, **where: oban.retry_jobs(sorted(ids), **where))
        count, conflicts = 0, dict[int, int]()
        for identity in sorted(ids, reverse=True):
            key, state, name = self.world.jobs[identity]
            if state in ("available", "executing"):
                continue
            if (blocker := self.world.blocker(key, name, but=identity)) is not None:
                conflicts[identity] = blocker
                continue
            self.world.set_state(identity, "available")
            self.world.pointers[key] = identity
            count += 1
        assert retried == count
        assert {each: conflict.id for each, conflict in retried.conflicts.items()} == conflicts
        self.settle()

    @rule(place=places)
    def cancel(self, place: int) -> None:
        if (found := self.world.at(place, "available", "retryable", "scheduled")) is not None:
            self.run(lambda oban, **where: oban.cancel_job(found, **where))
            self.world.set_state(found, "cancelled")
            self.settle()

    def run(self, call: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
        """Run a method of the client in the session where that is open, and else in one of its own."""
        if self.is_open:
            return asyncio.run(call(self.oban, session=self.session))
        with Session(self.engine) as own, own.begin():
            return asyncio.run(call(self.oban, session=own))

    def settle(self) -> None:
        if not self.is_open:
            self.committed = copy.deepcopy(self.world)

    # others

    @precondition(lambda self: not self.is_open)
    @rule(place=places, state=st.sampled_from(["executing", "completed", "discarded", "retryable"]))
    def work(self, place: int, state: str) -> None:
        """What a runner does: start a job, and end it."""
        before = {"executing": ("available",)}.get(state, ("executing",))
        if (found := self.world.at(place, *before)) is not None:
            self.sql(f"UPDATE oban_jobs SET state = '{state}' WHERE id = {found}")
            self.world.set_state(found, state)
            self.settle()

    @precondition(lambda self: not self.is_open)
    @rule(place=places, state=st.sampled_from(sorted(JobState)), meta=st.booleans())
    def strange(self, place: int, state: str, meta: bool) -> None:
        """What another program does with a row: it asks for nothing."""
        if (found := self.world.at(place)) is not None:
            self.sql(f"UPDATE oban_jobs SET state = '{state}' WHERE id = {found}")
            if self.world.jobs[found][1] not in CLOSED and state in CLOSED:
                self.world.loose.add(self.world.jobs[found][0])
            self.world.set_state(found, state)
            self.settle()
        if meta:
            self.sql("INSERT INTO oban_jobs (worker, state, args, meta) VALUES "
                     "('stranger', 'available', '{\"key\": 1}', '{\"unique\": 1}')")  # fmt: skip

    @precondition(lambda self: not self.is_open)
    @rule(place=places, forget=st.booleans())
    def prune(self, place: int, forget: bool) -> None:
        if (found := self.world.at(place, "completed", "cancelled", "discarded")) is not None:
            self.sql(f"DELETE FROM oban_jobs WHERE id = {found}")
            del self.world.jobs[found]
        if forget:
            with self.engine.begin() as connection:
                after = "00000000-0000-0000-0000-000000000000"
                connection.execute(forget_keys(), {"after": after, "batch": 100})
            self.world.pointers = {
                key: holder for key, holder in self.world.pointers.items() if holder in self.world.jobs
            }
        self.settle()

    def sql(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(statement)

    # what holds

    @invariant()
    def what_others_see(self) -> None:
        if not hasattr(self, "engine"):
            return
        with self.engine.connect() as connection:
            rows = connection.execute(
                text("SELECT id, (args->>'key')::int, state::text FROM oban_jobs WHERE worker = 'app.Work'")
            )
            assert {row[0]: (row[1], row[2]) for row in rows} == {
                identity: (key, state) for identity, (key, state, _) in self.committed.jobs.items()
            }
            pointers = connection.execute(text("SELECT job_id FROM oban_sa_uniques")).scalars()
            assert sorted(pointers) == sorted(self.committed.pointers.values())
        for key in range(3):
            waiting = [each for each, (of, state, _) in self.committed.jobs.items() if of == key and state in CLOSED]
            assert len(waiting) < 2 or key in self.committed.loose, (key, waiting, self.committed)


@pytest.fixture
def machine(database_url: str) -> type[Machine]:
    class Here(Machine):
        url = database_url

    return Here


def test_jobs_and_keys_are_what_a_model_says(machine: type[Machine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("OBAN_TEST_EXAMPLES", "40")),
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )

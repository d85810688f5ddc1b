"""Booking is a function of what the jobs are: random flows and histories, compared with a model in Python."""

from __future__ import annotations

import os
import random
from collections import Counter
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from oban_sa import Batch, Job, chain
from oban_sa.jobs.flow import EVENTS, lane_of
from oban_sa.sql.settle import settle
from oban_sa.sql.workflow import cut, retry
from tests.flows.settling import Model, book, compare, joined, note, random_flow, written

SEEDS = int(os.environ.get("OBAN_FLOW_SEEDS", "12"))
"""Random histories."""


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_histories_are_booked_as_the_model_has_it(sync_engine: Engine, seed: int) -> None:
    chance, analyzed = random.Random(seed), random.Random(seed)
    flow = random_flow(chance)
    tree = written(sync_engine, flow)
    model = Model(tree)
    limit = chance.choice([1, 3, 1000])
    book(sync_engine, flow.id, limit=limit)  # groups that are empty
    model.book()
    compare(sync_engine, model)
    for _ in range(40):
        if analyzed.random() < 0.3:  # what is booked must not depend on the plan, in which rows come in another order
            with sync_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("ANALYZE"))
        step = chance.random()
        living = [job for job, state in model.states.items() if state == "available"]
        over = [job for job, state in model.settled.items() if state is not None and model.states[job] != "deleted"]
        if chance.random() < 0.3:
            join(sync_engine, chance, model, flow.id, living)
        # Booked before, for of two that are retried one after the other the first may begin first, and so may one that
        # has joined.
        if again := step >= 0.8 and bool(over):
            book(sync_engine, flow.id, limit=limit)
            model.book()
            over = [job for job, state in model.settled.items() if state is not None and model.states[job] != "deleted"]
        gone = [job for job in over if model.states[job] in ("completed", "cancelled")]
        with sync_engine.begin() as connection:
            if step < 0.02:
                for job in model.cancel():
                    change(connection, job, "cancelled")
                    note(connection, flow.id, [job])
                connection.execute(cut("public"), {"lane": lane_of(flow.id), "flow": flow.id})
                step = 1.0  # and booked, as it is not seen in its rows which of two came first
            elif step < 0.05 and gone:  # as another program prunes them
                job = chance.choice(gone)
                model.end(job, "deleted")
                connection.execute(text("DELETE FROM oban_jobs WHERE id = :id"), {"id": job})
                note(connection, flow.id, [job])
            elif step < 0.7 and living:
                for job in chance.sample(living, chance.randint(1, len(living))):
                    state = chance.choice(["completed"] * 6 + ["discarded", "cancelled", "deleted"])
                    model.end(job, state)
                    if state == "deleted":
                        connection.execute(text("DELETE FROM oban_jobs WHERE id = :id"), {"id": job})
                    else:
                        change(connection, job, state)
                    note(connection, flow.id, [job] * chance.randint(1, 2))
            elif step < 0.8 and over:  # by hand, as by another member of the family
                job = chance.choice(over)
                model.states[job] = "available"
                change(connection, job, "available")
                note(connection, flow.id, [job])
            elif again:
                jobs = model.in_order(job for job in over if chance.random() < 0.5)
                given = {"ids": jobs, "attempts": 1, "lane": lane_of(flow.id)}
                given["states"] = ["completed", "cancelled", "discarded"]
                retried = set(connection.execute(retry("public"), given).scalars())
                model.retry(job for job in jobs if job in retried)
        if step < 0.8 and chance.random() < 0.3:
            continue  # and booked together with the next
        book(sync_engine, flow.id, limit=limit)
        model.book()
        compare(sync_engine, model)


def join(engine: Engine, chance: random.Random, model: Model, root: UUID, living: list[int]) -> None:
    """A member that runs grafts another, and now and then one is appended."""
    # Not what was retried by hand: as long as its second end is not booked, it depends on the order what that means.
    again = {job for job in living if model.settled[job] is not None}
    living = [job for job in living if job not in again]
    places = [(each, place) for each, place in model.places.items() if model.holders[each] in living]
    name = f"joined {len(model.states)}"
    if places and chance.random() < 0.8:
        flow, (parents, gates) = chance.choice(places)
        within = [job for job, of in model.flow_of.items() if of == flow and job not in again]
        parents = {**parents, **{job: chance.choice([0, 7]) for job in within if chance.random() < 0.3}}
    elif model.ended(root) is None:
        flow, gates = root, {}
        mine = [job for job, of in model.flow_of.items() if of == root and job not in again]
        parents = {job: chance.choice([0, 7]) for job in mine if chance.random() < 0.3}
    else:
        return
    model.join(joined(engine, root, flow, name, parents, gates), flow, parents, gates)


def test_batches_make_each_job_once_or_anew_where_that_is_asked_for_in_random_histories(sync_engine: Engine) -> None:
    for seed in range(SEEDS):
        chance = random.Random(seed)
        batch = Batch(
            [Job("w") for _ in range(chance.randint(0, 6))],
            **{event: Job("callback", queue="callbacks") for event in EVENTS},  # type: ignore[arg-type]
        )
        model = Model(written(sync_engine, batch))
        ran, fired, told = set[int](), set[str](), Counter[str]()
        for number in range(25):
            anew = False
            states = model.states
            over = [job for job, state in model.settled.items() if state is not None and states[job] != "deleted"]
            living = [job for job, state in states.items() if state in ("available", "retryable")]
            with sync_engine.begin() as connection:
                if number and over and chance.random() < 0.2:
                    jobs = model.in_order(job for job in over if chance.random() < 0.5)
                    given = {"ids": jobs, "attempts": 1, "lane": lane_of(batch.id)}
                    given["states"] = ["completed", "cancelled", "discarded"]
                    given["anew"] = batch.id if chance.random() < 0.5 else None
                    retried = set(connection.execute(retry("public"), given).scalars())
                    anew = bool(retried) and given["anew"] is not None
                    model.retry(job for job in jobs if job in retried)
                elif number and living:
                    for job in chance.sample(living, chance.randint(1, len(living))):
                        state = chance.choice(["completed"] * 5 + ["retryable"] * 3 + ["discarded", "cancelled"])
                        model.end(job, state)
                        ran.add(job)
                        change(connection, job, state)
                        connection.execute(text("UPDATE oban_jobs SET attempt = 1 WHERE id = :id"), {"id": job})
                        note(connection, batch.id, [job] * chance.randint(1, 2))
            book(sync_engine, batch.id, limit=chance.choice([1, 3, 1000]))
            model.book()
            total, unfinished, completed, cancelled, discarded = model.counters(batch.id)
            happened = {
                "on_attempt": len(ran) == total,
                "on_success": completed == total,
                "on_complete": not unfinished,
                "on_exhausted": not unfinished and completed < total,
                "on_cancel": cancelled > 0,
                "on_discard": discarded > 0,
            }
            if anew:
                fired -= {event for event, happens in happened.items() if not happens}
            new = {event for event, happens in happened.items() if happens} - fired
            fired |= new
            told.update(new)
            with sync_engine.connect() as connection:
                made = connection.scalars(
                    text("SELECT meta ->> 'batch_event' FROM oban_jobs WHERE meta ->> 'batch_id' = :id AND queue = :q"),
                    {"id": str(batch.id), "q": "callbacks"},
                ).all()
                assert Counter(made) == told, seed


def change(connection: object, job: int, state: str) -> None:
    connection.execute(  # type: ignore[attr-defined]
        text("UPDATE oban_jobs SET state = CAST(:state AS oban_job_state) WHERE id = :id"), {"id": job, "state": state}
    )


def completed_pair(engine: Engine) -> tuple[UUID, int, int]:
    """A chain of two jobs that are completed and booked: its id, and theirs."""
    flow = chain(Job("w"), Job("w"))
    first, second = [member.job.id for member in written(engine, flow).members]
    for each in (first, second):
        with engine.begin() as connection:
            change(connection, each, "completed")
            note(connection, flow.id, [each])
        book(engine, flow.id)
    return flow.id, first, second


def test_what_is_retried_is_booked_in_its_order_though_notes_of_others_were_in_between(sync_engine: Engine) -> None:
    flow, first, second = completed_pair(sync_engine)
    with sync_engine.begin() as connection:
        given = {"ids": [first, second], "attempts": 1, "lane": lane_of(flow), "states": ["completed"]}
        connection.execute(retry("public"), given)
        [of_first] = connection.scalars(text("SELECT id FROM oban_sa_endings WHERE job_id = :id"), {"id": first})
    book(sync_engine, flow, after=of_first)  # one with an id right behind it was booked while this was open
    book(sync_engine, flow)
    with sync_engine.connect() as connection:
        found = connection.execute(text("SELECT state::text FROM oban_jobs ORDER BY id")).scalars().all()
    assert found == ["available", "suspended"]


def test_a_note_of_what_was_put_off_lets_no_job_go_whose_retry_is_not_booked(sync_engine: Engine) -> None:
    flow, _, second = completed_pair(sync_engine)
    with sync_engine.begin() as connection:
        given = {"ids": [second], "attempts": 1, "lane": lane_of(flow), "states": ["completed"]}
        connection.execute(retry("public"), given)
        connection.execute(text("UPDATE oban_jobs SET state = 'suspended' WHERE id = :id"), {"id": second})
        of_retry = connection.scalar(text("SELECT max(id) FROM oban_sa_endings"))
        put_off = "INSERT INTO oban_sa_endings (lane, job_id, flow_id) VALUES (:lane, :job, :flow)"
        connection.execute(text(put_off), {"lane": lane_of(flow), "job": second, "flow": flow})
    state = text("SELECT CAST(state AS text) FROM oban_jobs WHERE id = :id")
    given = {"lanes": [lane_of(flow)], "limit": 1000, "afters": [of_retry], "channel": "", "announcing": False}
    with sync_engine.begin() as connection:  # one with an id right behind it was booked while this was open
        connection.execute(settle("public"), given)
        assert connection.scalar(state, {"id": second}) == "suspended"
    book(sync_engine, flow)
    with sync_engine.connect() as connection:
        assert connection.scalar(state, {"id": second}) == "available"

"""The trigger that notes the ends of members, whichever program writes them."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from oban_sa import Job, Workflow, chain, enqueue
from oban_sa.jobs.flow import lane_of
from oban_sa.migrations import migrate
from tests.flows.settling import book
from tests.migrations.project import query, snapshot


def made(engine: Engine, *, wanted: bool | None = True, down: bool = False) -> None:
    with engine.connect() as connection:
        migrate(connection, flow_trigger=wanted, down=down)
        connection.commit()


def written(engine: Engine) -> Workflow:
    flow = chain(Job("a"), Job("b"))
    with Session(engine) as session:
        enqueue(session, flow)
        session.add(Job("plain"))
        session.add(Job("strange", meta={"lane": "x"}))
        session.add(Job("stranger", meta={"lane": 77}))
        session.commit()
    return flow


def run(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


def notes(engine: Engine) -> list[tuple[int, int]]:
    with engine.connect() as connection:
        return [(row.lane, row.job_id) for row in connection.execute(text("SELECT lane, job_id FROM oban_sa_endings"))]


@pytest.mark.parametrize("state", ["completed", "cancelled", "discarded"])
def test_the_end_of_a_member_is_noted_once_and_that_of_others_is_not(sync_engine: Engine, state: str) -> None:
    made(sync_engine)
    flow = written(sync_engine)
    run(sync_engine, "UPDATE oban_jobs SET state = 'executing', attempt = 1")
    assert notes(sync_engine) == []
    run(sync_engine, f"UPDATE oban_jobs SET state = '{state}' WHERE worker <> 'b'")
    assert notes(sync_engine) == [(lane_of(flow.id), 1)]
    run(sync_engine, f"UPDATE oban_jobs SET state = '{state}', priority = 3 WHERE worker <> 'b'")
    assert notes(sync_engine) == [(lane_of(flow.id), 1)]


def test_what_waits_for_a_member_that_was_ended_by_hand_is_released(sync_engine: Engine) -> None:
    made(sync_engine)
    flow = written(sync_engine)
    run(sync_engine, "UPDATE oban_jobs SET state = 'completed' WHERE worker = 'a'")
    book(sync_engine, flow.id)
    with sync_engine.connect() as connection:
        assert connection.scalar(text("SELECT state FROM oban_jobs WHERE worker = 'b'")) == "available"


def test_it_is_made_again_and_goes_where_that_is_asked_for_and_with_the_tables(sync_engine: Engine) -> None:
    url = sync_engine.url.render_as_string(hide_password=False)
    before = snapshot(url)
    made(sync_engine)
    made(sync_engine)
    made(sync_engine, wanted=None)
    assert query(url, "SELECT count(*) FROM pg_trigger WHERE tgname = 'oban_sa_note_ending'") == [1]
    made(sync_engine, wanted=False)
    made(sync_engine, wanted=False)
    assert snapshot(url) == before
    assert query(url, "SELECT count(*) FROM pg_trigger WHERE tgname = 'oban_sa_note_ending'") == [0]
    made(sync_engine)
    made(sync_engine, wanted=None, down=True)
    assert query(url, "SELECT count(*) FROM pg_proc WHERE proname = 'oban_sa_note_ending'") == [0]

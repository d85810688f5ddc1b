"""A transaction that has grafted, and stays open, holds up nothing that happens to other members."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from oban_sa import Job, Workflow
from oban_sa.jobs.flow import LANE, lane_of
from oban_sa.outbox.flow import stage
from oban_sa.outbox.flow_rows import MemberRow, Tree
from oban_sa.outbox.staged import Joining
from tests.flows.settling import book, note, written


@pytest.mark.parametrize("grafted", [1, 100])
def test_others_end_are_booked_and_released_while_a_graft_is_open(sync_engine: Engine, grafted: int) -> None:
    flow = Workflow()
    by = flow.add("by", Job("w"))
    place = flow.graft("pages", by=by)
    flow.add("first", Job("w"))
    flow.add("second", Job("w"), deps="first")
    flow.add("last", Job("w"), deps=place)
    written(sync_engine, flow)
    # What waits for the open transaction fails instead; it would wait for as long as the transaction lives.
    impatient = create_engine(sync_engine.url, connect_args={"options": "-c lock_timeout=1000"})
    with Session(sync_engine) as session:
        rows = [
            MemberRow(
                job=Job("w"),
                flow_id=place.id,
                name=str(number),
                parents={},
                gates={},
                meta={LANE: lane_of(flow.id)},
                stored={by.job.id: 0},
            )
            for number in range(grafted)
        ]
        stage(session, Joining(), Tree(flows=(), members=tuple(rows), joins=flow.id))
        session.flush()
        for name, follows in (("first", "second"), ("second", None)):
            member = flow.parts[name].job  # type: ignore[union-attr]
            with impatient.begin() as connection:
                connection.execute(
                    text("UPDATE oban_jobs SET state = 'completed' WHERE id = :id AND state = 'available'"),
                    {"id": member.id},
                )
                note(connection, flow.id, [member.id])
            book(impatient, flow.id)
            if follows is not None:
                waiting = flow.parts[follows].job  # type: ignore[union-attr]
                with impatient.connect() as connection:
                    state = connection.scalar(text("SELECT state FROM oban_jobs WHERE id = :id"), {"id": waiting.id})
                assert state == "available"
        session.commit()
    impatient.dispose()
    with sync_engine.connect() as connection:
        counters = connection.execute(
            text("SELECT completed, unfinished, total FROM oban_sa_flows WHERE id = :id"), {"id": flow.id}
        ).one()
    assert tuple(counters) == (2, 2, 4)
    book(sync_engine, flow.id)
    with sync_engine.connect() as connection:
        assert connection.scalar(text("SELECT total FROM oban_sa_flows WHERE id = :id"), {"id": flow.id}) == 4 + grafted

"""What booking costs per ending does not grow with their number, nor with that of the members there are."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from oban_sa import Job, Workflow, chain, enqueue
from oban_sa.jobs.flow import new_id
from oban_sa.runner.database.server_settings import PLANNING
from oban_sa.sql.lanes import lock_free
from oban_sa.sql.settle import settle

LANE = 3
MEMBERS = int(os.environ.get("OBAN_TEST_ROWS", "100000"))
"""Members that others have; it was also run beside a million."""


def in_lane(flow: Workflow) -> Workflow:
    while flow.id.int % 8 != LANE:
        flow.id = new_id()
    return flow


def write(engine: Engine, flows: list[Workflow]) -> None:
    with Session(engine) as session:
        for flow in flows:
            enqueue(session, in_lane(flow))
        session.commit()


def booked(engine: Engine, ended: str) -> dict[str, Any]:
    """The plan of a booking and what it did, once the statement `ended` has left notes."""
    with engine.begin() as connection:
        connection.execute(text(ended))
    with engine.begin() as connection:
        given = {"lanes": [LANE], "limit": 1000, "afters": [0], "channel": "", "announcing": False}
        # As on the connection of a settler.
        connection.execute(text(PLANNING))
        connection.execute(lock_free(), {"keys": [1]})
        explained = text(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {settle('public').text}")
        plan = connection.execute(explained, given).scalar_one()
        [found] = plan if isinstance(plan, list) else json.loads(plan)
        done: dict[str, Any] = found["Plan"]
        return done


def buffers(engine: Engine, ended: str) -> int:
    """How many buffers a booking touches, once the statement `ended` has left notes."""
    plan = booked(engine, ended)
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


END = """
WITH chosen AS (SELECT m.job_id, m.flow_id FROM oban_sa_members m WHERE m.settled IS NULL AND m.waiting = 0
    AND NOT EXISTS (SELECT FROM oban_sa_endings e WHERE e.job_id = m.job_id) ORDER BY m.job_id LIMIT {count}),
done AS (UPDATE oban_jobs SET state = '{state}' WHERE id IN (SELECT job_id FROM chosen))
INSERT INTO oban_sa_endings (lane, job_id) SELECT {lane}, job_id FROM chosen
"""


def per_ending(engine: Engine, count: int, state: str = "completed") -> float:
    touched = buffers(engine, END.format(count=count, state=state, lane=LANE))
    return touched / count


def waiting(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(text("SELECT count(*) FROM oban_sa_endings")) or 0


def pairs(count: int) -> list[Workflow]:
    return [chain(Job("w"), Job("w")) for _ in range(count)]


@pytest.mark.parametrize("analyzed", [False, True])
def test_pairs_cost_the_same_each_at_1_100_and_1000_endings(sync_engine: Engine, analyzed: bool) -> None:
    write(sync_engine, pairs(1200))
    if analyzed:
        with sync_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    found = {count: per_ending(sync_engine, count) for count in (1, 100, 1000)}
    assert waiting(sync_engine) == 0
    # One alone touches some pages that many share.
    assert found[1000] <= found[100] * 1.3 <= found[1] * 1.3, found


def fan_in() -> Workflow:
    flow = Workflow()
    group = flow.add_many("many", [Job("w") for _ in range(1200)])
    flow.add("one", Job("w"), deps=group)
    return flow


def fan_out(count: int) -> Workflow:
    """Return a workflow of so many members that wait for one."""
    flow = Workflow()
    flow.add("one", Job("w"))
    for number in range(count):
        flow.add(str(number), Job("w"), deps="one")
    return flow


def test_members_of_one_group_cost_the_same_each(sync_engine: Engine) -> None:
    write(sync_engine, [fan_in()])
    found = {count: per_ending(sync_engine, count) for count in (1, 100, 1000)}
    assert found[1000] <= found[100] * 1.3 <= found[1] * 1.3, found


def test_what_is_released_by_one_costs_the_same_each(sync_engine: Engine) -> None:
    found: dict[int, float] = {}
    for count in (10, 100, 1000):
        write(sync_engine, [fan_out(count)])
        found[count] = per_ending(sync_engine, 1) / count
        with sync_engine.begin() as connection:
            connection.execute(text("UPDATE oban_sa_members SET settled = 'c'"))
    # Not quite the same: of few rows more are in a page that is touched anyway.
    assert found[1000] <= found[10] * 1.6, found


def test_what_is_cancelled_by_one_costs_the_same_each(sync_engine: Engine) -> None:
    found: dict[int, float] = {}
    for count in (10, 100, 1000):
        write(sync_engine, [fan_out(count)])
        found[count] = per_ending(sync_engine, 1, "discarded") / count
        with sync_engine.begin() as connection:
            connection.execute(text("DELETE FROM oban_sa_endings"))
            connection.execute(text("UPDATE oban_sa_members SET settled = 'c'"))
    # Not quite the same: of few rows more are in a page that is touched anyway.
    assert found[1000] <= found[10] * 1.6, found


def test_a_booking_costs_the_same_beside_many_members(sync_engine: Engine) -> None:
    write(sync_engine, pairs(20))
    alone = per_ending(sync_engine, 10)
    with sync_engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO oban_sa_members (job_id, flow_id, name, waiting, settled) "
                "SELECT 1000000 + n, gen_random_uuid(), 'x', 0, 'c' FROM generate_series(1, :rows) AS n"
            ),
            {"rows": MEMBERS},
        )
        connection.execute(
            text(
                "INSERT INTO oban_sa_edges (parent_id, child_id) "
                "SELECT 1000000 + n, 1000001 + n FROM generate_series(1, :rows) AS n"
            ),
            {"rows": MEMBERS},
        )
    with sync_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    beside = per_ending(sync_engine, 10)
    assert beside <= alone * 1.5, (alone, beside)


def compared(plan: dict[str, Any]) -> int:
    """How many pairs of rows the joins of a plan have compared in vain, at most in one of them."""
    own = int(plan.get("Rows Removed by Join Filter", 0) * plan["Actual Loops"])
    return max([own, *(compared(each) for each in plan.get("Plans", ()))])


@pytest.mark.parametrize("which", ["parent", "children"])
def test_no_rows_are_compared_with_all_others_where_many_wait_for_one(sync_engine: Engine, which: str) -> None:
    """By its statistics the planner expects as many edges for each member, and would rather read all of them."""
    write(sync_engine, [fan_out(3000)])
    with sync_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    if which == "children":
        booked(sync_engine, END.format(count=1, state="completed", lane=LANE))
    assert compared(booked(sync_engine, END.format(count=200, state="completed", lane=LANE))) <= 200

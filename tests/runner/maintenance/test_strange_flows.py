"""Rows of workflows that another program wrote keep no lane from being booked."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from oban_sa import Oban
from oban_sa.workers import Registry
from tests.runner.conftest import Harness
from tests.support import eventually

FLOW = "00000000-0000-4000-8000-000000000003"  # of lane 3
OTHER = "00000000-0000-4000-8000-000000000004"

FLOWS = (
    "INSERT INTO oban_sa_flows (id, root_id, path, kind, lane, total, unfinished, unique_name, completed_at) "
    "VALUES ('{id}', '{id}', '{{{id}}}', 'workflow', 3, {total}, {unfinished}, {unique_name}, {completed_at})"
)
STRANGE: dict[str, tuple[str, ...]] = {
    "counters at their end": (
        FLOWS.format(id=FLOW, total=2**31 - 1, unfinished=2**31 - 1, unique_name="NULL", completed_at="NULL"),
        f"INSERT INTO oban_sa_members (job_id, flow_id, name, waiting) VALUES (1, '{FLOW}', 'one', NULL)",
        "INSERT INTO oban_sa_endings (lane, job_id) VALUES (3, 1)",
    ),
    "counters at their end, and one more to come": (
        FLOWS.format(id=FLOW, total=2**31 - 1, unfinished=2**31 - 1, unique_name="NULL", completed_at="NULL"),
        "INSERT INTO oban_jobs (id, worker, state, queue) VALUES (1, 'w', 'scheduled', 'elsewhere')",
        f"INSERT INTO oban_sa_members (job_id, flow_id, name, waiting) VALUES (1, '{FLOW}', 'one', NULL)",
        "INSERT INTO oban_sa_endings (lane, job_id) VALUES (3, 1)",
    ),
    "a member that waits for less than any number": (
        FLOWS.format(id=FLOW, total=2, unfinished=2, unique_name="NULL", completed_at="NULL"),
        f"INSERT INTO oban_sa_members (job_id, flow_id, name, waiting) VALUES (1, '{FLOW}', 'one', 0)",
        f"INSERT INTO oban_sa_members (job_id, flow_id, name, waiting) VALUES (2, '{FLOW}', 'two', -2147483648)",
        "INSERT INTO oban_sa_edges (parent_id, child_id, forgives) VALUES (1, 2, 7)",
        "INSERT INTO oban_sa_endings (lane, job_id) VALUES (3, 1)",
    ),
    "a unique name twice, once of a flow that is over and opens again": (
        FLOWS.format(id=FLOW, total=1, unfinished=0, unique_name="'nightly'", completed_at="'infinity'"),
        FLOWS.format(id=OTHER, total=1, unfinished=1, unique_name="'nightly'", completed_at="NULL"),
        f"INSERT INTO oban_sa_members (job_id, flow_id, name, waiting, settled) VALUES (1, '{FLOW}', 'one', 0, 'c')",
        "INSERT INTO oban_jobs (id, worker, state, queue) VALUES (1, 'w', 'scheduled', 'elsewhere')",
        "INSERT INTO oban_sa_endings (lane, job_id, recount) VALUES (3, 1, true)",
    ),
}


@pytest.mark.parametrize("what", STRANGE)
async def test_a_lane_is_booked_whatever_stands_in_it(
    harness: Harness, registry: Registry, sessions: Any, what: str
) -> None:
    for statement in STRANGE[what]:
        await harness.sql(statement)
    async with harness.runner():

        async def booked() -> None:
            assert await harness.sql("SELECT lane FROM oban_sa_endings") == []

        await eventually(booked)
    assert str(await Oban(harness.engine).workflow(FLOW))


async def test_a_member_that_holds_nothing_by_name_keeps_no_other_from_being_counted(harness: Harness) -> None:
    await harness.sql(FLOWS.format(id=FLOW, total=2, unfinished=2, unique_name="NULL", completed_at="NULL"))
    await harness.sql(
        f"INSERT INTO oban_sa_members (job_id, flow_id, name, waiting, holds) "
        f"VALUES (1, '{FLOW}', 'one', 0, NULL), (2, '{FLOW}', 'two', 0, '{{NULL}}')"
    )
    await harness.sql("INSERT INTO oban_sa_endings (lane, job_id) VALUES (3, 1), (3, 2)")
    async with harness.runner():

        async def over() -> None:
            assert await harness.sql("SELECT unfinished FROM oban_sa_flows") == [(0,)]

        await eventually(over)


async def test_a_flow_of_no_lane_gathers_no_notes(harness: Harness) -> None:
    await harness.sql(FLOWS.format(id=FLOW, total=1, unfinished=1, unique_name="NULL", completed_at="NULL"))
    await harness.sql("UPDATE oban_sa_flows SET lane = -32768")
    await harness.sql(f"INSERT INTO oban_sa_members (job_id, flow_id, name, waiting) VALUES (1, '{FLOW}', 'one', 0)")
    from oban_sa.sql.workflow import sweep

    async with harness.engine.connect() as connection:
        beginning = {"after_flow": UUID(int=0), "after_name": "", "limit": 1}
        found = (await connection.execute(sweep("public"), beginning)).one()
    assert (str(found.flow), found.name, found.noted) == (FLOW, "one", 0)


async def test_members_that_wait_in_a_circle_can_be_retried(harness: Harness) -> None:
    await harness.sql(FLOWS.format(id=FLOW, total=2, unfinished=0, unique_name="NULL", completed_at="now()"))
    for number in (1, 2):
        await harness.sql(f"INSERT INTO oban_jobs (id, worker, state) VALUES ({number}, 'w', 'cancelled')")
        await harness.sql(
            f"INSERT INTO oban_sa_members (job_id, flow_id, name, waiting, settled) "
            f"VALUES ({number}, '{FLOW}', '{number}', 0, 'x')"
        )
        await harness.sql(f"INSERT INTO oban_sa_edges (parent_id, child_id) VALUES ({number}, {3 - number})")
    assert await Oban(harness.engine).retry_workflow(FLOW) == 2

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.client import Oban
from oban_sa.errors import InvalidOption
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from tests.clients import ears, one_row, stored

NODE = "web.1"


async def decided(engine: AsyncEngine, queue: str) -> dict[str, Any]:
    """What is kept about a queue, without the moments."""
    row = await one_row(engine, "SELECT meta FROM oban_sa_queues WHERE name = :queue", queue=queue)
    return {
        ident: {name: value for name, value in kept.items() if not name.endswith("_at")}
        for ident, kept in row["meta"].items()
    }


async def test_each_order_is_signalled_in_the_familys_words_and_kept(engine: AsyncEngine, database_url: str) -> None:
    oban = Oban(engine)
    async with ears(database_url) as listening:
        await oban.pause_queue("mailers")
        await oban.resume_queue("mailers", node=NODE)
        await oban.scale_queue("mailers", limit=5)
        await oban.scale_queue("mailers", limit=3, node=NODE)
        await oban.start_queue("exports", limit=2)
        await oban.start_queue("exports", limit=4, paused=True, node=NODE)
        await oban.stop_queue("exports")
        await oban.pause_all_queues()
        await oban.resume_all_queues(node=NODE)
        heard = await listening.heard()
    assert {channel for channel, _ in heard} == {"signal"}
    assert [message for _, message in heard] == [
        {"action": "pause", "queue": "mailers", "ident": "any"},
        {"action": "resume", "queue": "mailers", "ident": "Oban.web.1"},
        {"action": "scale", "queue": "mailers", "ident": "any", "limit": 5},
        {"action": "scale", "queue": "mailers", "ident": "Oban.web.1", "limit": 3, "node": "web.1"},
        {"action": "start", "queue": "exports", "ident": "any", "limit": 2},
        {"action": "start", "queue": "exports", "ident": "Oban.web.1", "limit": 4, "paused": True},
        {"action": "stop", "queue": "exports", "ident": "any"},
        {"action": "pause", "queue": "*", "ident": "any"},
        {"action": "resume", "queue": "*", "ident": "Oban.web.1"},
    ]
    assert await decided(engine, "mailers") == {
        "Oban": {"paused": True, "limit": 5},
        "Oban.web.1": {"paused": False, "limit": 3},
    }
    assert await decided(engine, "exports") == {
        "Oban": {"paused": False, "limit": 2},
        "Oban.web.1": {"paused": True, "limit": 4},
    }
    assert await decided(engine, "*") == {"Oban": {"paused": True}, "Oban.web.1": {"paused": False}}


async def test_an_order_of_another_instance_leaves_ours_alone(engine: AsyncEngine) -> None:
    await Oban(engine).pause_queue("mailers")
    await Oban(engine, name="Other").scale_queue("mailers", limit=1)
    assert await decided(engine, "mailers") == {"Oban": {"paused": True}, "Other": {"limit": 1}}


async def test_where_instances_share_the_tables_only_the_nodes_of_this_one_are_told(
    engine: AsyncEngine, database_url: str
) -> None:
    async with engine.begin() as connection:
        for name, node in (("Oban", "web.1"), ("Other", "web.1"), ("Other", "web.2")):
            for queue in ("a", "b"):
                await connection.execute(
                    text(
                        "INSERT INTO oban_producers (uuid, name, node, queue) "
                        "VALUES (gen_random_uuid(), :name, :node, :queue)"
                    ),
                    {"name": name, "node": node, "queue": queue},
                )
    async with ears(database_url) as listening:
        await Oban(engine, name="Other").pause_queue("a")
        await Oban(engine).scale_queue("a", limit=5)
        await Oban(engine, name="Third").pause_all_queues()
        heard = await listening.heard()
    assert [message for _, message in heard] == [
        {"action": "pause", "queue": "a", "ident": "Other.web.1"},
        {"action": "pause", "queue": "a", "ident": "Other.web.2"},
        {"action": "scale", "queue": "a", "ident": "Oban.web.1", "limit": 5, "node": "web.1"},
    ]
    assert await decided(engine, "*") == {"Third": {"paused": True}}


async def test_each_decision_carries_its_moment_by_the_databases_clock(engine: AsyncEngine) -> None:
    await Oban(engine).pause_queue("mailers")
    row = await one_row(
        engine,
        "SELECT abs(extract(epoch FROM timezone('UTC', now()) - (meta->'Oban'->>'paused_at')::timestamp)) AS age "
        "FROM oban_sa_queues",
    )
    assert row["age"] < 60


@pytest.mark.parametrize("limit", [0, -1, True, "5", 1.5, None])
async def test_a_limit_is_a_whole_number_of_at_least_one(engine: AsyncEngine, limit: Any) -> None:
    with pytest.raises(InvalidOption, match="whole number of at least 1"):
        await Oban(engine).scale_queue("mailers", limit=limit)


async def test_a_queue_without_a_name_is_refused(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    with pytest.raises(InvalidOption, match="must not be blank"):
        await oban.pause_queue(" ")
    with pytest.raises(InvalidOption, match="pause_all_queues"):
        await oban.pause_queue("*")
    with pytest.raises(InvalidOption, match="node is a node's name"):
        await oban.pause_queue("mailers", node="")


async def test_checks_show_what_the_tables_know_of_every_node(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    rows = [
        ("00000000-0000-0000-0000-000000000001", "Oban", "b", "mailers", {"limit": 5, "local_limit": 5}),
        ("00000000-0000-0000-0000-000000000002", "Oban", "a", "mailers", {"limit": 7, "paused": True}),
        ("00000000-0000-0000-0000-000000000003", "Oban", "a", "exports", {}),
        ("00000000-0000-0000-0000-000000000004", "Other", "a", "exports", {"limit": 1}),
    ]
    async with engine.begin() as connection:
        for uuid, name, node, queue, meta in rows:
            await connection.execute(
                text(
                    "INSERT INTO oban_producers (uuid, name, node, queue, meta, updated_at) "
                    "VALUES (CAST(CAST(:u AS text) AS uuid), :n, :o, :q, CAST(CAST(:m AS text) AS jsonb), "
                    "timezone('UTC', now()) - interval '90 seconds')"
                ),
                {"u": uuid, "n": name, "o": node, "q": queue, "m": json.dumps(meta)},
            )
    held = {"state": JobState.EXECUTING, "attempt": 1, "attempted_by": ["b", rows[0][0]]}
    one, two, ended, _ = await stored(
        engine,
        Job("w", **held),  # type: ignore[arg-type]
        Job("w", **held),  # type: ignore[arg-type]
        Job("w", **{**held, "state": JobState.COMPLETED}),  # type: ignore[arg-type]
        Job("w", state=JobState.EXECUTING, attempt=1),  # held by a member of the family that keeps no rows
    )
    checks = await oban.check_queues()
    assert [(check.node, check.queue, check.limit, check.paused, check.running) for check in checks] == [
        ("a", "exports", None, False, ()),
        ("a", "mailers", 7, True, ()),
        ("b", "mailers", 5, False, (one.id, two.id)),
    ]
    assert ended.id not in checks[2].running
    assert all(89 <= check.silent_for < 150 for check in checks)
    assert all(check.started_at.tzinfo is not None for check in checks)
    assert str(checks[2].uuid) == rows[0][0]
    with pytest.raises(AttributeError):
        checks[0].limit = 3  # type: ignore[misc]

"""The view that Oban Web reads workflows from: what it says, which queries it serves, and when it is not made."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session

from oban_sa import Job, Workflow, enqueue
from oban_sa.errors import InvalidOption, SchemaError
from oban_sa.migrations import migrate
from tests.flows.settling import book
from tests.migrations.project import query, snapshot

LIST = """
SELECT w.*, (SELECT array_agg(s.state ORDER BY s.state) FROM oban_workflows s WHERE s.parent_id = w.id) AS subs
FROM oban_workflows w WHERE w.parent_id IS NULL ORDER BY w.inserted_at DESC LIMIT 20
"""
GRAPH = "SELECT id, meta FROM oban_jobs WHERE meta ? 'workflow_id' AND meta ->> 'workflow_id' = :id LIMIT 500"
SUBS = "SELECT meta ->> 'name' FROM oban_jobs WHERE meta ? 'workflow_id' AND meta ->> 'sup_workflow_id' = :id"
COLUMNS = {
    **dict.fromkeys(("id", "name", "parent_id", "state"), "text"),
    "meta": "jsonb",
    **dict.fromkeys(("suspended", "available", "scheduled", "executing", "retryable"), "integer"),
    **dict.fromkeys(("completed", "cancelled", "discarded"), "integer"),
    **dict.fromkeys(("started_at", "completed_at", "inserted_at"), "timestamp without time zone"),
}


def made(engine: Engine, **given: bool | None) -> None:
    with engine.connect() as connection:
        migrate(connection, **{"oban_web": True, **given})  # type: ignore[arg-type]
        connection.commit()


def written(engine: Engine) -> Workflow:
    """Six jobs of its own, four of them in a group, and two in a workflow inside."""
    flow = Workflow("nightly")
    flow.add("a", Job("extract", queue="etl"))
    group = flow.add_many("many", [Job("each", queue="parts") for _ in range(4)], deps="a")
    inner = Workflow()
    inner.add("x", Job("inner"))
    inner.add("y", Job("inner"), deps="x")
    flow.add_workflow("inside", inner, deps=group)
    flow.add("b", Job("sum", queue="etl", schedule_in=3600), deps=group)
    with Session(engine) as session:
        enqueue(session, flow)
        session.commit()
    return flow


def end(engine: Engine, flow: Workflow, state: str, *names: str) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                f"WITH ended AS (UPDATE oban_jobs SET state = '{state}', attempted_at = now(), {state}_at = now() "
                "WHERE meta ->> 'name' = ANY(:names) RETURNING id, meta) "
                "INSERT INTO oban_sa_endings (lane, job_id) SELECT CAST(meta ->> 'lane' AS smallint), id FROM ended"
            ),
            {"names": list(names)},
        )
    book(engine, flow.id)


def workflows(connection: Connection) -> dict[str, Any]:
    return {row["name"]: row for row in connection.execute(text("SELECT * FROM oban_workflows")).mappings()}


def counts(row: Any) -> dict[str, int]:
    return {name: row[name] for name in list(COLUMNS)[5:13] if row[name]}


def test_it_has_the_columns_that_oban_web_reads(sync_engine: Engine) -> None:
    made(sync_engine)
    with sync_engine.connect() as connection:
        found = connection.execute(
            text("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'oban_workflows'")
        )
        assert dict(map(tuple, found)) == COLUMNS
        # By this Oban Web decides whether to show the page.
        exists = "SELECT EXISTS (SELECT FROM information_schema.tables WHERE table_name = 'oban_workflows')"
        assert connection.scalar(text(exists))


def test_each_workflow_counts_its_own_jobs_and_those_of_its_groups(sync_engine: Engine) -> None:
    made(sync_engine)
    flow = written(sync_engine)
    with sync_engine.connect() as connection:
        found = workflows(connection)
        assert set(found) == {"nightly", "inside"}
        outer, inner = found["nightly"], found["inside"]
        assert (outer["id"], outer["parent_id"], outer["state"]) == (str(flow.id), None, "executing")
        assert (inner["parent_id"], inner["state"]) == (str(flow.id), "executing")
        assert counts(outer) == {"available": 1, "suspended": 5}
        assert counts(inner) == {"suspended": 2}
        assert outer["meta"] == {"queues": ["etl", "parts"], "workers": ["each", "extract", "sum"]}
        assert outer["started_at"] is outer["completed_at"] is None
    end(sync_engine, flow, "completed", "a", *(f"many/{n}" for n in range(4)))
    with sync_engine.connect() as connection:
        found = workflows(connection)
        assert counts(found["nightly"]) == {"completed": 5, "scheduled": 1}
        assert counts(found["inside"]) == {"available": 1, "suspended": 1}
        assert found["nightly"]["started_at"] is not None
    end(sync_engine, flow, "discarded", "x")
    end(sync_engine, flow, "completed", "b")
    with sync_engine.connect() as connection:
        found = workflows(connection)
        assert counts(found["nightly"]) == {"completed": 6}
        assert counts(found["inside"]) == {"cancelled": 1, "discarded": 1}
        assert {name: row["state"] for name, row in found.items()} == {"nightly": "discarded", "inside": "discarded"}
        assert found["nightly"]["completed_at"] is not None


def test_it_answers_the_queries_of_oban_web(sync_engine: Engine) -> None:
    made(sync_engine)
    flow = written(sync_engine)
    with sync_engine.connect() as connection:
        [listed] = connection.execute(text(LIST)).mappings()
        assert (listed["name"], listed["subs"]) == ("nightly", ["executing"])
        jobs = {row.meta["name"]: row.meta for row in connection.execute(text(GRAPH), {"id": str(flow.id)})}
        assert set(jobs) == {"a", "b", "many/0", "many/1", "many/2", "many/3"}
        assert jobs["many/0"]["deps"] == ["a"]
        assert all(meta["workflow"] is True and meta["workflow_name"] == "nightly" for meta in jobs.values())
        inside = connection.execute(text(SUBS), {"id": str(flow.id)}).scalars().all()
        assert sorted(inside) == ["x", "y"]
        filtered = "SELECT name FROM oban_workflows WHERE meta -> 'queues' ? 'parts'"
        assert connection.execute(text(filtered)).scalars().all() == ["nightly"]


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (GRAPH, "oban_sa_jobs_workflow_id_index"),
        ("SELECT state FROM oban_workflows WHERE id = :id", "oban_sa_flows_web_id_index"),
        ("SELECT state FROM oban_workflows WHERE parent_id = :id", "oban_sa_flows_web_parent_index"),
    ],
)
def test_one_workflow_is_found_by_an_index(sync_engine: Engine, statement: str, index: str) -> None:
    made(sync_engine)
    with sync_engine.connect() as connection:
        connection.execute(text("SET enable_seqscan = off"))
        plan = connection.scalar(text(f"EXPLAIN (FORMAT JSON) {statement}"), {"id": "a"})
        assert index in json.dumps(plan)


def test_it_goes_where_that_is_asked_for_and_with_the_tables(sync_engine: Engine) -> None:
    url = sync_engine.url.render_as_string(hide_password=False)
    before = snapshot(url)
    made(sync_engine)
    assert snapshot(url) != before
    made(sync_engine)  # again
    made(sync_engine, oban_web=None)
    assert query(url, "SELECT count(*) FROM oban_workflows") == [0]
    made(sync_engine, oban_web=False)
    assert snapshot(url) == before
    made(sync_engine)
    made(sync_engine, oban_web=None, down=True)
    assert query(url, "SELECT to_regclass('oban_workflows') IS NULL AND to_regclass('oban_sa_flows') IS NULL") == [True]


@pytest.mark.parametrize("theirs", ["CREATE TABLE oban_workflows (id text)", "CREATE VIEW oban_workflows AS SELECT 1"])
def test_where_another_program_has_the_name_it_is_refused_and_nothing_changes(sync_engine: Engine, theirs: str) -> None:
    url = sync_engine.url.render_as_string(hide_password=False)
    query(url, theirs)
    before = snapshot(url)
    with pytest.raises(SchemaError, match="oban_workflows exists in schema 'public', and oban_sa did not make it"):
        made(sync_engine)
    made(sync_engine, oban_web=False)
    assert snapshot(url) == before


def test_it_needs_the_tables_of_workflows(sync_engine: Engine) -> None:
    with pytest.raises(InvalidOption, match="oban_web=True needs version 3 of the tables, not 2"):
        made(sync_engine, version=2)  # type: ignore[arg-type]

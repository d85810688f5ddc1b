"""The statement that puts late references into their jobs."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from oban_sa.models import Job
from oban_sa.models.base import schema_map
from oban_sa.sql import notify, references


@pytest.mark.parametrize("analyzed", [False, True], ids=["fresh", "analyzed"])
def test_jobs_are_found_by_their_key_however_many_there_are(sync_engine: Engine, analyzed: bool) -> None:
    statement = str(references.RESOLVE_AND_NOTIFY.compile(sync_engine))
    parameters = references.rows([{"id": 1, "args": {"a": 1}}]) | notify.insertions(["default"], "public")
    with sync_engine.begin() as connection:
        connection.execute(
            text("INSERT INTO oban_jobs (worker, state) SELECT 'app.Work', 'completed' FROM generate_series(1, 5000)")
        )
        if analyzed:
            connection.execute(text("ANALYZE oban_jobs"))
        plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())

    assert "Index Scan using oban_jobs_pkey" in plan
    assert "Seq Scan on oban_jobs" not in plan


def test_what_is_not_resolved_stays(sync_engine: Engine) -> None:
    with sync_engine.begin() as connection:
        ids = connection.execute(
            Job.__table__.insert().returning(Job.__table__.c.id),
            [{"worker": "app.Work", "args": {"n": n}, "meta": {"n": n}} for n in range(3)],
        )
        first, second, _ = ids.scalars()
        connection.execute(
            references.RESOLVE, references.rows([{"id": first, "args": {}}, {"id": second, "meta": {"new": [None]}}])
        )
        found = connection.execute(text("SELECT args, meta FROM oban_jobs ORDER BY id")).all()

    assert found == [({}, {"n": 0}), ({"n": 1}, {"new": [None]}), ({"n": 2}, {"n": 2})]


def test_the_statement_follows_the_schema(sync_engine: Engine) -> None:
    compiled = references.RESOLVE_AND_NOTIFY.compile(
        sync_engine, schema_translate_map=schema_map("jobs"), render_schema_translate=True
    )

    assert "UPDATE jobs.oban_jobs SET" in str(compiled)
    assert "public" not in str(compiled)


def test_each_payload_is_a_notification_of_its_own() -> None:
    assert notify.insertions(["a", 'b"c'], "jobs") == {
        "channel": "jobs.oban_insert",
        "payloads": '["{\\"queue\\":\\"a\\"}","{\\"queue\\":\\"b\\\\\\"c\\"}"]',
    }

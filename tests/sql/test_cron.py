"""What the statements that tick look like, and what they cost."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.models import schema_map
from oban_sa.sql import cron


def compiled(statement: object, schema: str) -> str:
    text = statement.compile(  # type: ignore[attr-defined]
        dialect=asyncpg.dialect(), schema_translate_map=schema_map(schema), render_schema_translate=True
    )
    return " ".join(str(text).split())


@pytest.mark.parametrize("schema", ["public", "jobs"])
@pytest.mark.parametrize("statement", [cron.look, cron.define, cron.claim])
def test_every_table_is_looked_for_in_the_schema(statement: object, schema: str) -> None:
    sql = compiled(statement(), schema)  # type: ignore[operator]
    for table in ("oban_jobs", "oban_sa_crons", "oban_leaders"):
        assert sql.count(table) == sql.count(f"{schema}.{table}")
    assert f"{schema}.oban_leaders" in sql


def test_a_claim_is_one_statement_that_compares_locks_inserts_and_moves_on() -> None:
    sql = compiled(cron.claim(), "public")
    order = [
        "ELSE cron.last_at END IS NOT DISTINCT FROM claim.seen",
        "FOR UPDATE OF cron",
        "INSERT INTO public.oban_jobs (worker, queue, args, meta, tags, priority, max_attempts)",
        "WHERE NOT claimed.busy",
        "pg_notify",
        "UPDATE public.oban_sa_crons SET",
        "last_at=claimed.until",
    ]
    assert [part for part in order if part not in sql] == []
    assert [sql.index(part) for part in order] == sorted(sql.index(part) for part in order)


async def test_whether_the_last_job_is_unfinished_is_looked_up_by_its_key(engine: AsyncEngine) -> None:
    sql = compiled(cron.claim(), "public")
    values = ["[]", "[]", "Oban", "one", None]
    for number, value in sorted(enumerate(values, 1), reverse=True):
        sql = sql.replace(f"${number}::VARCHAR", "NULL" if value is None else f"'{value}'")
    async with engine.connect() as connection:
        await connection.execute(text("set enable_seqscan = off"))
        plan = "\n".join((await connection.execute(text(f"explain {sql.replace(':', chr(92) + ':')}"))).scalars())
    assert "Index Scan using oban_jobs_pkey on oban_jobs" in plan or "Index Only Scan using oban_jobs_pkey" in plan
    assert "Seq Scan on oban_jobs" not in plan

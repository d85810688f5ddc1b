"""The claim of unique keys: it looks rows up by key, and the client and SQL agree about what is hashed."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Engine, Text, cast, literal, select
from sqlalchemy.dialects.postgresql import JSONB

from oban_sa.jobs.unique import Unique
from oban_sa.sql import claim, unique
from tests.sql.compiling import compiled
from tests.support import plain_url

ARGS = {"a": 1, "b": [1.5, None, {"é": "\u2028"}], "c": 10**18, "d": 1e300}
META = {"m": True, "unique": "another's"}


@pytest.mark.parametrize(
    "given",
    [
        Unique(),
        Unique(fields=["args"]),
        Unique(fields=["worker", "queue", "args", "meta"]),
        Unique(keys=["c", "a", "missing"]),
        Unique(fields=["worker"], meta_keys=["m", "n"]),
        Unique(keys=["b"], meta_keys=["m"]),
        Unique(fields=["queue"]),
    ],
)
def test_the_key_is_the_same_whichever_way_it_is_made(sync_engine: Engine, given: Unique) -> None:
    def jsonb(value: object) -> Any:
        return cast(literal(json.dumps(value), Text), JSONB)

    made = unique.key(
        jsonb(given.scope),
        worker=cast(literal("app.Work"), Text),
        queue=cast(literal("default"), Text),
        args=jsonb(ARGS),
        meta=jsonb(META),
    )
    said = unique.hashed(jsonb(given.subject("app.Work", "default", ARGS, META)))
    with sync_engine.connect() as connection:
        first, second = connection.execute(select(made, said)).one()
    assert first == second


@pytest.mark.parametrize("plan", ["force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize("rows", [0, 20_000])
async def test_rows_are_found_by_key(database_url: str, plan: str, rows: int) -> None:
    """However the tables look, and whatever the statistics say of them, so that the server may keep its plan."""
    connection = await asyncpg.connect(plain_url(database_url))
    await connection.execute(
        f"INSERT INTO oban_jobs (worker) SELECT 'w' FROM generate_series(1, {rows});"
        f"INSERT INTO oban_sa_uniques SELECT gen_random_uuid(), n FROM generate_series(1, {rows}) n;"
        + ("ANALYZE oban_jobs, oban_sa_uniques" if rows else "")
    )
    await connection.execute(f"SET plan_cache_mode = {plan}")
    for number, locks in enumerate((frozenset[str](), frozenset({"share", "update"}))):
        text, names, _ = compiled(claim.claiming(locks))
        wanted = Unique(group="waiting", replace="newest")
        row = {**wanted.terms, "subject": wanted.subject("w", "q", {}, {})}
        given = {**claim.many([row, row])}
        await connection.execute(f"PREPARE hot_{number} AS {text}")
        listed = ", ".join("'" + given[name].replace("'", "''") + "'" for name in names)
        lines = [row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE hot_{number}({listed})")]
        assert any("oban_sa_uniques_pkey" in line for line in lines), lines
        assert not any("Seq Scan on oban_" in line for line in lines), lines
    await connection.close()

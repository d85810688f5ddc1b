"""A server that has fewer connections than a runner wants."""

from __future__ import annotations

import asyncpg

from tests.support import forked, plain_url


async def test_a_runner_with_more_queues_than_there_are_connections_says_so(database_url: str, engine) -> None:
    connection = await asyncpg.connect(plain_url(database_url))
    name = await connection.fetchval("SELECT current_database()")
    role = f"crowded_{name}"
    await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x' CONNECTION LIMIT 8")
    await connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    await connection.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
    try:
        url = engine.url.set(drivername="postgresql", username=role, password="x")
        queues = ",".join(f"q{number}:1" for number in range(20))
        words = [
            "-m",
            "oban_sa.runner",
            "--queues",
            queues,
            "--database-url",
            url.render_as_string(hide_password=False),
        ]
        with forked(words) as runner:
            await runner.says("this runner wants 25, one for each of its 20 queues and 5 more")
            runner.terminate()
            assert await runner.ended() == 0, runner.output
        await connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
        with forked(words) as runner:
            assert await runner.ended() == 1
            assert "this runner wants 25, one for each of its 20 queues and 5 more" in runner.output
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.close()

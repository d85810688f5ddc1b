"""Each role gets the GRANTs that are printed for it, and with these it can do its work, and not that of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner
from sqlalchemy import Integer, NullPool, cast, create_engine, literal, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from oban_sa import Job, Oban, Queue, enqueue, enqueue_select, ref, telemetry
from oban_sa.cli import group
from oban_sa.errors import RunnerError, SchemaMissing
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.jobs.retention import Prune
from oban_sa.migrations import migrate
from oban_sa.models import Base
from oban_sa.runner.database.rights import check_rights
from oban_sa.runner.health import checks
from oban_sa.service.command import command
from oban_sa.sql.rights import grants
from oban_sa.workers import Registry
from oban_sa.workers import job as as_job
from tests.migrations.project import query, run_script, up
from tests.runner.conftest import Harness
from tests.support import ROOT, eventually, plain_url, sync_url

pytestmark = pytest.mark.usefixtures("unchanged_logging")

Granted = Callable[..., str]


@pytest.fixture
def granted(database_url: str) -> Iterator[Granted]:
    """A role of the database that got what is printed for it, as a URL."""
    made: list[tuple[str, str]] = []

    def role(kind: str, *, url: str = database_url, schema: str = "public") -> str:
        name = f"{kind}_{make_url(url).database}"
        query(url, f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
        made.append((url, name))
        run_script(url, grants(kind, name, schema=schema))
        return make_url(url).set(username=name, password="secret").render_as_string(hide_password=False)

    yield role
    for url, name in made:
        query(url, f"DROP OWNED BY {name} CASCADE")
        query(url, f"DROP ROLE {name}")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url)
    try:
        yield engine
    finally:
        await engine.dispose()


def name_of(url: str) -> str:
    return str(make_url(url).username)


async def test_an_application_enqueues_in_every_way_and_cancels_and_retries(granted: Granted) -> None:
    url = granted("application")
    async with connected(url) as engine:
        oban = Oban(engine)
        await oban.verify()
        async with AsyncSession(engine) as session:
            first = enqueue(session, Job("w"))
            enqueue(session, Job("w", args={"first": ref(first)}))
            await session.commit()
        assert await oban.enqueue_many(Job("w") for _ in range(3)) == 3  # COPY
        await oban.enqueue(Job("w", schedule_in=60))
        assert await oban.cancel_jobs(Job.state == "scheduled") == 1
        assert await oban.retry_jobs(Job.state == "cancelled") == 1
        await oban.update_job(first, {"priority": 3})

        with pytest.raises(DBAPIError, match="permission denied for table oban_jobs"):
            await oban.delete_jobs(Job.worker == "w")
        with pytest.raises(DBAPIError, match="permission denied for table oban_sa_queues"):
            await oban.pause_queue("default")

    worker = as_job(name="tests.selected", registry=Registry())(_selected)
    sync = create_engine(sync_url(url), poolclass=NullPool)
    with Session(sync) as session, session.begin():
        enqueue_select(session, worker, select(cast(literal(7), Integer).label("number")))
    with Session(sync) as session:
        assert session.scalar(select(Job.args).where(Job.worker == "tests.selected")) == {"number": 7}
    sync.dispose()


async def _selected(number: int) -> None:
    """Exists to be enqueued."""


async def test_an_application_enqueues_into_a_table_whose_ids_are_a_default(
    empty_database_url: str, granted: Granted
) -> None:
    run_script(empty_database_url, (ROOT / "tests/migrations/elixir_v14.sql").read_text())
    up(empty_database_url)
    url = granted("application", url=empty_database_url)
    async with connected(url) as engine:
        await Oban(engine).enqueue(Job("w"))
        assert await Oban(engine).enqueue_many(Job("w") for _ in range(3)) == 3


async def test_an_operator_steers_jobs_and_queues_and_makes_none(granted: Granted, sessions: Any) -> None:
    async with sessions.begin() as session:
        one, other = enqueue(session, Job("w")), enqueue(session, Job("w"))
    async with connected(granted("operator")) as engine:
        oban = Oban(engine)
        await oban.cancel_job(one)
        await oban.retry_job(one)
        assert await oban.delete_job(other)
        for steer in (oban.pause_queue, oban.resume_queue, oban.stop_queue):
            await steer("default")
        await oban.scale_queue("default", limit=3)
        assert await oban.check_queues() == []
        assert sum(each.count for each in await oban.count_jobs()) == 1
        with pytest.raises(DBAPIError, match="permission denied for table oban_jobs"):
            await oban.enqueue(Job("w"))


def test_a_reader_looks_with_every_command(granted: Granted, sync_sessions: Any) -> None:
    with sync_sessions.begin() as session:
        enqueue(session, Job("tests.seen"))
    where = ["--database-url", plain_url(granted("reader"))]
    for words in (["status"], ["jobs", "list"], ["jobs", "show", "1"], ["queues", "list"], ["cron", "list"]):
        result = CliRunner().invoke(group, [*words, *where])
        assert result.exit_code == 0, (words, result.output)
        assert words[0] != "jobs" or "seen" in result.output


async def test_a_reader_sees_every_table_and_changes_nothing(granted: Granted) -> None:
    async with connected(granted("reader")) as engine:
        oban = Oban(engine)
        for change in (oban.cancel_jobs(Job.id == 1), oban.pause_queue("a"), oban.enqueue(Job("w"))):
            with pytest.raises(DBAPIError, match="permission denied"):
                await change
        async with engine.connect() as connection:
            for table in Base.metadata.tables.values():
                await connection.execute(select(table))


async def test_a_runner_does_all_of_its_work(
    granted: Granted, database_url: str, registry: Registry, events: list[telemetry.Event], sessions: Any
) -> None:
    done: list[str] = []

    @as_job(name="tests.writes", registry=registry)
    async def writes(session: AsyncSession) -> None:
        enqueue(session, plain.new("from a session"))

    @as_job(name="tests.plain", registry=registry)
    async def plain(what: str) -> None:
        done.append(what)
        if what == "fails":
            raise ValueError

    dead = uuid4()
    query(
        database_url,
        "INSERT INTO oban_producers (uuid, node, queue, meta, updated_at) "
        f"VALUES ('{dead}', 'dead', 'default', '{{\"dead_after\": 2}}', timezone('UTC', now()) - interval '1 hour')",
    )
    query(
        database_url,
        "INSERT INTO oban_jobs (worker, args, state, attempt, attempted_at, attempted_by) VALUES "
        f"('tests.plain', '{{\"what\": \"rescued\"}}', 'executing', 1, timezone('UTC', now()), '{{dead,{dead}}}')",
    )
    query(
        database_url,
        "INSERT INTO oban_jobs (worker, state, completed_at) "
        "VALUES ('tests.plain', 'completed', timezone('UTC', now()) - interval '3 days')",
    )
    async with sessions.begin() as session:
        enqueue(session, writes.new())
        enqueue(session, plain.options(schedule_in=0.2).new("due"))
        enqueue(session, plain.options(max_attempts=1).new("fails"))
    url = granted("runner")
    async with connected(url) as engine:
        harness = Harness(engine, sessions, registry)
        await check_rights(engine, "public", crontab=True, prune=True, limits=True)
        async with harness.runner(
            crontab=[CronEntry("* * * * * *", "tests.plain", args={"what": "tick"})],
            prune=Prune(completed=timedelta(days=1), every=0.2),
            metrics=True,
        ) as runner:
            await Oban(engine).enqueue(plain.new("from the runner's engine"))

            async def all_done() -> None:
                assert {"from a session", "due", "rescued", "tick", "from the runner's engine"} <= set(done)
                assert await harness.sql("SELECT 1 FROM oban_jobs WHERE completed_at < now() - interval '1 day'") == []
                ready = await runner.checks.ready()
                assert all(check.well for check in ready.values()), ready

            await eventually(all_done, within=20)
    assert [event for event in events if isinstance(event, telemetry.RunnerRetry)] == []
    assert query(database_url, "SELECT count(*) FROM oban_producers") == [0]
    assert query(database_url, "SELECT count(*) FROM oban_leaders") == [0]


@pytest.mark.parametrize("schema", ["public", "jobs"])
async def test_a_migrator_makes_the_tables_and_can_bring_them_down(
    empty_database_url: str, granted: Granted, schema: str
) -> None:
    query(empty_database_url, f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
    url = granted("migrator", url=empty_database_url, schema=schema)
    async with connected(url) as engine, engine.connect() as connection:
        await connection.run_sync(lambda sync: migrate(sync, schema))
        await connection.run_sync(lambda sync: migrate(sync, schema, down=True))
        await connection.run_sync(lambda sync: migrate(sync, schema))
    assert query(empty_database_url, "SELECT tableowner FROM pg_tables WHERE tablename = 'oban_jobs'") == [name_of(url)]


# What is not granted is said before a job is there


async def test_all_that_a_runner_s_role_lacks_is_named_with_how_to_grant_it(
    granted: Granted, database_url: str
) -> None:
    url = granted("runner")
    name = name_of(url)
    for statement in (
        f"REVOKE INSERT, DELETE ON oban_jobs FROM {name}",
        f"REVOKE UPDATE ON oban_leaders FROM {name}",
        f"REVOKE ALL ON oban_sa_crons FROM {name}",
    ):
        query(database_url, statement)
    async with connected(url) as engine:
        with pytest.raises(RunnerError) as caught:
            await check_rights(engine, "public", crontab=True, prune=True, limits=True)
        with pytest.raises(RunnerError) as without:
            await check_rights(engine, "public", crontab=False, prune=False, limits=False)
    assert str(caught.value).splitlines() == [
        f"the role '{name}' can't work in schema 'public'; it lacks",
        "- INSERT on oban_jobs",
        "- DELETE on oban_jobs",
        "- UPDATE on oban_leaders",
        "- SELECT on oban_sa_crons",
        "- INSERT on oban_sa_crons",
        "- UPDATE on oban_sa_crons",
        f"Let the owner of the tables run what this prints: python -m oban_sa grants --role runner --to {name}",
    ]
    assert [line for line in str(without.value).splitlines() if line.startswith("-")] == ["- UPDATE on oban_leaders"]


def test_a_dry_run_as_a_role_that_may_not_enter_the_schema_fails_with_words(
    empty_database_url: str, granted: Granted
) -> None:
    query(empty_database_url, "CREATE SCHEMA jobs")
    engine = create_engine(sync_url(empty_database_url), poolclass=NullPool)
    with engine.connect() as connection:
        migrate(connection, "jobs")
    url = granted("runner", url=empty_database_url, schema="jobs")
    words = ["--dry-run", "--database-url", plain_url(url), "--schema", "jobs"]
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 0, result.output
    query(empty_database_url, f"REVOKE USAGE ON SCHEMA jobs FROM {name_of(url)}")
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 1
    assert "- USAGE on the schema" in result.stderr
    assert "--schema jobs" in result.stderr
    assert "Everything is in place" not in result.output

    query(empty_database_url, f"GRANT USAGE ON SCHEMA jobs TO {name_of(url)}")
    query(empty_database_url, f"ALTER ROLE {name_of(url)} SET default_transaction_read_only = on")
    result = CliRunner().invoke(command, words)
    assert "- writing: it is read-only" in result.stderr


FUNCTIONS = (
    "oban_sa_free(text, integer)",
    "oban_sa_rate(text, text, integer, float8, text, integer, bigint, integer, timestamp)",
    (
        "oban_sa_ring(text, integer, integer, boolean, boolean, text[], integer[], text, text[], text[], text[], "
        "float8, timestamp, text)"
    ),
    "oban_sa_slot(text, text, integer, bigint, uuid, float8, float8, integer, float8, text, integer)",
)


async def test_the_functions_of_limits_are_granted_where_public_may_not_call_them(
    granted: Granted, database_url: str, registry: Registry, sessions: Any
) -> None:
    for function in FUNCTIONS:
        query(database_url, f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    url, done = granted("runner"), []

    @as_job(name="tests.limited", registry=registry, partition="args.who")
    async def limited(who: int) -> None:
        done.append(who)

    async with sessions.begin() as session:
        enqueue(session, limited.new(1))
    async with connected(url) as engine:
        await check_rights(engine, "public", crontab=True, prune=True, limits=True)
        harness = Harness(engine, sessions, registry)
        queue = Queue(3, global_limit=2, rate="5/minute", by="partition", each=1)
        async with harness.runner(queues={"default": queue}):

            async def all_done() -> None:
                assert done == [1]

            await eventually(all_done)

    for function in FUNCTIONS[1:]:
        query(database_url, f"REVOKE EXECUTE ON FUNCTION {function} FROM {name_of(url)}")
    async with connected(url) as engine:
        await check_rights(engine, "public", crontab=True, prune=True, limits=False)
        with pytest.raises(RunnerError) as caught:
            await check_rights(engine, "public", crontab=True, prune=True, limits=True)
    lines = [line for line in str(caught.value).splitlines() if line.startswith("-")]
    assert sorted(lines) == ["- EXECUTE on oban_sa_rate", "- EXECUTE on oban_sa_ring", "- EXECUTE on oban_sa_slot"]


OUTDATED = """
CREATE OR REPLACE FUNCTION oban_sa_free(of_queue text, global_limit integer) RETURNS integer
LANGUAGE plpgsql AS '-- Made by oban_sa
BEGIN RETURN 1; END'
"""


@pytest.mark.parametrize(
    ("spoiled", "sentence"),
    [
        (f"DROP FUNCTION {FUNCTIONS[0]}", "the function oban_sa_free(text, integer) is missing"),
        (OUTDATED, "the function oban_sa_free(text, integer) is not the one that this release makes"),
    ],
)
async def test_a_runner_with_limits_whose_function_is_missing_or_old_says_so_at_its_start(
    engine: AsyncEngine,
    database_url: str,
    registry: Registry,
    sessions: Any,
    spoiled: str,
    sentence: str,
    tmp_path: Path,
) -> None:
    query(database_url, spoiled)
    harness = Harness(engine, sessions, registry)
    with pytest.raises(SchemaMissing) as caught:
        async with harness.runner(queues={"default": Queue(3, global_limit=2)}):
            pass
    assert sentence in str(caught.value)
    assert "run: python -m oban_sa migrate" in str(caught.value)
    with pytest.raises(SchemaMissing, match="oban_sa_free"):
        await Oban(engine).verify()
    arguments = ["--dry-run", "--database-url", plain_url(database_url)]
    config = tmp_path / "oban.toml"
    config.write_text("[queues.default]\nlimit = 3\nglobal_limit = 2\n")
    result = await asyncio.to_thread(CliRunner().invoke, command, [*arguments, "--config", str(config)])
    assert result.exit_code == 1
    assert sentence in result.stderr
    result = await asyncio.to_thread(CliRunner().invoke, command, arguments)
    assert result.exit_code == 0, result.output
    async with harness.runner():  # without limits it needs none
        pass

    up(database_url)
    await Oban(engine).verify()
    async with harness.runner(queues={"default": Queue(3, global_limit=2)}):
        pass


async def test_a_runner_that_gets_limits_at_run_time_is_not_ready_without_their_function(
    engine: AsyncEngine, database_url: str, registry: Registry, sessions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "ASK_EVERY", 0.0)
    query(database_url, f"DROP FUNCTION {FUNCTIONS[0]}")
    async with Harness(engine, sessions, registry).runner() as runner:
        assert (await runner.checks.ready())["rights"].well
        await Oban(engine).limit_queue("default", global_limit=3)

        async def unready() -> None:
            rights = (await runner.checks.ready())["rights"]
            assert rights.detail == "lacks the function oban_sa_free, which a migration makes"

        await eventually(unready)
        await asyncio.to_thread(up, database_url)

        async def is_ready() -> None:
            assert (await runner.checks.ready())["rights"].well

        await eventually(is_ready)


async def test_a_runner_whose_role_can_t_lead_is_not_ready(
    granted: Granted, database_url: str, registry: Registry, monkeypatch: pytest.MonkeyPatch, sessions: Any
) -> None:
    monkeypatch.setattr(checks, "FAILS_FOR", 0.3)
    monkeypatch.setattr(checks, "ASK_EVERY", 0.0)
    url = granted("runner")
    query(database_url, f"REVOKE INSERT ON oban_leaders FROM {name_of(url)}")
    async with connected(url) as engine:
        harness = Harness(engine, sessions, registry)
        async with harness.runner(prune=None) as runner:

            async def unready() -> None:
                ready = await runner.checks.ready()
                assert not ready["rights"].well
                assert ready["rights"].detail == "lacks INSERT on oban_leaders"
                assert "leader" in ready
                assert "permission denied for table oban_leaders" in ready["leader"].detail

            await eventually(unready)
            query(database_url, f"GRANT INSERT ON oban_leaders TO {name_of(url)}")

            async def is_ready() -> None:
                ready = await runner.checks.ready()
                assert all(check.well for check in ready.values()), ready

            await eventually(is_ready, within=20)


def test_the_statements_are_printed_for_psql() -> None:
    said = CliRunner().invoke(group, ["grants", "--role", "reader", "--to", 'a"b', "--schema", "my jobs"])
    assert said.exit_code == 0, said.output
    assert 'GRANT SELECT ON TABLE "my jobs".oban_jobs TO "a""b";\n' in said.stdout
    refused = CliRunner().invoke(group, ["grants", "--role", "boss", "--to", "a"])
    assert refused.exit_code == 2
    assert "runner" in refused.output

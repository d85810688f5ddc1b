"""Runners of several schemas or several databases in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from oban_sa import Job, Runner, Runners, enqueue, errors, job, schema_map, telemetry
from oban_sa.cli import group
from oban_sa.migrations import installed, migrate
from oban_sa.service import service
from oban_sa.service.command import command
from oban_sa.settings.settings import Settings, load
from oban_sa.workers import Registry
from tests.databases import Databases
from tests.runner import tenant_jobs
from tests.runner.conftest import Harness
from tests.support import eventually, isolate, plain_url

TENANTS = ("acme", "globex")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and an environment without settings."""
    return isolate(monkeypatch, tmp_path)


@pytest.fixture
def tenants(sync_engine: Engine) -> dict[str, Engine]:
    """Two schemas with all tables, and how their applications reach them."""
    engines: dict[str, Engine] = {}
    for schema in TENANTS:
        with sync_engine.begin() as connection:
            migrate(connection, schema)
            connection.execute(text(f"SET LOCAL search_path TO {schema}"))
            connection.execute(tenant_jobs.TABLES)
        engines[schema] = sync_engine.execution_options(
            schema_translate_map={**schema_map(schema), None: schema, "tenant": schema}
        )
    return engines


@pytest.fixture
async def other_engine(databases: Databases) -> AsyncIterator[AsyncEngine]:
    """Another database with tables for jobs."""
    with databases.fresh() as url:
        made = create_async_engine(url)
        yield made
        await made.dispose()


def put(engine: Engine, *jobs: Job) -> None:
    with Session(engine) as session, session.begin():
        for each in jobs:
            enqueue(session, each)


def runner_command(url: str, *words: str, environ: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(
        command, ["--database-url", plain_url(url), "--import", "tests.runner.tenant_jobs", *words], env=environ
    )


# Settings


def test_schemas_are_given_by_flags_the_environment_or_a_file(folder: Path) -> None:
    assert load(environ={}, flags={"schema": ("a", "b")}).schemas == ("a", "b")
    assert load(environ={}, flags={"prefix": ("a", "b")}).schemas == ("a", "b")
    assert load(environ={"OBAN_SCHEMA": "a, b"}).schemas == ("a", "b")
    (folder / "oban.toml").write_text('schema = ["a", "b"]\ntranslate = ["tenant", "none"]')
    settings = load(environ={})
    assert (settings.schemas, settings.translate) == (("a", "b"), ("tenant", None))
    lines = {line.split()[0]: line.split()[1:] for line in settings.described()}
    assert lines["schema"] == ["a,b", "oban.toml:", "schema"]
    assert lines["translate"] == ["tenant,none", "oban.toml:", "translate"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"schema": ("a", "b", "a")}, "--schema: the schema 'a' is named twice"),
        ({"schema": ("a,",)}, "--schema: there is nothing between two commas"),
        ({"schema": ("a", "b"), "prefix": ("b",)}, "--schema and --prefix mean the same and disagree"),
        ({"translate": ("public",)}, "--translate: 'public' stands for the runner's schema anyway"),
    ],
)
def test_schemas_that_can_not_be_meant_are_refused(flags: dict[str, object], words: str) -> None:
    with pytest.raises(errors.InvalidOption) as refused:
        load(environ={}, flags=flags)
    assert str(refused.value).startswith(words)


def test_a_command_for_people_asks_which_of_several_schemas_is_meant(database_url: str) -> None:
    result = CliRunner().invoke(
        group, ["jobs", "list", "--database-url", plain_url(database_url)], env={"OBAN_SCHEMA": "a,b"}
    )
    assert result.exit_code == 2
    assert "OBAN_SCHEMA: this works in one schema, and a, b are 2; name one with --schema" in result.stderr


# The command


@pytest.mark.usefixtures("unchanged_logging")
def test_one_process_does_the_jobs_of_several_schemas_each_in_its_tenants_tables(
    database_url: str, tenants: dict[str, Engine]
) -> None:
    for schema, engine in tenants.items():
        put(engine, *(tenant_jobs.note.new(f"{schema} {n}") for n in range(3)))
    result = runner_command(
        database_url, "--schema", "acme", "--schema", "globex", "--translate", "none,tenant", "--until-idle"
    )
    assert result.exit_code == 0, result.output
    for schema, engine in tenants.items():
        wanted = sorted(f"{start}{schema} {n}" for start in ("", "after ") for n in range(3))
        with Session(engine) as session:
            assert sorted(session.scalars(select(tenant_jobs.Note.what))) == wanted
            assert sorted(session.scalars(select(tenant_jobs.Bill.what))) == wanted
            assert set(session.scalars(select(Job.state))) == {"completed"}
    for schema in TENANTS:  # each line says whose job it was
        lines = [line for line in result.stderr.splitlines() if "completed" in line and f"schema={schema}" in line]
        assert len(lines) == 6, result.stderr


@pytest.mark.usefixtures("unchanged_logging")
def test_a_schema_without_tables_is_named_and_so_is_each_other_one(
    database_url: str, tenants: dict[str, Engine]
) -> None:
    result = runner_command(database_url, "--schema", "acme,initech,hooli", "--dry-run")
    assert result.exit_code == 1
    assert "the schema 'initech' has no table oban_jobs" in result.stderr
    assert "run: python -m oban_sa migrate --schema hooli" in result.stderr
    assert "'acme'" not in result.stderr
    assert runner_command(database_url, "--schema", "acme,globex", "--dry-run").exit_code == 0


async def test_a_private_database_gets_the_tables_of_all_schemas(empty_database_url: str) -> None:
    engine = create_async_engine(empty_database_url)
    await service._migrated(Settings(embedded=Path("x"), schemas=TENANTS), engine)
    async with engine.connect() as connection:
        for schema in TENANTS:
            assert await connection.run_sync(installed, schema)
    await engine.dispose()


# Runners


def named(ran: list[str], node: str) -> Registry:
    registry = Registry()

    @job(registry=registry, name="note")
    async def note(what: str = "-") -> None:
        ran.append(f"{node}: {what}")

    return registry


async def test_runners_of_two_databases_in_one_process_keep_to_their_own(
    harness: Harness, other_engine: AsyncEngine, events: list[telemetry.Event]
) -> None:
    ran: list[str] = []
    rarely = {**harness.options, "poll_every": 3600, "stage_every": 3600}
    here = Runner(harness.engine, **rarely, registry=named(ran, "here"))
    there = Runner(other_engine, **rarely, registry=named(ran, "there"))
    async with Runners(here, there):
        await eventually(lambda: sum(isinstance(event, telemetry.NotifierConnected) for event in events) == 2)
        for engine, what in ((harness.engine, "a"), (other_engine, "b")):
            async with AsyncSession(engine) as session, session.begin():
                enqueue(session, Job("note", args={"what": what}))
        await eventually(lambda: sorted(ran) == ["here: a", "there: b"])


async def test_the_one_runner_that_is_not_ready_is_named_by_its_schema(
    harness: Harness, tenants: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, globex = (Runner(harness.engine, schema=schema, **harness.options) for schema in TENANTS)
    async with Runners(acme, globex, health_port=0) as runners, httpx.AsyncClient() as client:
        assert runners.health_address is not None
        host, port = runners.health_address

        async def asked(path: str) -> tuple[int, dict[str, Any]]:
            response = await client.get(f"http://{host}:{port}{path}")
            return response.status_code, response.json()["checks"]

        async def ready() -> None:
            code, checks = await asked("/ready")
            assert code == 200, checks
            assert {"acme: queue default", "globex: queue default"} < checks.keys()

        await eventually(ready)
        globex.stop()
        code, checks = await asked("/ready")
        assert code == 503
        assert [name for name, check in checks.items() if not check["ok"]] == ["globex: running"]
        assert (await asked("/live"))[0] == 200


async def test_runners_start_together_or_not_at_all(harness: Harness, tenants: dict[str, Engine]) -> None:
    acme = Runner(harness.engine, schema="acme", **harness.options)
    nowhere = Runner(harness.engine, schema="nowhere", **harness.options)
    with pytest.raises(errors.SchemaMissing, match="nowhere"):
        async with Runners(acme, nowhere):
            raise AssertionError("started")
    assert await harness.sql("SELECT 1 FROM acme.oban_producers") == []
    with pytest.raises(errors.RunnerError, match="starts once"):
        await acme.start()


async def test_until_idle_waits_for_what_a_job_enqueues_into_a_schema_that_was_idle(
    harness: Harness, tenants: dict[str, Engine]
) -> None:
    ran: list[str] = []
    registry = named(ran, "acme")

    @job(registry=registry, name="cross")
    async def cross() -> None:
        await asyncio.to_thread(put, tenants["acme"], Job("note", args={"what": "crossed"}))

    put(tenants["globex"], *(Job("cross") for _ in range(20)))
    options = {**harness.options, "registry": registry}
    await Runners(*(Runner(harness.engine, schema=schema, **options) for schema in TENANTS)).run(until_idle=True)
    assert ran == ["acme: crossed"] * 20


async def test_stopping_ends_the_wait_of_all(harness: Harness, tenants: dict[str, Engine]) -> None:
    runners = Runners(*(Runner(harness.engine, schema=schema, **harness.options) for schema in TENANTS))
    async with asyncio.timeout(30), runners:
        waiting = asyncio.ensure_future(runners.wait_stopped())
        runners.stop()
        await waiting
        put(tenants["acme"], Job("note"))
        await runners.until_idle()


def same_node(engine: AsyncEngine) -> list[Runner]:
    return [Runner(engine, schema="a", queues={name: 1}) for name in ("one", "two")]


def same_runner(engine: AsyncEngine) -> list[Runner]:
    return [Runner(engine)] * 2


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda engine: [], "runners are missing"),
        (lambda engine: [[Runner(engine)]], r"takes runners, not a list; write Runners\(\*runners\)"),
        (lambda engine: [engine], "takes runners, not an AsyncEngine$"),
        (same_runner, "the same Runner stands twice"),
        (same_node, "2 runners work in the schema 'a' as the node"),
    ],
)
async def test_runners_in_each_others_way_are_refused(
    engine: AsyncEngine, made: Callable[[AsyncEngine], list[Runner]], words: str
) -> None:
    with pytest.raises(errors.InvalidOption, match=words):
        Runners(*made(engine))


def test_a_runner_says_what_it_takes_instead_of_what_it_was_given(engine: AsyncEngine) -> None:
    given: Any
    for given, words in (
        ("postgresql://localhost/shop", "not a str"),
        (async_sessionmaker(engine), "not an async_sess"),
    ):
        with pytest.raises(errors.RunnerError, match=f"takes an AsyncEngine, {words}.*create_async_engine"):
            Runner(given)
    queues: Any = ["default"]
    with pytest.raises(errors.InvalidOption, match=r'write for example queues=\{"default": 10\}'):
        Runner(engine, queues=queues)


async def test_runners_are_called_by_what_tells_them_apart(engine: AsyncEngine, other_engine: AsyncEngine) -> None:
    def made(*where: tuple[AsyncEngine, str]) -> list[str]:
        return Runners(*(Runner(one, schema=schema, node=f"n{n}") for n, (one, schema) in enumerate(where))).names

    here, there = engine.url.database, other_engine.url.database
    assert made((engine, "a"), (engine, "b")) == ["a", "b"]
    assert made((engine, "a"), (other_engine, "a")) == [f"{here}.a", f"{there}.a"]
    assert made((engine, "a"), (engine, "a")) == ["a (1)", "a (2)"]


async def test_what_an_engine_says_of_its_own_schemas_stays_in_the_sessions_of_jobs(
    harness: Harness, tenants: dict[str, Engine]
) -> None:
    put(tenants["acme"], tenant_jobs.note_later.new("mixed"))
    own = harness.engine.execution_options(schema_translate_map={"tenant": "globex"})
    options = {**harness.options, "registry": None}
    await Runner(own, schema="acme", translate=[None, "tenant"], **options).run(until_idle=True)
    assert await harness.sql("SELECT what FROM acme.notes UNION ALL SELECT what FROM globex.bills") == [("mixed",)] * 2

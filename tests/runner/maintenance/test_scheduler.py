"""Every tick of the crontab becomes one job, whoever leads and whatever their clocks say."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa import Oban, telemetry
from oban_sa.errors import InvalidOption, WorkerNotFound
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.jobs.unique import Unique
from oban_sa.models import Cron, Job, Leader
from oban_sa.models import Unique as Key
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance.scheduler import Scheduler
from oban_sa.sql.lease import lease_name
from oban_sa.workers.crontab import resolved
from oban_sa.workers.registry import Registry
from oban_sa.workers.worker import worker
from tests.support import eventually, plain_url, process

SECOND = timedelta(seconds=1)
REGISTRY = Registry()


@worker(
    name="tests.Report", queue="reports", priority=3, max_attempts=5, tags=["a"], meta={"own": 1}, registry=REGISTRY
)
class Report:
    async def process(self, job: Job) -> None: ...


@pytest.fixture
async def scheduler(engine: AsyncEngine) -> AsyncIterator[Callable[..., Scheduler]]:
    """Make a scheduler for node "one", or another, with these entries."""
    made: list[Scheduler] = []

    def make(*entries: CronEntry, node: str = "one", name: str = "Oban", **options: Any) -> Scheduler:
        source = telemetry.Source(node=node, name=name)
        options = {"registry": REGISTRY, **options}
        crontab = resolved(entries, options["registry"], options.get("allow", ()))
        made.append(Scheduler(Database(engine), crontab, source=source, **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()


def every_second(**options: Any) -> CronEntry:
    return CronEntry("* * * * * *", "tests.Report", **{"name": "often", **options})


async def elect(
    engine: AsyncEngine, node: str = "one", *, name: str = "Oban", ago: float = 0, lease: float = 60
) -> None:
    """Let `node` lead since `ago` seconds, until `lease` seconds from now (which may be negative)."""
    async with engine.begin() as connection:
        now = await connection.scalar(text("select timezone('UTC', clock_timestamp())"))
        await connection.execute(Leader.__table__.delete().where(Leader.name == lease_name(name)))
        elected_at, expires_at = now - ago * SECOND, now + lease * SECOND
        values = {"name": lease_name(name), "node": node, "elected_at": elected_at, "expires_at": expires_at}
        await connection.execute(insert(Leader).values(**values))


async def known_since(engine: AsyncEngine, ago: timedelta, *, last: bool = True) -> datetime:
    """Say that the entries ticked for the last time, or were written down, `ago`; return that moment."""
    async with engine.begin() as connection:
        now = await connection.scalar(text("select timezone('UTC', clock_timestamp())"))
        then: datetime = (now - ago).replace(microsecond=0)
        values = {"inserted_at": then, "updated_at": then, "last_at": then if last else None}
        await connection.execute(update(Cron).values(**values))
        return then.replace(tzinfo=UTC)


async def forget_jobs(engine: AsyncEngine) -> None:
    """Forget what a first tick made of a second that began while it was at it."""
    async with engine.begin() as connection:
        await connection.execute(Job.__table__.delete())


async def jobs(engine: AsyncEngine) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(Job.__table__).order_by(Job.id))).mappings())


async def ticks(engine: AsyncEngine) -> list[datetime]:
    return [datetime.fromisoformat(job["meta"]["cron_at"]) for job in await jobs(engine)]


async def test_a_tick_becomes_a_job_with_the_options_of_its_entry_and_its_worker(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler]
) -> None:
    entry = every_second(args={"a": 1}, priority=7, meta={"more": 2}, timezone="Europe/Berlin")
    one = scheduler(entry)
    await elect(engine, ago=3600)
    await one.tick()
    await forget_jobs(engine)
    then = await known_since(engine, SECOND)
    await one.tick()
    made = (await jobs(engine))[0]
    assert made["worker"] == "tests.Report"
    assert (made["queue"], made["priority"], made["max_attempts"], made["tags"]) == ("reports", 7, 5, ["a"])
    assert (made["state"], made["args"], made["attempt"]) == ("available", {"a": 1}, 0)
    assert made["meta"] == {
        "own": 1,
        "more": 2,
        "cron": True,
        "cron_at": (then + SECOND).isoformat(),
        "cron_expr": "* * * * * *",
        "cron_name": "often",
        "cron_tz": "Europe/Berlin",
    }


async def test_a_tick_s_job_has_the_keys_that_its_worker_says(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry()

    @worker(name="keyed", partition="args.tenant_id", sequence="meta.cron_name", on_failure="halt", registry=registry)
    class Keyed:
        async def process(self, job: Job) -> None: ...

    @worker(name="failing", partition=lambda job: 1 // 0, registry=registry)
    class Failing:
        async def process(self, job: Job) -> None: ...

    one = scheduler(
        CronEntry("* * * * * *", "keyed", name="k", args={"tenant_id": 7}),
        CronEntry("* * * * * *", "failing", name="f"),
        registry=registry,
    )
    await elect(engine, ago=3600)
    await one.tick()
    await forget_jobs(engine)
    await known_since(engine, SECOND)
    await one.tick()
    metas = {made["worker"]: made["meta"] for made in await jobs(engine)}
    assert {name: metas["keyed"][name] for name in ("partition", "sequence", "halts")} == {
        "partition": "7",
        "sequence": "k",
        "halts": True,
    }
    # What fails in one entry's function keeps no job from being made.
    assert "partition" not in metas["failing"]
    assert "cron f: its job has no keys: ZeroDivisionError" in caplog.text


async def test_a_job_is_not_made_while_one_with_its_unique_key_stands_in_the_way(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler]
) -> None:
    registry = Registry()

    @worker(name="single", unique=Unique(group="incomplete"), registry=registry)
    class Single:
        async def process(self, job: Job) -> None: ...

    @worker(name="many", registry=registry)
    class Many:
        async def process(self, job: Job) -> None: ...

    one = scheduler(
        CronEntry("* * * * * *", "single", name="s", args={"n": 1}, catch_up="all"),
        CronEntry("* * * * * *", "single", name="other", args={"n": 2}, catch_up="all"),
        CronEntry("* * * * * *", "many", name="m", catch_up="all"),
        registry=registry,
    )
    [told] = scheduler(CronEntry("* * * * *", "single", name="minutely"), registry=registry).told()
    assert "unique" not in told[2]
    await elect(engine, ago=3600)
    await one.tick()
    for _ in range(2):
        await known_since(engine, 5 * SECOND)
        await one.tick()
    found = await jobs(engine)
    single = [each for each in found if each["worker"] == "single"]
    assert sorted(each["args"]["n"] for each in single) == [1, 2]
    assert len(found) >= 12
    async with AsyncSession(engine) as session:
        key = (await session.scalars(select(Key.key).where(Key.job_id == single[0]["id"]))).one()
        assert single[0]["meta"]["unique"] == str(key)
        assert single[0]["meta"]["unique_while"] == "incomplete"
        await session.execute(update(Job).where(Job.id == single[0]["id"]).values(state="completed"))
        await session.commit()
    # A job of the application has the same key.
    again = await Oban(engine).enqueue(Job("single", args=single[1]["args"], unique=Unique(group="incomplete")))
    assert again.id == single[1]["id"]
    await known_since(engine, 3 * SECOND)
    await one.tick()
    assert sum(each["worker"] == "single" for each in await jobs(engine)) == 3


async def test_every_second_since_the_last_tick_has_exactly_one_job(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler]
) -> None:
    one = scheduler(every_second())
    await elect(engine, ago=3600)
    await one.tick()
    await forget_jobs(engine)
    then = await known_since(engine, 30 * SECOND)
    await one.tick()
    found = await ticks(engine)
    assert len(found) >= 30
    assert found == [then + (n + 1) * SECOND for n in range(len(found))]


async def test_two_nodes_that_both_believe_to_lead_make_no_tick_twice(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler]
) -> None:
    # The same node twice, so that the lease lets both through and only the claim itself decides.
    nodes = [scheduler(every_second()) for _ in range(4)]
    await elect(engine, ago=3600)
    await nodes[0].tick()
    then = await known_since(engine, 500 * SECOND)
    await asyncio.gather(*(node.tick() for node in nodes))
    found = await ticks(engine)
    assert len(found) >= 500
    assert found == [then + (n + 1) * SECOND for n in range(len(found))]


async def test_a_claim_whose_statement_was_held_up_changes_nothing(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, other = scheduler(every_second()), scheduler(every_second())
    await elect(engine, ago=3600)
    await frozen.tick()
    await known_since(engine, 5 * SECOND)
    going_on = asyncio.Event()
    claim = frozen._claim

    async def after_a_while(*args: Any) -> set[str]:
        await going_on.wait()
        return await claim(*args)

    monkeypatch.setattr(frozen, "_claim", after_a_while)
    late = asyncio.create_task(frozen.tick())
    await other.tick()
    before = await ticks(engine)
    going_on.set()
    await late
    assert await ticks(engine) == before
    assert len(before) == len(set(before)) >= 5


async def test_a_node_that_does_not_lead_makes_nothing_and_looks_again_soon(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler]
) -> None:
    two = scheduler(every_second(), node="two")
    await elect(engine, "one")
    assert await two.tick() <= 1.0
    await elect(engine, "two", lease=-1)
    assert await two.tick() <= 1.0
    assert await jobs(engine) == []
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(Cron)) == 0


async def test_the_lease_is_checked_by_the_statement_that_makes_the_jobs(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = scheduler(every_second())
    await elect(engine, ago=3600)
    await one.tick()
    await known_since(engine, 5 * SECOND)
    claim = one._claim

    async def deposed(*args: Any) -> set[str]:
        await elect(engine, "two")
        return await claim(*args)

    monkeypatch.setattr(one, "_claim", deposed)
    await one.tick()
    assert await jobs(engine) == []


async def test_a_new_entry_starts_from_now(engine: AsyncEngine, scheduler: Callable[..., Scheduler]) -> None:
    one = scheduler(CronEntry("@yearly", "tests.Report", catch_up="all"))
    await elect(engine, ago=3600)
    await one.tick()
    await one.tick()
    assert await jobs(engine) == []


async def test_an_entry_whose_expression_changed_starts_from_now(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler]
) -> None:
    await elect(engine, ago=3600)
    await scheduler(CronEntry("@yearly", "tests.Report", name="it")).tick()
    await known_since(engine, timedelta(hours=3))
    changed = scheduler(CronEntry("0 * * * *", "tests.Report", name="it", catch_up="all"))
    await changed.tick()
    assert await jobs(engine) == []
    async with engine.connect() as connection:
        assert await connection.scalar(select(Cron.expression)) == "0 * * * *"


async def test_an_entry_whose_options_changed_keeps_its_place(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler]
) -> None:
    await elect(engine, ago=3600)
    await scheduler(every_second()).tick()
    await known_since(engine, 10 * SECOND)
    await scheduler(every_second(priority=0)).tick()
    assert len(await jobs(engine)) >= 10
    async with engine.connect() as connection:
        assert (await connection.scalar(select(Cron.opts)))["priority"] == 0


@pytest.mark.parametrize(("catch_up", "expected"), [("none", 0), ("last", 1), ("all", 5)])
async def test_ticks_missed_while_nobody_led_are_made_up_for_as_asked(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler], catch_up: Any, expected: int
) -> None:
    # A quarter of an hour that is not about to tick, whenever this runs.
    async with engine.connect() as connection:
        now: datetime = await connection.scalar(text("select timezone('UTC', clock_timestamp())"))
    minute = (now.minute + 30) % 60
    one = scheduler(CronEntry(f"{minute} * * * *", "tests.Report", catch_up=catch_up))
    await elect(engine)
    await one.tick()
    await known_since(engine, timedelta(hours=5))
    await one.tick()
    found = await ticks(engine)
    assert len(found) == expected
    if found:
        assert found[-1] == max(found) > now.replace(tzinfo=UTC) - timedelta(hours=1)
    await one.tick()
    assert len(await jobs(engine)) == expected


async def test_making_up_is_bounded(engine: AsyncEngine, scheduler: Callable[..., Scheduler]) -> None:
    one = scheduler(every_second(catch_up="all"))
    await elect(engine)
    await one.tick()
    await known_since(engine, timedelta(days=30))
    await one.tick()
    found = await ticks(engine)
    assert len(found) == 1000
    await one.tick()
    assert (await ticks(engine))[:1000] == found == sorted(found)


async def test_ticks_of_a_leader_that_froze_are_late_and_not_missed(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler]
) -> None:
    one, two = scheduler(every_second()), scheduler(every_second(), node="two")
    await elect(engine, "one", ago=3600, lease=20)
    await one.tick()
    await two.tick()  # which is how it knows that somebody led
    then = await known_since(engine, 20 * SECOND)
    await elect(engine, "two")
    await two.tick()
    found = await ticks(engine)
    assert len(found) >= 20
    assert found == [then + (n + 1) * SECOND for n in range(len(found))]


async def test_ticks_between_the_end_of_a_lease_and_a_much_later_leader_were_missed(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler]
) -> None:
    one, two = scheduler(every_second()), scheduler(every_second(), node="two")
    await elect(engine, "one", ago=3600)
    await one.tick()
    await elect(engine, "one", ago=3600, lease=-30)
    await two.tick()
    then = await known_since(engine, 60 * SECOND)
    await elect(engine, "two")
    await two.tick()
    found = [round((tick - then).total_seconds()) for tick in await ticks(engine)]
    assert found[:28] == list(range(1, 29)), "the leader before was to make these"
    assert not set(found) & set(range(32, 58)), "nobody was to make these"


async def test_without_overlap_a_tick_is_skipped_while_the_job_before_is_unfinished(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler]
) -> None:
    one = scheduler(every_second(overlap=False))
    seen: list[telemetry.SchedulerTick] = []
    detach = telemetry.attach(seen.append, telemetry.SchedulerTick)
    await elect(engine, ago=3600)
    await one.tick()
    for state, expected in [(None, 1), ("executing", 1), ("retryable", 1), ("completed", 2), ("scheduled", 2)]:
        async with engine.begin() as connection:
            await connection.execute(update(Job).values(state=state or "available"))
        await known_since(engine, 2 * SECOND)
        await one.tick()
        assert len(await jobs(engine)) == expected
    detach()
    assert [event.skipped for event in seen] == [0, 1, 1, 0, 1]
    async with engine.begin() as connection:
        await connection.execute(Job.__table__.delete())
    await known_since(engine, 2 * SECOND)
    await one.tick()
    assert len(await jobs(engine)) == 1, "a job that was pruned is finished"


async def test_reboot_makes_one_job_when_a_runner_first_leads(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler]
) -> None:
    one = scheduler(CronEntry("@reboot", "tests.Report"))
    await one.tick()
    assert await jobs(engine) == []
    for _ in range(3):
        await elect(engine)
        await one.tick()
    made = await jobs(engine)
    assert [job["meta"]["cron_expr"] for job in made] == ["@reboot"]
    await scheduler(CronEntry("@reboot", "tests.Report")).tick()
    assert len(await jobs(engine)) == 2


async def test_queues_are_told_of_their_jobs_once(
    engine: AsyncEngine, database_url: str, scheduler: Callable[..., Scheduler]
) -> None:
    one, quiet = scheduler(every_second()), scheduler(every_second(), announce=False)
    await elect(engine, ago=3600)
    await one.tick()
    heard: list[Any] = []
    listener = await asyncpg.connect(plain_url(database_url))
    try:
        await listener.add_listener("public.oban_insert", lambda *said: heard.append(said[3]))
        await known_since(engine, 10 * SECOND)
        await one.tick()
        await eventually(lambda: heard)
        await known_since(engine, 10 * SECOND)
        await quiet.tick()
        await listener.fetchval("select 1")
    finally:
        await listener.close()
    assert heard == ['{"queue" : "reports"}']
    assert len(await jobs(engine)) >= 20


async def test_instances_that_share_tables_do_not_share_entries(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler]
) -> None:
    nodes = [scheduler(every_second(), name=name) for name in ("Oban", "Other")]
    for name in ("Oban", "Other"):
        await elect(engine, name=name, ago=3600)
    for node in nodes:
        await node.tick()
    await known_since(engine, SECOND)
    for node in nodes:
        await node.tick()
    found = await ticks(engine)
    assert len(found) >= 2 * len(set(found)) - 1
    assert {job["meta"]["cron_name"] for job in await jobs(engine)} == {"often"}


async def test_the_next_tick_is_waited_for_as_long_as_the_database_says(
    engine: AsyncEngine, scheduler: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = scheduler(every_second())
    await elect(engine)
    rest = await one.tick()
    assert 0 <= rest <= 1
    yearly = scheduler(CronEntry("@yearly", "tests.Report"))
    assert 0 < await yearly.tick() <= 5
    assert await scheduler().tick() > 60


async def test_workers_bring_their_own_entries(engine: AsyncEngine, scheduler: Callable[..., Scheduler]) -> None:
    registry = Registry()

    @worker(name="tests.Often", cron=["@hourly", {"expr": "@daily", "timezone": "Asia/Tokyo"}], registry=registry)
    class Often:
        async def process(self, job: Job) -> None: ...

    made = scheduler(CronEntry("@weekly", Often), registry=registry).entries
    assert [(entry.worker, entry.expression) for entry in made] == [
        ("tests.Often", "@hourly"),
        ("tests.Often", "@daily"),
        ("tests.Often", "@weekly"),
    ]
    assert len({entry.name for entry in made}) == 3


async def test_entries_that_can_not_work_are_refused_at_once(scheduler: Callable[..., Scheduler]) -> None:
    with pytest.raises(WorkerNotFound, match=r"tests\.Reports.*similar: tests\.Report"):
        scheduler(CronEntry("@daily", "tests.Reports"))
    with pytest.raises(InvalidOption, match="two entries of the crontab are named 'often'"):
        scheduler(every_second(), CronEntry("@daily", "tests.Report", name="often"))
    with pytest.raises(InvalidOption, match="not decorated"):
        scheduler(CronEntry("@daily", Registry))
    for options, said in (({"priority": 10}, "between 0 and 9"), ({"queue": " "}, "queue")):
        with pytest.raises(InvalidOption, match=rf"cron '@daily' for tests\.Report: .*{said}"):
            scheduler(CronEntry("@daily", "tests.Report", **options))


NODE = """
import asyncio, sys
from datetime import timedelta
from sqlalchemy.ext.asyncio import create_async_engine
from oban_sa import telemetry
from oban_sa.schedule import clock
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.models import Job
from oban_sa.runner.database.database import Database
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.maintenance.scheduler import Scheduler
from oban_sa.workers.crontab import resolved
from oban_sa.workers.registry import Registry
from oban_sa.workers.worker import worker

url, node, shift = sys.argv[1], sys.argv[2], float(sys.argv[3])
real = clock.now
clock.now = lambda: real() + timedelta(seconds=shift)
registry = Registry()

@worker(name="tests.Report", registry=registry)
class Report:
    async def process(self, job: Job) -> None: ...

async def main():
    database = Database(create_async_engine(url))
    source = telemetry.Source(node=node)
    leader = Leader(database, source=source, lasts=1.5)
    entry = CronEntry("* * * * * *", "tests.Report", name="often")
    scheduler = Scheduler(database, resolved([entry], registry), source=source, registry=registry)

    async def elect():
        while True:
            await asyncio.sleep(await leader.tick())

    electing = asyncio.create_task(elect())
    print("up", flush=True)
    while True:
        await asyncio.sleep(await scheduler.tick())

asyncio.run(main())
"""


async def test_three_nodes_with_shifted_clocks_one_frozen_make_every_tick_exactly_once(
    engine: AsyncEngine, database_url: str
) -> None:
    wanted = int(os.environ.get("OBAN_TEST_TICKS", "12"))
    commands = [["-c", NODE, database_url, f"node{n}", str(shift)] for n, shift in enumerate((-3600, 0, 3600))]

    async def leader() -> str:
        async with engine.connect() as connection:
            return str(await connection.scalar(select(Leader.node)))

    with process(commands[0]) as one, process(commands[1]) as two, process(commands[2]) as three:
        nodes = {f"node{n}": each for n, each in enumerate((one, two, three))}
        for each in nodes.values():
            await each.says("up")
        await eventually(lambda: jobs(engine), within=20)
        count = 0
        while count < wanted:
            frozen = await leader()
            nodes[frozen].send(signal.SIGSTOP)
            try:

                async def taken_over(before: int = count, frozen: str = frozen) -> None:
                    assert await leader() != frozen
                    assert len(await jobs(engine)) >= before + wanted // 4

                await eventually(taken_over, within=60 + wanted)
            finally:
                nodes[frozen].send(signal.SIGCONT)
            count = len(await jobs(engine))
    found = await ticks(engine)
    assert len(found) == count or len(found) >= wanted
    assert found == [found[0] + n * SECOND for n in range(len(found))]

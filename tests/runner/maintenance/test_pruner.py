"""What the node that leads deletes, what it keeps, and what it never waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import asyncpg as dialect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa import Job, Runner, telemetry
from oban_sa.errors import InvalidOption
from oban_sa.jobs.retention import STATES, Prune, Retention, Rule, read_prune
from oban_sa.jobs.states import JobState
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance import archive as archives
from oban_sa.runner.maintenance.pruner import Pruner
from oban_sa.sql.prune import prune as prune_statement
from oban_sa.sql.prune import too_many
from tests.runner.conftest import Harness
from tests.support import eventually

SOURCE = telemetry.Source(node="pruning.node")


async def over(
    harness: Harness,
    state: str = "completed",
    *,
    count: int = 1,
    age: float = 0,
    apart: float = 0,
    queue: str = "default",
    worker: str = "w",
) -> list[int]:
    """Insert jobs that ended `age` seconds ago, each `apart` seconds before the one inserted after it."""
    statement = f"""
        INSERT INTO oban_jobs (state, queue, worker, {state}_at)
        SELECT CAST(:state AS oban_job_state), :queue, :worker,
               timezone('UTC', now()) - make_interval(secs => :age + :apart * (:count - n))
        FROM generate_series(1, :count) AS n RETURNING id
    """
    rows = await harness.sql(
        statement, state=state, queue=queue, worker=worker, age=float(age), apart=float(apart), count=count
    )
    return [row[0] for row in rows]


async def left(harness: Harness) -> list[int]:
    return [row[0] for row in await harness.sql("SELECT id FROM oban_jobs ORDER BY id")]


class Pruning:
    """A pruner by itself, with a lease to ask for."""

    def __init__(self, engine: AsyncEngine, prune: Prune) -> None:
        self.database = Database(engine)
        self.leader = Leader(self.database, source=SOURCE, lasts=20)
        self.pruner = Pruner(self.database, self.leader, prune, engine=engine, source=SOURCE)

    async def __aenter__(self) -> Self:
        await self.leader.tick()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pruner.close()
        await self.leader.close()

    async def sweep(self) -> int:
        """Tick until all is done; how many ticks it took."""
        ticks = 1
        while (rest := await self.pruner.tick()) < 60:
            assert rest >= 0
            ticks += 1
            assert ticks < 200
        return ticks


# What is kept


@pytest.mark.parametrize("state", [state.value for state in STATES])
async def test_jobs_that_are_over_go_once_they_are_older_than_their_state_is_kept(harness: Harness, state: str) -> None:
    await over(harness, state, age=61)
    kept = await over(harness, state, age=55)
    others = [
        job_id
        for other in STATES
        if other.value != state
        for job_id in await over(harness, other.value, age=3600 * 24 * 365)
    ]
    keeping: dict[str, Any] = {each.value: None for each in STATES} | {state: 60}
    async with Pruning(harness.engine, Prune(**keeping)) as pruning:
        await pruning.sweep()
    assert await left(harness) == sorted(kept + others)


async def test_jobs_that_are_not_over_are_never_deleted(harness: Harness) -> None:
    unfinished = [state.value for state in JobState if state not in STATES]
    for state in unfinished:
        await harness.sql(
            "INSERT INTO oban_jobs (state, worker, inserted_at, scheduled_at, completed_at, cancelled_at, discarded_at)"
            " VALUES (CAST(:state AS oban_job_state), 'w', '2000-01-01', '2000-01-01', '2000-01-01', '2000-01-01',"
            " '2000-01-01')",
            state=state,
        )
    async with Pruning(harness.engine, Prune(completed=0, cancelled=0, discarded=0)) as pruning:
        await pruning.sweep()
    assert len(await left(harness)) == len(unfinished) == 5


async def test_by_default_completed_and_cancelled_jobs_are_kept_a_day_and_discarded_ones_a_week(
    harness: Harness,
) -> None:
    day = 24 * 3600
    for state, age in (("completed", day), ("cancelled", day), ("discarded", 7 * day)):
        await over(harness, state, age=age + 60)
    kept = [
        (await over(harness, state, age=age - 60))[0]
        for state, age in (("completed", day), ("cancelled", day), ("discarded", 7 * day))
    ]
    async with Pruning(harness.engine, Prune()) as pruning:
        await pruning.sweep()
    assert await left(harness) == kept


async def test_of_each_state_only_the_newest_are_kept_where_a_count_is_given(harness: Harness) -> None:
    completed = await over(harness, "completed", count=10, apart=1)
    cancelled = await over(harness, "cancelled", count=10, apart=1)
    discarded = await over(harness, "discarded", count=2, apart=1)
    prune = Prune(
        completed=Retention(max_count=3), cancelled=Retention(max_count=0), discarded=Retention("1 day", max_count=2)
    )
    async with Pruning(harness.engine, prune) as pruning:
        await pruning.sweep()
    assert await left(harness) == completed[-3:] + discarded
    assert cancelled


async def test_of_jobs_that_ended_at_one_moment_exactly_as_many_are_kept_as_were_asked_for(harness: Harness) -> None:
    ids = await over(harness, count=50)
    async with Pruning(harness.engine, Prune(completed=Retention(max_count=20), batch=7)) as pruning:
        await pruning.sweep()
    assert await left(harness) == ids[-20:]


@pytest.mark.parametrize(
    ("age", "count", "kept"), [("1 hour", 8, 5), ("1 hour", 2, 2), (None, 8, 8), ("1 hour", None, 5)]
)
async def test_age_and_count_each_end_what_the_other_would_keep(
    harness: Harness, age: str | None, count: int | None, kept: int
) -> None:
    old = await over(harness, count=5, age=7200, apart=1)
    new = await over(harness, count=5, apart=1)
    async with Pruning(harness.engine, Prune(completed=Retention(age, max_count=count))) as pruning:
        await pruning.sweep()
    assert await left(harness) == (old + new)[-kept:]


async def test_a_queue_has_a_rule_of_its_own_and_a_worker_one_that_goes_before_it(harness: Harness) -> None:
    plain = await over(harness, age=100)
    audit = await over(harness, age=10**8, queue="audit")
    busy = await over(harness, age=100, queue="busy")
    both = await over(harness, age=100, queue="busy", worker="precious")
    precious = await over(harness, age=100, worker="precious")
    broken = await over(harness, "discarded", age=100, queue="busy", worker="precious")
    prune = Prune(
        completed=1000,
        cancelled=1000,
        discarded=1000,
        queues={"audit": None, "busy": Retention(10)},
        workers={"precious": {"completed": 1000}},
    )
    async with Pruning(harness.engine, prune) as pruning:
        await pruning.sweep()
    # Of the worker only completed jobs have a rule; for others its queue's holds.
    assert await left(harness) == sorted(plain + audit + both + precious)
    assert busy
    assert broken


async def test_a_count_for_a_queue_is_about_that_queue_alone(harness: Harness) -> None:
    mine = await over(harness, count=5, apart=1, queue="mine")
    others = await over(harness, count=5, apart=1)
    async with Pruning(harness.engine, Prune(queues={"mine": {"completed": Retention(max_count=2)}})) as pruning:
        await pruning.sweep()
    assert await left(harness) == mine[-2:] + others


async def test_what_a_rule_keeps_does_not_count_for_the_others(harness: Harness) -> None:
    kept = await over(harness, count=5, age=1, apart=1, queue="audit")
    others = await over(harness, count=5, age=10, apart=1)
    prune = Prune(completed=Retention(max_count=2), queues={"audit": None})
    async with Pruning(harness.engine, prune) as pruning:
        await pruning.sweep()
    assert await left(harness) == kept + others[-2:]


# How it is done


async def test_a_tick_deletes_one_batch_and_rests_for_longer_than_it_took(harness: Harness) -> None:
    await over(harness, count=95, age=100)
    async with Pruning(harness.engine, Prune(completed=10, batch=10)) as pruning:
        rest = await pruning.pruner.tick()
        assert len(await left(harness)) == 85
        assert 0 < rest < 60
        assert await pruning.sweep() == 9
    assert await left(harness) == []


async def test_rows_that_somebody_holds_are_passed_over_and_deleted_another_time(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await over(harness, count=20, age=100, apart=1)
    async with Pruning(harness.engine, Prune(completed=10, batch=5)) as pruning:
        async with harness.engine.begin() as holder:
            await holder.execute(text("SELECT FROM oban_jobs WHERE id = :id FOR UPDATE"), {"id": ids[3]})
            await pruning.sweep()
            assert await left(harness) == [ids[3]]
        monkeypatch.setattr(pruning.pruner, "_afresh_at", 0.0)
        await pruning.sweep()
    assert await left(harness) == []


async def test_a_job_that_is_retried_while_it_is_about_to_be_deleted_stays(harness: Harness) -> None:
    [job_id] = await over(harness, age=100)
    async with Pruning(harness.engine, Prune(completed=10)) as pruning:
        async with harness.engine.begin() as retrying:
            await retrying.execute(text("UPDATE oban_jobs SET state = 'available' WHERE id = :id"), {"id": job_id})
            await pruning.sweep()
        await pruning.sweep()
    assert await left(harness) == [job_id]


async def test_a_node_that_does_not_lead_deletes_nothing(harness: Harness) -> None:
    ids = await over(harness, age=100)
    async with Pruning(harness.engine, Prune(completed=10)) as pruning:
        await pruning.leader.close()
        # It looks again soon, to take over where it comes to lead.
        assert await pruning.pruner.tick() <= 1
        assert await left(harness) == ids


@pytest.mark.parametrize("archiving", [False, True])
async def test_a_node_that_only_believes_that_it_leads_deletes_nothing(harness: Harness, archiving: bool) -> None:
    ids = await over(harness, count=3, age=100)
    archived: list[int] = []

    async def archive(session: AsyncSession, jobs: list[Job]) -> None:
        await session.execute(text("INSERT INTO kept SELECT 1"))
        archived.extend(job.id for job in jobs)

    await harness.sql("CREATE TABLE kept (id bigint)")
    async with Pruning(harness.engine, Prune(completed=10, archive=archive if archiving else None)) as pruning:
        await harness.sql("UPDATE oban_leaders SET node = 'another.node'")
        assert pruning.leader.leading
        await pruning.pruner.tick()
        assert await left(harness) == ids
        assert await harness.sql("SELECT * FROM kept") == []
        assert archived == (ids if archiving else [])


async def test_jobs_that_rows_of_other_tables_refer_to_stay_and_stop_no_others(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await over(harness, count=30, age=100, apart=1)
    await harness.sql("CREATE TABLE notes (job_id bigint REFERENCES oban_jobs)")
    held = [*ids[:12], ids[20]]
    for job_id in held:
        await harness.sql("INSERT INTO notes VALUES (:id)", id=job_id)
    async with Pruning(harness.engine, Prune(completed=10, batch=5)) as pruning:
        await pruning.sweep()
        assert await left(harness) == held
        await pruning.sweep()
    assert await left(harness) == held
    warnings = [record.getMessage() for record in caplog.records if "can't be pruned" in record.getMessage()]
    assert len(warnings) == 1
    assert "ON DELETE CASCADE" in warnings[0]
    assert '"notes"' in warnings[0]


async def test_a_constraint_that_is_checked_at_the_commit_holds_jobs_too(harness: Harness) -> None:
    ids = await over(harness, count=10, age=100, apart=1)
    await harness.sql("CREATE TABLE notes (job_id bigint REFERENCES oban_jobs DEFERRABLE INITIALLY DEFERRED)")
    await harness.sql("INSERT INTO notes VALUES (:id)", id=ids[4])
    async with Pruning(harness.engine, Prune(completed=10)) as pruning:
        await pruning.sweep()
    assert await left(harness) == [ids[4]]


async def test_every_sweep_tells_once_what_it_deleted(harness: Harness, of: Callable[..., list[Any]]) -> None:
    await over(harness, count=25, age=100)
    await over(harness, "discarded", count=3, age=100)
    async with Pruning(harness.engine, Prune(completed=10, discarded=10, batch=10)) as pruning:
        await pruning.sweep()
        await pruning.sweep()
    [event] = of(telemetry.PrunerPrune)
    assert (event.count, event.completed, event.cancelled, event.discarded) == (28, 25, 0, 3)
    assert event.name == "oban.pruner.prune"
    assert event.duration > 0


async def test_a_runner_prunes_unless_it_is_told_not_to(harness: Harness) -> None:
    kept = await over(harness, age=3600)
    old = await over(harness, age=3600 * 25)

    async def pruned() -> None:
        assert await left(harness) == kept

    async with harness.runner(prune=None):
        await eventually(lambda: harness.sql("SELECT * FROM oban_leaders"))
    assert await left(harness) == kept + old
    async with harness.runner():
        await eventually(pruned)


# Archiving


async def test_what_is_deleted_is_archived_first_in_the_same_transaction(harness: Harness) -> None:
    ids = await over(harness, count=12, age=100, apart=1)
    await harness.sql("CREATE TABLE kept (id bigint, worker text, transaction xid8)")
    batches: list[int] = []

    async def archive(session: AsyncSession, jobs: list[Job]) -> None:
        batches.append(len(jobs))
        for job in jobs:
            await session.execute(
                text("INSERT INTO kept VALUES (:id, :worker, pg_current_xact_id())"),
                {"id": job.id, "worker": job.worker},
            )

    async with Pruning(harness.engine, Prune(completed=10, archive=archive, batch=5)) as pruning:
        await pruning.sweep()
    assert await left(harness) == []
    rows = await harness.sql("SELECT id, worker, transaction::text FROM kept ORDER BY id")
    assert [(row[0], row[1]) for row in rows] == [(job_id, "w") for job_id in ids]
    assert len({row[2] for row in rows}) == 3
    assert batches == [5, 5, 2]


async def test_jobs_are_archived_before_they_go_though_others_among_them_are_held(harness: Harness) -> None:
    ids = await over(harness, count=10, age=100, apart=1)
    await harness.sql("CREATE TABLE notes (job_id bigint REFERENCES oban_jobs)")
    await harness.sql("CREATE TABLE kept (id bigint)")
    await harness.sql("INSERT INTO notes VALUES (:id)", id=ids[4])

    async def archive(session: AsyncSession, jobs: list[Job]) -> None:
        for job in jobs:
            await session.execute(text("INSERT INTO kept VALUES (:id)"), {"id": job.id})

    async with Pruning(harness.engine, Prune(completed=10, archive=archive)) as pruning:
        await pruning.sweep()
    assert await left(harness) == [ids[4]]
    assert [row[0] for row in await harness.sql("SELECT id FROM kept ORDER BY id")] == [*ids[:4], *ids[5:]]


async def test_an_archive_s_own_broken_constraint_is_its_error(harness: Harness) -> None:
    ids = await over(harness, count=3, age=100)
    await harness.sql("CREATE TABLE kept (id bigint PRIMARY KEY)")

    async def archive(session: AsyncSession, jobs: list[Job]) -> None:
        for _ in range(2):
            await session.execute(text("INSERT INTO kept VALUES (1)"))

    async with Pruning(harness.engine, Prune(completed=10, archive=archive)) as pruning:
        with pytest.raises(IntegrityError, match="kept_pkey"):
            await pruning.pruner.tick()
    assert await left(harness) == ids


async def test_where_archiving_raises_nothing_is_deleted_nor_archived(harness: Harness) -> None:
    ids = await over(harness, count=3, age=100)
    await harness.sql("CREATE TABLE kept (id bigint)")

    async def archive(session: AsyncSession, jobs: list[Job]) -> None:
        await session.execute(text("INSERT INTO kept VALUES (1)"))
        raise OSError("the bucket is full")

    async with Pruning(harness.engine, Prune(completed=10, archive=archive)) as pruning:
        with pytest.raises(OSError, match="the bucket is full"):
            await pruning.pruner.tick()
    assert await left(harness) == ids
    assert await harness.sql("SELECT * FROM kept") == []


async def test_an_archive_that_commits_by_itself_is_refused_and_deletes_nothing_more(harness: Harness) -> None:
    ids = await over(harness, count=3, age=100)

    async def archive(session: AsyncSession, jobs: list[Job]) -> None:
        await session.commit()

    async with Pruning(harness.engine, Prune(completed=10, archive=archive)) as pruning:
        with pytest.raises(Exception, match="transaction"):
            await pruning.pruner.tick()
    assert await left(harness) == ids


async def test_an_archive_that_takes_too_long_is_cut_short(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    ids = await over(harness, count=3, age=100)
    monkeypatch.setattr(archives, "WITHIN", 0.2)

    async def archive(session: AsyncSession, jobs: list[Job]) -> None:
        await asyncio.Event().wait()

    async with Pruning(harness.engine, Prune(completed=10, archive=archive)) as each:
        with pytest.raises(TimeoutError):
            await each.pruner.tick()
    assert await left(harness) == ids


async def test_the_lease_can_be_renewed_while_an_archive_takes_its_time(harness: Harness) -> None:
    await over(harness, count=3, age=100)
    renewed: list[bool] = []

    async def archive(session: AsyncSession, jobs: list[Job]) -> None:
        await each.leader.tick()
        renewed.append(each.leader.leading)

    async with Pruning(harness.engine, Prune(completed=10, archive=archive)) as each:
        await each.sweep()
    assert renewed == [True]
    assert await left(harness) == []


# What is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("soon", "prune: 'soon' is not a span of time"),
        ("completed:1h,2h", "'2h' is not a state and an age; write for example"),
        ("complete:1h", "prune has no option 'complete'; did you mean 'completed'?"),
        ("", "'' says nothing about how long to keep jobs"),
        ({"completed": {"max_aeg": 1}}, "completed has no option 'max_aeg'; did you mean 'max_age'?"),
        ({"completed": {"max_count": -1}}, "max_count is a whole number of jobs to keep, not -1"),
        ({"queues": {"mailers": {"discard": 1}}}, "did you mean 'discarded'?"),
        ({"queues": {"mailers": {"completed": 1, "executing": 1}}}, "'executing' is no state that jobs end in"),
        ({"queues": "mailers"}, "queues is a table of names and how long their jobs are kept"),
        ({"workers": {"": 1}}, "workers is a table of names, and '' is none"),
        ({"batch": 0}, "batch is the number of jobs deleted at once"),
        ({"every": 0}, "0 seconds is no interval"),
    ],
)
def test_rules_that_make_no_sense_are_refused_with_what_is_wrong(given: object, message: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        read_prune(given)
    assert message in str(caught.value)


@pytest.mark.parametrize("archive", ["myapp:archive", print, lambda session, jobs: None])
def test_an_archive_that_is_no_async_function_is_refused(engine: AsyncEngine, archive: Any) -> None:
    with pytest.raises(InvalidOption, match="archive is an async function"):
        Runner(engine, prune=Prune(archive=archive))


@pytest.mark.parametrize("given", ["never", "off", False])
def test_pruning_can_be_switched_off_by_a_setting(given: object) -> None:
    assert read_prune(given) is None


def test_an_age_by_itself_is_about_all_three_states() -> None:
    assert {rule.retention for rule in (read_prune("2 days") or Prune()).rules} == {Retention(172800)}


# The statements


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("statement", ["prune", "too_many"])
async def test_the_oldest_and_the_newest_are_found_by_the_index_of_their_state(
    harness: Harness, state: JobState, statement: str
) -> None:
    await harness.sql(
        f"INSERT INTO oban_jobs (state, worker, {state.value}_at) SELECT CAST(:state AS oban_job_state), 'w',"
        " timezone('UTC', now()) - make_interval(secs => n) FROM generate_series(1, 5000) AS n",
        state=state.value,
    )
    await harness.sql("INSERT INTO oban_jobs (worker) SELECT 'w' FROM generate_series(1, 5000)")
    await harness.sql("ANALYZE oban_jobs")
    rule = Rule(state, Retention(1))
    built: Any = prune_statement(rule) if statement == "prune" else too_many(rule)
    compiled = built.compile(dialect=dialect.dialect())
    moment = "timezone('UTC', now())"
    given = {"since": "NULL", "at": moment, "id": "1000000", "held": "'{}'", "batch": "100", "keep": "100"}
    sql = str(compiled)
    for number, name in reversed(list(enumerate(compiled.positiontup, 1))):
        sql = sql.replace(f"${number}", given[name])
    async with harness.engine.connect() as connection:
        plan = "\n".join((await connection.exec_driver_sql(f"EXPLAIN {sql}")).scalars())
    assert f"oban_jobs_{state.value}_at_index" in plan, plan
    assert "Seq Scan on oban_jobs" not in plan, plan


@pytest.mark.parametrize("prune", [Prune(discarded="1 day"), Prune(discarded=Retention(max_count=0))])
async def test_a_job_that_halts_its_sequence_is_kept_until_people_decide(harness: Harness, prune: Prune) -> None:
    halting, resumed, _ = await over(harness, "discarded", count=3, age=3 * 86_400)
    for job_id, meta in ((halting, '{"sequence": "a", "halts": true}'), (resumed, '{"sequence": "b"}')):
        await harness.sql("UPDATE oban_jobs SET meta = CAST(:meta AS jsonb) WHERE id = :id", id=job_id, meta=meta)
    async with Pruning(harness.engine, prune) as pruning:
        await pruning.sweep()
    assert await left(harness) == [halting]

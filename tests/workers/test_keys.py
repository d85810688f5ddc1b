"""Partitions and sequences of jobs: where they are said, and every way by which a job gets its keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Integer, cast, literal, null, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import Job, Oban, Unique, Worker, enqueue, enqueue_select, job, ref, worker
from oban_sa.errors import InvalidJob, InvalidOption
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.jobs.keys import bounded
from oban_sa.workers import Registry
from oban_sa.workers.crontab import resolved

registry = Registry()


@job(registry=registry, name="call", partition="args.tenant_id", meta={"own": 1})
def call(tenant_id: int | str | None, url: str = "/") -> None: ...


@dataclass
class Entry:
    account_id: int
    amount: int = 0


@worker(registry=registry, name="ledger", sequence="args.account_id", on_failure="halt", partition="worker")
class Ledger(Worker[Entry]):
    def process(self, args: Entry) -> None: ...


@job(registry=registry, name="asked", partition=lambda job: job.args["size"] // 10)
def asked(size: int) -> None: ...


@job(registry=registry, name="plain")
def plain(size: int = 0) -> None: ...


def test_a_job_has_its_keys_from_the_line_that_makes_it() -> None:
    assert call.new(7).meta == {"own": 1, "partition": "7"}
    assert Ledger.new(Entry(3)).meta == {"partition": "ledger", "sequence": "3", "halts": True}
    assert asked.new(25).meta == {"partition": "2"}
    assert plain.new(1).meta == {}


def test_a_job_may_have_other_keys_than_its_worker_says() -> None:
    assert call.options(partition="args.url").new(7, "x").meta == {"own": 1, "partition": "x"}
    assert call.options(partition=None).new(7).meta == {"own": 1}
    assert call.options(partition=lambda job: "acme").new(7).meta["partition"] == "acme"
    assert call.options(sequence="args.url").new(7).meta == {"own": 1, "partition": "7", "sequence": "/"}
    assert Ledger.new(Entry(3), on_failure="skip").meta == {"partition": "ledger", "sequence": "3"}
    assert Ledger.new(Entry(3), sequence=None, partition=None).meta == {}
    assert plain.options(sequence="worker", on_failure="halt").new(1).meta == {"sequence": "plain", "halts": True}
    assert plain.options(partition="meta.region", meta={"region": "eu"}).new().meta["partition"] == "eu"


def test_the_meta_that_was_given_is_left_as_it_was() -> None:
    given = {"a": 1}
    assert call.options(meta=given).new(7).meta == {"a": 1, "partition": "7"}
    assert given == {"a": 1}
    assert call.new(7).meta is not call.new(7).meta


def test_no_value_is_the_partition_without_a_name_and_no_sequence() -> None:
    assert call.options(sequence="args.tenant_id", on_failure="halt").new(None).meta == {"own": 1, "partition": ""}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition": "tenant_id"}, 'did you mean "args.tenant_id"?'),
        ({"partition": "args.tenantid"}, "f() takes no 'tenantid'; did you mean 'tenant_id'?"),
        ({"sequence": ("worker", "args.x")}, "f() takes no 'x'; there are tenant_id"),
        ({"unique": Unique(keys=["tenantid"])}, "f() takes no 'tenantid'; did you mean 'tenant_id'?"),
        ({"on_failure": "halt"}, "none is named"),
        ({"sequence": "worker", "on_failure": "hlat"}, "did you mean 'halt'?"),
        ({"partition": int}, "is the class int"),
        ({"partition": lambda: 1}, "is asked with one job"),
        ({"partition": ref(object())}, "can't be a ref(...)"),
        ({"partiton": "worker"}, "did you mean 'partition'?"),
    ],
)
def test_options_are_checked_where_they_are_written(options: dict[str, Any], message: str) -> None:
    def f(tenant_id: int) -> None: ...

    with pytest.raises(InvalidOption) as refused:
        job(registry=Registry(), **options)(f)
    assert message in str(refused.value)


def test_unique_keys_of_one_job_are_args_that_its_worker_takes() -> None:
    assert plain.options(unique=Unique(keys=["size"])).new(7).args == {"size": 7}
    with pytest.raises(InvalidOption, match=r"plain\(\) takes no 'x'"):
        plain.options(unique=Unique(keys=["x"])).new(7)


async def asynchronous(job: Job) -> str:
    return ""


def yielding(job: Job) -> Any:
    yield ""


@pytest.mark.parametrize(("given", "message"), [(asynchronous, "is async; write `def`"), (yielding, "yields; return")])
def test_a_function_that_can_not_be_asked_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        plain.options(partition=given).new()


def test_an_arg_that_a_class_does_not_take_is_refused_where_it_is_decorated() -> None:
    with pytest.raises(InvalidOption, match="takes no 'acount_id'; did you mean 'account_id'"):

        @worker(registry=Registry(), sequence="args.acount_id")
        class Typed(Worker[Entry]):
            def process(self, args: Entry) -> None: ...


def test_a_value_that_is_missing_is_refused_in_the_line_that_makes_the_job() -> None:
    @worker(registry=Registry(), partition="args.tenant_id")
    class Loose:
        def process(self, job: Job) -> None: ...

    with pytest.raises(InvalidJob, match="args has tenant, and no 'tenant_id'; did you mean 'tenant'"):
        Loose.new({"tenant": 1})  # type: ignore[attr-defined]  # pyright: ignore
    with pytest.raises(InvalidJob, match="flush the session first"):
        call.new(ref(object()))


def test_an_entry_of_the_crontab_must_have_what_its_keys_are_read_from() -> None:
    other = Registry()

    @worker(registry=other, name="report", partition="args.tenant_id")
    class Report:
        def process(self, job: Job) -> None: ...

    assert resolved([CronEntry("@daily", "report", args={"tenant_id": 1})], other)
    with pytest.raises(InvalidOption, match=r"cron '@daily' for report: partition='args\.tenant_id'"):
        resolved([CronEntry("@daily", "report")], other)


async def metas(engine: AsyncEngine) -> list[dict[str, Any]]:
    async with AsyncSession(engine) as session:
        return [found.meta for found in await session.scalars(select(Job).order_by(Job.id))]


async def test_every_way_of_enqueueing_writes_the_keys(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    oban = Oban(engine)
    async with sessions.begin() as session:
        enqueue(session, call.new(1))
        session.add(call.new(2))
    await oban.enqueue(call.new(3))
    await oban.enqueue_many([call.new(n) for n in range(4, 7)])
    async with sessions.begin() as session:
        await oban.enqueue_many([call.new(7), call.new(8)], session=session)
    assert await metas(engine) == [{"own": 1, "partition": str(n)} for n in range(1, 9)]


async def test_a_select_writes_the_keys_that_python_would_have_made(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    long = "x" * 300
    async with sessions.begin() as session:
        await enqueue_select(session, call, rows(tenant_id=7))
        await enqueue_select(session, call, select(cast(null(), Integer).label("tenant_id")))
        await enqueue_select(session, call.options(partition="args.url"), rows(tenant_id=7, url=long))
        await enqueue_select(session, Ledger, rows(account_id=3))
        await enqueue_select(
            session,
            call,
            rows(tenant_id=7, url="x"),
            partition=("worker", "args.url"),
            sequence="meta.own",
            on_failure="halt",
        )
        await enqueue_select(session, call, rows(tenant_id=7, url="x"), partition=None)
    assert await metas(engine) == [
        {"own": 1, "partition": "7"},
        {"own": 1, "partition": ""},
        {"own": 1, "partition": bounded(long)},
        {"partition": "ledger", "sequence": "3", "halts": True},
        {"own": 1, "partition": '["call", "x"]', "sequence": "1", "halts": True},
        {"own": 1},
    ]


def rows(**columns: Any) -> Any:
    return select(*(literal(value).label(name) for name, value in columns.items()))


async def test_a_select_is_refused_where_no_statement_can_make_its_keys(
    sessions: async_sessionmaker[AsyncSession],
) -> None:
    async with sessions() as session:
        with pytest.raises(InvalidOption, match="no function is called for the rows of a select"):
            await enqueue_select(session, asked, rows(size=7))
        with pytest.raises(InvalidJob, match=r"have no args\.tenant"):
            await enqueue_select(session, plain, rows(size=7), partition="args.tenant")

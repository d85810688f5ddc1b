"""What type checkers accept, and what they make of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypedDict, assert_type
from uuid import UUID

from sqlalchemy import literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, selectinload

from oban_sa import (
    Batch,
    Chunk,
    ChunkResult,
    Oban,
    Queue,
    Rate,
    Runner,
    Signal,
    Workflow,
    chain,
    deps,
    progress,
    signal,
    sleep,
    step,
    wait_for,
)
from oban_sa.bulk.select import Enqueued, enqueue_select
from oban_sa.client.oban import Progress
from oban_sa.jobs.answers import Cancel, Record, Result, Snooze
from oban_sa.jobs.references import ref
from oban_sa.models import Job
from oban_sa.outbox.enqueue import enqueue, enqueue_many
from oban_sa.workers import ForUpdate, Worker, current_job, job, worker


class Base(DeclarativeBase): ...


class User(Base):
    __tablename__ = "typing_users"

    id: Mapped[int] = mapped_column(primary_key=True)


class Admin(User): ...


@dataclass
class Welcome:
    user_id: int


class Report(TypedDict):
    report_id: int


@worker(queue="mailers", max_attempts=5, priority=1, tags=["mail"], timeout="1 minute", backoff=lambda job: job.attempt)
class SendWelcome(Worker[Welcome]):
    async def process(self, args: Welcome, job: Job, session: AsyncSession) -> Result:
        return Snooze(60) if job.cancelled() else Cancel(args.user_id)

    def backoff_of(self) -> int:
        return 1


@worker
class MakeReport(Worker[Report]):
    def process(self, args: Report, session: Session) -> None: ...


@worker(cron="@daily")
class Sweep(Worker[None]):
    async def process(self) -> None: ...


@worker(executor="process")
class Anything(Worker):
    def process(self, job: Job) -> None: ...


@worker(executor="thread", name="plain", aliases=["older"])
class Plain:
    def process(self, job: Job) -> None: ...


@job(queue="exports")
async def export_report(report_id: int, *, fmt: str = "csv") -> str:
    return fmt * report_id


@job
def bare(when: datetime, queue: str) -> int:
    return len(queue)


@job(timeout=30)
async def welcome(job: Job, session: AsyncSession, user_id: int, *, name: str = "") -> bytes:
    return b""


@job(queue="index", chunk=Chunk(100, within="2 seconds", by=("args.tenant", "meta.region")))
async def in_chunks(jobs: list[Job], session: AsyncSession) -> ChunkResult | None:
    return ChunkResult(retry={jobs[0]: "too large"}, record={jobs[1]: [1]})


@job(chunk=Chunk())
def in_chunks_sync(jobs: list[Job]) -> None: ...


in_chunks.new(document_id=7, tenant="a")
in_chunks_sync.options(priority=2).new(document_id=7)


@job
async def with_job(job: Job, user_id: int) -> None: ...


@job
async def with_session(session: AsyncSession, user_id: UUID) -> None: ...


@job(executor="thread")
def with_both(job: Job, session: Session, user_id: int) -> None: ...


class OwnAsyncSession(AsyncSession): ...


class OwnSession(Session): ...


@job
async def own_async(session: OwnAsyncSession, user_id: UUID) -> None: ...


@job(queue="own")
async def own_async_and_job(job: Job, session: OwnAsyncSession, user_id: int, *, name: str = "") -> bytes:
    return name.encode()


@job
def own_sync(session: OwnSession, user_id: int) -> None: ...


@job(queue="own")
def own_sync_and_job(job: Job, session: OwnSession, user_id: int) -> None: ...


@worker
class InOwnSession(Worker[Welcome]):
    async def process(self, args: Welcome, session: OwnAsyncSession) -> Result[dict[str, int]]:
        return {"user_id": args.user_id}


def records() -> Result:
    return Record({"any": "thing"}) if __debug__ else {"done": True}


@job
def with_sync_session(session: Session, user_id: int) -> None: ...


@job
async def nothing() -> None: ...


@job
async def anything(payload: Any, *, queue: str) -> int:
    return 1


@job(queue="x")
def anything_after(job: Job, payload: object, other: int = 1) -> int:
    return 1


@job
async def only_job(job: Job) -> None: ...


@job
async def session_and_any(session: AsyncSession, payload: Any) -> None: ...


@job
def many(*numbers: int, **fields: str) -> None: ...


@dataclass
class Greeting:
    user: Annotated[User, ForUpdate(skip_locked=True)]
    others: list[User]
    by: User | None = None


@worker(on_missing="raise", version=2)
class Greet(Worker[Greeting]):
    @staticmethod
    def upgrade(args: dict[str, Any], version: int) -> dict[str, Any]:
        return args

    async def process(self, args: Greeting, session: AsyncSession) -> None:
        assert_type(args.user, User)


def upgraded(args: dict[str, Any], version: int) -> dict[str, Any]:
    return args


@job(on_missing="none", version=3, upgrade=upgraded)
async def greet(session: AsyncSession, user: User | None, *, greeting: str = "hi") -> int:
    return 1


@job
async def locked(
    job: Job, session: AsyncSession, user: Annotated[User, ForUpdate(), selectinload(User.id)], others: list[User]
) -> None:
    assert_type(user, User)


def classes(session: AsyncSession) -> None:
    assert_type(SendWelcome.new(Welcome(user_id=1)), Job)
    assert_type(SendWelcome.new(Welcome(user_id=ref(object())), schedule_in="5 minutes", priority=0), Job)
    assert_type(SendWelcome.enqueue(session, Welcome(user_id=1), queue="slow"), Job)
    assert_type(SendWelcome().backoff_of(), int)
    assert_type(MakeReport.new({"report_id": 1}), Job)
    assert_type(Sweep.new(), Job)
    assert_type(Sweep.new(schedule_in=timedelta(hours=1)), Job)
    assert_type(Sweep.enqueue(session), Job)
    assert_type(Anything.new(), Job)
    assert_type(Anything.new({"a": [1, None]}, tags=["x"]), Job)
    assert_type(Anything.enqueue(session), Job)
    assert_type(Plain(), Plain)
    assert_type(Greet.new(Greeting(User(), [Admin()])), Job)
    assert_type(Greet.enqueue(session, Greeting(Admin(), [], by=User()), priority=1), Job)


async def functions(session: AsyncSession, sync_session: Session) -> None:
    assert_type(export_report.new(7), Job)
    assert_type(export_report.new(7, fmt="pdf"), Job)
    assert_type(export_report.new(report_id=7), Job)
    assert_type(export_report.enqueue(session, 7, fmt="pdf"), Job)
    assert_type(export_report.options(queue="slow", schedule_in=60).new(7, fmt="pdf"), Job)
    assert_type(export_report.options(queue="slow").options(priority=3).enqueue(session, 7), Job)
    assert_type(await export_report(7, fmt="pdf"), str)
    assert_type(bare(datetime.now(UTC), queue="q"), int)
    assert_type(bare.new(datetime.now(UTC), queue="q"), Job)
    assert_type(welcome.new(7), Job)
    assert_type(welcome.new(7, name="x"), Job)
    assert_type(await welcome(Job("w"), session, 7, name="x"), bytes)
    assert_type(with_job.new(7), Job)
    assert_type(with_session.new(UUID(int=1)), Job)
    assert_type(with_both.new(7), Job)
    assert_type(with_both.enqueue(sync_session, 7), Job)
    assert_type(with_sync_session.new(7), Job)
    assert_type(nothing.new(), Job)
    assert_type(await nothing(), None)
    assert_type(current_job(), Job)
    assert_type(anything.new(payload={"a": 1}, queue="q"), Job)
    assert_type(anything.new(7, queue="q"), Job)
    assert_type(anything_after.new(7), Job)
    assert_type(anything_after.new(payload=7, other=2), Job)
    assert_type(only_job.new(), Job)
    assert_type(session_and_any.new(7), Job)
    assert_type(session_and_any.new(payload=7), Job)
    assert_type(many.new(1, 2, name="x"), Job)
    assert_type(greet.new(User(), greeting="hello"), Job)
    assert_type(greet.new(user=None), Job)
    assert_type(greet.options(queue="x").enqueue(session, Admin()), Job)
    assert_type(await greet(session, None), int)
    assert_type(locked.new(User(), others=[Admin()]), Job)


async def own_sessions(session: OwnAsyncSession, sync_session: OwnSession, job: Job) -> None:
    assert_type(own_async.new(UUID(int=1)), Job)
    assert_type(own_async_and_job.options(queue="x").new(1, name="ada"), Job)
    assert_type(own_sync.enqueue(sync_session, user_id=1), Job)
    assert_type(own_sync_and_job.new(1), Job)
    assert_type(InOwnSession.enqueue(session, Welcome(user_id=1)), Job)
    assert_type(await own_async_and_job(job, session, 1), bytes)
    own_sync(sync_session, 1)


async def selects(async_session: AsyncSession, async_scoped: async_scoped_session[AsyncSession]) -> None:
    rows = select(User.id.label("user_id"))
    awaited = enqueue_select(async_session, with_both, rows, queue=literal("slow"), schedule_in=User.id * 60)
    assert_type(await awaited, Enqueued)
    assert_type(await enqueue_select(async_scoped, anything, rows), Enqueued)


def sessions(
    session: Session,
    async_session: AsyncSession,
    scoped: scoped_session[Session],
    async_scoped: async_scoped_session[AsyncSession],
    one: Job,
) -> None:
    assert_type(enqueue(session, one), Job)
    assert_type(enqueue(async_session, one), Job)
    assert_type(enqueue(scoped, one), Job)
    assert_type(enqueue(async_scoped, one), Job)
    assert_type(enqueue_many(session, [one]), list[Job])
    rows = select(User.id.label("report_id"))
    assert_type(enqueue_select(session, export_report, rows), Enqueued)
    assert_type(enqueue_select(scoped, SendWelcome, rows, queue="slow", scheduled_at=datetime.now(UTC)), Enqueued)
    assert_type(enqueue_select(session, Plain, union_all(rows, rows), schedule_in="5 minutes"), Enqueued)
    assert_type(enqueue_select(session, export_report.options(queue="slow"), rows, priority=User.id), Enqueued)
    assert_type(export_report.enqueue(scoped, 7), Job)
    assert_type(SendWelcome.enqueue(async_scoped, Welcome(1)), Job)
    assert_type(one.args, dict[str, Any])


@job(queue="calls", partition="args.tenant_id", sequence=("worker", "args.tenant_id"), on_failure="halt", deadline=60)
async def keyed(tenant_id: int) -> None: ...


@worker(partition=lambda job: job.args["tenant_id"])
class Keyed(Worker[Welcome]):
    async def process(self, args: Welcome) -> None: ...


async def limits(engine: AsyncEngine, session: AsyncSession, oban: Oban) -> None:
    fair = {"acme": 3}
    Runner(engine, queues={"default": 10, "calls": Queue(20, global_limit=50, by="partition", each=5, fair=fair)})
    Runner(engine, queues={"calls": Queue(20, rate=Rate(60, per="1 minute", algorithm="bucket", burst=5))})
    Runner(engine, queues={"calls": Queue(20, rate="60/minute")})
    await oban.limit_queue("calls", global_limit=30, each=None, rate=Rate(10, per=1), session=session)
    await oban.start_queue("calls", limit=5, global_limit=8)
    assert_type(await oban.resume_sequence("ledger", 17), list[int])
    assert_type(keyed.options(partition=None, sequence="worker", deadline="1 hour").new(7), Job)
    assert_type(Keyed.new(Welcome(1), partition="worker", on_failure="skip", sequence="args.user_id"), Job)


@job(queue="etl")
async def extract(session: AsyncSession, source: str) -> Record[list[int]]:
    return Record([len(source)])


@job(queue="etl")
def extract_perhaps(source: str) -> Record[list[int]] | Cancel | None:
    return Record([1]) if source else Cancel("empty")


@job(queue="etl", record=True)
def add_up(rows: list[int], *, into: str) -> int:
    return sum(rows)


@job(record=True)
async def add_up_later(rows: list[int], *, into: str) -> int:
    return sum(rows)


def workflows() -> None:
    flow = Workflow("nightly", context={"tenant": 7})
    rows = flow.call("extract", extract, "crm")
    assert_type(rows.result, list[int])
    assert_type(flow.call("perhaps", extract_perhaps, "crm").result, list[int])
    assert_type(flow.call("elsewhere", extract.options(queue="slow"), "crm").result, list[int])
    total = flow.call("total", add_up, rows.result, into="crm")
    assert_type(total.result, int)
    assert_type(flow.call("later", add_up_later, rows.result, into="crm").result, int)
    assert_type(flow.call("nothing", nothing).result, None)
    flow.call("welcome", welcome, total.result, name="Ada")
    any_job = flow.add("any", Job("w"), deps=[rows, "total"], forgive=("cancelled", "deleted"))
    flow.call("of any", add_up, any_job.result, into="x")


async def batches(oban: Oban, session: AsyncSession, sync_session: Session) -> None:
    batch = Batch([bare.new(datetime.now(UTC), queue="x")], name="letters", on_success=nothing.new(), on_discard=None)
    assert_type(enqueue(session, batch), Batch)
    assert_type(enqueue(sync_session, chain(nothing.new(), nothing.new())), Workflow)
    flow = Workflow()
    pages = flow.graft("pages", by=flow.call("nothing", nothing), deps=())
    flow.add("bind", nothing.new(), deps=pages, forgive="all")
    assert_type(flow.svg(), str)
    assert_type(await oban.append(session, flow.id, "late", nothing.new(), deps=["bind"], forgive="deleted"), Job)
    assert_type((await oban.workflow(batch)).total, int)
    assert_type(await oban.cancel_workflow(flow, session=sync_session), int)
    assert_type(await oban.retry_workflow(str(flow.id), from_="bind"), int)
    assert_type((await oban.list_workflows(state="executing"))[0].subs["pages"].unfinished, int)


async def in_a_member(session: AsyncSession) -> None:
    pages = deps().graft("pages")
    first = pages.add("page-1", nothing.new())
    pages.add("page-2", nothing.new(), deps=first)
    enqueue(session, pages)
    assert_type(deps().context["tenant"], Any)
    assert_type(deps()["total"].result, Any)
    await deps().load()
    async for name, _ in deps().stream("thumbs"):
        assert_type(name, str)
    for name, _ in deps().stream("thumbs"):
        assert_type(name, str)


async def charge(order_id: int, *, cents: int) -> Welcome:
    return Welcome(order_id)


def charge_sync(order_id: int) -> int:
    return order_id


async def book(session: AsyncSession, order_id: int) -> str:
    return str(order_id)


def book_sync(session: Session, order_id: int) -> str:
    return str(order_id)


async def numbers(after: object) -> AsyncIterator[int]:
    yield 1


async def steps(session: AsyncSession, oban: Oban) -> None:
    assert_type(await step("charge", charge, 7, cents=300), Welcome)
    assert_type(await step("charge", charge, 7, cents=300, attempts=5, backoff="1 second"), Welcome)
    assert_type(await step("charge", charge, 7, cents=300, strict=True), Welcome)
    assert_type(await step.commit(session, "book", book, 7), str)
    async for number in step.each("numbers", numbers(after=step.cursor("numbers")), cursor=lambda each: each + 1):
        assert_type(number, int)
    assert_type(await step.version("v2"), bool)
    await sleep("cool down", "2 days")
    assert_type(await wait_for("approval", within="1 day"), Signal | None)
    await progress(0.4, "rows")
    signal(session, 7, "approval", {"ok": True})
    await oban.signal(7, "approval", session=session)
    assert_type(await oban.progress(7), Progress | None)


def steps_in_a_thread(session: Session) -> None:
    assert_type(step("charge", charge_sync, 7), int)
    assert_type(step("charge", charge_sync, 7, attempts=2), int)
    assert_type(step.commit(session, "book", book_sync, 7), str)
    for number in step.each("numbers", [1, 2], every="1 second"):
        assert_type(number, int)

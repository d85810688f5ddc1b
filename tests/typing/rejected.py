"""What type checkers reject; an ignored line that they would accept is an error too."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from oban_sa import Batch, Oban, Queue, Rate, Record, Workflow, signal, sleep, step
from oban_sa.bulk.select import enqueue_select
from oban_sa.models import Job
from oban_sa.outbox.enqueue import enqueue
from oban_sa.workers import Worker, job, worker


class Base(DeclarativeBase): ...


class User(Base):
    __tablename__ = "typing_users"

    id: Mapped[int] = mapped_column(primary_key=True)


class Order(Base):
    __tablename__ = "typing_orders"

    id: Mapped[int] = mapped_column(primary_key=True)


@dataclass
class Welcome:
    user_id: int


@worker(quue="mailers")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportUntypedClassDecorator]
class Misspelled(Worker[Welcome]):
    async def process(self, args: Welcome) -> None: ...


@worker(priority="high")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
class WrongValue(Worker[Welcome]):
    async def process(self, args: Welcome) -> None: ...


@worker(executor="fork")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
class Elsewhere(Worker[Welcome]):
    async def process(self, args: Welcome) -> None: ...


@worker
class SendWelcome(Worker[Welcome]):
    async def process(self, args: Welcome) -> None: ...


@worker
class Sweep(Worker[None]):
    async def process(self) -> None: ...


@worker
class Plain:
    async def process(self, job: Job) -> None: ...


@job(queue="exports")
async def export_report(report_id: int, *, fmt: str = "csv") -> str:
    return fmt


@job(prioritty=1)  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportCallIssue, reportUntypedFunctionDecorator]
async def misspelled() -> None: ...


@job
async def welcome(job: Job, session: AsyncSession, user_id: int) -> None: ...


@dataclass
class Greeting:
    user: User


@worker(on_missing="none")
class Greet(Worker[Greeting]):
    async def process(self, args: Greeting, session: AsyncSession) -> None: ...


@job(on_missing="ignore")  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportArgumentType]
async def unknown_policy(session: AsyncSession, user: User) -> None: ...


@job(upgrade=lambda args: args)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
async def wrong_upgrade(session: AsyncSession, user: User) -> None: ...


@job
async def greet(session: AsyncSession, user: User, *, greeting: str = "hi") -> None: ...


class OwnSession(AsyncSession): ...


@job
async def in_own_session(session: OwnSession, user_id: int) -> None: ...


@job
async def session_last(user: User, name: str, session: AsyncSession) -> None: ...


def classes(session: AsyncSession) -> None:
    Welcome(user_id="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SendWelcome.new()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    SendWelcome.new({"user_id": 1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SendWelcome.new(Welcome(1), prioritty=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    SendWelcome.new(Welcome(1), priority="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SendWelcome.enqueue(Welcome(1))  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    SendWelcome.enqueue(session)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Sweep.new(Welcome(1))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Plain.new({"a": 1})  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # it works, but only a class derived from Worker tells the checker

    Greeting(Order())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Greet.new(User())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Greet.new(Greeting(Order()))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def entities(session: AsyncSession) -> None:
    greet.new(Order())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    greet.new(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    greet.new(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    greet.new(session, User())  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    greet.new(User(), greeting=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    greet.options(queue="x").new(Order())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await greet(User())  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    session_last.new(User(), "Ada")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # it works, but only what comes first can be taken away from a signature


def functions(session: AsyncSession, one: Job) -> None:
    export_report.new()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    export_report.new("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    export_report.new(7, "pdf")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    export_report.new(7, fmt=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    export_report.new(7, format="pdf")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    export_report.new(7, queue="slow")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    export_report.options(quue="slow")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    export_report.options(queue="slow").new("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    export_report.enqueue(7)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    export_report.enqueue(session, "7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    welcome.new(one, session, 7)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    welcome.new(session, 7)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    in_own_session.new("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    in_own_session.new(session, 7)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    welcome(7)  # type: ignore[arg-type, call-arg, unused-coroutine]  # pyright: ignore[reportCallIssue]


def selects(session: Session) -> None:
    rows = select(User.id.label("user_id"))
    enqueue_select(session, "send_welcome", rows)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    enqueue_select(session, SendWelcome, [1])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    enqueue_select(session, SendWelcome, rows, queues="x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    enqueue_select(session, SendWelcome, rows, queue=User.id)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


def sessions(session: Session) -> None:
    enqueue("postgresql://", Job("w"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    enqueue(session, SendWelcome)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


async def limits(oban: Oban) -> None:
    Queue("20")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Queue(20, 50)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Queue(20, by="args.tenant_id")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Queue(20, eahc=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Queue(20, rate=60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Rate(60)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Rate(60, per=1, algorithm="leaky")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Rate(60, per=1, weight=lambda job: 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportUnknownLambdaType]
    await oban.limit_queue("calls", gobal_limit=30)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await oban.limit_queue("calls", each="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    export_report.options(partition=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    export_report.options(on_failure="stop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@job
async def extract(source: str) -> Record[list[int]]:
    return Record([1])


@job(record=True)
def add_up(rows: list[int], *, into: str) -> int:
    return sum(rows)


def workflows() -> None:
    flow = Workflow("nightly")
    rows = flow.call("extract", extract, "crm")
    total = flow.call("total", add_up, rows.result, into="crm")
    flow.call("a", extract, 7)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    flow.call("b", extract, rows.result)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    flow.call("c", add_up, total.result, into="crm")  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    flow.call("d", add_up, rows.result)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    flow.call("e", add_up, rows.result, onto="crm")  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue]
    flow.call(extract, "crm")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    flow.graft("pages")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Batch([extract])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    Batch([], on_sucess=Job("w"))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Batch([], on_success=extract)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    flow.add("f", extract)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    flow.add("g", Job("w"), forgive="canceled")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Record[int]("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def charge(order_id: int, *, cents: int) -> int:
    return order_id


async def book(session: AsyncSession, order_id: int) -> str:
    return str(order_id)


async def steps(session: AsyncSession, sync: Session) -> None:
    await step("charge", charge, "7", cents=300)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await step("charge", charge, 7)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await step("charge", charge, 7, cent=300)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await step("charge", charge(7, cents=300))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await step.commit(sync, "book", book, 7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await step.commit(session, "book", book, "7")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await sleep("cool down", None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    signal(session, "7", "approval")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

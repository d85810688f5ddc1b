"""`enqueue_select`: what the database makes of rows is what Python would have made of them."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NotRequired, TypedDict

import pytest
from pydantic import BaseModel
from sqlalchemy import (
    ARRAY,
    JSON,
    Date,
    DateTime,
    Double,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    Select,
    String,
    Text,
    TypeDecorator,
    case,
    cast,
    column,
    create_engine,
    event,
    func,
    literal,
    literal_column,
    select,
    text,
    type_coerce,
    union_all,
)
from sqlalchemy.dialects.postgresql import INET, JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from oban_sa import Job, JobState, Worker, enqueue, enqueue_select, job, schema_map, worker
from oban_sa.errors import InvalidArguments, InvalidJob, InvalidOption
from oban_sa.jobs import values
from oban_sa.sql.expressions import CLOCK
from oban_sa.workers import Registry
from tests.places import AppDatabase, Order, Pair, User

registry = Registry()


@worker(registry=registry, queue="mail", priority=2, tags=["b", "a"], max_attempts=7, meta={"from": "here"})
class Anything:
    async def process(self, job: Job) -> None: ...


@job(registry=registry)
async def welcome(user_id: int, *, greeting: str = "Dear", loudly: bool = False) -> None: ...


@job(registry=registry)
async def greet(user: User, session: AsyncSession) -> None: ...


@job(registry=registry)
async def link(pair: Pair, session: AsyncSession) -> None: ...


class Color(enum.Enum):
    RED = "r"
    GREEN = 2


class Size(enum.StrEnum):
    SMALL = "small"
    LARGE = "large"


def labels_of(cls: type[enum.Enum]) -> list[str]:
    return [str(member.value) for member in cls]


class Upper(TypeDecorator[str]):
    impl = String
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.upper()


class Plain(TypeDecorator[str]):
    impl = String
    cache_ok = True


class Own(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(timezone=True)}


class Everything(Own):
    __tablename__ = "everything"

    id: Mapped[int] = mapped_column(primary_key=True)
    whole: Mapped[int | None]
    words: Mapped[str | None] = mapped_column(Text)
    plain: Mapped[str | None] = mapped_column(Plain)
    flag: Mapped[bool | None]
    key: Mapped[uuid.UUID | None]
    price: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    ratio: Mapped[float | None] = mapped_column(Double)
    share: Mapped[float | None] = mapped_column(Numeric(12, 4, asdecimal=False))
    zoned: Mapped[datetime | None]
    naive: Mapped[datetime | None] = mapped_column(DateTime())
    day: Mapped[date | None]
    hour: Mapped[time | None]
    color: Mapped[Color | None] = mapped_column(Enum(Color))
    shade: Mapped[Color | None] = mapped_column(
        Enum(Color, values_callable=lambda cls: [str(m.value) for m in cls], name="shade")
    )
    size: Mapped[Size | None] = mapped_column(Enum(Size, native_enum=False))
    label: Mapped[str | None] = mapped_column(Enum("x", "y", name="label"))
    document: Mapped[Any | None] = mapped_column(JSONB, nullable=True)
    note: Mapped[Any | None] = mapped_column(JSON, nullable=True)
    numbers: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))
    names: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    colors: Mapped[list[Color | None] | None] = mapped_column(ARRAY(Enum(Color)))
    prices: Mapped[list[Decimal] | None] = mapped_column(ARRAY(Numeric(12, 2)))
    moments: Mapped[list[datetime] | None] = mapped_column(ARRAY(DateTime(timezone=True)))
    days: Mapped[list[date] | None] = mapped_column(ARRAY(Date))
    ratios: Mapped[list[float] | None] = mapped_column(ARRAY(Double))


NAMES = [column.key for column in Everything.__table__.columns]


@pytest.fixture
def app_db(app_db: AppDatabase) -> AppDatabase:
    app_db.work_on_engine(Own.metadata.create_all)
    app_db.execute("TRUNCATE everything")
    return app_db


def users(session: Session, *emails: str | None) -> list[User]:
    made = [User(email=email) for email in emails]
    session.add_all(made)
    session.flush()
    return made


def everything() -> list[Everything]:
    full = Everything(
        id=1,
        whole=2**31 - 1,
        words='é "quoted" \\ and\nmore {}',
        plain="p",
        flag=True,
        key=uuid.UUID(int=77),
        price=Decimal("1234.50"),
        ratio=0.1,
        share=2.5,
        zoned=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
        naive=datetime(2026, 1, 2, 3, 4, 5),
        day=date(2026, 1, 2),
        hour=time(3, 4, 5, 6),
        color=Color.RED,
        shade=Color.GREEN,
        size=Size.LARGE,
        label="y",
        document={"a": [1, None, {"b": "c"}]},
        note=[1.5, "x"],
        numbers=[1, 2],
        names=["a,b", '"'],
        colors=[Color.GREEN, None, Color.RED],
        prices=[Decimal("1.50"), Decimal("-2.00")],
        moments=[datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)],
        days=[date(2026, 1, 2)],
        ratios=[0.5, 1e-9],
    )
    other = Everything(
        id=2, ratio=1e-9, zoned=datetime(1969, 12, 31, 23, 0, tzinfo=UTC), hour=time(23), color=Color.GREEN, colors=[]
    )
    return [
        full,
        other,
        Everything(id=3, price=Decimal("0.00"), ratio=-123456789.5, naive=datetime(9998, 12, 31, 23, 59, 59, 999999)),
    ]


def test_every_type_becomes_what_python_would_have_written(app_db: AppDatabase) -> None:
    query = select(*(getattr(Everything, name) for name in NAMES)).order_by(Everything.id)

    def work(session: Session) -> list[dict[str, Any]]:
        session.execute(text("SET TIME ZONE 'Asia/Kolkata'"))
        session.add_all(everything())
        session.flush()
        assert enqueue_select(session, Anything, query) == 3
        session.commit()
        return [dict(row._mapping) for row in session.execute(query)]

    rows = app_db.run(work)
    for row in rows:
        if row["zoned"] is not None:  # psycopg gives it in the zone of the session
            row["zoned"] = row["zoned"].astimezone(UTC)
        row["moments"] = row["moments"] and [moment.astimezone(UTC) for moment in row["moments"]]
    assert [job["args"] for job in app_db.jobs()] == [values.to_json(row) for row in rows]


def test_moments_of_jobs_themselves_are_taken_as_utc(app_db: AppDatabase) -> None:
    moment = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)

    def work(session: Session) -> None:
        session.add(Job("w", scheduled_at=moment, args={"a": 1}, tags=["x"]))
        session.flush()
        rows = select(Job.scheduled_at, Job.args, Job.tags, Job.state, Job.queue)
        assert enqueue_select(session, Anything, rows) == 1
        session.commit()

    app_db.run(work)
    assert app_db.jobs()[1]["args"] == {
        "scheduled_at": moment.isoformat(),
        "args": {"a": 1},
        "tags": ["x"],
        "state": "scheduled",
        "queue": "default",
    }


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("kind", [Double(), Float(), Numeric(), Numeric(asdecimal=False)])
def test_what_is_no_number_fails_the_statement(app_db: AppDatabase, number: str, kind: Any) -> None:
    def work(session: Session) -> None:
        with pytest.raises(DBAPIError, match="invalid input syntax for type json"):
            enqueue_select(session, Anything, select(cast(literal(number, Text), kind).label("x")))

    app_db.run(work)
    assert app_db.jobs() == []


def test_a_number_with_a_fraction_that_no_double_holds_fails_the_statement(app_db: AppDatabase) -> None:
    whole, fraction = f"1{'0' * 400}", f"-1{'0' * 400}.5"

    def work(session: Session) -> None:
        for kind in (JSONB, JSON):
            with pytest.raises(DBAPIError, match="invalid input syntax for type json"), session.begin_nested():
                rows = select(cast(literal(f'{{"a": [1.5, {fraction}]}}', Text), kind).label("x"))
                enqueue_select(session, Anything, rows)
        rows = select(cast(literal(f'{{"a": [1.5, {whole}]}}', Text), JSONB).label("x"))
        enqueue_select(session, Anything, rows)
        session.commit()

    app_db.run(work)
    (made,) = app_db.jobs()
    assert made["args"] == {"x": {"a": [1.5, int(whole)]}}


def test_a_moment_that_is_none_fails_the_statement(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        with pytest.raises(DBAPIError, match="invalid input syntax for type json"):
            enqueue_select(session, Anything, select(cast(literal("infinity", Text), DateTime()).label("x")))

    app_db.run(work)


def test_jobs_get_the_worker_s_options_and_their_own(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        users(session, "a")
        rows = select(User.id.label("user_id"))
        enqueue_select(session, Anything, rows)
        enqueue_select(
            session, Anything, rows, queue="other", priority=0, max_attempts=1, tags=["Z", '"q"'], meta={"x": [1]}
        )
        enqueue_select(session, welcome.options(queue="third"), rows)
        session.commit()

    app_db.run(work)

    def read(session: Session) -> list[tuple[Any, ...]]:
        names = ("worker", "queue", "priority", "max_attempts", "tags", "meta", "state", "attempt")
        return [tuple(getattr(job, name) for name in names) for job in session.query(Job).order_by(Job.id)]

    name = f"{Anything.__module__}.Anything"
    assert app_db.run(read) == [
        (name, "mail", 2, 7, ["a", "b"], {"from": "here"}, JobState.AVAILABLE, 0),
        (name, "other", 0, 1, ['"q"', "z"], {"x": [1]}, JobState.AVAILABLE, 0),
        (f"{Anything.__module__}.welcome", "third", 0, 20, [], {}, JobState.AVAILABLE, 0),
    ]


def test_defaults_of_a_function_are_written_into_its_jobs(app_db: AppDatabase) -> None:
    def work(session: Session) -> int:
        (user,) = users(session, "a")
        enqueue_select(session, welcome, select(User.id.label("user_id"), literal(True).label("loudly")))
        session.commit()
        return user.id

    user_id = app_db.run(work)
    assert [job["args"] for job in app_db.jobs()] == [{"user_id": user_id, "greeting": "Dear", "loudly": True}]


def test_what_is_pending_in_the_session_is_seen_and_what_rolls_back_is_gone(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        savepoint = session.begin_nested()
        session.add_all([User(email="a"), User(email="b")])
        assert enqueue_select(session, welcome, select(User.id.label("user_id"))) == 2
        savepoint.rollback()
        assert enqueue_select(session, welcome, select(User.id.label("user_id")).where(User.email == "b")) == 0
        session.rollback()

    app_db.run(work)
    assert app_db.jobs() == []
    assert app_db.heard() == []


def test_rows_become_jobs_in_their_order_with_bound_parameters_joins_and_limits(app_db: AppDatabase) -> None:
    def work(session: Session) -> list[int]:
        made = users(session, "c", "a", "b")
        session.add_all(Order(user=user) for user in made)
        session.flush()
        wanted = ["a", "c"]
        rows = (
            select(User.id.label("user_id"), func.concat(User.email, "!", type_=Text).label("greeting"))
            .join(User.orders)
            .where(User.email.in_(wanted))
            .order_by(User.email.desc())
            .limit(10)
        )
        assert enqueue_select(session, welcome, rows) == 2
        both = union_all(
            select(User.id.label("user_id")).where(User.email == "a"), select(literal(-1).label("user_id"))
        )
        assert enqueue_select(session, welcome, both) == 2
        session.commit()
        return [user.id for user in made]

    c, a, _ = app_db.run(work)
    args = [job["args"] for job in app_db.jobs()]
    assert [(each["user_id"], each["greeting"]) for each in args[:2]] == [(c, "c!"), (a, "a!")]
    assert sorted(each["user_id"] for each in args[2:]) == [-1, a]


def test_a_hundred_columns_make_one_object(app_db: AppDatabase) -> None:
    columns = [literal(number).label(f"n{number}") for number in range(100)]
    app_db.run(lambda session: (enqueue_select(session, Anything, select(*columns)), session.commit()))
    assert app_db.jobs()[0]["args"] == {f"n{number}": number for number in range(100)}


def test_no_columns_but_a_row_is_a_job_without_args(app_db: AppDatabase) -> None:
    @job(registry=Registry(), name="nothing")
    def nothing() -> None: ...

    def work(session: Session) -> None:
        with pytest.raises(InvalidArguments, match=r"'x', which .*nothing\(\) doesn't take"):
            enqueue_select(session, nothing, select(literal(1).label("x")))

    app_db.run(work)


def test_a_moment_to_come_is_a_schedule_and_one_past_is_none(app_db: AppDatabase) -> None:
    later = datetime(2999, 1, 1, tzinfo=UTC)
    looks: list[datetime] = []

    def work(session: Session) -> None:
        users(session, "later", "past", None)
        rows = select(User.id.label("user_id")).order_by(User.id)
        moment = case((User.email == "later", later), (User.email == "past", later - timedelta(days=400_000)))
        looks.append(session.execute(CLOCK).scalar_one().replace(tzinfo=UTC))
        enqueue_select(session, welcome, rows, scheduled_at=type_coerce(moment, DateTime(timezone=True)))
        enqueue_select(session, welcome, rows.limit(1), scheduled_at=later)
        enqueue_select(session, welcome, rows.limit(1), schedule_in="1 hour")
        enqueue_select(session, welcome, rows.limit(1), schedule_in=cast(User.visits, Integer))
        enqueue_select(session, welcome, rows.limit(1), schedule_in=func.make_interval(0, 0, 0, 1, type_=Interval))
        looks.append(session.execute(CLOCK).scalar_one().replace(tzinfo=UTC))
        session.commit()

    app_db.run(work)
    assert [job["state"] for job in app_db.jobs()] == ["scheduled", "available", "available", *["scheduled"] * 4]

    def read(session: Session) -> list[Any]:
        return [(job.scheduled_at, job.inserted_at) for job in session.query(Job).order_by(Job.id)]

    moments = app_db.run(read)
    assert (moments[0][0], moments[3][0]) == (later, later)
    assert moments[2][0] == moments[2][1]
    spans = timedelta(hours=1), timedelta(seconds=7), timedelta(days=1)
    counted_from = [scheduled - span for (scheduled, _), span in zip(moments[4:], spans, strict=True)]
    assert [looks[0], *counted_from, looks[1]] == sorted([looks[0], *counted_from, looks[1]])


def test_queue_and_priority_may_come_from_the_row(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        users(session, "a", "b")
        rows = select(User.id.label("user_id")).order_by(User.id)
        queue = case((User.email == "a", "first"), else_="second")
        assert enqueue_select(session, welcome, rows, queue=queue, priority=User.visits) == 2
        session.commit()

    app_db.run(work)
    assert [job["queue"] for job in app_db.jobs()] == ["first", "second"]
    assert [set(job["args"]) for job in app_db.jobs()] == [{"user_id", "greeting", "loudly"}] * 2
    heard = {payload for _, payload in app_db.heard()}
    assert len(heard) == 2


def test_each_queue_is_announced_once_and_with_the_commit(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        users(session, "a", "b")
        rows = select(User.id.label("user_id"))
        enqueue_select(session, welcome, rows)
        enqueue_select(session, welcome, rows)
        enqueue(session, welcome.new(1))
        enqueue_select(session, Anything, rows, schedule_in=60)
        enqueue_select(session, Anything, rows.where(User.email == "nobody"))
        assert app_db.heard() == []
        session.commit()

    app_db.run(work)
    assert [payload for _, payload in app_db.heard()] == ['{"queue":"default"}']


def test_a_mapped_object_is_named_by_its_key(app_db: AppDatabase) -> None:
    def work(session: Session) -> int:
        (user,) = users(session, "a")
        enqueue(session, greet.new(user))
        enqueue_select(session, greet, select(User.id.label("user")))
        session.commit()
        return user.id

    app_db.run(work)
    one, other = app_db.jobs()
    assert one["args"] == other["args"]


def test_an_array_of_arrays_fails_rather_than_become_one(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        nested = text("SELECT ARRAY[ARRAY[1.5]] AS x").columns(column("x", ARRAY(Numeric))).subquery()
        with pytest.raises(DBAPIError, match="invalid input syntax for type json"):
            enqueue_select(session, Anything, select(nested.c.x))
        session.rollback()

    app_db.run(work)


def test_nothing_is_sent_for_a_select_that_does_not_fit(app_db: AppDatabase) -> None:
    user_id = User.id.label("user_id")
    number = literal(1).label("x")
    refused: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
        (welcome, select(User.id.label("user_ids")), {}, InvalidArguments, "did you mean 'user_id'"),
        (welcome, select(literal("Dear").label("greeting")), {}, InvalidArguments, "lacks 'user_id'"),
        (welcome, select(User.id + 1), {}, InvalidArguments, "column 1 of the select has no name"),
        (Anything, select(literal_column("1").label("x")), {}, InvalidArguments, r"args.x has no type"),
        (Anything, select(cast(None, Interval).label("x")), {}, InvalidArguments, "extract"),
        (Anything, select(cast(None, LargeBinary).label("x")), {}, InvalidArguments, "base64"),
        (Anything, select(cast(None, INET).label("x")), {}, InvalidArguments, r"INET.*cast\(column, Text\)"),
        (
            Anything,
            select(cast(None, ARRAY(Interval)).label("x")),
            {},
            InvalidArguments,
            "an ARRAY of Interval.*enqueue_many",
        ),
        (Anything, select(type_coerce(User.email, Upper).label("x")), {}, InvalidArguments, r"type_coerce\(column, St"),
        (link, select(Pair.left.label("pair")), {}, InvalidArguments, "key has 2 columns"),
        (welcome, select(user_id), {"queues": "x"}, InvalidOption, "did you mean 'queue'"),
        (welcome, select(user_id), {"queue": " "}, InvalidJob, "queue must not be blank"),
        (welcome, select(user_id), {"priority": 10}, InvalidJob, "priority must be between"),
        (welcome, select(user_id), {"schedule_in": -1}, InvalidOption, "can't be negative"),
        (welcome, select(user_id), {"schedule_in": 1, "scheduled_at": datetime.now(UTC)}, InvalidJob, "one of them"),
        (welcome, select(user_id), {"schedule_in": User.email}, InvalidOption, "needs an Interval"),
        (welcome, select(user_id), {"scheduled_at": User.visits}, InvalidOption, "needs a DateTime"),
        (welcome, select(user_id), {"meta": {"x": float("nan")}}, InvalidArguments, "meta.x"),
        (welcome, select(user_id), {"max_attempts": User.visits}, InvalidOption, "give a value"),
        (welcome, select(user_id).distinct(), {"queue": User.email}, InvalidOption, "subquery"),
        (welcome, union_all(select(user_id), select(user_id)), {"queue": User.email}, InvalidOption, "subquery"),
        (welcome, User, {}, TypeError, "takes a select"),
        (welcome, select(user_id).subquery(), {}, TypeError, r"select\(rows\)"),
        (str, select(number), {}, InvalidOption, "not decorated with @worker"),
        (select(user_id), welcome, {}, TypeError, r"write enqueue_select\(session, worker, select\(\.\.\.\)\)"),
    ]

    def work(session: Session) -> None:
        for target, rows, options, error, words in refused:
            with pytest.raises(error, match=words):
                enqueue_select(session, target, rows, **options)

    with app_db.counting() as sent:
        app_db.run(work)
    assert sent == []


@dataclass
class Address:
    street: str
    number: int = 1


class Letter(TypedDict):
    to: str
    copies: NotRequired[int]


class Parcel(BaseModel):
    weight: float
    fragile: bool = False


@pytest.mark.parametrize(
    ("kind", "fits", "unknown", "missing"),
    [
        (Address, ["street"], "streets", "number"),
        (Letter, ["to", "copies"], "copy", "copies"),
        (Parcel, ["weight", "fragile"], "weights", "fragile"),
    ],
)
def test_the_fields_of_typed_args_are_checked(
    kind: Any, fits: list[str], unknown: str, missing: str, app_db: AppDatabase
) -> None:
    @worker(registry=Registry(), name="typed")
    class Typed(Worker[kind]):  # type: ignore[valid-type]
        async def process(self, job: Job) -> None: ...

    def work(session: Session) -> None:
        assert enqueue_select(session, Typed, select(*(literal(1).label(name) for name in fits))) == 1
        with pytest.raises(InvalidArguments, match="did you mean"):
            enqueue_select(session, Typed, select(*(literal(1).label(name) for name in [*fits, unknown])))
        with pytest.raises(InvalidArguments, match="lacks"):
            enqueue_select(session, Typed, select(literal(1).label(missing)))

    app_db.run(work)


async def test_sessions_of_every_kind_are_taken(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession], sync_sessions: sessionmaker[Session]
) -> None:
    rows = select(literal(1).label("user_id"))
    async with sessions.begin() as session:
        assert await enqueue_select(session, welcome, rows) == 1
    scoped = async_scoped_session(sessions, scopefunc=lambda: 1)
    assert await enqueue_select(scoped, welcome, rows) == 1
    await scoped.commit()
    await scoped.remove()
    with sync_sessions.begin() as sync:
        assert enqueue_select(sync, welcome, rows) == 1
    registry = scoped_session(sync_sessions)
    assert enqueue_select(registry, welcome, rows) == 1
    registry.commit()
    registry.remove()
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Job)) == 4
        with pytest.raises(InvalidArguments):  # at once, not when it is awaited
            enqueue_select(session, welcome, select(literal(1).label("x")))
    with pytest.raises(TypeError, match="a session comes first"):
        enqueue_select(engine, welcome, rows)  # type: ignore[call-overload]


async def test_tables_are_looked_for_where_the_session_has_them(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA tenant"))
        mapped = await connection.execution_options(schema_translate_map={**schema_map("tenant"), None: "tenant"})
        await mapped.run_sync(Job.metadata.create_all)
        await mapped.run_sync(User.__table__.create)
    tenant = engine.execution_options(schema_translate_map={**schema_map("tenant"), None: "tenant"})
    async with AsyncSession(tenant) as session, session.begin():
        session.add(User(email="a"))
        assert await enqueue_select(session, welcome, select(User.id.label("user_id"))) == 1
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM tenant.oban_jobs")) == 1
        assert await connection.scalar(text("SELECT count(*) FROM public.oban_jobs")) == 0


def test_rows_of_another_database_are_refused(sync_sessions: sessionmaker[Session]) -> None:
    elsewhere = create_engine("postgresql+psycopg://elsewhere/x")
    with (
        sync_sessions(binds={User: elsewhere}) as session,
        pytest.raises(InvalidOption, match="no statement reaches both"),
    ):
        enqueue_select(session, welcome, select(User.id.label("user_id")))


async def test_it_is_one_statement_and_the_announcement(engine: AsyncEngine) -> None:
    sent: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def _noted(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    rows: Select[Any] = select(func.generate_series(1, 1_000, type_=Integer).label("user_id"))
    async with AsyncSession(engine) as session:
        assert await enqueue_select(session, welcome, rows) == 1_000
        assert len(sent) == 2
        await session.commit()
    assert [statement.split()[0] for statement in sent] == ["WITH", "SELECT"]  # the other announces

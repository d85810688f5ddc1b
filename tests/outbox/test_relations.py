"""Tables of an application that point at jobs, and jobs that are found by what their args say, through every driver."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import ForeignKey, any_, create_engine, event, literal, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    contains_eager,
    foreign,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
)

from oban_sa import Job, JobState, enqueue, ref, schema_map
from oban_sa.migrations import migrate
from tests.places import AppDatabase
from tests.support import sync_url


class Base(DeclarativeBase):
    """A base, a registry and a MetaData of the application's own."""


class Customer(Base):
    __tablename__ = "shop_customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    orders: Mapped[list[Order]] = relationship(back_populates="customer")
    # No column points anywhere: the jobs whose args say who they are about.
    jobs: Mapped[list[Job]] = relationship(
        Job,
        primaryjoin=lambda: Customer.id == foreign(Job.args["customer_id"].as_integer()),
        order_by=Job.id,
        viewonly=True,
    )


class Order(Base):
    __tablename__ = "shop_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str | None] = mapped_column(unique=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey(Customer.id))
    customer: Mapped[Customer] = relationship(back_populates="orders")
    job_id: Mapped[int | None] = mapped_column(ForeignKey(Job.id, ondelete="SET NULL"), index=True)
    job: Mapped[Job | None] = relationship(Job, passive_deletes=True)
    progress: Mapped[int | None] = column_property(
        select(Job.meta["progress"].as_integer()).where(Job.id == job_id).correlate_except(Job).scalar_subquery(),
        deferred=True,
    )

    @hybrid_property
    def job_state(self) -> JobState | None:
        return self.job.state if self.job is not None else None

    @job_state.inplace.expression
    @classmethod
    def _job_state(cls) -> Any:
        return select(Job.state).where(Job.id == cls.job_id).correlate_except(Job).scalar_subquery()


class Note(Base):
    """Forbids that its job is deleted."""

    __tablename__ = "shop_notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey(Job.id))
    job: Mapped[Job] = relationship(Job)


@pytest.fixture
def shop(app_db: AppDatabase) -> AppDatabase:
    app_db.work_on_engine(Base.metadata.create_all)
    app_db.execute("TRUNCATE shop_customers, shop_orders, shop_notes")
    return app_db


def ordered(session: Session, **args: Any) -> Order:
    """An order with a customer and a job, flushed."""
    order = Order(customer=Customer(email="ada@example.com"))
    session.add(order)
    order.job = enqueue(
        session, Job("shop.Ship", args={"order_id": ref(order), "customer_id": ref(order.customer), **args})
    )
    session.flush()
    return order


def test_an_order_and_its_job_refer_to_each_other_after_one_flush(shop: AppDatabase) -> None:
    def work(session: Session) -> tuple[int, int | None, int]:
        order = ordered(session)
        assert order.job is not None
        assert order.job_id == order.job.id
        assert order.job.args == {"order_id": order.id, "customer_id": order.customer_id}
        session.commit()
        return order.id, order.job_id, order.customer_id

    order_id, job_id, customer_id = shop.run(work)
    (job,) = shop.jobs()
    assert job["id"] == job_id
    assert job["args"] == {"order_id": order_id, "customer_id": customer_id}
    assert shop.count("shop_orders") == 1


def test_the_relationship_alone_brings_the_job_into_the_session_and_it_is_announced(shop: AppDatabase) -> None:
    def work(session: Session) -> None:
        order = Order(customer=Customer(email="ada@example.com"))
        order.job = Job("shop.Ship", args={"order_id": ref(order)})
        session.add(order)  # save-update, the default cascade, adds its job
        session.commit()

    shop.run(work, expire_on_commit=False)
    assert len(shop.heard()) == 1
    (job,) = shop.jobs()
    assert job["args"]["order_id"] > 0


def test_a_failing_order_takes_the_job_that_was_inserted_before_it_along(shop: AppDatabase) -> None:
    def work(session: Session) -> list[str]:
        customer = Customer(email="ada@example.com")
        session.add(Order(customer=customer, number="7"))
        session.commit()
        order = Order(customer=customer, number="7")
        order.job = enqueue(session, Job("shop.Ship"))
        session.add(order)
        with shop.counting() as sent, pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        return sent

    sent = shop.run(work, expire_on_commit=False)
    inserts = [each.partition("INSERT INTO ")[2].split()[0] for each in sent if "INSERT" in each]
    assert inserts[:2] == ["public.oban_jobs", "shop_orders"]
    assert shop.jobs() == []
    assert shop.heard() == []


def test_a_savepoint_that_rolls_back_leaves_the_order_without_a_job(shop: AppDatabase) -> None:
    def work(session: Session) -> int | None:
        order = Order(customer=Customer(email="ada@example.com"))
        session.add(order)
        session.flush()
        nested = session.begin_nested()
        order.job = enqueue(session, Job("shop.Ship"))
        session.flush()
        assert order.job_id is not None
        nested.rollback()
        session.commit()
        return order.job_id

    assert shop.run(work) is None
    assert shop.jobs() == []


@pytest.mark.parametrize("load", [joinedload, selectinload])
def test_jobs_are_loaded_with_their_orders(shop: AppDatabase, load: Any) -> None:
    def work(session: Session) -> None:
        for _ in range(3):
            ordered(session)
        session.commit()
        session.expunge_all()
        with shop.counting() as sent:
            orders = session.scalars(select(Order).options(load(Order.job)).order_by(Order.id)).all()
            assert [order.job.state for order in orders if order.job] == [JobState.AVAILABLE] * 3
        assert len(sent) == (1 if load is joinedload else 2)

    shop.run(work, expire_on_commit=False)


def test_orders_are_found_by_what_became_of_their_jobs(shop: AppDatabase) -> None:
    def work(session: Session) -> None:
        waiting, done = ordered(session), ordered(session)
        assert done.job is not None
        done.job.state = JobState.COMPLETED
        session.commit()
        session.expunge_all()

        joined = select(Order).join(Order.job).where(Job.state == JobState.COMPLETED).options(contains_eager(Order.job))
        assert [order.id for order in session.scalars(joined)] == [done.id]
        assert session.scalars(select(Order.id).where(Order.job.has(state=JobState.AVAILABLE))).all() == [waiting.id]
        assert session.scalars(select(Order.id).where(Order.job_state == "completed")).all() == [done.id]
        (found,) = session.scalars(
            select(Order).where(Order.job_state == JobState.COMPLETED).options(joinedload(Order.job))
        )
        assert found.job_state is JobState.COMPLETED

    shop.run(work, expire_on_commit=False)


def test_a_customer_has_the_jobs_whose_args_name_it(shop: AppDatabase) -> None:
    def work(session: Session) -> None:
        first, second = ordered(session), ordered(session)
        enqueue(session, Job("shop.Thank", args={"customer_id": first.customer_id}))
        enqueue(session, Job("shop.Sweep"))
        session.commit()
        session.expunge_all()
        query = select(Customer).options(selectinload(Customer.jobs)).order_by(Customer.id)
        one, other = session.scalars(query).all()
        assert [job.worker for job in one.jobs] == ["shop.Ship", "shop.Thank"]
        assert [job.id for job in other.jobs] == [second.job_id]
        busy = select(Customer.id).where(Customer.jobs.any(Job.worker == "shop.Thank"))
        assert session.scalars(busy).all() == [one.id]
        assert [job.id for job in session.get_one(Customer, one.id).jobs] == [job.id for job in one.jobs]

    shop.run(work, expire_on_commit=False)


CONDITIONS: list[Any] = [
    lambda: Job.args["user_id"].as_integer() == 7,
    lambda: Job.args["user_id"].as_integer().in_([6, 7]),
    lambda: Job.args.contains({"user_id": 7}),
    lambda: Job.args.contains({"user": {"email": "ada@example.com"}}),
    lambda: Job.args["user"]["email"].astext == "ada@example.com",
    lambda: Job.args["user"]["email"].as_string() == "ada@example.com",
    lambda: Job.args[("user", "email")].astext.startswith("ada@"),
    lambda: Job.args["price"].as_numeric(10, 2) > 9,
    lambda: Job.args["paid"].as_boolean(),
    lambda: Job.args["items"][1]["sku"].astext == "b",
    lambda: Job.args["user"].contains({"email": "ada@example.com"}),
    lambda: Job.args.has_key("paid"),
    lambda: Job.args.path_exists('$.items[*] ? (@.sku == "b")'),
    lambda: Job.meta["trace"].astext == "abc",
    lambda: Job.tags.contains(["mail"]),
    lambda: Job.tags.overlap(["post", "mail"]),
    lambda: literal("mail") == any_(Job.tags),
]


@pytest.mark.parametrize("number", range(len(CONDITIONS)))
def test_jobs_are_found_by_what_is_inside_args_and_meta(shop: AppDatabase, number: int) -> None:
    condition = CONDITIONS[number]

    def work(session: Session) -> None:
        args = {
            "user_id": 7,
            "user": {"email": "ada@example.com"},
            "price": 9.5,
            "paid": True,
            "items": [{"sku": "a"}, {"sku": "b"}],
        }
        wanted = enqueue(session, Job("w", args=args, meta={"trace": "abc"}, tags=["mail"]))
        enqueue(session, Job("w", args={"user_id": 8, "user": {"email": "bob@example.com"}, "price": 8}))
        session.flush()
        assert session.scalars(select(Job.id).where(condition())).all() == [wanted.id]

    shop.run(work, expire_on_commit=False)


def test_one_key_of_meta_is_set_without_touching_the_others(shop: AppDatabase) -> None:
    def work(session: Session) -> None:
        order = ordered(session)
        assert order.job is not None
        order.job.meta = {"trace": "abc"}
        session.commit()
        job_id = order.job.id
        for percent in (40, 60):
            session.execute(update(Job).where(Job.id == job_id).values({Job.meta["progress"]: percent}))
        session.commit()
        session.expunge_all()
        assert session.get_one(Job, job_id).meta == {"trace": "abc", "progress": 60}
        assert session.get_one(Order, order.id).progress == 60
        session.execute(update(Job).where(Job.id == job_id).values(meta=Job.meta + {"step": "print"}))
        assert session.scalar(select(Job.meta).where(Job.id == job_id)) == {
            "trace": "abc",
            "progress": 60,
            "step": "print",
        }

    shop.run(work, expire_on_commit=False)


def test_an_order_stays_when_its_job_is_deleted(shop: AppDatabase) -> None:
    def work(session: Session) -> None:
        order, other = ordered(session), ordered(session)
        session.commit()
        shop.execute(f"DELETE FROM oban_jobs WHERE id = {order.job_id}")  # as the pruner does
        session.refresh(order)
        assert (order.job_id, order.job) == (None, None)

        session.delete(other.job)
        session.commit()
        session.refresh(other)
        assert other.job_id is None

    shop.run(work, expire_on_commit=False)
    assert shop.count("shop_orders") == 2


def test_a_foreign_key_that_says_nothing_forbids_that_its_job_is_deleted(shop: AppDatabase) -> None:
    def work(session: Session) -> None:
        note = Note(job=Job("w"))
        session.add(note)
        session.commit()
        session.delete(note.job)
        with pytest.raises(DBAPIError, match="shop_notes"):
            session.commit()

    shop.run(work, expire_on_commit=False)
    assert len(shop.jobs()) == 1


def test_deleting_an_order_leaves_its_job(shop: AppDatabase) -> None:
    def work(session: Session) -> None:
        order = ordered(session)
        session.commit()
        session.delete(order)
        session.commit()

    shop.run(work, expire_on_commit=False)
    assert len(shop.jobs()) == 1


def test_an_order_refers_to_jobs_in_another_schema(shop: AppDatabase) -> None:
    shop.execute("DROP SCHEMA IF EXISTS jobs CASCADE; DROP SCHEMA IF EXISTS shop CASCADE; CREATE SCHEMA shop")
    admin = create_engine(sync_url(shop.url))
    with admin.connect() as connection:
        migrate(connection, "jobs")
    admin.dispose()
    translate = {None: "shop", **schema_map("jobs")}
    bind = shop.bind.execution_options(schema_translate_map=translate)
    shop.work_on_engine(
        lambda connection: Base.metadata.create_all(connection.execution_options(schema_translate_map=translate))
    )

    def work(session: Session) -> None:
        order = ordered(session)
        session.commit()
        session.expunge_all()
        query = select(Order).options(joinedload(Order.job)).where(Order.job_state == JobState.AVAILABLE)
        found = session.scalars(query).one()
        assert found.job is not None
        assert found.job.args["order_id"] == order.id
        assert len(session.get_one(Customer, found.customer_id).jobs) == 1

    shop.run(work, bind=bind, expire_on_commit=False)
    assert shop.jobs() == []
    assert len(shop.jobs("jobs")) == 1
    assert shop.count("shop.shop_orders") == 1


def plan(session: Session, statement: Any) -> str:
    connection = session.connection()

    def explain(_connection: Any, _cursor: Any, sent: str, values: Any, *_: Any) -> tuple[str, Any]:
        return f"EXPLAIN {sent}", values

    event.listen(connection, "before_cursor_execute", explain, retval=True)
    lines = session.execute(statement).scalars().all()
    event.remove(connection, "before_cursor_execute", explain)
    return "\n".join(lines)


def test_an_index_that_is_made_for_it_serves_a_search_inside_args(shop: AppDatabase) -> None:
    # Those that docs/relations.md tells to make.
    shop.execute("CREATE INDEX jobs_args ON oban_jobs USING gin (args jsonb_path_ops)")
    shop.execute("CREATE INDEX jobs_customer ON oban_jobs (CAST(args ->> 'customer_id' AS integer))")

    def work(session: Session) -> None:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        session.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
        ordered(session, user_id=7)
        for condition, index in (
            (Job.args.contains({"user_id": 7}), "jobs_args"),
            (Job.args["customer_id"].as_integer() == 7, "jobs_customer"),
            (Job.args["customer_id"].as_integer().in_([7, 8]), "jobs_customer"),
        ):
            assert index in plan(session, select(Job.id).where(condition))

    try:
        shop.run(work)
    finally:
        shop.execute("DROP INDEX jobs_args, jobs_customer")

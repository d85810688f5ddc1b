"""Mapped objects as arguments: stored as entity and key, loaded in the attempt's session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypedDict

import msgspec
import pydantic
import pytest
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, selectinload

from oban_sa import ForUpdate, Job, Oban, Worker, enqueue, job, worker
from oban_sa.workers import Registry, definition_of
from tests.arguments.mapped import (
    Animal,
    Base,
    ByAmount,
    ByColor,
    ByDay,
    ByGuid,
    ByMoment,
    ByText,
    ByUUID,
    Card,
    Dog,
    Employee,
    Lake,
    Manager,
    Order,
    Pond,
    Seat,
    User,
)
from tests.runner.conftest import Harness
from tests.support import eventually

SEEN: list[Any] = []


@pytest.fixture
async def shop(harness: Harness) -> Harness:
    """A house with the application's tables."""
    async with harness.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    SEEN.clear()
    return harness


async def given(shop: Harness, make: Callable[[], Job], *objects: Any) -> Job:
    """Add objects and enqueue a job about them, in one transaction and before they have keys; then let it run."""
    async with shop.sessions.begin() as session:
        session.add_all(objects)
        made = enqueue(session, make())
    await shop.drain()
    return await shop.job(made.id)


async def test_an_object_is_stored_as_entity_and_key_and_loaded_anew(shop: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def welcome(session: AsyncSession, user: User, greeting: str) -> None:
        assert user in session
        user.name = f"{greeting} {user.name}"

    user = User(name="Ada")
    ran = await given(shop, lambda: welcome.new(user, "Dear"), user)

    assert ran.state == "completed", ran.errors
    assert ran.args == {"user": {"entity": "User", "id": user.id}, "greeting": "Dear"}
    assert await shop.sql("SELECT name FROM users") == [("Dear Ada",)]


async def test_jobs_are_found_by_what_they_are_about(shop: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def welcome(session: AsyncSession, user: User) -> None: ...

    user = User()
    ran = await given(shop, lambda: welcome.new(user), user)

    async with shop.sessions() as session:
        by_key = Job.args["user"]["id"].as_integer() == user.id
        by_object = Job.args.contains({"user": {"entity": "User", "id": user.id}})
        assert (await session.scalars(select(Job.id).where(by_key, by_object))).all() == [ran.id]


@pytest.mark.parametrize("how", ["thread", "loop"])
async def test_an_object_that_is_stored_already_may_be_detached(shop: Harness, registry: Registry, how: str) -> None:
    @job(registry=registry)
    async def on_loop(session: AsyncSession, user: User) -> None:
        SEEN.append((user.id, user.name))

    @job(registry=registry)
    def in_thread(session: Session, user: User) -> None:
        assert user in session
        SEEN.append((user.id, user.name))

    async with shop.sessions.begin() as session:
        session.add(user := User())
    made = {"loop": on_loop, "thread": in_thread}[how].new(user)
    assert made.args == {"user": {"entity": "User", "id": user.id}}
    (number,) = await shop.enqueue(made)
    await shop.drain()

    assert (await shop.job(number)).state == "completed"
    assert [(user.id, "Ada")] == SEEN


KEYS = [
    (ByUUID, lambda made: str(made.id)),
    (ByGuid, lambda made: str(made.id)),
    (ByMoment, lambda made: made.at.isoformat()),
    (ByDay, lambda made: "2026-03-01"),
    (ByText, lambda made: "DE"),
    (ByColor, lambda made: "blue"),
    (ByAmount, lambda made: "1.50"),
    (Card, lambda made: made.id),
]


@pytest.mark.parametrize("when", ["pending", "stored"])
@pytest.mark.parametrize(("kind", "written"), KEYS, ids=lambda each: getattr(each, "__name__", ""))
async def test_keys_of_every_kind(shop: Harness, registry: Registry, kind: Any, written: Any, when: str) -> None:
    @job(registry=registry)
    async def look(session: AsyncSession, it: kind, several: list[kind]) -> None:  # type: ignore[valid-type]
        assert several == [it, it]
        SEEN.append(it)

    made = kind()
    if when == "stored":
        async with shop.sessions.begin() as session:
            session.add(made)
    ran = await given(shop, lambda: look.new(made, [made, made]), *([made] if when == "pending" else []))

    assert ran.state == "completed", ran.errors
    assert ran.args["it"] == {"entity": kind.__name__, "id": written(made)}
    assert [type(each) for each in SEEN] == [kind]


@pytest.mark.parametrize("when", ["pending", "stored"])
async def test_a_key_of_several_columns_is_a_list(shop: Harness, registry: Registry, when: str) -> None:
    @job(registry=registry)
    async def sit(session: AsyncSession, seat: Seat, others: list[Seat]) -> None:
        SEEN.append([(each.row, each.number) for each in (seat, *others)])

    seats = [Seat(row="A", number=number) for number in (1, 2, 3)]
    if when == "stored":
        async with shop.sessions.begin() as session:
            session.add_all(seats)
    ran = await given(shop, lambda: sit.new(seats[0], seats[1:]), *(seats if when == "pending" else []))

    assert ran.state == "completed", ran.errors
    assert ran.args["seat"] == {"entity": "Seat", "id": ["A", 1]}
    assert SEEN == [[("A", 1), ("A", 2), ("A", 3)]]


@pytest.mark.parametrize(("base", "kind"), [(Employee, Manager), (Animal, Dog), (Pond, Lake)])
async def test_a_base_class_takes_what_inherits_from_it_and_gives_the_right_class(
    shop: Harness, registry: Registry, base: Any, kind: Any
) -> None:
    @job(registry=registry)
    async def meet(session: AsyncSession, one: base, several: list[base]) -> None:  # type: ignore[valid-type]
        SEEN.extend(type(each) for each in (one, *several))

    one, other, plain = kind(), kind(), base()
    ran = await given(shop, lambda: meet.new(one, [other, plain]), one, other, plain)

    assert ran.state == "completed", ran.errors
    assert ran.args["one"]["entity"] == kind.__name__
    assert ran.args["several"][1]["entity"] == base.__name__
    assert [kind, kind, base] == SEEN


async def test_a_row_of_another_entity_is_refused_and_says_so_in_one_line(shop: Harness, registry: Registry) -> None:
    @job(registry=registry, max_attempts=1)
    async def welcome(session: AsyncSession, user: User) -> None: ...

    @job(registry=registry, max_attempts=1)
    async def promote(session: AsyncSession, user: Manager) -> None: ...

    no_user = 'welcome: args.user must be a User, as {"entity": "User", "id": ...}, not'
    no_key = "welcome: args.user.id must be a whole number, not"
    cases: list[tuple[Any, Any, str]] = [
        (welcome, {"entity": "Order", "id": 1}, "welcome: args.user is of the entity 'Order', and must be a User"),
        (
            welcome,
            {"entity": "os.system", "id": 1},
            "welcome: args.user is of the entity 'os.system', and must be a User",
        ),
        (
            promote,
            {"entity": "Employee", "id": 1},
            "promote: args.user is of the entity 'Employee', and must be a Manager",
        ),
        (welcome, {"entity": "User", "id": "7"}, f"{no_key} '7'"),
        (welcome, {"entity": "User", "id": [7, 8]}, f"{no_key} [7, 8]"),
        (welcome, {"entity": "User"}, f"{no_user} {{'entity': 'User'}}"),
        (welcome, 7, f"{no_user} 7"),
        (welcome, None, f"{no_user} None"),
    ]
    numbers = await shop.enqueue(*[Job(name(each), args={"user": it}, max_attempts=1) for each, it, _ in cases])
    await shop.drain()

    for number, (_, _, message) in zip(numbers, cases, strict=True):
        ended = await shop.job(number)
        assert ended.state == "discarded"
        assert ended.errors[0]["error"].startswith(f"InvalidArguments: {message}")
        assert "\n" not in ended.errors[0]["error"]


def name(function: Any) -> str:
    return definition_of(function).name


# Inside of others


@dataclass
class Welcome:
    user: User
    others: list[User]
    by: User | None = None
    again: tuple[User, ...] = ()
    count: int = 0


class WelcomeDict(TypedDict):
    user: User
    others: dict[str, User]


class WelcomeModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    user: User
    others: list[User]
    at: datetime


class WelcomeStruct(msgspec.Struct):
    user: User
    others: list[User]
    at: datetime


class Outer(pydantic.BaseModel):
    inner: WelcomeModel
    name: str


NOW = datetime(2026, 3, 1, tzinfo=UTC)
NESTED: list[tuple[Any, Callable[[User, User], Any], Callable[[Any], list[User]]]] = [
    (
        Welcome,
        lambda one, two: Welcome(one, [two, one], again=(two,), count=3),
        lambda args: [args.user, *args.others, *args.again],
    ),
    (
        WelcomeDict,
        lambda one, two: {"user": one, "others": {"a": two}},
        lambda args: [args["user"], *args["others"].values()],
    ),
    (
        WelcomeModel,
        lambda one, two: WelcomeModel(user=one, others=[two], at=NOW),
        lambda args: [args.user, *args.others],
    ),
    (WelcomeStruct, lambda one, two: WelcomeStruct(one, [two], NOW), lambda args: [args.user, *args.others]),
    (
        Outer,
        lambda one, two: Outer(inner=WelcomeModel(user=one, others=[two], at=NOW), name="x"),
        lambda args: [args.inner.user, *args.inner.others],
    ),
]


@pytest.mark.parametrize("when", ["pending", "stored"])
@pytest.mark.parametrize(("kind", "make", "users"), NESTED, ids=lambda each: getattr(each, "__name__", ""))
async def test_objects_stand_inside_of_typed_args(
    shop: Harness, registry: Registry, kind: Any, make: Any, users: Any, when: str
) -> None:
    @worker(registry=registry)
    class Send(Worker[kind]):  # type: ignore[valid-type]
        async def process(self, args: kind, session: AsyncSession) -> None:  # type: ignore[valid-type]
            assert all(user in session for user in users(args))
            SEEN.append((args, [user.name for user in users(args)]))

    one, two = User(name="one"), User(name="two")
    if when == "stored":
        async with shop.sessions.begin() as session:
            session.add_all([one, two])
    ran = await given(shop, lambda: Send.new(make(one, two)), *([one, two] if when == "pending" else []))

    assert ran.state == "completed", ran.errors
    ((args, names),) = SEEN
    assert names[:2] == ["one", "two"]
    assert not hasattr(args, "at") or args.at == NOW


async def test_none_stands_where_the_annotation_allows_it(shop: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def welcome(session: AsyncSession, user: User | None, by: User = None, *rest: User) -> None:  # type: ignore[assignment]
        SEEN.append((user, by, [each.name for each in rest]))

    user = User(name="rest")
    ran = await given(shop, lambda: welcome.new(None, None, user), user)

    assert ran.state == "completed", ran.errors
    assert SEEN == [(None, None, ["rest"])]


async def test_one_of_several_classes_is_loaded_by_its_name(shop: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def meet(session: AsyncSession, who: User | Manager, *, by: Order | User | None) -> None:
        SEEN.append((type(who), type(by)))

    who, by = Manager(), User()
    ran = await given(shop, lambda: meet.new(who, by=by), who, by)

    assert ran.state == "completed", ran.errors
    assert [(Manager, User)] == SEEN


async def test_several_rows_of_one_class_take_one_statement(shop: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def mark(session: AsyncSession, users: list[User]) -> None:
        for user in users:
            user.visits += 1

    @job(registry=registry)
    async def merge(session: AsyncSession, left: User, right: User) -> None:
        SEEN.append((left.name, right.name))

    users = [User(name=str(number)) for number in range(10)]
    async with shop.sessions.begin() as session:
        session.add_all(users)
    sent: list[str] = []
    event.listen(shop.engine.sync_engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    await shop.enqueue(mark.new(users), merge.new(users[0], users[1]))
    await shop.drain()

    assert await shop.sql("SELECT sum(visits) FROM users") == [(10,)]
    assert SEEN == [("0", "1")]
    assert len([statement for statement in sent if statement.startswith("SELECT users")]) == 2
    assert await shop.sql("SELECT sum(visits) FROM users") == [(10,)]


async def test_loader_options_stand_in_the_annotation(shop: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def count(session: AsyncSession, user: Annotated[User, selectinload(User.orders)]) -> None:
        SEEN.append(len(user.orders))

    user = User(orders=[Order(), Order()])
    ran = await given(shop, lambda: count.new(user), user)

    assert ran.state == "completed", ran.errors
    assert SEEN == [2]


# Rows that are gone


async def gone(shop: Harness, made: Callable[[User], Job], kind: Any = User) -> Job:
    async with shop.sessions.begin() as session:
        session.add(it := kind())
    (number,) = await shop.enqueue(made(it))
    await shop.sql(f"DELETE FROM {kind.__tablename__}")
    await shop.drain()
    return await shop.job(number)


async def test_a_job_whose_row_is_gone_is_cancelled(shop: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def welcome(session: AsyncSession, user: User) -> None:
        SEEN.append(user)

    @worker(registry=registry)
    class Send(Worker[Welcome]):
        def process(self, args: Welcome, session: Session) -> None:
            SEEN.append(args)

    ended = await gone(shop, welcome.new)
    assert (ended.state, ended.attempt) == ("cancelled", 1)
    key = ended.args["user"]["id"]
    assert [entry["error"] for entry in ended.errors] == [
        f"AttemptCancelled: welcome: args.user is the User {key}, and there is no such row any more"
    ]

    ended = await gone(shop, lambda user: Send.new(Welcome(user, [user])))
    assert ended.state == "cancelled"
    assert "Send: args.user is the User" in ended.errors[0]["error"]
    assert SEEN == []


async def test_a_job_whose_row_is_gone_is_tried_again_where_that_was_asked_for(
    shop: Harness, registry: Registry
) -> None:
    @job(registry=registry, on_missing="raise", backoff=0)
    async def welcome(session: AsyncSession, user: User) -> None:
        SEEN.append(user)

    async with shop.sessions.begin() as session:
        session.add(user := User())
    await shop.sql("DELETE FROM users")
    (number,) = await shop.enqueue(welcome.new(user))
    async with shop.runner():

        async def failed_twice() -> None:
            assert len((await shop.job(number)).errors) >= 2

        await eventually(failed_twice)
        await shop.sql("INSERT INTO users (id, name, visits) VALUES (:id, 'back', 0)", id=user.id)
        ended = await shop.becomes(number, "completed")

    assert ended.errors[0]["error"] == (
        f"EntityNotFound: welcome: args.user is the User {user.id}, and there is no such row any more"
    )
    assert [each.name for each in SEEN] == ["back"]


async def test_a_worker_gets_none_for_a_row_that_is_gone_where_that_was_asked_for(
    shop: Harness, registry: Registry
) -> None:
    @job(registry=registry, on_missing="none")
    async def welcome(session: AsyncSession, user: User | None, others: list[User | None]) -> None:
        SEEN.append((user, others))

    ended = await gone(shop, lambda user: welcome.new(user, [user, None]))

    assert ended.state == "completed", ended.errors
    assert SEEN == [(None, [None, None])]


async def test_what_is_of_another_class_by_now_is_gone(shop: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def walk(session: AsyncSession, dog: Dog) -> None:
        SEEN.append(dog)

    async with shop.sessions.begin() as session:
        session.add(dog := Dog())
    await shop.sql("UPDATE animals SET kind = 'animal'")
    (number,) = await shop.enqueue(walk.new(dog))
    await shop.drain()

    assert (await shop.job(number)).state == "cancelled"
    assert SEEN == []


# Locks


@pytest.mark.parametrize(
    ("kind", "tables"), [(User, {"users"}), (Order, {"orders"}), (Manager, {"employees", "managers"})]
)
async def test_rows_are_locked_as_the_annotation_says(
    shop: Harness, registry: Registry, kind: Any, tables: set[str]
) -> None:
    @job(registry=registry)
    async def change(session: AsyncSession, it: Annotated[kind, ForUpdate()]) -> None:  # type: ignore[valid-type]
        async with shop.engine.connect() as other:
            for table in tables:
                busy = await other.execute(text(f"SELECT id FROM {table} FOR UPDATE SKIP LOCKED"))
                SEEN.append(len(busy.all()))

    it = kind()
    ran = await given(shop, lambda: change.new(it), it)

    assert ran.state == "completed", ran.errors
    assert [0] * len(tables) == SEEN


LOCKS = [
    (ForUpdate(), "FOR UPDATE OF users"),
    (ForUpdate(read=True), "FOR SHARE OF users"),
    (ForUpdate(key_share=True), "FOR NO KEY UPDATE OF users"),
    (ForUpdate(read=True, key_share=True), "FOR KEY SHARE OF users"),
    (ForUpdate(nowait=True), "FOR UPDATE OF users NOWAIT"),
    (ForUpdate(skip_locked=True), "FOR UPDATE OF users SKIP LOCKED"),
    (ForUpdate, "FOR UPDATE OF users"),
]


@pytest.mark.parametrize(("lock", "written"), LOCKS)
async def test_every_lock_that_postgresql_has(shop: Harness, registry: Registry, lock: Any, written: str) -> None:
    locked = Annotated[User, lock]
    locked_or_none = Annotated[User | None, lock]

    @job(registry=registry)
    async def one(session: AsyncSession, user: locked) -> None: ...

    @job(registry=registry)
    async def many(session: AsyncSession, users: list[locked]) -> None: ...

    @job(registry=registry)
    async def either(session: AsyncSession, user: locked_or_none) -> None: ...

    sent: list[str] = []
    event.listen(shop.engine.sync_engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    async with shop.sessions.begin() as session:
        users = [User(), User()]
        session.add_all(users)
    await shop.enqueue(one.new(users[0]), many.new(users), either.new(users[0]))
    await shop.drain(queues={"default": 1})

    assert await shop.states() == {"completed": 3}
    selects = [statement for statement in sent if statement.startswith("SELECT users")]
    assert [statement.rpartition("FOR ")[2] for statement in selects] == [written.removeprefix("FOR ")] * 3
    assert sum("ORDER BY users.id" in statement for statement in selects) == 1


async def test_a_locked_row_that_is_not_waited_for_fails_the_attempt_or_snoozes(
    shop: Harness, registry: Registry
) -> None:
    @job(registry=registry)
    async def nowait(session: AsyncSession, user: Annotated[User, ForUpdate(nowait=True)]) -> None: ...

    @job(registry=registry)
    async def skip(session: AsyncSession, user: Annotated[User, ForUpdate(skip_locked=True)]) -> None: ...

    @job(registry=registry)
    async def skip_many(session: AsyncSession, users: list[Annotated[User, ForUpdate(skip_locked=True)]]) -> None: ...

    async with shop.sessions.begin() as session:
        users = [User(), User()]
        session.add_all(users)
    numbers = await shop.enqueue(nowait.new(users[0]), skip.new(users[0]), skip_many.new(users))
    async with shop.engine.begin() as other:
        await other.execute(text("SELECT 1 FROM users WHERE id = :id FOR UPDATE"), {"id": users[0].id})
        await shop.drain()

    failed, *snoozed = [await shop.job(number) for number in numbers]
    assert (failed.state, failed.attempt) == ("retryable", 1)
    assert failed.errors[0]["error"] == "EntityLocked: nowait: args.user is a User that another transaction has locked"
    for each in snoozed:
        assert (each.state, each.attempt, each.errors, each.meta) == ("scheduled", 0, [], {"snoozed": 1})


# Elsewhere


async def test_objects_that_have_keys_go_through_copy_and_others_are_refused(shop: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def welcome(session: AsyncSession, user: User) -> None:
        SEEN.append(user.name)

    async with shop.sessions.begin() as session:
        session.add(user := User())
    oban = Oban(shop.engine)
    assert await oban.enqueue_many(welcome.new(user) for _ in range(3)) == 3
    with pytest.raises(ValueError, match=r"args holds .* an object that has no key yet"):
        await oban.enqueue_many([welcome.new(User())])
    await shop.drain()

    assert SEEN == ["Ada"] * 3


async def test_what_the_code_raises_about_its_own_rows_is_an_error_of_its_own(
    shop: Harness, registry: Registry
) -> None:
    @job(registry=registry)
    async def welcome(session: AsyncSession, user: User) -> None:
        raise LookupError("nothing to do with it")

    user = User()
    ran = await given(shop, lambda: welcome.new(user), user)

    assert ran.state == "retryable"
    assert "in welcome" in ran.errors[0]["error"]

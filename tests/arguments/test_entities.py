"""Mapped objects as arguments, as far as no database is needed: what `new` makes of them, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, make_transient_to_detached, mapped_column, selectinload

from oban_sa import ForUpdate, Worker, enqueue, job, ref, worker
from oban_sa.errors import InvalidArguments, InvalidOption, ReferenceOutsideSession
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.models import Job
from oban_sa.workers import Registry, definition_of
from tests.arguments.mapped import Card, Dog, Lake, Manager, Order, Pond, Seat, User


def stored(made: Any) -> Any:
    """An object as if it had been loaded and let go."""
    make_transient_to_detached(made)
    return made


@pytest.fixture
def registry() -> Registry:
    return Registry()


@dataclass
class Welcome:
    user: User
    count: int = 0
    extra: Any = None


def test_an_object_that_has_its_key_becomes_json_at_once(registry: Registry) -> None:
    @job(registry=registry)
    async def welcome(session: AsyncSession, user: User, *others: User, seat: Seat | None = None) -> None: ...

    made = welcome.new(stored(User(id=7)), stored(User(id=8)), seat=stored(Seat(row="A", number=1)))

    assert made.args == {
        "user": {"entity": "User", "id": 7},
        "others": [{"entity": "User", "id": 8}],
        "seat": {"entity": "Seat", "id": ["A", 1]},
    }


def test_an_object_without_a_key_has_to_be_in_the_session(registry: Registry) -> None:
    @job(registry=registry)
    async def welcome(session: AsyncSession, user: User) -> None: ...

    made = welcome.new(User())
    assert 'args={"user":"<User>"}' in str(made)
    with Session() as session, pytest.raises(ReferenceOutsideSession, match=r"args.user is <User>.* in no session"):
        enqueue(session, made)
    with Session() as session, Session() as other, pytest.raises(ReferenceOutsideSession, match="in another session"):
        other.add(made.args["user"].target)
        enqueue(session, made)


def test_an_object_whose_key_came_after_new_is_fine_wherever_it_went(registry: Registry) -> None:
    @job(registry=registry)
    async def welcome(session: AsyncSession, user: User) -> None: ...

    user = User(id=7)
    made = welcome.new(user)
    stored(user)
    with Session() as session:
        assert enqueue(session, made) in session
        session.rollback()


def test_a_deleted_object_is_refused(registry: Registry) -> None:
    @job(registry=registry)
    async def welcome(session: AsyncSession, user: User) -> None: ...

    with Session() as session:
        user = stored(User(id=7))
        session.add(user)
        session.delete(user)
        with pytest.raises(ReferenceOutsideSession, match=r"<User> with the key 7 is deleted.*write ref\(obj\)"):
            welcome.new(user)


@pytest.mark.parametrize("given", [User(), stored(User(id=7))], ids=["pending", "stored"])
def test_an_object_is_taken_only_where_something_loads_it(registry: Registry, given: Any) -> None:
    @job(registry=registry)
    async def welcome(session: AsyncSession, user: User | None = None, payload: Any = None, count: int = 0) -> None: ...

    @job(registry=registry)
    async def fields(session: AsyncSession, user: User, **others: Any) -> None: ...

    @worker(registry=registry)
    class Send(Worker[Welcome]):
        async def process(self, args: Welcome, session: AsyncSession) -> None: ...

    @worker(registry=registry)
    class Plain(Worker):
        async def process(self, job: Job) -> None: ...

    for make, path in (
        (lambda: welcome.new(payload=given), "args.payload"),
        (lambda: welcome.new(payload={"a": [given]}), r"args.payload.a\[0\]"),
        (lambda: fields.new(given, other=given), "args.other"),
        (lambda: Send.new(Welcome(given, extra=given)), "args.extra"),
    ):
        with pytest.raises(InvalidArguments, match=rf"^{path} is a mapped User, and .* asks for none there; annotate"):
            make()
    with pytest.raises(InvalidArguments, match=r"args.count must be a whole number, not a User"):
        welcome.new(count=given)
    with pytest.raises(InvalidArguments, match=r"args.count must be a whole number, not a User"):
        Send.new(Welcome(given, count=given))
    with (
        Session() as session,
        pytest.raises(InvalidArguments, match=r"args.user is a mapped User; .* annotated as User"),
    ):
        enqueue(session, Plain.new({"user": given}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Order(), "args.user must be a User, not an Order"),
        (stored(Order(id=1)), "args.user must be a User, not an Order"),
        (7, 'args.user must be a User, as {"entity": "User", "id": ...}, not 7'),
        (None, 'args.user must be a User, as {"entity": "User", "id": ...}, not None'),
        (ref(User()), "args.user must be a User and not its key; give the object itself instead of ref(<User>)"),
    ],
)
def test_what_is_not_of_the_class_is_refused_at_new(registry: Registry, given: Any, message: str) -> None:
    @job(registry=registry)
    async def welcome(session: AsyncSession, user: User) -> None: ...

    with pytest.raises(InvalidArguments) as refused:
        welcome.new(given)
    assert (str(refused.value), refused.value.path) == (message, "args.user")


def test_arguments_are_checked_beside_those_that_wait_for_the_flush(registry: Registry) -> None:
    @job(registry=registry)
    async def welcome(session: AsyncSession, user: User, key: int, count: int) -> None: ...

    user = User()
    made = welcome.new(user, ref(user), 3)
    assert made.args["count"] == 3
    with pytest.raises(InvalidArguments, match=r"args.count must be a whole number"):
        welcome.new(user, ref(user), "3")  # type: ignore[arg-type]


def test_the_name_is_that_of_the_objects_own_class(registry: Registry) -> None:
    @job(registry=registry)
    async def meet(session: AsyncSession, pond: Pond, dog: Dog, card: Card) -> None: ...

    card = Card()
    card.id = 3
    made = meet.new(stored(Lake(id=1)), stored(Dog(id=2)), stored(card))
    assert [each["entity"] for each in made.args.values()] == ["Lake", "Dog", "Card"]


def test_relatives_of_the_same_name_are_told_apart_by_their_modules(registry: Registry) -> None:
    class Own(DeclarativeBase): ...

    class Thing(Own):
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)

    Other = type("Thing", (Thing,), {"__module__": "elsewhere", "__qualname__": "Thing"})
    made = [stored(kind(id=1)) for kind in (Thing, Other)]

    @job(registry=registry)
    async def take(session: AsyncSession, things: list[Thing]) -> None: ...

    names = [each["entity"] for each in take.new(made).args["things"]]
    assert names == [f"{Thing.__module__}.{Thing.__qualname__}", "elsewhere.Thing"]


def test_what_could_not_be_loaded_is_refused_where_it_is_written(registry: Registry) -> None:
    async def no_session(user: User) -> None: ...

    def no_session_in_thread(others: list[User]) -> None: ...

    async def nested(args: Welcome) -> None: ...

    for function in (no_session, no_session_in_thread, nested):
        session = "Session" if function is no_session_in_thread else "AsyncSession"
        with pytest.raises(InvalidOption, match=rf"takes a User, which is loaded in .*; take that too: .*: {session}$"):
            job(registry=registry)(function)

    class Send(Worker[Welcome]):
        async def process(self, args: Welcome) -> None: ...

    with pytest.raises(InvalidOption, match="process takes a User, which is loaded in the attempt's session"):
        worker(registry=registry)(Send)

    class Alone(Worker[User]):
        async def process(self, args: User, session: AsyncSession) -> None: ...

    with pytest.raises(InvalidOption, match="or a mapped object alone, write a @job function"):
        worker(registry=registry)(Alone)
    with pytest.raises(InvalidOption, match="no session reaches it; take its key there, and load it in a session of"):
        job(registry=registry, executor="process")(in_process)
    assert list(registry) == []


def in_process(user: User) -> None: ...


def test_what_only_reads_the_json_needs_no_session(registry: Registry) -> None:
    @worker(registry=registry)
    class Send(Worker[Welcome]):
        async def process(self, job: Job) -> None: ...

    assert Send.new(Welcome(stored(User(id=7)))).args["user"] == {"entity": "User", "id": 7}


def test_what_is_defined_later_is_refused_when_it_is_first_needed(registry: Registry) -> None:
    @job(registry=registry)
    async def late(thing: Later) -> None: ...  # type: ignore[name-defined] # noqa: F821

    globals()["Later"] = User
    try:
        with pytest.raises(InvalidOption, match="takes a User, which is loaded in the attempt's session"):
            late.new(User())
    finally:
        del globals()["Later"]


def test_on_missing_makes_sense_or_is_refused(registry: Registry) -> None:
    async def plain(session: AsyncSession, count: int) -> None: ...

    async def one(session: AsyncSession, user: User) -> None: ...

    async def inside(session: AsyncSession, users: list[User] | None) -> None: ...

    for function in (one, inside):
        with pytest.raises(InvalidOption, match=r'on_missing="none".*; write User \| None where it takes a User'):
            job(registry=registry, on_missing="none")(function)
    with pytest.raises(InvalidOption, match="on_missing='raise', but takes no mapped object that could be gone"):
        job(registry=registry, on_missing="raise")(plain)
    for value, message in (
        ("cancell", "did you mean 'cancel'"),
        ("drop it", "write one of cancel, raise, none"),
        (None, 'write on_missing="none"'),
    ):
        with pytest.raises(InvalidOption, match=message):
            job(registry=registry, on_missing=value)(one)  # type: ignore[call-overload]


def test_locks_stand_on_mapped_classes_alone(registry: Registry) -> None:
    number = Annotated[int, ForUpdate()]
    whole = Annotated[Welcome, ForUpdate()]
    twice = Annotated[User, ForUpdate(), ForUpdate(read=True)]

    for annotation, message in (
        (number, "says how a row is loaded, and int has none"),
        (whole, "is said of the mapped class itself, within Welcome"),
        (twice, "a row is locked in one way; keep one of"),
    ):

        async def take(session: AsyncSession, it: annotation, user: User) -> None: ...  # type: ignore[valid-type]

        with pytest.raises(InvalidOption, match=message):
            job(registry=registry)(take)
    with pytest.raises(InvalidOption, match="takes nowait or skip_locked, not both"):
        ForUpdate(nowait=True, skip_locked=True)


def test_a_crontab_holds_no_objects(registry: Registry) -> None:
    with pytest.raises(InvalidOption, match=r"args can't hold .* a mapped object, .*; write its key"):
        CronEntry("@daily", args={"user": stored(User(id=7))})

    @job(registry=registry, cron={"expression": "@daily", "args": {"user": {"entity": "User", "id": 1}}})
    async def welcome(session: AsyncSession, user: User) -> None: ...

    with pytest.raises(InvalidOption, match=r"args.user is of the entity 'Order', and must be a User"):

        @job(registry=registry, cron={"expression": "@daily", "args": {"user": {"entity": "Order", "id": 1}}})
        async def wrong(session: AsyncSession, user: User) -> None: ...


def test_a_function_is_still_called_with_objects(registry: Registry) -> None:
    @job(registry=registry)
    def greet(session: Session, user: Annotated[User, ForUpdate(), selectinload(User.orders)], who: Manager) -> Any:
        return session, user, who

    user, who = User(), Manager()
    with Session() as session:
        assert greet(session, user, who) == (session, user, who)
    assert definition_of(greet).session == "sync"


class Holder(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    card: pydantic.SkipValidation[Card]


def test_pydantic_does_not_take_a_mapped_dataclass_apart(registry: Registry) -> None:
    @worker(registry=registry)
    class Show(Worker[Holder]):
        async def process(self, args: Holder, session: AsyncSession) -> None: ...

    card = Card()
    card.id = 3
    assert Show.new(Holder(card=stored(card))).args == {"card": {"entity": "Card", "id": 3}}

"""A running member grafts others: they commit with its completion, and what waits for the graft waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from oban_sa import Cancel, Job, Oban, Workflow, deps, enqueue
from oban_sa.errors import DependencyNotFound, InvalidJob
from oban_sa.jobs.flow import lane_of
from oban_sa.sql.workflow import cut
from oban_sa.testing import drain, perform_job
from oban_sa.testing.drain import Draining
from oban_sa.workers import Registry, job
from oban_sa.workers.definition import definition_of
from tests.flows.settling import book

ORDER: list[str] = []
PAGES: list[int] = []
FAILING: list[str] = []
REGISTRY = Registry()


@job(registry=REGISTRY, record=True, max_attempts=1)
def say(name: str) -> str:
    ORDER.append(name)
    if name in FAILING:
        raise ValueError(name)
    return name.upper()


@job(registry=REGISTRY, max_attempts=3, backoff=0)
def split(session: Session) -> object:
    ORDER.append("split")
    pages = deps().graft("pages")
    for number in PAGES:
        pages.add(f"page-{number}", say.new(f"page-{number}"))
    if PAGES:
        pages.add("last", say.new("last"), deps=[f"page-{number}" for number in PAGES])
    enqueue(session, pages)
    session.flush()
    if "split" in FAILING:
        FAILING.remove("split")
        raise ValueError("split")
    return Cancel("no") if "cancel" in FAILING else None


@job(registry=REGISTRY)
def bind() -> None:
    ORDER.append("bind " + " ".join(f"{name}={value}" for name, value in deps().stream("pages")))


@pytest.fixture(autouse=True)
def empty() -> None:
    ORDER.clear()
    FAILING.clear()
    PAGES[:] = [1, 2]


def book_of_pages(**options: Any) -> Workflow:
    flow = Workflow()
    flow.add("split", split.new())
    pages = flow.graft("pages", by="split")
    flow.add("bind", bind.new(), deps=pages, **options)
    return flow


def run(engine: Engine, flow: Workflow, **options: Any) -> list[str]:
    with Session(engine) as session:
        enqueue(session, flow)
        session.commit()
    drain(engine, registry=REGISTRY, with_safety=True, **options)
    return ORDER


def flows(engine: Engine) -> dict[str, tuple[Any, ...]]:
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT kind, total, unfinished, completed, completed_at IS NOT NULL FROM oban_sa_flows")
        )
        return {row[0]: tuple(row)[1:] for row in rows}


def test_what_waits_for_a_graft_waits_for_all_that_is_grafted(sync_engine: Engine) -> None:
    flow = book_of_pages()
    assert run(sync_engine, flow) == [
        "split", "page-1", "page-2", "last", "bind last=LAST page-1=PAGE-1 page-2=PAGE-2",
    ]  # fmt: skip
    assert flows(sync_engine) == {"workflow": (5, 0, 5, True), "graft": (3, 0, 3, True)}


def test_a_graft_may_stay_empty(sync_engine: Engine) -> None:
    PAGES.clear()
    assert run(sync_engine, book_of_pages()) == ["split", "bind "]
    assert flows(sync_engine) == {"workflow": (2, 0, 2, True), "graft": (0, 0, 0, True)}


def test_an_attempt_that_fails_has_grafted_nothing(sync_engine: Engine) -> None:
    FAILING.append("split")
    assert run(sync_engine, book_of_pages(), with_retries=True)[:4] == ["split", "split", "page-1", "page-2"]
    assert flows(sync_engine)["workflow"] == (5, 0, 5, True)


def test_where_the_grafter_fails_what_waits_for_the_graft_is_cancelled(sync_engine: Engine) -> None:
    FAILING.append("cancel")
    run(sync_engine, book_of_pages())
    with sync_engine.connect() as connection:
        found = dict(map(tuple, connection.execute(text("SELECT meta ->> 'name', state::text FROM oban_jobs"))))
    assert found["bind"] == "cancelled"


def test_where_one_that_was_grafted_fails_so_does_the_graft(sync_engine: Engine) -> None:
    FAILING.append("page-1")
    assert run(sync_engine, book_of_pages()) == ["split", "page-1", "page-2"]
    ORDER.clear()


def test_a_graft_that_is_forgiven_is_streamed_as_far_as_it_went(sync_engine: Engine) -> None:
    FAILING.append("page-1")
    assert run(sync_engine, book_of_pages(forgive="all"))[-1] == "bind page-2=PAGE-2"


async def test_grafting_again_after_a_retry_adds_only_what_is_new(engine: AsyncEngine, sync_engine: Engine) -> None:
    flow = book_of_pages()
    async with AsyncSession(engine) as session:
        enqueue(session, flow)
        await session.commit()
    await drain(engine, registry=REGISTRY)
    assert flows(sync_engine)["graft"] == (3, 0, 3, True)
    PAGES.append(3)
    ORDER.clear()
    assert await Oban(engine).retry_workflow(flow, from_="split") == 5
    await drain(engine, registry=REGISTRY)
    assert sorted(ORDER[:-1]) == ["last", "page-1", "page-2", "page-3", "split"]
    assert ORDER[-1] == "bind last=LAST page-1=PAGE-1 page-2=PAGE-2 page-3=PAGE-3"
    assert flows(sync_engine) == {"workflow": (6, 0, 6, True), "graft": (4, 0, 4, True)}
    with sync_engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM oban_jobs")) == 6


async def test_an_async_member_grafts_too(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession], sync_engine: Engine
) -> None:
    @job(registry=REGISTRY, name="split later")
    async def split_later(session: AsyncSession) -> None:
        pages = deps().graft("pages")
        pages.add("one", say.new("one"))
        enqueue(session, pages)
        enqueue(session, pages)
        pages.add("two", say.new("two"), deps="one")
        enqueue(session, pages)

    flow = Workflow()
    flow.add("split", split_later.new())
    flow.graft("pages", by="split")
    flow.add("bind", bind.new(), deps="pages")
    async with sessions.begin() as session:
        enqueue(session, flow)
    await drain(engine, registry=REGISTRY)
    assert ORDER == ["one", "two", "bind one=ONE two=TWO"]


def test_a_graft_waits_for_what_it_was_told_to(sync_engine: Engine) -> None:
    flow = Workflow()
    flow.add("split", split.new())
    flow.add("login", say.new("login"), deps="split")
    flow.graft("pages", by="split", deps="login")
    flow.add("bind", bind.new(), deps="pages")
    assert run(sync_engine, flow)[:4] == ["split", "login", "page-1", "page-2"]


def test_notes_that_are_found_late_open_no_gate(sync_engine: Engine) -> None:
    """As where others of the lane, with ids in between, were committed and booked before."""
    flow = book_of_pages()
    with Session(sync_engine) as session:
        enqueue(session, flow)
        session.commit()
    book(sync_engine, flow.id)
    drain_one(sync_engine)
    with sync_engine.begin() as connection:
        last = connection.scalar(text("SELECT max(id) FROM oban_sa_endings"))
        assert connection.scalar(text("SELECT count(*) FROM oban_sa_endings")) == 4
    book(sync_engine, flow.id, after=last - 1)
    assert flows(sync_engine) == {"workflow": (5, 4, 1, False), "graft": (3, 3, 0, False)}
    book(sync_engine, flow.id)
    assert flows(sync_engine) == {"workflow": (5, 4, 1, False), "graft": (3, 3, 0, False)}


class Unbooked(Draining):
    """Runs jobs, and leaves their notes."""

    async def _book(self, binding: Any) -> None:
        return


def drain_one(engine: Engine) -> None:
    unbooked = Unbooked(with_scheduled=False, with_retries=False, with_safety=True, registry=REGISTRY)
    thread = threading.Thread(target=lambda: asyncio.run(unbooked.run(engine)))  # a test may be on a loop
    thread.start()
    thread.join()


async def test_what_is_grafted_in_a_workflow_that_was_cancelled_is_cancelled(
    engine: AsyncEngine, sync_engine: Engine
) -> None:
    flow = book_of_pages()
    with Session(sync_engine) as session:
        enqueue(session, flow)
        session.commit()
    with sync_engine.begin() as connection:  # as if the attempt went on although it was asked to stop
        connection.execute(text("UPDATE oban_jobs SET state = 'executing' WHERE meta ->> 'name' = 'split'"))
    await Oban(engine).cancel_workflow(flow)
    book(sync_engine, flow.id)
    with sync_engine.begin() as connection:
        connection.execute(text("UPDATE oban_jobs SET state = 'available' WHERE meta ->> 'name' = 'split'"))
    assert run_on(sync_engine) == ["split"]
    assert states(sync_engine) == {
        "split": "completed", "bind": "cancelled", "page-1": "cancelled", "page-2": "cancelled", "last": "cancelled",
    }  # fmt: skip
    assert flows(sync_engine) == {"workflow": (5, 0, 1, True), "graft": (3, 0, 0, True)}
    # Until it is retried.
    assert await Oban(engine).retry_workflow(flow) == 4
    run_on(sync_engine)
    assert set(states(sync_engine).values()) == {"completed"}


async def test_what_was_grafted_while_the_workflow_was_cancelled_is_cancelled_too(
    engine: AsyncEngine, sync_engine: Engine
) -> None:
    """The graft was booked between the moment in which members were looked for, and the note of the cancel."""
    flow = book_of_pages()
    with Session(sync_engine) as session:
        enqueue(session, flow)
        session.commit()
    await Oban(engine).cancel_workflow(flow)
    drop = text("DELETE FROM oban_sa_endings RETURNING lane")
    with sync_engine.begin() as connection:
        connection.execute(drop)
        connection.execute(text("UPDATE oban_jobs SET state = 'available' WHERE meta ->> 'name' = 'split'"))
        connection.execute(text("UPDATE oban_jobs SET state = 'suspended' WHERE meta ->> 'name' = 'bind'"))
    drain_one(sync_engine)
    book(sync_engine, flow.id)
    assert states(sync_engine)["page-1"] == "available"
    with sync_engine.begin() as connection:
        connection.execute(cut("public"), {"lane": lane_of(flow.id), "flow": flow.id})
    assert run_on(sync_engine) == ["split"]
    assert set(states(sync_engine).values()) == {"completed", "cancelled"}
    assert flows(sync_engine) == {"workflow": (5, 0, 1, True), "graft": (3, 0, 0, True)}


def run_on(engine: Engine) -> list[str]:
    draining = Draining(with_scheduled=False, with_retries=False, with_safety=True, registry=REGISTRY)
    thread = threading.Thread(target=lambda: asyncio.run(draining.run(engine)))  # a test may be on a loop
    thread.start()
    thread.join()
    return ORDER


def states(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        return dict(map(tuple, connection.execute(text("SELECT meta ->> 'name', state::text FROM oban_jobs"))))


def test_a_place_that_is_not_there_is_refused(sync_engine: Engine) -> None:
    def look() -> str:
        with pytest.raises(DependencyNotFound) as raised:
            deps().graft("pges")
        return str(raised.value)

    registry, seen = Registry(), list[str]()

    @job(registry=registry)
    def split() -> None:
        seen.append(look())

    flow = Workflow()
    flow.add("split", split.new())
    flow.graft("pages", by="split")
    with Session(sync_engine) as session:
        enqueue(session, flow)
        session.commit()
    drain(sync_engine, registry=registry)
    assert "may fill no graft named 'pges'; did you mean 'pages'?" in seen[0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda flow: flow.graft("pages", by="aa"), "'pages' waits for 'aa', which is no part"),
        (lambda flow: flow.graft("pages", by=["a"]), "by of 'pages' is a name, or what add"),
        (lambda flow: flow.graft("pages", by="a", deps=None), "deps of 'pages' are names, or what add"),
        (lambda flow: flow.graft("pages", by=flow.add_many("b", [])), "only a single member can do so"),
        (lambda flow: flow.graft("a", by="a"), "has a part 'a' already"),
        (lambda flow: (flow.graft("pages", by="a"), flow.add("x", Job("w"), deps="pages")), None),
    ],
)
def test_a_graft_is_checked_where_it_is_built(build: Any, message: str | None) -> None:
    flow = Workflow()
    flow.add("a", Job("w"))
    if message is None:
        build(flow)
        assert '[/"pages"\\]' in flow.mermaid()
        return
    with pytest.raises(InvalidJob, match=message):
        build(flow)
        flow.check()


def test_a_test_gives_a_graft_that_enqueues_plain_jobs(sync_engine: Engine) -> None:
    with Session(sync_engine) as session:
        perform_job(split, {}, session=session, deps={})
        assert session.scalar(text("SELECT count(*) FROM oban_jobs")) == 3


@pytest.mark.parametrize("flushed", [False, True])
def test_what_a_savepoint_has_rolled_back_is_grafted_again(sync_engine: Engine, flushed: bool) -> None:
    def fill(session: Session) -> None:
        pages = deps().graft("pages")
        pages.add("a", say.new("a"))
        pages.add("b", say.new("b"), deps="a")
        savepoint = session.begin_nested()
        enqueue(session, pages)
        if flushed:
            session.flush()
        savepoint.rollback()
        enqueue(session, pages)

    assert run_filled(sync_engine, fill) == ["a", "b", "bind a=A b=B"]


@pytest.mark.parametrize("flushed", [False, True])
def test_of_two_of_one_name_in_one_attempt_the_first_is_grafted(sync_engine: Engine, flushed: bool) -> None:
    def fill(session: Session) -> None:
        for words in ("first", "second"):
            pages = deps().graft("pages")
            pages.add("a", say.new(words))
            pages.add(words, say.new(f"after {words}"), deps="a")
            enqueue(session, pages)
            if flushed:
                session.flush()

    order = run_filled(sync_engine, fill)
    assert order[0] == "first"
    assert sorted(order[1:-1]) == ["after first", "after second"]
    assert order[-1] == "bind a=FIRST first=AFTER FIRST second=AFTER SECOND"


def test_a_graft_may_be_enqueued_again_with_more(sync_engine: Engine) -> None:
    def fill(session: Session) -> None:
        pages = deps().graft("pages")
        for name in ("a", "b"):
            pages.add(name, say.new(name), deps="a" if name == "b" else ())
            enqueue(session, pages)
            session.flush()
            enqueue(session, pages)

    assert run_filled(sync_engine, fill) == ["a", "b", "bind a=A b=B"]


def test_a_mistake_in_a_graft_names_the_graft(sync_engine: Engine) -> None:
    def fill(session: Session) -> None:
        pages = deps().graft("pages")
        pages.add("a", say.new("a"), deps="split")
        with pytest.raises(InvalidJob, match="'a' waits for 'split', which is no part of <Graft 'pages'>"):
            enqueue(session, pages)
        with pytest.raises(TypeError, match="a member is written with its workflow"):
            enqueue(session, pages.add("b", say.new("b")))  # type: ignore[type-var]

    assert run_filled(sync_engine, fill) == ["bind "]


def run_filled(engine: Engine, fill: Callable[[Session], None]) -> list[str]:
    """Run a workflow whose first member fills the graft so: what the others did, in their order."""
    registry = Registry()

    @job(registry=registry, max_attempts=1)
    def filling(session: Session) -> None:
        fill(session)

    for each in (say, bind):
        registry.register(definition_of(each))
    flow = Workflow()
    flow.add("split", filling.new())
    flow.add("bind", bind.new(), deps=flow.graft("pages", by="split"))
    with Session(engine) as session:
        enqueue(session, flow)
        session.commit()
    drain(engine, registry=registry)
    return ORDER

"""A job is appended to a workflow or batch that is stored, which is not over meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import ARRAY, Engine, Text, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from oban_sa import Batch, Cancel, Job, Oban, Workflow, current_job, deps, enqueue
from oban_sa.client import append as append_module
from oban_sa.errors import InvalidJob, WorkflowNotFound
from oban_sa.outbox.staged import Flow
from oban_sa.testing import drain
from oban_sa.workers import Registry, job
from tests.flows.settling import book

REGISTRY = Registry()
SEEN: list[object] = []


@job(registry=REGISTRY, record=True)
def say(name: str) -> str:
    SEEN.append(name)
    return name


@job(registry=REGISTRY)
def look() -> None:
    SEEN.append({name: each.state for name, each in deps().items()} | dict(deps().context))


@job(registry=REGISTRY)
def refuse() -> object:
    return Cancel("no")


@job(registry=REGISTRY)
def tell() -> None:
    SEEN.append(current_job().meta["batch_event"])


@pytest.fixture(autouse=True)
def empty() -> None:
    SEEN.clear()


@pytest.fixture
def oban(engine: AsyncEngine) -> Oban:
    return Oban(engine)


async def stored(sessions: async_sessionmaker[AsyncSession], flow: Flow) -> None:
    async with sessions.begin() as session:
        enqueue(session, flow)


def nightly() -> Workflow:
    flow = Workflow("nightly", context={"tenant": 7})
    flow.add("mail", say.new("mail"))
    flow.add_many("many", [say.new("one"), say.new("two")])
    return flow


async def test_what_is_appended_waits_and_is_waited_for(
    oban: Oban, engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    flow = nightly()
    await stored(sessions, flow)
    async with sessions.begin() as session:
        late = await oban.append(session, flow.id, "late", look.new(), deps=["mail", "many"])
        assert late.id is not None
        await oban.append(session, flow, "later", say.new("later"), deps="late")
    await drain(engine, registry=REGISTRY)
    assert SEEN == ["mail", "one", "two", {"mail": "completed", "many": "completed", "tenant": 7}, "later"]
    status = await oban.workflow(flow)
    assert (status.state, status.total, status.completed, status.unfinished) == ("completed", 5, 5, 0)
    assert {"workflow": True, "workflow_id": str(flow.id), "name": "late", "deps": ["mail", "many"]}.items() <= (
        late.meta.items()
    )


async def test_while_it_is_appended_to_a_workflow_is_not_over(
    oban: Oban, engine: AsyncEngine, sync_engine: Engine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    made = Batch([say.new("a")], on_success=tell.new())
    await stored(sessions, made)
    async with sessions() as session:
        await oban.append(session, made.id, "late", say.new("late"))
        await drain(engine, registry=REGISTRY)
        status = await oban.workflow(made)
        assert (status.state, status.unfinished, status.completed) == ("executing", 0, 1)
        assert SEEN == ["a"]
        await session.commit()
    await drain(engine, registry=REGISTRY)
    assert SEEN == ["a", "late", "on_success"]


async def test_an_append_that_is_rolled_back_leaves_nothing_and_the_workflow_ends(
    oban: Oban, engine: AsyncEngine, sync_engine: Engine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    made = Batch([say.new("a")], on_success=tell.new())
    await stored(sessions, made)
    async with sessions() as session:
        await oban.append(session, made.id, "late", say.new("late"))
        await drain(engine, registry=REGISTRY)
        await session.rollback()
    await drain(engine, registry=REGISTRY)
    assert SEEN == ["a", "on_success"]
    assert (await oban.workflow(made)).total == 1


async def test_dependencies_that_have_ended_count_at_once(
    oban: Oban, engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    flow = nightly()
    flow.add("never", Job("unknown", queue="elsewhere"))
    await stored(sessions, flow)
    await drain(engine, registry=REGISTRY, queue="default")
    async with sessions.begin() as session:
        await oban.append(session, flow.id, "late", look.new(), deps=["mail", "many"])
    await drain(engine, registry=REGISTRY, queue="default")
    assert SEEN[-1] == {"mail": "completed", "many": "completed", "tenant": 7}


async def test_what_is_appended_to_a_workflow_that_was_cancelled_is_cancelled(
    oban: Oban, sync_engine: Engine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    flow = nightly()
    await stored(sessions, flow)
    await oban.cancel_workflow(flow)
    async with sessions.begin() as session:
        late = await oban.append(session, flow.id, "late", say.new("late"))
    book(sync_engine, flow.id)
    with sync_engine.connect() as connection:
        [row] = connection.execute(text("SELECT state, errors FROM oban_jobs WHERE id = :id"), {"id": late.id})
    assert row.state == "cancelled"
    assert "the workflow was cancelled" in row.errors[0]["error"]
    assert (await oban.workflow(flow)).state == "cancelled"


async def test_a_synchronous_session_appends_too(
    oban: Oban, sync_engine: Engine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    flow = nightly()
    await stored(sessions, flow)
    with Session(sync_engine) as session:
        await oban.append(session, flow.id, "late", say.new("late"), deps="mail", forgive="all")
        session.commit()
        found = session.execute(text("SELECT forgives FROM oban_sa_edges")).scalars().all()
    assert found == [7]


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("mail", {}, "has a part 'mail' already"),
        ("many", {}, "has a part 'many' already"),
        (
            "late",
            {"deps": "male"},
            r"'late' waits for 'male', which is no part of the workflow .*; did you mean 'mail'\?",
        ),
        (
            "late",
            {"deps": "many/0"},
            "is no part of .* What is inside a group or workflow of it is waited for as a whole",
        ),
        ("late", {"deps": None}, "deps of 'late' are names of what is in the workflow, and this is a NoneType: None"),
        ("late", {"deps": ["mail", 7]}, "deps of 'late' are names of what is in the workflow, and this is an int: 7"),
        ("late", {"deps": ["\0"]}, "the name of what 'late' waits for has at most 255 characters, no NUL"),
        ("late", {"deps": "\ud800"}, "the name of what 'late' waits for .* no lone surrogate"),
        (
            "late",
            {"deps": "mail", "forgive": {"many": "all"}},
            "forgive= of 'late' names 'many', which it does not wait",
        ),
        ("", {}, "the name of a member is a text that is not empty"),
    ],
)
async def test_a_mistake_is_refused_with_words(
    oban: Oban, sessions: async_sessionmaker[AsyncSession], name: str, how: dict[str, Any], message: str
) -> None:
    flow = nightly()
    await stored(sessions, flow)
    async with sessions() as session:
        with pytest.raises(InvalidJob, match=message):
            await oban.append(session, flow.id, name, say.new("x"), **how)


async def test_a_workflow_that_is_over_or_unknown_is_refused(
    oban: Oban, engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    flow = nightly()
    await stored(sessions, flow)
    await drain(engine, registry=REGISTRY)
    group = flow.parts["many"].id  # type: ignore[attr-defined]
    tries: list[tuple[Any, type[Exception], str]] = [
        (flow.id, InvalidJob, "is over, and takes no more jobs; enqueue 'late' by itself"),
        (group, InvalidJob, f"is a group in a workflow; append to that: {flow.id}"),
        (Workflow().id, WorkflowNotFound, "it was pruned, or never was"),
    ]
    for identity, error, words in tries:
        async with sessions() as session:
            with pytest.raises(error, match=words):
                await oban.append(session, identity, "late", say.new("x"))


async def test_each_dependency_is_forgiven_by_its_name(
    oban: Oban, engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    flow = nightly()
    await stored(sessions, flow)
    async with sessions.begin() as session:
        forgive: dict[str, Any] = {"mail": "discarded", "many": ["cancelled", "deleted"]}
        await oban.append(session, flow, "late", look.new(), deps=["mail", "many", "mail"], forgive=forgive)
    async with engine.connect() as connection:
        edges = (await connection.execute(text("SELECT forgives FROM oban_sa_edges"))).scalars().all()
        gates = (await connection.execute(text("SELECT forgives FROM oban_sa_gates"))).scalars().all()
    assert (edges, gates) == ([2], [5])


async def test_a_job_whose_append_was_rolled_back_is_appended_again(
    oban: Oban, engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    flow, late = nightly(), say.new("late")
    await stored(sessions, flow)
    async with sessions() as session:
        await oban.append(session, flow, "late", late, deps="mail")
        await session.rollback()
        savepoint = await session.begin_nested()
        await oban.append(session, flow, "late", late, deps="mail")
        await savepoint.rollback()
        await oban.append(session, flow, "late", late, deps="mail")
        await session.commit()
    await drain(engine, registry=REGISTRY)
    assert sorted(map(str, SEEN)) == ["late", "mail", "one", "two"]
    status = await oban.workflow(flow)
    assert (status.total, status.completed) == (4, 4)


async def test_what_another_transaction_has_just_appended_is_not_taken_for_ours(
    oban: Oban, engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both saw that there was none of the name."""
    flow = nightly()
    await stored(sessions, flow)
    none = text("SELECT NULL AS name WHERE CAST(:flow AS uuid) IS NULL OR CAST(:names AS text[]) IS NULL")
    typed = none.bindparams(bindparam("flow", type_=Uuid()), bindparam("names", type_=ARRAY(Text())))
    monkeypatch.setattr(append_module, "parts", lambda schema: typed)
    async with sessions.begin() as session:
        await oban.append(session, flow, "late", say.new("late"))
    async with sessions() as session:
        with pytest.raises(InvalidJob, match="has a part 'late' already"):
            await oban.append(session, flow, "late", say.new("later"))


@pytest.mark.parametrize("what", ["group", "workflow", "graft"])
@pytest.mark.parametrize(("forgive", "state"), [((), "cancelled"), ("all", "completed")])
async def test_behind_what_is_empty_it_waits_for_what_stands_before(
    oban: Oban, engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession], what: str, forgive: Any, state: str
) -> None:
    flow, inner = Workflow(), Workflow()
    flow.add("first", refuse.new())
    inner.add_many("nothing", [])
    if what == "group":
        flow.add_many("none", [], deps="first")
    elif what == "workflow":
        flow.add_workflow("none", inner, deps="first")
    else:
        flow.graft("none", by="first")
    await stored(sessions, flow)
    async with sessions.begin() as session:
        late = await oban.append(session, flow, "late", say.new("late"), deps=["none"], forgive=forgive)
    await drain(engine, registry=REGISTRY)
    async with sessions() as session:
        assert (await session.get_one(Job, late.id)).state == state

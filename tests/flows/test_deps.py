"""`deps()` in workers that are drained or performed: results, states, groups, the context, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from oban_sa import Cancel, Job, Record, Workflow, deps, enqueue
from oban_sa.errors import DependencyNotFound, DependencyNotLoaded, JobNotFound
from oban_sa.sql import dependencies as statements
from oban_sa.testing import drain, perform_job
from oban_sa.workers import Registry, job


class Seen:
    """Workers, and what they saw."""

    def __init__(self) -> None:
        self.registry = registry = Registry()
        self.seen: list[Any] = []

        @job(registry=registry)
        async def say(value: Any = None, how: str = "record") -> object:
            return Cancel("no") if how == "cancel" else None if how == "nothing" else Record(value)

        @job(registry=registry)
        def look(how: str) -> None:
            self.seen.append(self.looks[how]())

        @job(registry=registry)
        async def look_later(how: str) -> None:
            self.seen.append(self.looks[how]())

        @job(registry=registry)
        async def stream(name: str) -> None:
            self.seen.append([pair async for pair in deps().stream(name)])

        @job(registry=registry)
        def stream_here(name: str) -> None:
            self.seen.append(list(deps().stream(name)))

        self.say, self.look, self.look_later, self.stream, self.stream_here = say, look, look_later, stream, stream_here
        self.looks: dict[str, Callable[[], object]] = {}

    def drained(self, engine: Engine, flow: Workflow) -> Any:
        with Session(engine) as session:
            enqueue(session, flow)
            session.commit()
        drain(engine, registry=self.registry)
        [found] = self.seen
        return found


@pytest.fixture
def on() -> Seen:
    return Seen()


@pytest.mark.parametrize("kind", ["look", "look_later"])
def test_results_states_and_the_context_are_told(on: Seen, sync_engine: Engine, kind: str) -> None:
    flow = Workflow(context={"tenant": 7})
    flow.add("a", on.say.new({"x": [1, None, "é"]}))
    flow.add("b", on.say.new(how="cancel"))
    flow.add("c", on.say.new())
    on.looks["all"] = lambda: ({name: (each.state, each.result) for name, each in deps().items()}, deps().context)
    flow.add("look", getattr(on, kind).new("all"), deps=["a", "b", "c"], forgive="all")
    results, context = on.drained(sync_engine, flow)
    assert results == {"a": ("completed", {"x": [1, None, "é"]}), "b": ("cancelled", None), "c": ("completed", None)}
    assert context == {"tenant": 7}


def test_a_member_that_waits_for_nothing_sees_the_context(on: Seen, sync_engine: Engine) -> None:
    flow = Workflow(context={"tenant": 7})
    on.looks["context"] = lambda: (dict(deps()), deps().context)
    flow.add("look", on.look.new("context"))
    assert on.drained(sync_engine, flow) == ({}, {"tenant": 7})


def test_a_job_that_is_no_member_has_no_deps(on: Seen, sync_engine: Engine) -> None:
    on.looks["none"] = lambda: (dict(deps()), deps().context)
    with Session(sync_engine) as session:
        enqueue(session, on.look.new("none"))
        session.commit()
    drain(sync_engine, registry=on.registry)
    assert on.seen == [({}, {})]
    with pytest.raises(JobNotFound):
        deps()


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("aa", DependencyNotFound, "waited for nothing that is named 'aa'; did you mean 'a'?"),
        ("silent", DependencyNotFound, "'silent' recorded nothing"),
        ("many", DependencyNotLoaded, "'many' is a group, whose members have a result each"),
    ],
)
def test_what_has_no_result_says_so(on: Seen, sync_engine: Engine, name: str, error: type, words: str) -> None:
    def look() -> str:
        with pytest.raises(error) as raised:
            _ = deps()[name].result
        return str(raised.value)

    on.looks["look"] = look
    flow = Workflow()
    flow.add("a", on.say.new(1))
    flow.add("silent", on.say.new(how="nothing"))
    flow.add_many("many", [on.say.new(2)])
    flow.add("look", on.look.new("look"), deps=["a", "silent", "many"])
    assert words in on.drained(sync_engine, flow)


@pytest.mark.parametrize("kind", ["stream", "stream_here"])
def test_a_group_is_streamed_in_its_order(
    on: Seen, sync_engine: Engine, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oban_sa.flows.stream.PAGE", 4)
    flow = Workflow()
    hows = ["nothing" if number == 5 else "cancel" if number == 7 else "record" for number in range(13)]
    flow.add_many("many", [on.say.new(number, how) for number, how in enumerate(hows)])
    flow.add("look", getattr(on, kind).new("many"), deps="many", forgive="all")
    expected = [(f"many/{number}", None if number == 5 else number) for number in range(13) if number != 7]
    assert on.drained(sync_engine, flow) == expected


def test_an_empty_group_is_streamed(on: Seen, sync_engine: Engine) -> None:
    flow = Workflow()
    flow.add_many("many", [])
    flow.add("look", on.stream.new("many"), deps="many")
    assert on.drained(sync_engine, flow) == []


def test_a_workflow_inside_is_streamed_with_all_that_is_in_it(
    on: Seen, sync_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oban_sa.flows.stream.PAGE", 2)
    flow, inner = Workflow(), Workflow()
    inner.add("a", on.say.new(1))
    inner.add_many("more", [on.say.new(2), on.say.new(3)], deps="a")
    inner.add("z", on.say.new(4), deps="more")
    flow.add_workflow("inner", inner)
    flow.add("look", on.stream.new("inner"), deps="inner")
    assert sorted(on.drained(sync_engine, flow)) == [("a", 1), ("more/0", 2), ("more/1", 3), ("z", 4)]


def test_of_two_names_alike_the_inner_one_is_meant(on: Seen, sync_engine: Engine) -> None:
    flow, inner = Workflow(), Workflow()
    flow.add("a", on.say.new("outer"))
    flow.add("b", on.say.new("outer b"))
    inner.add("a", on.say.new("inner"))
    on.looks["look"] = lambda: {name: each.result for name, each in deps().items()}
    inner.add("look", on.look.new("look"), deps="a", forgive="all")
    flow.add_workflow("inner", inner, deps=["a", "b"])
    assert on.drained(sync_engine, flow) == {"a": "inner", "b": "outer b"}


def test_one_member_is_not_streamed(on: Seen, sync_engine: Engine) -> None:
    def look() -> str:
        with pytest.raises(DependencyNotLoaded) as raised:
            deps().stream("a")
        return str(raised.value)

    on.looks["look"] = look
    flow = Workflow()
    flow.add("a", on.say.new(1))
    flow.add("look", on.look.new("look"), deps="a")
    assert "is one member, and no group of them; write deps()['a'].result" in on.drained(sync_engine, flow)


def many(on: Seen, kind: str) -> Workflow:
    flow = Workflow()
    for number in range(4):
        flow.add(str(number), on.say.new(number))
    flow.add("look", getattr(on, kind).new("all"), deps=[str(number) for number in range(4)])
    return flow


def test_in_a_thread_very_many_are_loaded_at_once(
    on: Seen, sync_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oban_sa.flows.dependencies.FIRST", 3)
    monkeypatch.setattr("oban_sa.sql.dependencies.FIRST", 3)

    def look() -> object:
        with pytest.raises(DependencyNotLoaded, match="await deps"):
            _ = deps()["0"]
        deps().load()
        return [each.result for each in deps().values()]

    on.looks["all"] = look
    assert on.drained(sync_engine, many(on, "look")) == [0, 1, 2, 3]


async def test_on_the_loop_very_many_are_awaited(
    on: Seen, engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oban_sa.flows.dependencies.FIRST", 3)
    monkeypatch.setattr("oban_sa.sql.dependencies.FIRST", 3)
    seen: list[object] = []

    @job(registry=on.registry)
    async def look() -> None:
        with pytest.raises(DependencyNotLoaded, match="await deps"):
            list(deps())
        await deps().load()
        seen.append([each.result for each in deps().values()])

    flow = many(on, "look")
    flow.parts.pop("look")
    flow.add("look", look.new(), deps=[str(number) for number in range(4)])
    async with sessions.begin() as session:
        enqueue(session, flow)
    await drain(engine, registry=on.registry)
    assert seen == [[0, 1, 2, 3]]


def test_a_large_value_is_read_when_it_is_asked_for(
    on: Seen, sync_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oban_sa.sql.dependencies.LARGE", 100)

    def look() -> object:
        with pytest.raises(DependencyNotLoaded, match="'a' recorded is large"):
            _ = deps()["a"].result
        deps().load()
        return deps()["a"].result, deps()["b"].result

    on.looks["look"] = look
    flow = Workflow()
    flow.add("a", on.say.new("x" * 1000))
    flow.add("b", on.say.new("x"))
    flow.add("look", on.look.new("look"), deps=["a", "b"])
    assert on.drained(sync_engine, flow) == ("x" * 1000, "x")


def test_arguments_are_loaded_however_large_and_many(
    on: Seen, sync_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oban_sa.sql.dependencies.LARGE", 100)
    monkeypatch.setattr("oban_sa.flows.dependencies.FIRST", 1)
    monkeypatch.setattr("oban_sa.sql.dependencies.FIRST", 1)

    @job(registry=on.registry)
    def take(one: str, two: list[int], three: int) -> None:
        on.seen.append((len(one), two, three))

    flow = Workflow()
    one, two = flow.call("one", on.say, "x" * 1000), flow.call("two", on.say, [1, 2])
    flow.call("take", take, one.result, two.result, 3)  # type: ignore[arg-type]
    assert on.drained(sync_engine, flow) == (1000, [1, 2], 3)


def test_a_result_that_does_not_fit_fails_the_attempt(on: Seen, sync_engine: Engine) -> None:
    @job(registry=on.registry, max_attempts=1)
    def take(number: int) -> None: ...

    flow = Workflow()
    flow.call("take", take, flow.call("say", on.say, "text").result)  # type: ignore[arg-type]
    with Session(sync_engine) as session:
        enqueue(session, flow)
        session.commit()
        drain(session, registry=on.registry, with_safety=True)
        [error] = session.scalars(text("SELECT errors[1] ->> 'error' FROM oban_jobs WHERE state = 'discarded'"))
    assert "args.number must be a whole number" in error or "number" in error


def test_a_test_gives_results_streams_and_a_context(on: Seen) -> None:
    on.looks["look"] = lambda: (deps()["a"].result, deps()["a"].state, deps().context, list(deps().stream("many")))
    perform_job(on.look, {"how": "look"}, deps={"a": 1, "many": {"many/0": 2}}, context={"tenant": 7})
    assert on.seen == [(1, "completed", {"tenant": 7}, [("many/0", 2)])]
    with pytest.raises(DependencyNotFound, match="nothing that is named 'b'"):
        perform_job(on.stream_here, {"name": "b"}, deps={"a": 1})


def test_statements_are_compiled_once() -> None:
    assert statements.dependencies("public") is statements.dependencies("public")


def test_a_job_says_in_its_meta_whether_there_is_something_to_read() -> None:
    flow = Workflow()
    flow.add("a", Job("w"))
    flow.add("b", Job("w"), deps="a")
    assert ["workflow_reads" in each.meta for each in flow.tree().members] == [False, True]


def test_in_async_code_a_stream_is_not_read_by_for(on: Seen, sync_engine: Engine) -> None:
    """It would wait for the loop that it holds up."""

    def read() -> str:
        with pytest.raises(
            DependencyNotLoaded, match=r"`async for name, value in deps\(\).stream\('many'\)`"
        ) as raised:
            list(deps().stream("many"))
        return str(raised.value)

    flow = Workflow()
    flow.add_many("many", [on.say.new(1)])
    on.looks["read"] = read
    flow.add("look", on.look_later.new("read"), deps="many")
    assert "`for` is for code in a thread" in on.drained(sync_engine, flow)


@pytest.mark.parametrize("name", ["zz", 5, None])
def test_a_name_that_is_not_there_is_answered_with_those_that_are(on: Seen, sync_engine: Engine, name: Any) -> None:
    def look() -> tuple[str, bool, Any, str]:
        with pytest.raises(DependencyNotFound) as raised:
            deps()[name]
        with pytest.raises(DependencyNotFound, match="may fill no graft named"):
            deps().graft(name)
        return str(raised.value), name in deps(), deps().get(name), repr(deps())

    flow = Workflow()
    flow.add("a", on.say.new(1))
    flow.add_many("many", [])
    on.looks["look"] = look
    flow.add("look", on.look.new("look"), deps=["a", "many"])
    message, is_there, got, shown = on.drained(sync_engine, flow)
    assert message == f"this job waited for nothing that is named {name!r}; it waited for 'a', 'many'"
    assert (is_there, got, shown) == (False, None, "<Deps {'a': completed, 'many': completed}>")


def test_outside_of_a_worker_it_says_who_gives_results() -> None:
    with pytest.raises(JobNotFound, match=r"deps\(\) answers only below the code of a worker, and a test gives it"):
        deps()

"""`@job` on functions: what becomes of a call, and what the function is given when it comes."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa.errors import InvalidArguments, InvalidOption
from oban_sa.jobs.references import ref
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.workers import Registry, definition_of, job

if TYPE_CHECKING:
    from somewhere import OnlyForCheckers  # type: ignore[import-not-found]


class Color(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int = 0


async def run(function: Any, made: Job, session: Any = None) -> Any:
    """Run a function's code as a runner would, from a row that was written and read."""
    answer = definition_of(function).call(made, session)
    return await answer if inspect.isawaitable(answer) else answer


def row(**args: Any) -> Job:
    return Job("w", args=args)


# Calls


async def test_a_decorated_function_is_still_the_function() -> None:
    @job(queue="exports")
    async def export_report(report_id: int, *, fmt: str = "csv") -> str:
        """Say it."""
        return f"{report_id}.{fmt}"

    assert await export_report(7) == "7.csv"
    assert inspect.isfunction(export_report)
    assert inspect.iscoroutinefunction(export_report)
    assert (export_report.__name__, export_report.__doc__) == ("export_report", "Say it.")


def test_the_args_of_a_call_are_named_as_the_function_s_parameters() -> None:
    @job(queue="exports", max_attempts=3)
    async def export_report(report_id: int, *, fmt: str = "csv") -> None: ...

    made = export_report.new(7, fmt="pdf")
    assert made.args == {"report_id": 7, "fmt": "pdf"}
    assert (made.queue, made.max_attempts) == ("exports", 3)
    assert made.worker == f"{__name__}.{export_report.__qualname__}"
    assert export_report.new(report_id=7).args == {"report_id": 7, "fmt": "csv"}


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, r"export_report\(\) missing a required argument: 'report_id'"),
        ((7, "pdf"), {}, "too many positional arguments"),
        ((7,), {"format": "pdf"}, "got an unexpected keyword argument 'format'"),
        ((7,), {"queue": "slow"}, "got an unexpected keyword argument 'queue'"),
        ((7,), {"report_id": 8}, "multiple values for argument 'report_id'"),
    ],
)
def test_a_call_that_the_function_would_refuse_is_refused_at_once(args: Any, kwargs: Any, message: str) -> None:
    @job
    async def export_report(report_id: int, *, fmt: str = "csv") -> None: ...

    with pytest.raises(TypeError, match=message):
        export_report.new(*args, **kwargs)


def test_options_go_beside_the_arguments() -> None:
    @job(queue="exports", priority=3)
    async def export_report(report_id: int) -> None: ...

    slow = export_report.options(queue="slow", schedule_in=60)
    assert (slow.new(7).queue, slow.new(7).state, slow.new(7).priority) == ("slow", JobState.SCHEDULED, 3)
    assert slow.options(queue="slower").new(7).queue == "slower"
    assert slow.options(queue="slower").new(7).state is JobState.SCHEDULED
    assert export_report.new(7).queue == "exports"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quue": "slow"}, r"export_report\.options\(\) has no option 'quue'; did you mean 'queue'\?"),
        ({"args": {}}, r"has no option 'args'"),
        ({"keys": ["a"]}, r"it belongs to unique jobs: unique=Unique\(keys="),
        ({"delay": 5}, "has no option 'delay'; write schedule_in=60 or scheduled_at="),
        ({"zzz": 5}, r"there are max_attempts, meta, priority, queue, schedule_in, scheduled_at, tags$"),
        ({"executor": "loop"}, "belongs to the worker"),
    ],
)
def test_misspelled_options_of_a_call_are_refused(options: dict[str, Any], message: str) -> None:
    @job
    async def export_report(report_id: int) -> None: ...

    with pytest.raises(InvalidOption, match=message):
        export_report.options(**options)


async def test_parameters_may_be_called_like_options() -> None:
    @job(queue="exports")
    async def move(queue: str, session: str, priority: int, args: list[int], options: bool, self: str = "") -> Any:
        return queue, session, priority, args, options, self

    made = move.options(queue="slow").new("q", session="s", priority=50, args=[1], options=True)
    assert made.queue == "slow"
    assert await run(move, made) == ("q", "s", 50, [1], True, "")


async def test_each_kind_of_parameter_comes_back_as_it_was_given() -> None:
    @job
    async def everything(a: int, /, b: int, c: int = 3, *rest: int, d: int, e: int = 5, **fields: str) -> Any:
        return a, b, c, rest, d, e, fields

    made = everything.new(1, 2, 30, 40, 50, d=4, x="y")
    assert made.args == {"a": 1, "b": 2, "c": 30, "rest": [40, 50], "d": 4, "e": 5, "x": "y"}
    assert await run(everything, made) == (1, 2, 30, (40, 50), 4, 5, {"x": "y"})
    assert await run(everything, row(a=1, b=2, d=4)) == (1, 2, 3, (), 4, 5, {})
    assert await run(everything, row(a=1, b=2, rest=[9], d=4)) == (1, 2, 3, (9,), 4, 5, {})
    assert await run(everything, row(a=1, b=2, d=4, **{"x y": "z"})) == (1, 2, 3, (), 4, 5, {"x y": "z"})
    for mistake, message in (
        ({"rest": "ab"}, r"^everything: args\.rest must be a list, not 'ab'"),
        ({"rest": ["a"]}, r"^everything: args\.rest\[0\] must be a whole number"),
        ({"x y": 1}, r"^everything: args\[\"x y\"\] must be a text, not 1"),
    ):
        with pytest.raises(InvalidArguments, match=message):
            await run(everything, row(a=1, b=2, d=4, **mistake))
    with pytest.raises(InvalidArguments, match=r"args\.a would be both a and one of \*\*fields"):
        everything.new(1, 2, d=4, a="x")


async def test_positional_only_parameters_may_be_left_out() -> None:
    @job
    async def two(a: int, b: object = object, c: int = 3, /) -> Any:
        return a, b, c

    assert two.new(1).args == {"a": 1, "c": 3}
    assert await run(two, row(a=1)) == (1, object, 3)
    assert await run(two, row(a=1, b=2)) == (1, 2, 3)
    assert await run(two, row(a=1, c=4)) == (1, object, 4)


async def test_a_default_that_json_can_not_hold_is_left_to_the_function() -> None:
    missing = object()

    @job
    async def find(name: str, default: Any = missing, when: date = date(2026, 1, 2)) -> Any:
        return default, when

    made = find.new("x")
    assert made.args == {"name": "x", "when": "2026-01-02"}
    assert await run(find, made) == (missing, date(2026, 1, 2))


# Values


async def test_values_come_back_as_their_annotations_say() -> None:
    @job
    async def take(
        a: UUID,
        b: datetime,
        c: Decimal,
        d: Color,
        e: Point,
        f: list[UUID],
        g: UUID | None = None,
        h: int = None,  # type: ignore[assignment]  # noqa: RUF013
    ) -> Any:
        return a, b, c, d, e, f, g, h

    at = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    one = UUID(int=1)
    made = take.new(one, at, Decimal("1.10"), Color.RED, Point(1), [one])
    assert made.args["a"] == str(one)
    assert await run(take, made) == (one, at, Decimal("1.10"), Color.RED, Point(1), [one], None, None)


async def test_unannotated_parameters_are_the_json_itself() -> None:
    @job
    def take(a, b=None):  # type: ignore[no-untyped-def]
        return a, b

    assert await run(take, take.new({"x": [1]}, "2026-01-01")) == ({"x": [1]}, "2026-01-01")


def test_values_that_annotations_or_json_refuse_are_refused_at_once() -> None:
    @job
    async def take(a: int, b: UUID | None = None) -> None: ...

    for args, message in (
        (("7",), "^args.a must be a whole number, not '7'$"),
        ((7, "x"), "^args.b must be a UUID, not 'x'$"),
        ((float("nan"),), "^args.a is nan"),
        (({1, 2},), "^args.a is a set"),
    ):
        with pytest.raises(InvalidArguments, match=message):
            take.new(*args)  # type: ignore[arg-type]


def test_references_are_left_for_the_flush() -> None:
    @job
    async def take(a: int, b: list[int]) -> None: ...

    user = object()
    assert take.new(ref(user), [ref(user, "x")]).args["a"].target is user


@pytest.mark.parametrize(
    ("args", "message", "path"),
    [
        ({}, r"^export_report: args lacks 'report_id', which .*export_report\(\) needs$", "args.report_id"),
        (
            {"report_id": 1, "fmtt": 2},
            r"^export_report: args has 'fmtt', which .* doesn't take; did you mean 'fmt'\?$",
            "args.fmtt",
        ),
        ({"report_id": "x"}, "^export_report: args.report_id must be a whole number, not 'x'$", "args.report_id"),
        ({"report_id": 1, "fmt": None}, "^export_report: args.fmt must be a text, not None$", "args.fmt"),
    ],
)
def test_a_row_that_does_not_fit_fails_with_what_is_wrong(args: dict[str, Any], message: str, path: str) -> None:
    @job
    async def export_report(report_id: int, *, fmt: str = "csv") -> None: ...

    with pytest.raises(InvalidArguments, match=message) as caught:
        definition_of(export_report).call(row(**args))
    assert caught.value.path == path


async def test_calling_does_not_change_the_job() -> None:
    @job
    async def take(a: UUID, *rest: int) -> None: ...

    made = take.new(UUID(int=1), 2)
    before = {**made.args}
    await run(take, made)
    assert made.args == before


# What is injected


async def test_a_leading_job_and_session_are_injected() -> None:
    @job
    async def both(job: Job, session: AsyncSession, user_id: int) -> Any:
        return job, session, user_id

    @job
    async def only_job(current: Job | None, user_id: int) -> Any:
        return current, user_id

    @job
    async def only_session(db: AsyncSession, *, user_id: int) -> Any:
        return db, user_id

    @job
    def in_thread(job: Job, session: Session, user_id: int) -> Any:
        return job, session, user_id

    made = both.new(7)
    session: Any = object()
    assert made.args == {"user_id": 7}
    assert await run(both, made, session) == (made, session, 7)
    assert await run(only_job, made) == (made, 7)
    assert await run(only_session, only_session.new(user_id=7), session) == (session, 7)
    assert await run(in_thread, made, session) == (made, session, 7)
    assert [definition_of(each).session for each in (both, only_job, only_session, in_thread)] == [
        "async", None, "async", "sync",
    ]  # fmt: skip


async def test_a_row_can_not_choose_what_is_injected() -> None:
    @job
    async def both(job: Job, session: AsyncSession, user_id: int) -> Any: ...

    with pytest.raises(InvalidArguments, match="args has 'session'"):
        definition_of(both).call(row(user_id=1, session="x"))


def test_what_is_injected_must_come_first() -> None:
    for define in (
        lambda f: job(f),
        lambda f: job(queue="x")(f),
    ):

        async def late(user_id: int, job: Job) -> None: ...

        async def swapped(session: AsyncSession, job: Job) -> None: ...

        async def by_keyword(*, job: Job) -> None: ...

        async def session_by_keyword(user_id: int, *, session: AsyncSession) -> None: ...

        async def between(a: int, session: AsyncSession, b: int) -> None: ...

        async def at_both_ends(session: AsyncSession, a: int, other: AsyncSession) -> None: ...

        async def twice(job: Job, other: Job) -> None: ...

        for function in (late, by_keyword):
            with pytest.raises(InvalidOption, match="takes job among its own parameters"):
                define(function)
        for function in (session_by_keyword, between):
            with pytest.raises(
                InvalidOption, match=r"takes session among its own .* may come last too, but not by keyword"
            ):
                define(function)
        with pytest.raises(InvalidOption, match="an attempt has one session"):
            define(at_both_ends)
        for function in (swapped, twice):
            with pytest.raises(InvalidOption, match="the job first and the session after it"):
                define(function)


async def test_a_session_may_also_come_last() -> None:
    @job
    async def welcome(user_id: int, name: str, session: AsyncSession) -> Any:
        return user_id, name, session

    @job
    async def by_position(job: Job, user_id: int, session: AsyncSession, /) -> Any:
        return job.args, user_id, session

    made = welcome.new(7, "Ada")
    assert made.args == {"user_id": 7, "name": "Ada"}
    async with AsyncSession() as session:
        assert await run(welcome, made, session) == (7, "Ada", session)
        assert await run(by_position, by_position.new(7), session) == ({"user_id": 7}, 7, session)
        assert await welcome(7, "Ada", session) == (7, "Ada", session)
    with pytest.raises(TypeError, match="too many positional"):
        welcome.new(7, "Ada", session)  # type: ignore[call-arg]


# Where functions run, and what is refused


async def test_functions_run_where_they_belong() -> None:
    @job
    def sync(a: int) -> int:
        return a

    @job(executor="loop")
    def on_loop(a: int) -> int:
        return a

    assert definition_of(sync).executor == "thread"
    assert definition_of(sync).call(row(a=1)) == 1
    assert definition_of(on_loop).executor == "loop"
    assert await definition_of(on_loop).call(row(a=1)) == 1


def test_functions_that_can_not_work_are_refused() -> None:
    def yields() -> Any:
        yield 1

    def method(self, a):  # type: ignore[no-untyped-def]
        return a

    def async_session(session: AsyncSession) -> None: ...

    async def sync_session(session: Session) -> None: ...

    class SomeClass:
        pass

    for function, message in (
        (yields, "yields, but a job has one answer"),
        (method, "is a method"),
        (async_session, "write session: Session"),
        (sync_session, "write session: AsyncSession"),
        (SomeClass, "decorate the class .*SomeClass with @worker"),
        (print, "functions written with def"),
        (7, "functions written with def"),
    ):
        with pytest.raises(InvalidOption, match=message):
            job(function)  # type: ignore[call-overload]


def test_local_functions_can_not_be_sent_to_another_process() -> None:
    with pytest.raises(InvalidOption, match="needs it at the top of a module"):

        @job(executor="process")
        def local() -> None: ...


def test_an_annotation_for_checkers_only_is_refused_when_the_call_is_made() -> None:
    @job
    async def take(a: OnlyForCheckers) -> None: ...

    with pytest.raises(InvalidOption, match="'OnlyForCheckers', which doesn't exist when the program runs"):
        take.new(1)


async def test_annotations_may_name_what_is_local_or_defined_later() -> None:
    @dataclass
    class Local:
        a: UUID

    @job
    async def take(local: Local, later: DefinedLater) -> Any:
        return local, later

    made = take.new(Local(UUID(int=1)), DefinedLater(2))
    assert await run(take, made) == (Local(UUID(int=1)), DefinedLater(2))


@dataclass
class DefinedLater:
    b: int


async def test_a_wrapped_function_keeps_its_signature() -> None:
    import functools

    def logged(function: Any) -> Any:
        @functools.wraps(function)
        async def inner(*args: Any, **kwargs: Any) -> Any:
            return "logged", await function(*args, **kwargs)

        return inner

    @job
    @logged
    async def take(job: Job, a: UUID) -> Any:
        return a

    made = take.new(UUID(int=1))
    assert made.args == {"a": str(UUID(int=1))}
    assert await run(take, made) == ("logged", UUID(int=1))


async def test_a_def_around_an_async_def_runs_on_the_loop_unless_told_otherwise() -> None:
    import functools

    async def take() -> str:
        return "taken"

    @functools.wraps(take)
    def handing_on() -> Any:
        return take()

    @functools.wraps(take)
    def blocking() -> str:
        with asyncio.Runner() as runner:
            return runner.run(take())

    on_loop = job(handing_on)
    in_thread = job(executor="thread", name="in_thread")(blocking)
    assert definition_of(on_loop).executor == "loop"
    assert await run(on_loop, row()) == "taken"
    assert definition_of(in_thread).executor == "thread"
    assert await asyncio.to_thread(definition_of(in_thread).call, row()) == "taken"


async def test_calls_share_nothing() -> None:
    @job
    async def take(items: list[int], more: list[int] = []) -> Any:  # noqa: B006 - that is what must not be shared
        items.append(1)
        more.append(1)
        return items, more

    items = [0]
    first, second = take.new(items), take.new(items)
    assert await asyncio.gather(run(take, first), run(take, second)) == [([0, 1], [1]), ([0, 1], [1])]
    assert items == [0]


def test_an_option_among_a_functions_arguments_is_refused_with_the_place_where_it_goes() -> None:
    @job(registry=Registry())
    async def export(report_id: int) -> None: ...

    with pytest.raises(TypeError, match=r"options of a job go before: \.options\(queue=\.\.\.\)\.new\(\.\.\.\)"):
        export.new(7, queue="slow")


def test_a_session_without_its_annotation_is_named_where_arguments_run_out() -> None:
    @job(registry=Registry())
    async def welcome(session, user_id: int) -> None: ...  # type: ignore[no-untyped-def]

    @job(registry=Registry())
    def export(session, user_id: int) -> None: ...  # type: ignore[no-untyped-def]

    @job(registry=Registry())
    async def show(title, user_id: int) -> None: ...  # type: ignore[no-untyped-def]

    for function, words in ((welcome, r"session: AsyncSession$"), (export, r"session: Session$"), (show, "'user_id'$")):
        with pytest.raises(TypeError, match=words):
            function.new(7)

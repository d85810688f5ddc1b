"""`@worker` on classes: what it accepts, what it gives to `process`, what it refuses."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

import msgspec
import pydantic
import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa.errors import InvalidArguments, InvalidJob, InvalidOption, InvalidPeriod
from oban_sa.jobs.references import ref
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.testing import perform_job
from oban_sa.workers import Worker, definition_of, worker

if TYPE_CHECKING:
    from somewhere import OnlyForCheckers  # type: ignore[import-not-found]

T = TypeVar("T")


@dataclass
class Welcome:
    user_id: int
    at: datetime | None = None


class WelcomeDict(TypedDict):
    user_id: int


class WelcomeModel(pydantic.BaseModel):
    user_id: int


class WelcomeStruct(msgspec.Struct):
    user_id: int


class MySession(AsyncSession):
    pass


async def run(cls: Any, job: Job, session: Any = None) -> Any:
    """Run a class's code as a runner would."""
    answer = definition_of(cls).call(job, session)
    return await answer if inspect.isawaitable(answer) else answer


# Making jobs


def test_the_worker_s_options_are_its_jobs_options() -> None:
    @worker(queue="mailers", max_attempts=5, priority=1, tags=["Mail", " mail "], meta={"team": "a"})
    class Send:
        async def process(self, job: Job) -> None: ...

    made = Send.new({"user_id": 1})
    assert (made.queue, made.max_attempts, made.priority, made.tags) == ("mailers", 5, 1, ["mail"])
    assert (made.args, made.meta, made.state) == ({"user_id": 1}, {"team": "a"}, JobState.AVAILABLE)


def test_the_family_s_defaults_are_the_defaults() -> None:
    @worker
    class Send:
        async def process(self, job: Job) -> None: ...

    made = Send.new()
    assert (made.queue, made.max_attempts, made.priority, made.tags) == ("default", 20, 0, [])
    assert (made.args, made.meta) == ({}, {})


def test_options_of_one_job_replace_those_of_its_worker() -> None:
    @worker(queue="mailers", tags=["mail"], meta={"team": "a"})
    class Send:
        async def process(self, job: Job) -> None: ...

    made = Send.new({}, queue="slow", tags=["x"], meta={"b": 1}, priority=9, schedule_in=timedelta(hours=1))
    assert (made.queue, made.tags, made.meta, made.priority) == ("slow", ["x"], {"b": 1}, 9)
    assert made.state is JobState.SCHEDULED
    assert Send.new({}, scheduled_in=60).scheduled_at is not None
    assert Send.new({}, extra={"kept": 1}).extra == {"kept": 1}


def test_jobs_do_not_share_their_worker_s_meta() -> None:
    @worker(meta={"list": []})
    class Send:
        async def process(self, job: Job) -> None: ...

    Send.new().meta["list"].append(1)
    assert Send.new().meta == {"list": []}


def test_every_keyword_of_a_job_is_an_option_of_new() -> None:
    from oban_sa.workers.keys import OPTIONS
    from oban_sa.workers.keywords import JobOptions

    keywords = {
        parameter.name
        for parameter in inspect.signature(Job).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    # Its keys and its deadline are made by the worker, and written into its meta.
    assert set(JobOptions.__annotations__) == keywords - {"args"} | OPTIONS | {"deadline"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prioritty": 1}, r"Send\.new\(\) has no option 'prioritty'; did you mean 'priority'\?"),
        ({"zzz": 1}, r"no option 'zzz'; there are .*priority"),
        ({"timeout": 5}, "'timeout': it belongs to the worker"),
    ],
)
def test_a_misspelled_option_of_one_job_is_refused(options: dict[str, Any], message: str) -> None:
    @worker
    class Send:
        async def process(self, job: Job) -> None: ...

    with pytest.raises(InvalidOption, match=message):
        Send.new({}, **options)


def test_a_bad_value_for_one_job_is_refused_as_a_job_s() -> None:
    @worker
    class Send:
        async def process(self, job: Job) -> None: ...

    with pytest.raises(InvalidJob, match="priority"):
        Send.new({}, priority=10)


@pytest.mark.parametrize("args", [[1], 7, "text", b"bytes"])
def test_args_that_are_no_object_are_refused(args: Any) -> None:
    @worker
    class Send:
        async def process(self, job: Job) -> None: ...

    with pytest.raises(InvalidArguments):
        Send.new(args)


def test_a_class_that_is_not_decorated_says_so() -> None:
    class Bare(Worker[Welcome]):
        async def process(self, args: Welcome) -> None: ...

    @worker
    class Decorated(Worker[Welcome]):
        async def process(self, args: Welcome) -> None: ...

    class Child(Decorated):
        pass

    with pytest.raises(InvalidOption, match=r"Bare is not decorated with @worker$"):
        Bare.new(Welcome(1))
    with pytest.raises(InvalidOption, match=r"Child is not decorated with @worker; .*Decorated, from which it derives"):
        Child.new(Welcome(1))


def test_a_decorated_child_has_a_name_of_its_own() -> None:
    @worker(queue="a")
    class Parent:
        async def process(self, job: Job) -> None: ...

    @worker
    class Child(Parent):
        pass

    assert Child.new().worker.endswith("Child")
    assert Child.new().queue == "default"
    assert Parent.new().worker.endswith("Parent")


def test_a_class_that_is_made_anew_after_worker_says_so() -> None:
    @dataclass(slots=True)
    @worker
    class Send:
        async def process(self) -> None: ...

    with pytest.raises(
        InvalidOption, match=r"another decorator made .*Send anew after @worker; write @worker above it"
    ):
        Send.new()


# Typed args


@pytest.mark.parametrize("kind", [Welcome, WelcomeDict, WelcomeModel, WelcomeStruct])
async def test_typed_args_go_into_the_row_as_json_and_come_back_typed(kind: Any) -> None:
    @worker
    class Send(Worker[kind]):  # type: ignore[valid-type]
        async def process(self, args: kind) -> Any:  # type: ignore[valid-type]
            return args

    made = Send.new(kind(user_id=1))
    assert made.args["user_id"] == 1
    assert type(made.args) is dict
    assert await run(Send, Job(made.worker, args=made.args)) == kind(user_id=1)


async def test_the_args_of_a_plain_class_are_known_by_annotation() -> None:
    @worker
    class Send:
        async def process(self, args: Welcome) -> Any:
            return args

    at = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert await run(Send, Send.new(Welcome(1, at))) == Welcome(1, at)
    assert await run(Send, Send.new({"user_id": 1})) == Welcome(1)


async def test_args_may_be_annotated_with_none_and_strangers_with_a_default_are_left_alone() -> None:
    @worker
    class Send:
        async def process(self, args: Welcome | None, job: Job, log: OnlyForCheckers = None, level: int = 3) -> Any:
            return args, job, log, level

    made = Send.new({"user_id": 1})
    assert await run(Send, made) == (Welcome(1), made, None, 3)


async def test_a_mapping_of_args_is_the_json_object_itself() -> None:
    @worker
    class Send(Worker[dict[str, Any]]):
        async def process(self, args: Mapping[str, Any], job: Job) -> Any:
            return args is job.args

    assert await run(Send, Send.new({"a": {"b": 1}})) is True


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"user_id": 1, "usr": 2}, r"^args has 'usr', which Welcome doesn't"),
        ({"usr_id": 1}, r"did you mean 'user_id'\?"),
        ({}, r"^args lacks 'user_id', which Welcome needs"),
        (None, r"^args lacks 'user_id'"),
        ({"user_id": "1"}, r"^args\.user_id must be a whole number, not '1'"),
    ],
)
def test_args_that_do_not_fit_are_refused_where_they_are_written(args: Any, message: str) -> None:
    @worker
    class Send(Worker[Welcome]):
        async def process(self, args: Welcome) -> None: ...

    with pytest.raises(InvalidArguments, match=message):
        Send.new(args)


def test_references_wait_in_typed_args() -> None:
    @worker
    class Send(Worker[Welcome]):
        async def process(self, args: Welcome) -> None: ...

    user = object()
    assert Send.new(Welcome(user_id=ref(user))).args["user_id"].target is user


async def test_args_in_a_row_that_do_not_fit_fail_with_their_path() -> None:
    @worker
    class Send(Worker[Welcome]):
        async def process(self, args: Welcome) -> None: ...

    with pytest.raises(InvalidArguments) as caught:
        await run(Send, Job("w", args={"user_id": 1, "at": "yesterday"}))
    assert caught.value.path == "args.at"
    assert str(caught.value) == "Send: args.at must be an ISO 8601 date and time, not 'yesterday'"


async def test_args_types_are_found_through_generic_bases() -> None:
    class Base(Worker[T], Generic[T]):
        async def process(self, args: T) -> Any:
            return args

    class Middle(Base[T]):
        pass

    @worker
    class Send(Middle[Welcome]):
        pass

    assert await run(Send, Job("w", args={"user_id": 1})) == Welcome(1)


async def test_a_worker_of_none_takes_no_args() -> None:
    @worker
    class Sweep(Worker[None]):
        async def process(self) -> str:
            return "swept"

    assert Sweep.new().args == {}
    assert await run(Sweep, Sweep.new()) == "swept"


async def test_annotations_may_name_what_is_defined_later() -> None:
    made = []

    def define() -> Any:
        @worker
        class Send:
            async def process(self, args: Later) -> Any:
                return args

        return Send

    global Later
    send = define()

    @dataclass
    class Later:  # type: ignore[no-redef]
        a: int

    made.append(send.new({"a": 1}))
    assert await run(send, made[0]) == Later(1)


def test_an_annotation_for_checkers_only_is_refused_when_it_is_needed() -> None:
    @worker
    class Send:
        async def process(self, args: OnlyForCheckers) -> None: ...

    with pytest.raises(InvalidOption, match="'OnlyForCheckers' doesn't exist when the program runs"):
        Send.new({"a": 1})


# What process is given


async def test_process_is_given_what_its_annotations_say_in_any_order() -> None:
    @worker
    class Send(Worker[Welcome]):
        async def process(self, session: AsyncSession, *, args: Welcome, job: Job | None) -> Any:
            return session, args, job

    made = Send.new(Welcome(1))
    session: Any = object()
    assert await run(Send, made, session) == (session, Welcome(1), made)
    assert definition_of(Send).session == "async"


async def test_a_single_bare_parameter_is_the_job() -> None:
    @worker
    class Send:
        async def process(self, it):  # type: ignore[no-untyped-def]
            return it

    @worker
    class WithSession:
        async def process(self, it, session: AsyncSession, verbose=False):  # type: ignore[no-untyped-def]
            return it, session, verbose

    @worker
    class Loose:
        async def process(self, *args: Any, **kwargs: Any) -> Any:
            return args, kwargs

    made = Send.new()
    assert await run(Send, made) is made
    assert await run(WithSession, made, "s") == (made, "s", False)
    assert await run(Loose, made) == ((made,), {})


async def test_what_is_imported_for_checkers_only_is_still_injected() -> None:
    scope: dict[str, Any] = {"worker": worker, "__name__": __name__}
    text = """
from __future__ import annotations
@worker
class Send:
    async def process(self, job: oban_sa.Job, session: "None | AsyncSession") -> None:
        return job, session
"""
    exec(text, scope)
    made = Job("w")
    assert await run(scope["Send"], made, "s") == (made, "s")


async def test_process_may_be_static_or_of_the_class() -> None:
    @worker
    class Static:
        @staticmethod
        async def process(job: Job) -> Any:
            return job

    @worker
    class OfClass:
        @classmethod
        async def process(cls, job: Job) -> Any:
            return cls, job

    made = Static.new()
    assert await run(Static, made) is made
    assert await run(OfClass, made) == (OfClass, made)


async def test_each_attempt_has_an_instance_of_its_own() -> None:
    @worker
    class Count:
        def __init__(self) -> None:
            self.seen = 0

        async def process(self) -> int:
            self.seen += 1
            return self.seen

    assert [await run(Count, Count.new()) for _ in range(2)] == [1, 1]


def test_the_class_of_session_is_kept_for_the_runner() -> None:
    @worker
    class Send:
        async def process(self, session: MySession) -> None: ...

    @worker
    class Sync:
        def process(self, session: Session) -> None: ...

    assert definition_of(Send).session_class is MySession
    assert (definition_of(Sync).session, definition_of(Sync).session_class) == ("sync", Session)


def test_async_code_runs_on_the_loop_and_other_code_in_a_thread() -> None:
    @worker
    class Async:
        async def process(self) -> None: ...

    @worker
    class Sync:
        def process(self) -> None: ...

    assert definition_of(Async).executor == "loop"
    assert definition_of(Sync).executor == "thread"
    assert definition_of(Async).session is None


async def test_a_def_on_the_loop_is_awaited_like_any_other() -> None:
    @worker(executor="loop")
    class Sync:
        def process(self, job: Job) -> Job:
            return job

    made = Sync.new()
    assert inspect.isawaitable(answer := definition_of(Sync).call(made))
    assert await answer is made


def test_a_def_that_gives_a_coroutine_says_where_it_belongs() -> None:
    async def inner() -> None: ...

    @worker
    class Hidden:
        def process(self) -> Any:
            return inner()

    with pytest.raises(TypeError, match='executor="loop"'):
        perform_job(Hidden)


# Timeouts and backoff


def test_timeouts_are_options_or_methods() -> None:
    @worker(timeout="1 minute")
    class Option:
        async def process(self) -> None: ...

    @worker(timeout=lambda job: None if job.attempt > 1 else timedelta(seconds=2))
    class Function:
        async def process(self) -> None: ...

    @worker
    class Method:
        async def process(self) -> None: ...

        def timeout(self, job: Job) -> str:
            return f"{job.attempt} s"

    @worker
    class Nothing:
        async def process(self) -> None: ...

    attempt = Job("w", attempt=1)
    assert [definition_of(each).timeout(attempt) for each in (Option, Function, Method, Nothing)] == [60, 2, 1, None]
    assert definition_of(Function).timeout(Job("w", attempt=2)) is None


def test_backoff_is_an_option_a_method_or_the_family_s() -> None:
    @worker(backoff="1 minute")
    class Option:
        async def process(self) -> None: ...

    @worker
    class Method:
        async def process(self) -> None: ...

        def backoff(self, job: Job) -> timedelta:
            return timedelta(seconds=job.attempt * 10)

    @worker(backoff=lambda job: None)
    class Default:
        async def process(self) -> None: ...

    attempt = Job("w", attempt=3)
    assert definition_of(Option).backoff(attempt) == 60
    assert definition_of(Method).backoff(attempt) == 30
    assert 23 <= definition_of(Default).backoff(attempt) <= 25.3


def test_a_span_that_is_none_is_raised_to_the_runner() -> None:
    @worker(backoff=lambda job: -1, timeout=lambda job: "soon")
    class Send:
        async def process(self) -> None: ...

    with pytest.raises(InvalidPeriod):
        definition_of(Send).backoff(Send.new())
    with pytest.raises(InvalidPeriod):
        definition_of(Send).timeout(Send.new())


# What is refused when the class is made


class NoProcess:
    pass


class NotCallable:
    process = 7


class Abstract(abc.ABC):
    @abc.abstractmethod
    async def process(self) -> None: ...


class Demanding:
    def __init__(self, mailer: object) -> None: ...

    async def process(self) -> None: ...


class Yielding:
    def process(self) -> Any:
        yield 1


class AsyncYielding:
    async def process(self) -> Any:
        yield 1


class Unclear:
    async def process(self, job, session): ...  # type: ignore[no-untyped-def]


class Strange:
    async def process(self, user_id: int) -> None: ...


class TwoArgs:
    async def process(self, one: Welcome, two: WelcomeDict) -> None: ...


class TwoSessions:
    async def process(self, one: AsyncSession, two: AsyncSession) -> None: ...


class OtherArgs(Worker[Welcome]):
    async def process(self, args: WelcomeModel) -> None: ...


class SyncSessionOnLoop:
    async def process(self, session: Session) -> None: ...


class AsyncSessionInThread:
    def process(self, session: AsyncSession) -> None: ...


class OwnNew:
    async def process(self) -> None: ...

    def new(self) -> None: ...


class AsyncBackoff:
    async def process(self) -> None: ...

    async def backoff(self, job: Job) -> int:
        return 1


class BackoffWithoutJob:
    async def process(self) -> None: ...

    def backoff(self) -> int:
        return 1


class TimeoutValue:
    timeout = 30

    async def process(self) -> None: ...


class BadAnnotation:
    async def process(self, job: 1 / 0) -> None: ...  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (NoProcess, "NoProcess has no process; write `async def process"),
        (NotCallable, "NotCallable.process is 7, which can't be called"),
        (Abstract, "Abstract is abstract"),
        (Demanding, r"made without arguments .* missing a required argument: 'mailer'"),
        (Yielding, "Yielding.process yields"),
        (AsyncYielding, "AsyncYielding.process yields"),
        (Unclear, "takes the job more than once; annotate"),
        (Strange, r"takes user_id: int, which the runner can't give; .*@job function"),
        (TwoArgs, "takes the args more than once"),
        (TwoSessions, "takes one and two; an attempt has one session"),
        (OtherArgs, r"takes args: WelcomeModel, but the class is a Worker\[Welcome\]"),
        (SyncSessionOnLoop, "write session: AsyncSession"),
        (AsyncSessionInThread, "write session: Session, or `async def`"),
        (OwnNew, "has a new of its own"),
        (AsyncBackoff, "AsyncBackoff.backoff is async"),
        (BackoffWithoutJob, r"takes one job: `def backoff\(self, job: Job\)`"),
        (TimeoutValue, r"write it as @worker\(timeout=30\)"),
        (BadAnnotation, "the annotation '1 / 0' can't be evaluated"),
        (lambda: None, "decorate a function with @job"),
    ],
)
def test_a_class_that_can_not_work_is_refused(cls: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        worker(cls)


def test_async_code_can_not_be_sent_to_a_thread() -> None:
    with pytest.raises(InvalidOption, match=r'async and runs on the loop; .*executor="thread"'):

        @worker(executor="thread")
        class Send:
            async def process(self) -> None: ...


def test_what_another_process_can_not_have_is_refused() -> None:
    with pytest.raises(InvalidOption, match="stands inside a function"):

        @worker(executor="process")
        class Local:
            def process(self) -> None: ...

    class WithSession:
        def process(self, session: Session) -> None: ...

    WithSession.__qualname__ = "WithSession"
    with pytest.raises(InvalidOption, match="where no session reaches it"):
        worker(executor="process")(WithSession)


def test_a_method_and_an_option_for_the_same_are_refused() -> None:
    with pytest.raises(InvalidOption, match="both a method backoff and the option backoff"):

        @worker(backoff=5)
        class Send:
            async def process(self) -> None: ...

            def backoff(self, job: Job) -> int:
                return 1

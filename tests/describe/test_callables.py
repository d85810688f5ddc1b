"""Code that has to be awaited is refused where it would not be, however it is wrapped, and the other way around."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from oban_sa import hooks, telemetry
from oban_sa.describe import callables
from oban_sa.errors import InvalidOption, InvalidPeriod
from oban_sa.jobs.retention import Prune
from oban_sa.models import Job
from oban_sa.runner.maintenance.archive import checked as checked_archive
from oban_sa.runner.sessions.factories import ApplicationSessions
from oban_sa.workers import Registry, definition_of, job, worker
from oban_sa.workers.middleware import Chain


async def later(*args: Any) -> Any:
    return 60


def now(*args: Any) -> Any:
    return 60


def one_by_one(*args: Any) -> Any:
    yield 60


async def one_by_one_later(*args: Any) -> Any:
    yield 60


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def called(function: Any) -> Any:
    """An object whose class has it as `__call__`."""
    return type("Called", (), {"__call__": function})()


class Holder:
    async def later(self, *args: Any) -> Any:
        return 60

    def now(self, *args: Any) -> Any:
        return 60

    def one_by_one(self, *args: Any) -> Any:
        yield 60

    async def one_by_one_later(self, *args: Any) -> Any:
        yield 60


WAYS: dict[str, Callable[[str], Any]] = {
    "function": lambda name: globals()[name],
    "wrapped": lambda name: wrapped(globals()[name]),
    "wrapped twice": lambda name: wrapped(wrapped(globals()[name])),
    "partial": lambda name: functools.partial(globals()[name]),
    "partial of wrapped": lambda name: functools.partial(wrapped(globals()[name])),
    "wrapped partial": lambda name: functools.wraps(globals()[name])(functools.partial(globals()[name])),
    "method": lambda name: getattr(Holder(), name),
    "called object": lambda name: called(globals()[name]),
    "partial of a called object": lambda name: functools.partial(called(globals()[name])),
    "staticmethod": lambda name: staticmethod(globals()[name]),
}
ASYNC = [pytest.param(make("later"), "async", id=way) for way, make in WAYS.items()]
YIELDS = [
    pytest.param(make(name), "yields", id=f"{way} {name}")
    for way, make in WAYS.items()
    for name in ("one_by_one", "one_by_one_later")
]
PLAIN = [pytest.param(make("now"), id=way) for way, make in WAYS.items()]


@pytest.mark.parametrize(("given", "how"), [*ASYNC, *YIELDS])
def test_what_calling_gives_is_seen_however_it_is_wrapped(given: Any, how: str) -> None:
    assert callables.is_async(given) is (how == "async")
    assert callables.yields(given) is (how == "yields")


@pytest.mark.parametrize("given", [*PLAIN, len, int, "text", None, 7, print])
def test_what_is_called_as_usual_is_neither(given: Any) -> None:
    assert not callables.is_async(given)
    assert not callables.yields(given)


def test_what_wraps_itself_ends() -> None:
    def around() -> None: ...

    around.__wrapped__ = around  # type: ignore[attr-defined]
    assert not callables.is_async(around)


@pytest.mark.parametrize("option", ["backoff", "timeout"])
@pytest.mark.parametrize(("given", "how"), [*ASYNC, *YIELDS])
def test_a_span_that_would_have_to_be_awaited_is_refused_at_decoration(option: str, given: Any, how: str) -> None:
    words = (
        rf"{option} is asked between attempts, and .* is async; write `def`" if how == "async" else "yields; return it"
    )
    with pytest.raises(InvalidOption, match=words):
        job(registry=Registry(), **{option: given})
    with pytest.raises(InvalidOption, match=words):
        worker(registry=Registry(), **{option: given})


@pytest.mark.parametrize("option", ["backoff", "timeout"])
def test_a_span_that_can_not_be_asked_for_a_job_is_refused(option: str) -> None:
    for given, words in (
        (lambda: 60, "asked with one job"),
        (lambda a, b: 60, "one job"),
        (Holder, "the class Holder"),
    ):
        with pytest.raises(InvalidOption, match=words):
            job(registry=Registry(), **{option: given})


@pytest.mark.parametrize("given", PLAIN)
def test_a_span_that_is_said_at_once_is_taken(given: Any) -> None:
    @job(registry=Registry(), backoff=given, timeout=given, name="w")
    async def work() -> None: ...

    asked = Job("w", attempt=1)
    assert definition_of(work).backoff(asked) == definition_of(work).timeout(asked) == 60


@pytest.mark.parametrize("name", ["backoff", "timeout"])
@pytest.mark.parametrize(
    ("method", "how"),
    [
        (later, "async"),
        (wrapped(later), "async"),
        (staticmethod(later), "async"),
        (classmethod(later), "async"),
        (one_by_one, "yields"),
        (one_by_one_later, "yields"),
        (staticmethod(wrapped(one_by_one)), "yields"),
    ],
)
def test_a_method_that_says_a_span_is_refused_likewise(name: str, method: Any, how: str) -> None:
    async def process(self: Any) -> None: ...

    made = type("Made", (), {"process": process, name: method})
    with pytest.raises(InvalidOption, match=rf"Made\.{name} {'is async' if how == 'async' else 'yields'}"):
        worker(registry=Registry())(made)


def test_a_span_that_is_a_coroutine_all_the_same_is_refused_with_words() -> None:
    @job(registry=Registry(), backoff=lambda job: later(job), timeout=lambda job: later(job), name="w")
    async def work() -> None: ...

    asked = Job("w", attempt=1)
    for ask in (definition_of(work).backoff, definition_of(work).timeout):
        with pytest.raises(InvalidPeriod, match="it gave a coroutine instead of a span of time; write `def`"):
            ask(asked)


@pytest.mark.parametrize(("given", "how"), [*ASYNC, *YIELDS])
def test_an_upgrade_that_would_have_to_be_awaited_is_refused(given: Any, how: str) -> None:
    with pytest.raises(InvalidOption, match="is async, but only makes" if how == "async" else "yields, but makes one"):

        @job(registry=Registry(), version=2, upgrade=given)
        async def work() -> None: ...


@pytest.mark.parametrize(("given", "how"), [*ASYNC, *YIELDS])
def test_a_hook_that_would_have_to_be_awaited_is_refused(given: Any, how: str) -> None:
    for add in (hooks.after_new, hooks.before_insert):
        with pytest.raises(TypeError, match="is async; write `def`" if how == "async" else "yields; write `def`"):
            add(given)


@pytest.mark.parametrize(("given", "how"), [*ASYNC, *YIELDS])
def test_a_telemetry_handler_that_would_have_to_be_awaited_is_refused(given: Any, how: str) -> None:
    with pytest.raises(InvalidOption, match="coroutine function" if how == "async" else "generator function"):
        telemetry.attach(given)


@pytest.mark.parametrize(("given", "how"), ASYNC)
def test_a_middleware_is_async_however_it_is_wrapped(given: Any, how: str) -> None:
    assert len(Chain([given])) == 1


@pytest.mark.parametrize("given", [*PLAIN, *(pytest.param(each.values[0], id=each.id) for each in YIELDS)])
def test_a_middleware_that_is_not_async_is_refused(given: Any) -> None:
    with pytest.raises(InvalidOption, match="is no coroutine function; write async def"):
        Chain([given])


@pytest.mark.parametrize(("given", "how"), ASYNC)
def test_an_archive_is_async_however_it_is_wrapped(given: Any, how: str) -> None:
    assert checked_archive(Prune(archive=given).archive) is given


@pytest.mark.parametrize("given", [*PLAIN, Holder, "archive"])
def test_an_archive_that_is_not_async_is_refused(given: Any) -> None:
    with pytest.raises(InvalidOption, match="archive is an async function"):
        checked_archive(given)


@pytest.mark.parametrize(("given", "how"), [*ASYNC, *YIELDS])
def test_what_makes_sessions_is_called_at_once(given: Any, how: str) -> None:
    with pytest.raises(InvalidOption, match="has to be awaited" if how == "async" else "yields sessions"):
        ApplicationSessions(given)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrap", [lambda each: each, wrapped, staticmethod])
@pytest.mark.parametrize("function", [one_by_one, one_by_one_later])
def test_a_job_that_yields_is_refused(wrap: Any, function: Any) -> None:
    words = "decorates functions written with def" if wrap is staticmethod else "yields, but a job has one answer"
    with pytest.raises(InvalidOption, match=words):
        job(registry=Registry(), name="w")(wrap(function))
    made = type("Made", (), {"process": wrap(function)})
    with pytest.raises(InvalidOption, match=r"Made\.process yields"):
        worker(registry=Registry(), name="w")(made)

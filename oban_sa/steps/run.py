"""`step`: a part of a job that runs once, and whose result later attempts read from the journal."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Concatenate, ParamSpec, TypeVar, cast, overload

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa.errors import InvalidOption
from oban_sa.schedule.periods import Period
from oban_sa.steps import each, in_session
from oban_sa.steps.call import Backoff, Call, Options, once
from oban_sa.steps.here import here, journal
from oban_sa.steps.journal import Entry, Journal

P = ParamSpec("P")
T = TypeVar("T")

_OPTIONS = ("attempts", "backoff", "strict")


class Step:
    """Runs parts of a job once each; `step` is the only one.

        paid = await step("charge", charge, order_id, cents=300)    # in `async def`
        paid = step("charge", charge, order_id, cents=300)          # in `def`, which runs in a thread

    The first attempt that comes here calls the function. Its result is JSON, and committed in the job's journal before
    the code goes on. Later attempts get it from there, as the function's return annotation says. What raises is not
    journalled. The name tells steps of a job from each other; a name that is used again counts on: `charge`,
    `charge#2`. What has an effect outside of this database may happen again where the process dies inside of it.

    `attempts` is how often the function is called before its error counts, with `backoff` between: a span of time, or
    a function of how many have failed; by default a second, doubling. Where the journal has the name as the result of
    another function an event `StepChanged` tells of it, and with `strict` an error of that name is raised.

    Raises `AttemptLost` where the job was given to another attempt meanwhile, `InvalidArguments` where the result is no
    JSON or doesn't fit the annotation, `InvalidOption` for a name that can't be used, and `JobNotFound` where no job is
    running. In `executor="process"` the runner keeps the journal, which is asked through a channel.
    """

    @overload
    def __call__(
        self, name: str, function: Callable[P, Coroutine[object, object, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[object, object, T]: ...
    @overload
    def __call__(
        self, name: str, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]: ...
    @overload
    def __call__(self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def __call__(  # type: ignore[overload-cannot-match]
        self,
        name: str,
        function: Callable[..., Coroutine[object, object, T]],
        /,
        *args: object,
        attempts: int,
        backoff: Backoff = ...,
        strict: bool = ...,
        **kwargs: object,
    ) -> Coroutine[object, object, T]: ...
    @overload
    def __call__(  # type: ignore[overload-cannot-match]
        self,
        name: str,
        function: Callable[..., Coroutine[object, object, T]],
        /,
        *args: object,
        strict: bool,
        **kwargs: object,
    ) -> Coroutine[object, object, T]: ...
    @overload
    def __call__(  # type: ignore[overload-cannot-match]
        self,
        name: str,
        function: Callable[..., T],
        /,
        *args: object,
        attempts: int,
        backoff: Backoff = ...,
        strict: bool = ...,
        **kwargs: object,
    ) -> T: ...
    @overload
    def __call__(  # type: ignore[overload-cannot-match]
        self, name: str, function: Callable[..., T], /, *args: object, strict: bool, **kwargs: object
    ) -> T: ...
    def __call__(self, name: str, function: Callable[..., object], /, *args: object, **kwargs: object) -> object:
        """Run `function(*args, **kwargs)` once, under a name."""
        at = journal("step()")
        options = _taken(function, kwargs)
        call = Call(at.key(name), function, args, kwargs, options)
        return here(at, f"step({name!r}, ...)", lambda: once(at, call))

    @overload
    def commit(
        self,
        session: AsyncSession,
        name: str,
        function: Callable[Concatenate[AsyncSession, P], Awaitable[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Coroutine[object, object, T]: ...
    @overload
    def commit(
        self,
        session: Session,
        name: str,
        function: Callable[Concatenate[Session, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...
    def commit(
        self,
        session: AsyncSession | Session,
        name: str,
        function: Callable[..., object],
        /,
        *args: object,
        **kwargs: object,
    ) -> object:
        """Run `function(session, *args, **kwargs)` once, and commit the session with its result: exactly once.

        The session is the attempt's own, or another one on the same database; all that it has not committed yet is
        committed. Where the function raises, or the job was given to another attempt, the session rolls back, and the
        error is raised; there is no `attempts` here. Otherwise as `step`. Raises `InvalidOption` in
        `executor="process"`, whose sessions the journal has no part in.
        """
        at = journal("step.commit()")
        found = in_session.checked(session, name)
        if given := _options_in(function, kwargs):
            raise InvalidOption(
                f"step.commit({name!r}, ...) takes no {given[0]}: what raises rolls back the session, and the job is "
                "tried again; leave it out"
            )
        call = Call(at.key(name), function, (session, *args), kwargs, Options())
        return here(at, f"step.commit(session, {name!r}, ...)", lambda: in_session.once(at, found, call))

    @overload
    def each(
        self,
        name: str,
        items: AsyncIterable[T],
        *,
        cursor: Callable[[T], object] | None = None,
        every: Period = 0,
    ) -> AsyncIterator[T]: ...
    @overload
    def each(
        self,
        name: str,
        items: Iterable[T],
        *,
        cursor: Callable[[T], object] | None = None,
        every: Period = 0,
    ) -> Iterator[T]: ...
    def each(
        self,
        name: str,
        items: AsyncIterable[T] | Iterable[T],
        *,
        cursor: Callable[[T], object] | None = None,
        every: Period = 0,
    ) -> AsyncIterator[T] | Iterator[T]:
        """Go through items, and keep in the journal how far the code has come.

            async for user in step.each("users", users(after=step.cursor("users")), cursor=lambda user: user.id): ...

        Once the body of the loop is through with an item, its cursor is journalled: what `cursor` makes of it, which is
        JSON, or the item itself. With `every` that happens no more often than in this span of time; after a crash the
        items of that time come again. Once all are through, later attempts are given none. An `AsyncIterable` is for
        `async for`, on the loop; others are for `for`, in a thread.
        """
        at = journal("step.each()")
        return each.through(at, at.key(name), items, cursor=cursor, every=every)

    def cursor(self, name: str) -> object:
        """Return the cursor of the last item that `each` of this name is through with; None before the first."""
        at = journal("step.cursor()")
        entry = at.known(at.next_key(name))
        return None if entry is None or entry.code != each.CODE else entry.plain

    def version(self, name: str) -> Coroutine[object, object, bool]:
        """Return whether the job may run new code: True where it comes here before it has a journal, and so for good.

            if await step.version("v2"): ...

        A job that has journalled something before it first came here began with the old code: False, for good.
        """
        at = journal("step.version()")
        key = at.key(name)
        made = here(at, f"step.version({name!r})", lambda: _version(at, key))
        return cast("Coroutine[object, object, bool]", made)


async def _version(at: Journal, key: str) -> bool:
    if (entry := await at.find(key, "version")) is None:
        entry = await at.write(Entry(key, "version", "true" if at.began_empty else "false"))
    return entry.value == "true"


def _taken(function: Callable[..., object], kwargs: dict[str, object]) -> Options:
    """Take the options of the step out of the function's keywords, but those that it names among its own."""
    options = {name: kwargs.pop(name) for name in _options_in(function, kwargs)}
    if "backoff" in options and "attempts" not in options:
        raise InvalidOption("backoff of a step is the wait between its attempts; write how many, as attempts=5")
    return Options.of(**cast("dict[str, int]", options))


def _options_in(function: Callable[..., object], kwargs: dict[str, object]) -> list[str]:
    """Return the names of options of a step among the keywords that are none of the function's."""
    given = [name for name in _OPTIONS if name in kwargs]
    if not given:
        return given
    try:
        own = frozenset(inspect.signature(function).parameters)
    except (ValueError, TypeError):
        return given
    return [name for name in given if name not in own]


step = Step()

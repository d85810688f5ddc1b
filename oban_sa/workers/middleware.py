"""Middleware: code that stands around every attempt, sees its answer, and may give another."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias

from oban_sa.describe import callables
from oban_sa.errors import InvalidOption, RunnerError
from oban_sa.jobs.answers import Answer, raised
from oban_sa.models import Job
from oban_sa.workers.definition import ATTRIBUTE, Definition


class CallNext:
    """What comes next: the middleware further in, and in the middle the worker's code.

    `definition` is the worker's. Calling it, with the job or without, is awaiting the answer; what the code raises
    passes, timeouts and cancellation included. An attempt runs its code once: a second call raises `RunnerError`.
    """

    __slots__ = ("_called", "_inner", "_job", "_rest", "definition")

    def __init__(
        self, rest: Sequence[Middleware], job: Job, definition: Definition, inner: Callable[[], Awaitable[object]]
    ) -> None:
        self.definition = definition
        self._rest = rest
        self._job = job
        self._inner = inner
        self._called = False

    async def __call__(self, job: Job | None = None) -> Any:
        """Go on, and return the answer."""
        if job is not None and job is not self._job:
            raise RunnerError(f"call_next goes on with the job that it was given; change that one, {self._job}")
        if self._called:
            raise RunnerError("call_next was called twice, but an attempt runs its code once; return Snooze(0) instead")
        self._called = True
        try:
            if not self._rest:
                return await self._inner()
            further = CallNext(self._rest[1:], self._job, self.definition, self._inner)
            return await self._rest[0](self._job, further)
        except Answer as said:
            return raised(said)


Middleware: TypeAlias = Callable[[Job, CallNext], Awaitable[object]]
"""`async def middleware(job, call_next)`: what it returns, or raises, is the attempt's answer."""


def attach(middleware: Middleware) -> Callable[[], None]:
    """Let `middleware` stand around every attempt of all runners that are made from now on, outside of their own.

    Returns a function that ends this. Raises `InvalidOption` as `Chain` does.
    """
    global _attached
    added = _checked(middleware)
    _attached = (*_attached, added)

    def detach() -> None:
        global _attached
        _attached = tuple(each for each in _attached if each is not added)

    return detach


_attached: tuple[Middleware, ...] = ()


class Chain:
    """Middleware in its order, outermost first; before it come those that are attached to all runners."""

    def __init__(self, middleware: Iterable[Middleware]) -> None:
        """Raise `InvalidOption` for what can't be called and awaited with a job and what comes next."""
        self._links = (*_attached, *(_checked(each) for each in _listed(middleware)))

    def __len__(self) -> int:
        return len(self._links)

    async def around(self, inner: Callable[[], Awaitable[object]], *, job: Job, definition: Definition) -> object:
        """Run `inner` in the middle and return the answer of the outermost."""
        return await CallNext(self._links, job, definition, inner)()


def _listed(middleware: object) -> Iterable[object]:
    if isinstance(middleware, (str, bytes)) or not isinstance(middleware, Iterable):
        raise InvalidOption(f"middleware is a list of async functions, such as [{_shown(middleware)}]")
    return middleware  # pyright: ignore[reportUnknownVariableType]


def _checked(given: Any) -> Middleware:
    if inspect.isclass(given):
        raise InvalidOption(f"the middleware {given.__qualname__} is a class; give an object: {given.__qualname__}()")
    definition = getattr(given, "__dict__", {}).get(ATTRIBUTE)
    if isinstance(definition, Definition) and definition.target is given:
        raise InvalidOption(
            f"the middleware {_shown(given)} is a @job, which runners run as one; a middleware stands around every "
            f"job: async def {_shown(given)}(job, call_next), without @job"
        )
    if not callable(given):
        raise InvalidOption(f"a middleware is an async function of a job and what comes next, not {given!r}")
    if callables.yields(given) or not callables.is_async(given):
        raise InvalidOption(
            f"the middleware {_shown(given)} is no coroutine function; write async def "
            f"{_shown(given)}(job, call_next): return await call_next(job)"
        )
    try:
        inspect.signature(given).bind(None, None)
    except TypeError:
        raise InvalidOption(
            f"the middleware {_shown(given)} takes other parameters than a job and what comes next; "
            f"write async def {_shown(given)}(job, call_next)"
        ) from None
    return given  # type: ignore[no-any-return]  # pyright: ignore[reportReturnType]


def _shown(given: object) -> str:
    return str(getattr(given, "__name__", None) or repr(given))

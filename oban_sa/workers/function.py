"""`@job`: a function whose calls can be asked for now and made later."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa.describe import caller
from oban_sa.errors import InvalidOption
from oban_sa.jobs.values import JSONDict
from oban_sa.models import Job
from oban_sa.outbox.enqueue import enqueue
from oban_sa.workers.definition import ATTRIBUTE, Definition, definition_of
from oban_sa.workers.function_body import FunctionBody
from oban_sa.workers.keywords import JobOptions, WorkerOptions, refuse_unknown, refuse_unknown_for_job
from oban_sa.workers.options import Options
from oban_sa.workers.parameters import local_names
from oban_sa.workers.registry import registry_of

if TYPE_CHECKING:
    from typing import Unpack

    from oban_sa.outbox.sessions import AnySession
    from oban_sa.workers.chunk_body import ChunkBody

P = ParamSpec("P")
"""The parameters of a function that come from the job's args."""

Q = ParamSpec("Q")
"""All parameters of a function, those that the runner injects among them."""

S = TypeVar("S", bound=AsyncSession | Session)
"""The session that a function takes, of a class of one's own too."""

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Calls(Generic[P, R_co]):
    """Calls of one function, to be made by a runner, with options for their jobs."""

    __slots__ = ("_body", "definition", "given")

    def __init__(self, definition: Definition, body: FunctionBody | ChunkBody, given: Mapping[str, object]) -> None:
        self.definition = definition
        self.given = given
        """The options of these calls' jobs, as far as they are not the decorator's."""
        self._body = body

    def new(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Make a job that calls the function so; nothing is written.

        Raises `TypeError` where the function can't be called so, and `InvalidArguments` for a value that JSON can't
        hold or that its annotation doesn't allow.
        """
        return self._made(self._body.bind(args, kwargs))

    def new_without(
        self, args: tuple[object, ...], kwargs: dict[str, object], left_out: type
    ) -> tuple[Job, dict[str, object]]:
        """Make such a job without the arguments of a class, which are returned by the names of their parameters."""
        left: dict[str, object] = {}

        def rest(given: dict[str, object]) -> dict[str, object]:
            left.update((name, value) for name, value in given.items() if isinstance(value, left_out))
            return {name: value for name, value in given.items() if name not in left}

        return self._made(self._body.bind(args, kwargs, rest)), left

    def _made(self, bound: JSONDict) -> Job:
        definition = self.definition
        if self.given or definition.checks:
            return definition.job(bound, self.given)
        return Job.from_pattern(definition.pattern, bound)

    def enqueue(self, session: AnySession, /, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Make a job that calls the function so and stage it in `session`, whose flush writes it."""
        return enqueue(session, self.new(*args, **kwargs))

    def options(self, **options: Unpack[JobOptions]) -> Calls[P, R_co]:
        """Return calls whose jobs have these options: keywords of `Job`, which come before those of the decorator."""
        refuse_unknown_for_job(options, of=f"{self._body.target.__qualname__}.options()")
        return Calls(self.definition, self._body, {**self.given, **options})


class Function(Protocol[Q, P, R_co]):
    """A function decorated with `@job`: calling it calls it, the rest asks a runner to."""

    __name__: str
    __qualname__: str
    __module__: str

    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> R_co:
        """Call the function here and now."""
        ...

    def new(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Make a job that calls the function so; nothing is written."""
        ...

    def enqueue(self, session: AnySession, /, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Make a job that calls the function so and stage it in `session`, whose flush writes it."""
        ...

    def options(self, **options: Unpack[JobOptions]) -> Calls[P, R_co]:
        """Return calls whose jobs have these options."""
        ...


class _Anything:
    """What no function asks for: one that takes it takes anything, and so is not asking for a Job or a session."""


class Decorator(Protocol):
    """What `job(...)` returns: it takes away from the signature what the runner injects.

    Where the first parameter, or the one after a Job, is typed as Any or object, a checker can't tell it from an
    injected one, and calls of such a function are not checked.
    """

    @overload
    def __call__(self, function: Callable[Concatenate[_Anything, ...], R], /) -> Function[..., ..., R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[list[Job], ...], R], /) -> Function[..., ..., R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Job, _Anything, ...], R], /) -> Function[..., ..., R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Job, S, P], R], /) -> Function[Concatenate[Job, S, P], P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Job, P], R], /) -> Function[Concatenate[Job, P], P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[S, P], R], /) -> Function[Concatenate[S, P], P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Function[P, P, R]: ...


@overload
def job(function: Callable[Concatenate[_Anything, ...], R], /) -> Function[..., ..., R]: ...
@overload
def job(function: Callable[Concatenate[Job, _Anything, ...], R], /) -> Function[..., ..., R]: ...
@overload
def job(function: Callable[Concatenate[Job, S, P], R], /) -> Function[Concatenate[Job, S, P], P, R]: ...
@overload
def job(function: Callable[Concatenate[Job, P], R], /) -> Function[Concatenate[Job, P], P, R]: ...
@overload
def job(function: Callable[Concatenate[S, P], R], /) -> Function[Concatenate[S, P], P, R]: ...
@overload
def job(function: Callable[P, R], /) -> Function[P, P, R]: ...
@overload
def job(**options: Unpack[WorkerOptions]) -> Decorator: ...
def job(function: object = None, /, **options: Any) -> object:
    """Make a function a worker, registered as `module.QualName` or as `name`.

    It stays the function that it was, and gets `new`, `enqueue` and `options`. A leading `job: Job` and then a session,
    `AsyncSession` or in sync code `Session`, either or both and known by their annotations, are given by the runner.
    The session may come last as well, but type checkers can take away only what comes first. The other parameters are
    the job's args, by name; mapped objects among them are loaded in the session. Raises `InvalidOption` for an option
    that is unknown or can't be used, and for a function that can't work.

    With `chunk=Chunk(...)` the function takes `(jobs: list[Job])`, many at once, and may take a session after them.
    What each job is about is in its args, which `new` takes by name, any that JSON holds.
    """
    refuse_unknown(options, of="@job")
    if function is not None:
        return _define(function, options, local_names(caller.frame()))
    checked = Options.read(options)  # here, so that the traceback points at the decorator

    def decorate(function: object) -> object:
        return _define(function, options, local_names(caller.frame()), checked)

    return decorate


def _define(
    function: object, options: Mapping[str, Any], local: Mapping[str, object], checked: Options | None = None
) -> object:
    if isinstance(function, type):
        raise InvalidOption(f"@job decorates functions; decorate the class {function.__qualname__} with @worker")
    if not inspect.isfunction(function):
        raise InvalidOption(f"@job decorates functions written with def, not {function!r}")
    checked = checked or Options.read(options)
    body: FunctionBody | ChunkBody
    if checked.chunk is None:
        body = FunctionBody(function, checked, local=local)
    else:
        from oban_sa.workers.chunk_body import ChunkBody

        body = ChunkBody(function, checked, local=local)
    definition = Definition(body, checked, name=options.get("name"), aliases=options.get("aliases", ()))
    registry_of(options.get("registry")).register(definition)
    calls: Calls[..., object] = Calls(definition, body, {})
    setattr(function, ATTRIBUTE, definition)
    for name in ("new", "enqueue", "options"):
        setattr(function, name, getattr(calls, name))
    return function


def calls_of(function: object) -> Calls[..., object]:
    """Return the calls of a function decorated with `@job`; raises `InvalidOption` for anything else."""
    if isinstance(function, Calls):
        return cast("Calls[..., object]", function)
    definition = definition_of(function)
    if isinstance(definition.target, type):
        raise InvalidOption(
            f"{definition.body.what} belongs to a class, which is not called; make a job of it: .new(...)"
        )
    return Calls(definition, cast("FunctionBody | ChunkBody", definition.body), {})

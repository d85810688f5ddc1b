"""`@worker` and `Worker`: a class whose instances process jobs."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, cast, overload

from oban_sa.describe import caller
from oban_sa.errors import InvalidOption
from oban_sa.jobs.values import JSONDict
from oban_sa.models import Job
from oban_sa.outbox.enqueue import enqueue
from oban_sa.workers.class_body import ClassBody
from oban_sa.workers.definition import ATTRIBUTE, Definition, definition_of
from oban_sa.workers.keywords import JobOptions, WorkerOptions, refuse_unknown, refuse_unknown_for_job
from oban_sa.workers.options import Options
from oban_sa.workers.parameters import local_names
from oban_sa.workers.registry import registry_of

if TYPE_CHECKING:
    from typing import Unpack

    from typing_extensions import TypeVar

    from oban_sa.outbox.sessions import AnySession

    Args = TypeVar("Args", default=JSONDict)
else:
    from typing import TypeVar

    Args = TypeVar("Args")

C = TypeVar("C", bound=type)


class Worker(Generic[Args]):
    """The base of workers whose args have a type: a dataclass, a TypedDict, a pydantic or msgspec model, or a dict.

    It types `new` and `enqueue`; `@worker` configures and registers. `Worker[None]` takes no args, and `Worker` alone a
    dict. `process` isn't declared here because what it takes varies: a Job, a session, the Args, each known by its
    annotation.
    """

    @overload
    @classmethod
    def new(cls: type[Worker[None]], args: None = None, /, **options: Unpack[JobOptions]) -> Job: ...
    @overload
    @classmethod
    def new(cls: type[Worker[JSONDict]], args: JSONDict = ..., /, **options: Unpack[JobOptions]) -> Job: ...
    @overload
    @classmethod
    def new(cls, args: Args, /, **options: Unpack[JobOptions]) -> Job: ...
    @classmethod
    def new(cls, args: object = None, /, **options: object) -> Job:
        """Make a job for this worker; nothing is written.

        `options` are keywords of `Job`, and come before those of the worker. Raises `InvalidOption` for an unknown one,
        `InvalidArguments` for args that don't fit, and `InvalidJob`.
        """
        return _new(cls, args, options)

    @overload
    @classmethod
    def enqueue(
        cls: type[Worker[None]], session: AnySession, args: None = None, /, **options: Unpack[JobOptions]
    ) -> Job: ...
    @overload
    @classmethod
    def enqueue(
        cls: type[Worker[JSONDict]],
        session: AnySession,
        args: JSONDict = ...,
        /,
        **options: Unpack[JobOptions],
    ) -> Job: ...
    @overload
    @classmethod
    def enqueue(cls, session: AnySession, args: Args, /, **options: Unpack[JobOptions]) -> Job: ...
    @classmethod
    def enqueue(cls, session: AnySession, args: object = None, /, **options: object) -> Job:
        """Make a job for this worker and stage it in `session`, whose flush writes it."""
        return enqueue(session, _new(cls, args, options))


@overload
def worker(cls: C, /) -> C: ...
@overload
def worker(**options: Unpack[WorkerOptions]) -> Callable[[C], C]: ...
def worker(cls: object = None, /, **options: Any) -> object:
    """Make a class a worker, registered as `module.QualName` or as `name`.

    The class gets `new` and `enqueue`. A class that doesn't derive from `Worker` works the same, but type checkers
    don't see them. An instance is made, without arguments, for each attempt. Raises `InvalidOption` for an option that
    is unknown or can't be used, and for a class that can't work.
    """
    refuse_unknown(options, of="@worker")
    if cls is not None:
        return _define(cls, options, local_names(caller.frame()))
    checked = Options.read(options)  # here, so that the traceback points at the decorator

    def decorate(cls: C) -> C:
        return cast("C", _define(cls, options, local_names(caller.frame()), checked))

    return decorate


def _define(
    cls: object, options: Mapping[str, Any], local: Mapping[str, object], checked: Options | None = None
) -> object:
    if not inspect.isclass(cls):
        raise InvalidOption(f"@worker decorates classes, not {cls!r}; decorate a function with @job")
    checked = checked or Options.read(options)
    if checked.chunk is not None:
        raise InvalidOption(
            f"{cls.__qualname__} has chunk=, which is for functions; write @job(chunk=...) on a (jobs: list[Job])"
        )
    body = ClassBody(cls, checked, declared=_declared(cls), local=local)
    _refuse_own_methods(cls)
    definition = Definition(body, checked, name=options.get("name"), aliases=options.get("aliases", ()))
    registry_of(options.get("registry")).register(definition)
    setattr(cls, ATTRIBUTE, definition)
    if Worker not in cls.__mro__:
        for name in ("new", "enqueue"):
            setattr(cls, name, Worker.__dict__[name])
    return cls


def _new(cls: type, args: object, options: Mapping[str, object]) -> Job:
    definition = definition_of(cls)
    if options:
        refuse_unknown_for_job(options, of=f"{cls.__qualname__}.new()")
    return definition.job(cast("ClassBody", definition.body).encode(args), options)


def _refuse_own_methods(cls: type) -> None:
    if Worker in cls.__mro__:
        return
    for name in ("new", "enqueue"):
        own = getattr(cls, name, None)
        if own is not None and getattr(own, "__func__", None) is not Worker.__dict__[name].__func__:
            raise InvalidOption(f"{cls.__qualname__} has a {name} of its own, which @worker would replace; rename it")


def _declared(cls: type) -> object:
    """Return what stands in the brackets of the `Worker[...]` that a class derives from, or None."""
    found = _bracketed(cls)
    return None if found is type(None) or isinstance(found, typing.TypeVar) else found


def _bracketed(cls: type) -> object:
    bases = cls.__dict__.get("__orig_bases__", cls.__bases__)
    for base in bases:
        origin: Any = typing.get_origin(base) or base
        args = typing.get_args(base)
        if origin is Worker:
            return args[0] if args else None
        if Worker in getattr(origin, "__mro__", ()):
            found = _bracketed(origin)
            variables: tuple[object, ...] = getattr(origin, "__parameters__", ())
            return args[variables.index(found)] if args and found in variables else found
    return None

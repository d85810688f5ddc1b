"""A class as a worker: made anew for each attempt, and asked to `process`."""

from __future__ import annotations

import contextlib
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cached_property
from typing import Any, Final, cast

from oban_sa import values
from oban_sa.errors import InvalidArguments, InvalidOption
from oban_sa.models import Job
from oban_sa.periods import Period
from oban_sa.workers.arguments import Decode, Decoders, Misfit, as_is, shown
from oban_sa.workers.body import AttemptSession, check_crossing, check_function, check_session, place, runner_of
from oban_sa.workers.options import Executor
from oban_sa.workers.parameters import Given, Parameter, Unresolved, meaning, parameters, without_none


class ClassBody:
    """A class with `process`, and perhaps `timeout` and `backoff`; each call makes an instance, without arguments.

    `declared` is the `Args` of a `Worker[Args]`, or None.
    """

    def __init__(self, cls: Any, asked: Executor | None, *, declared: Any, local: Mapping[str, Any]) -> None:
        self.target = cls
        self.what = f"{cls.__qualname__}.process"
        self._local = local
        self._check()
        process = cls.process
        check_function(process, what=self.what)
        self.executor: Executor = place(process, asked, what=self.what)
        if self.executor == "process":
            check_crossing(cls, what=cls.__qualname__)
        taken = _without_self(cls, "process", parameters(process, local=local, what=self.what))
        self.session_class = check_session(taken, self.executor, what=self.what)
        self._declared = declared
        self._given = self._plan(taken)
        self._process = runner_of(self._run, self.executor, what=self.what)
        if self.executor == "loop" and inspect.iscoroutinefunction(process):
            self._process = self._run
        self.timeout = self._method("timeout")
        self.backoff = self._method("backoff")

    def call(self, job: Job, session: AttemptSession = None) -> Any:
        """Make an instance and ask it to process the job; raises `InvalidArguments` where its args don't fit."""
        return self._process(job, session)

    def encode(self, args: Any) -> dict[str, Any]:
        """Return a job's args: a dict as it is, anything else as a JSON object; raises `InvalidArguments`."""
        if args is None:
            args = {}
        given: Any = args
        if self._decode is as_is and isinstance(given, _OBJECT):
            return cast("dict[str, Any]", given)
        plain = values.to_json(args)
        if not isinstance(plain, _OBJECT):
            raise InvalidArguments(f"args must be an object (a dict or a model), not {shown(args)}")
        if not values.has_references(plain):
            self.decode(plain)
        return cast("dict[str, Any]", plain)

    def check(self, args: Mapping[str, Any]) -> None:
        """Raise `InvalidArguments` where a job could not have these args, as far as that can be told yet."""
        with contextlib.suppress(InvalidOption):  # an annotation may name what is defined later
            self.decode(dict(args))

    def decode(self, args: Any) -> Any:
        """Return the typed args of a job; raises `InvalidArguments`."""
        try:
            return self._decode(args)
        except Misfit as misfit:
            raise misfit.at("args") from misfit.__cause__

    def _run(self, job: Job, session: AttemptSession) -> Any:
        process = self.target().process
        if self._given == [("job", None)]:
            return process(job)
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for kind, name in self._given:
            value = job if kind == "job" else session if kind == "session" else self.decode(job.args)
            if name is None:
                positional.append(value)
            else:
                named[name] = value
        return process(*positional, **named)

    @cached_property
    def _decode(self) -> Decode:
        """Made when first needed, because annotations may name what is defined later."""
        annotation = self._args_type
        if annotation is None:
            return as_is
        if isinstance(annotation, (Unresolved, str, typing.ForwardRef)):
            text = (
                annotation.__forward_arg__
                if isinstance(annotation, typing.ForwardRef)
                else getattr(annotation, "text", annotation)
            )
            scope = vars(inspect.getmodule(self.target)) if inspect.getmodule(self.target) else {}
            annotation = meaning(text, scope=scope, local=self._local)
            if isinstance(annotation, Unresolved):
                raise InvalidOption(
                    f"the args of {self.what} are {annotation.text}, but {annotation.missing!r} doesn't exist when the "
                    f"program runs; import it outside of `if TYPE_CHECKING:`"
                )
            if not _is_object(annotation):
                raise InvalidOption(_not_args(self.what, "args", annotation))
        return Decoders(self._local).of(annotation)

    def _plan(self, taken: list[Parameter]) -> list[tuple[Given, str | None]]:
        self._args_type: Any = self._declared
        plan: list[tuple[Given, str | None]] = []
        for parameter in taken:
            kind = self._kind(parameter, taken)
            if kind is not None:
                named = parameter.kind is inspect.Parameter.KEYWORD_ONLY
                plan.append((kind, parameter.name if named else None))
        kinds = [kind for kind, _ in plan]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise InvalidOption(
                    f"{self.what} takes the {kind} more than once; annotate its parameters: a Job, a session, the args"
                )
        return plan

    def _kind(self, parameter: Parameter, taken: list[Parameter]) -> Given | None:
        if parameter.is_job:
            return "job"
        if parameter.session is not None:
            return "session"
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            return None
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return "job" if len(taken) <= 2 and not any(each.is_job for each in taken) else None
        if parameter.bare:
            return "job" if parameter.default is inspect.Parameter.empty else None
        if parameter.default is not inspect.Parameter.empty and isinstance(parameter.annotation, Unresolved):
            return None
        annotation = without_none(parameter.annotation)
        open_to_any = isinstance(annotation, (Unresolved, typing.TypeVar))
        if open_to_any or _is_object(annotation) or annotation == self._declared:
            if self._declared is not None and not _agree(self._declared, annotation):
                raise InvalidOption(
                    f"{self.what} takes {parameter.name}: {_called(annotation)}, but the class is a "
                    f"Worker[{_called(self._declared)}]"
                )
            if self._declared is None:
                self._args_type = annotation
            return "args"
        if parameter.default is not inspect.Parameter.empty:
            return None
        raise InvalidOption(_not_args(self.what, parameter.name, annotation))

    def _check(self) -> None:
        cls = self.target
        process = getattr(cls, "process", None)
        if process is None:
            raise InvalidOption(f"{cls.__qualname__} has no process; write `async def process(self, job: Job)`")
        if not callable(process):
            raise InvalidOption(
                f"{cls.__qualname__}.process is {process!r}, which can't be called; write it as a method"
            )
        if inspect.isabstract(cls):
            raise InvalidOption(f"{cls.__qualname__} is abstract; decorate the classes that derive from it")
        try:
            inspect.signature(cls).bind()
        except TypeError as error:
            raise InvalidOption(
                f"{cls.__qualname__} is made without arguments for each attempt, but its __init__ says: {error}"
            ) from error
        except ValueError:  # a class written in C doesn't tell
            pass

    def _method(self, name: str) -> Callable[[Job], Period | None] | None:
        cls = self.target
        method = getattr(cls, name, None)
        if method is None:
            return None
        if not callable(method):
            raise InvalidOption(f"{cls.__qualname__}.{name} is not a method; write it as @worker({name}={method!r})")
        if inspect.iscoroutinefunction(method):
            raise InvalidOption(f"{cls.__qualname__}.{name} is async, but it is asked between attempts; write `def`")
        try:
            inspect.signature(method).bind(*([None] * (1 if _is_bound(cls, name) else 2)))
        except TypeError:
            raise InvalidOption(f"{cls.__qualname__}.{name} takes one job: `def {name}(self, job: Job)`") from None
        return lambda job: getattr(cls(), name)(job)


_OBJECT: Final[type[Any]] = dict


def _without_self(cls: type, name: str, taken: list[Parameter]) -> list[Parameter]:
    return taken if _is_bound(cls, name) else taken[1:]


def _is_bound(cls: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(cls, name), (staticmethod, classmethod))


def _is_object(annotation: Any) -> bool:
    """Whether a whole JSON object can become one of these."""
    origin: Any = typing.get_origin(annotation) or annotation
    if not inspect.isclass(origin):
        return False
    return (
        typing.is_typeddict(origin)
        or issubclass(origin, Mapping)
        or is_dataclass(origin)
        or hasattr(origin, "model_validate_json")
        or hasattr(origin, "__struct_fields__")
    )


def _agree(declared: Any, annotation: Any) -> bool:
    if isinstance(declared, (str, typing.ForwardRef)) or isinstance(annotation, (Unresolved, typing.TypeVar)):
        return True
    return declared == annotation or (_is_mapping(declared) and _is_mapping(annotation))


def _is_mapping(annotation: Any) -> bool:
    origin: Any = typing.get_origin(annotation) or annotation
    return inspect.isclass(origin) and not typing.is_typeddict(origin) and issubclass(origin, Mapping)


def _called(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)


def _not_args(what: str, name: str, annotation: Any) -> str:
    return (
        f"{what} takes {name}: {_called(annotation)}, which the runner can't give; it gives a Job, a session "
        f"(AsyncSession or Session), and the args as one dict, dataclass, TypedDict or model; "
        f"for single arguments write a @job function"
    )

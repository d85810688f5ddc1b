"""A class as a worker: made anew for each attempt, and asked to `process`."""

from __future__ import annotations

import contextlib
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cached_property
from typing import Any, NamedTuple

from oban_sa.arguments.annotations import Unknown
from oban_sa.arguments.decoders import Decoders
from oban_sa.arguments.entities import is_mapped, mapped_within, refuse_untaken, taking, waits
from oban_sa.arguments.load import OnMissing, call_with_objects
from oban_sa.arguments.mismatch import Misfit, is_typed_dict, shown, untraced
from oban_sa.arguments.round_trip import Kind, check, told
from oban_sa.arguments.scalars import as_is
from oban_sa.arguments.versions import Upgrade, Versions, method_of
from oban_sa.describe import callables
from oban_sa.errors import EntityLocked, EntityNotFound, InvalidArguments, InvalidOption
from oban_sa.jobs import values
from oban_sa.jobs.values import JSONDict
from oban_sa.models import Job
from oban_sa.outbox import references
from oban_sa.schedule.periods import Period
from oban_sa.workers.body import (
    AttemptSession,
    check_crossing,
    check_entities,
    check_function,
    check_session,
    place,
    runner_of,
)
from oban_sa.workers.options import Executor, Options
from oban_sa.workers.parameters import Given, Parameter, Unresolved, meaning, parameters, without_none
from oban_sa.workers.record import recording
from oban_sa.workers.signature import Names, Signature, names_of_fields


class ClassBody:
    """A class with `process`, and perhaps `timeout` and `backoff`; each call makes an instance, without arguments.

    `declared` is the `Args` of a `Worker[Args]`, or None.
    """

    def __init__(self, cls: Any, options: Options, *, declared: object, local: Mapping[str, object]) -> None:
        self.target = cls
        self.what = f"{cls.__qualname__}.process"
        self._local = local
        self._on_missing: OnMissing = options.on_missing
        self._versions = Versions(options.version, _upgrade(cls, options), what=cls.__qualname__)
        self._check()
        process = cls.process
        check_function(process, what=self.what)
        self.executor: Executor = place(process, options.executor, what=self.what)
        if self.executor == "process":
            check_crossing(cls, what=cls.__qualname__)
        taken = _without_self(cls, "process", parameters(process, local=local, what=self.what))
        self.session_class = check_session(taken, self.executor, what=self.what)
        self._declared = declared
        self._given = self._plan(taken)
        self._process = runner_of(self._run, self.executor)
        if self.executor == "loop" and inspect.iscoroutinefunction(process):
            self._process = self._run
        if options.record:
            self._process = recording(self._process, self.executor)
        self._takes_args = any(kind == "args" for kind, _ in self._given)
        self._look_early()
        self.timeout = self._method("timeout")
        self.backoff = self._method("backoff")

    def call(self, job: Job, session: AttemptSession = None) -> object:
        """Make an instance and ask it to process the job; raises `InvalidArguments` where its args don't fit."""
        return self._process(job, session)

    def encode(self, args: object) -> JSONDict:
        """Return a job's args: a dict as it is, anything else as a JSON object; raises `InvalidArguments`."""
        if args is None:
            args = {}
        kind = self._reader.kind
        if kind.read is as_is and values.is_object(args):
            return args
        typed = None if kind.read is as_is else values.Typed(references.entity)
        plain = values.to_json(args, mapped=references.entity, typed=typed)
        if not values.is_object(plain):
            raise InvalidArguments(f"args must be an object (a dict or a model), not {shown(args)}")
        if not waits(plain):
            with taking() as accepted:
                self._compare(kind, plain, args)
            refuse_untaken(plain, accepted, what=self.what, where="args")
        settled: JSONDict = values.replace_references(plain, references.settled)
        return settled

    def _compare(self, kind: Kind, plain: object, given: object) -> None:
        """Refuse what doesn't fit, and what would come back as something else than was given."""
        try:
            check(kind, given, kind.read(plain))
        except Misfit as misfit:
            raise told(misfit, given).at("args") from misfit.__cause__

    def signature(self) -> Signature:
        """Return the names of its args, as far as their type says them."""
        try:
            annotation = self._args_annotation()
        except InvalidOption:  # it names what isn't defined yet
            return Signature(Names(self.what))
        return Signature(names_of_fields(typing.get_origin(annotation) or annotation, what=self.what))

    def check(self, args: Mapping[str, object]) -> None:
        """Raise `InvalidArguments` where a job could not have these args, as far as that can be told yet."""
        with contextlib.suppress(InvalidOption), taking():  # an annotation may name what is defined later
            self.decode(dict(args))

    def decode(self, args: object) -> object:
        """Return the typed args of a job; raises `InvalidArguments`."""
        try:
            return self._reader.kind.read(args)
        except Misfit as misfit:
            raise misfit.at("args") from misfit.__cause__

    def _run(self, job: Job, session: AttemptSession) -> object:
        process = self.target().process
        if self._given == [("job", None)]:
            return process(job)
        if not self._takes_args:
            return self._called(process, job, session, None)
        if not self._reader.loads:
            return self._called(process, job, session, self._read(job))
        return call_with_objects(
            lambda: self._read(job),
            lambda args: self._called(process, job, session, args),
            session,
            self._on_missing,
            on_loop=self.executor == "loop",
        )

    def _read(self, job: Job) -> object:
        try:
            return self.decode(self._versions.current(job))
        except (InvalidArguments, EntityNotFound, EntityLocked) as error:
            raise untraced(error, what=self.target.__name__) from None

    def _called(self, process: Callable[..., object], job: Job, session: AttemptSession, args: object) -> object:
        positional: list[object] = []
        named: dict[str, object] = {}
        for kind, name in self._given:
            value = job if kind == "job" else session if kind == "session" else args
            if name is None:
                positional.append(value)
            else:
                named[name] = value
        return process(*positional, **named)

    @cached_property
    def _reader(self) -> _Reader:
        """Made when first needed, because annotations may name what is defined later."""
        decoders = Decoders(self._local)
        kind = decoders.kind(self._args_annotation())
        if self._takes_args:
            check_entities(decoders.entities, self.session_class, self.executor, self._on_missing, what=self.what)
        return _Reader(kind, loads=bool(decoders.entities))

    def _args_annotation(self) -> object:
        annotation = self._args_type
        if annotation is None:
            return Any
        if isinstance(annotation, (Unresolved, str, typing.ForwardRef)):
            text = (
                annotation.__forward_arg__
                if isinstance(annotation, typing.ForwardRef)
                else getattr(annotation, "text", annotation)
            )
            scope = vars(inspect.getmodule(self.target)) if inspect.getmodule(self.target) else {}
            annotation = meaning(text, scope=scope, local=self._local)
            if isinstance(annotation, Unresolved):
                raise Unknown(
                    f"the args of {self.what} are {annotation.text}, but {annotation.missing!r} doesn't exist when the "
                    f"program runs; import it outside of `if TYPE_CHECKING:`"
                )
            if not _is_object(annotation):
                raise InvalidOption(_not_args(self.what, "args", annotation))
        return annotation

    def _look_early(self) -> None:
        """Refuse where it is written what can be told already."""
        if is_mapped(self._declared):
            raise InvalidOption(_not_args(self.what, "args", self._declared))
        if not self._takes_args:
            if self._versions.number > 1:
                raise InvalidOption(
                    f"{self.what} doesn't take its args, so what upgrade makes of them would reach nobody; "
                    f"write process(self, args: ...), with a dict, a dataclass or a model"
                )
            check_entities((), self.session_class, self.executor, self._on_missing, what=self.what)
        elif self._on_missing != "cancel" or list(mapped_within(self._args_type, self._local)):
            with contextlib.suppress(Unknown):  # what is defined later is looked at when it is first needed
                _ = self._reader

    def _plan(self, taken: list[Parameter]) -> list[tuple[Given, str | None]]:
        self._args_type: object = self._declared
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
        if callables.is_async(method):
            raise InvalidOption(f"{cls.__qualname__}.{name} is async, but it is asked between attempts; write `def`")
        if callables.yields(method):
            raise InvalidOption(f"{cls.__qualname__}.{name} yields, but it is one span of time; return it")
        try:
            inspect.signature(method).bind(*([None] * (1 if _is_bound(cls, name) else 2)))
        except TypeError:
            raise InvalidOption(f"{cls.__qualname__}.{name} takes one job: `def {name}(self, job: Job)`") from None
        return lambda job: getattr(cls(), name)(job)


class _Reader(NamedTuple):
    """What makes typed args of JSON, and whether it loads mapped objects."""

    kind: Kind
    loads: bool


def _upgrade(cls: type, options: Options) -> Upgrade | None:
    method = method_of(cls, options.version)
    if method is not None and options.upgrade is not None:
        raise InvalidOption(f"{cls.__qualname__} has both a method upgrade and the option upgrade; keep one")
    return method or options.upgrade


def _without_self(cls: type, name: str, taken: list[Parameter]) -> list[Parameter]:
    return taken if _is_bound(cls, name) else taken[1:]


def _is_bound(cls: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(cls, name), (staticmethod, classmethod))


def _is_object(annotation: object) -> bool:
    """Whether a whole JSON object can become one of these."""
    origin: object = typing.get_origin(annotation) or annotation
    if not inspect.isclass(origin) or is_mapped(origin):
        return False
    return (
        is_typed_dict(origin)
        or issubclass(origin, Mapping)
        or is_dataclass(origin)
        or hasattr(origin, "model_validate_json")
        or hasattr(origin, "__struct_fields__")
    )


def _agree(declared: object, annotation: object) -> bool:
    if isinstance(declared, (str, typing.ForwardRef)) or isinstance(annotation, (Unresolved, typing.TypeVar)):
        return True
    return declared == annotation or (_is_mapping(declared) and _is_mapping(annotation))


def _is_mapping(annotation: object) -> bool:
    origin: object = typing.get_origin(annotation) or annotation
    return inspect.isclass(origin) and not is_typed_dict(origin) and issubclass(origin, Mapping)


def _called(annotation: object) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)


def _not_args(what: str, name: str, annotation: object) -> str:
    return (
        f"{what} takes {name}: {_called(annotation)}, which the runner can't give; it gives a Job, a session "
        f"(AsyncSession or Session), and the args as one dict, dataclass, TypedDict or model; "
        f"for single arguments, or a mapped object alone, write a @job function"
    )

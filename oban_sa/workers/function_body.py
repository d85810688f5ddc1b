"""A function as a worker: its parameters are the job's args, after what the runner injects."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from oban_sa import values
from oban_sa.errors import InvalidArguments, InvalidOption, nearest
from oban_sa.models import Job
from oban_sa.workers.arguments import Decode, Decoders, Misfit, as_is, step
from oban_sa.workers.body import AttemptSession, check_crossing, check_function, check_session, place, runner_of
from oban_sa.workers.options import JOB_OPTIONS, Executor
from oban_sa.workers.parameters import Parameter, Unresolved, meaning, parameters

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VAR_POSITIONAL = inspect.Parameter.VAR_POSITIONAL
_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD


class FunctionBody:
    """A function whose parameters are named in the job's args.

    `*rest` becomes a list under its name, `**fields` become args of their own. A default is written into the job, so
    that it means what it meant when it was asked for; one that JSON can't hold is left to the function.
    """

    timeout = None
    backoff = None

    def __init__(self, function: Any, asked: Executor | None, *, local: Mapping[str, Any]) -> None:
        self.target = function
        self.what = f"{function.__qualname__}()"
        self._local = local
        check_function(function, what=self.what)
        self.executor: Executor = place(function, asked, what=self.what)
        if self.executor == "process":
            check_crossing(function, what=self.what)
        everything = parameters(function, local=local, what=self.what)
        self.session_class = check_session(everything, self.executor, what=self.what)
        self._injected = self._leading(everything)
        self._parameters = everything[len(self._injected) :]
        self._refuse_misplaced()
        self.signature = inspect.Signature([_plain(parameter) for parameter in self._parameters])
        self._function = runner_of(function, self.executor, what=self.what)
        self._names = frozenset(each.name for each in self._parameters if each.kind is not _VAR_KEYWORD)
        self._required = [
            each.name
            for each in self._parameters
            if each.default is inspect.Parameter.empty and each.kind not in (_VAR_POSITIONAL, _VAR_KEYWORD)
        ]
        self._rest = next((each.name for each in self._parameters if each.kind is _VAR_POSITIONAL), None)
        # What comes before *rest can only be given by position when there is a rest.
        by_position = _POSITIONAL if self._rest is not None else _POSITIONAL[:1]
        self._by_position = [each.name for each in self._parameters if each.kind in by_position]
        self._fields = next((each.name for each in self._parameters if each.kind is _VAR_KEYWORD), None)
        self._defaults = {each.name: each.default for each in self._parameters if _is_json(each.default)}

    def _hint(self, kwargs: Mapping[str, Any]) -> str:
        """Say where options of a job go, when they stand among the function's arguments."""
        options = [name for name in kwargs if name in JOB_OPTIONS and name not in self.signature.parameters]
        if not options:
            return ""
        given = ", ".join(f"{name}=..." for name in options)
        return f"; options of a job go before: .options({given}).new(...)"

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the args of a job that calls the function so; raises `TypeError` as calling it would."""
        try:
            bound = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{self.what} {error}{self._hint(kwargs)}") from None
        given: dict[str, Any] = {}
        for name in self.signature.parameters:
            if name in bound:
                given[name] = bound[name]
            elif name in self._defaults:
                given[name] = self._defaults[name]
        if self._fields is not None:
            fields = given.pop(self._fields, {})
            for name in fields:
                if name in self._names:  # a parameter that may only be given by position
                    raise InvalidArguments(
                        f"args.{name} would be both {name} and one of **{self._fields}", path=f"args.{name}"
                    )
            given.update(fields)
        plain: dict[str, Any] = values.to_json(given)
        if not values.has_references(plain):
            self._decoded(plain)
        return plain

    def call(self, job: Job, session: AttemptSession = None) -> Any:
        """Call the function with what the job's args say; raises `InvalidArguments` where they don't fit."""
        given = self._decoded(job.args)
        head: list[Any] = [job if kind == "job" else session for kind in self._injected]
        if self._by_position:
            defaults = self.signature.parameters
            head += [given.pop(name) if name in given else defaults[name].default for name in self._by_position]
        if self._rest is not None:
            head += given.pop(self._rest, ())
        return self._function(*head, **given)

    def check(self, args: Mapping[str, Any]) -> None:
        """Raise `InvalidArguments` where a job could not have these args, as far as that can be told yet."""
        self._check_names(args)

    def _decoded(self, args: Mapping[str, Any]) -> dict[str, Any]:
        self._check_names(args)
        given = dict(args)
        for name, decode in self._converters:
            if name in given:
                given[name] = _fitted(name, decode, given[name])
        if self._of_fields is not as_is:
            for name in given.keys() - self._names:
                given[name] = _fitted(name, self._of_fields, given[name])
        return given

    def _check_names(self, given: Mapping[str, Any]) -> None:
        if self._fields is None and not given.keys() <= self._names:
            unknown = next(name for name in given if name not in self._names)
            raise InvalidArguments(
                f"args has {unknown!r}, which {self.what} doesn't take{nearest(unknown, self._names)}",
                path=f"args{step(unknown)}",
            )
        for name in self._required:
            if name not in given:
                raise InvalidArguments(f"args lacks {name!r}, which {self.what} needs", path=f"args.{name}")

    @cached_property
    def _converters(self) -> list[tuple[str, Decode]]:
        """What to do with which args; made when first needed, because annotations may name what is defined later."""
        decoders = Decoders(self._local)
        converters: list[tuple[str, Decode]] = []
        for parameter in self._parameters:
            if parameter.kind is _VAR_KEYWORD:
                continue
            annotation = self._resolved(parameter)
            if parameter.default is None:  # `x: int = None` means that None is fine
                annotation = annotation | None if isinstance(annotation, type) else annotation
            decode = decoders.of(annotation)
            if parameter.kind is _VAR_POSITIONAL:
                decode = decoders.of(list[annotation])  # type: ignore[valid-type]
            if decode is not as_is:
                converters.append((parameter.name, decode))
        return converters

    @cached_property
    def _of_fields(self) -> Decode:
        """What to do with the args that are no parameters."""
        fields = [each for each in self._parameters if each.kind is _VAR_KEYWORD]
        return Decoders(self._local).of(self._resolved(fields[0])) if fields else as_is

    def _resolved(self, parameter: Parameter) -> Any:
        annotation = parameter.annotation
        if annotation is inspect.Parameter.empty:
            return Any
        if isinstance(annotation, Unresolved):
            scope = getattr(inspect.unwrap(self.target), "__globals__", {})
            annotation = meaning(annotation.text, scope=scope, local=self._local)
            if isinstance(annotation, Unresolved):
                raise InvalidOption(
                    f"{parameter.name}: {annotation.text} of {self.what} names {annotation.missing!r}, which doesn't "
                    f"exist when the program runs; import it outside of `if TYPE_CHECKING:`"
                )
        return annotation

    def _leading(self, everything: list[Parameter]) -> list[str]:
        leading: list[str] = []
        for parameter in everything[:2]:
            kind = "job" if parameter.is_job else "session" if parameter.session else None
            if kind is None or parameter.kind not in _POSITIONAL:
                break
            leading.append(kind)
        return leading

    def _refuse_misplaced(self) -> None:
        if self._injected in (["session", "job"], ["job", "job"]):
            raise InvalidOption(f"{self.what} takes the job first and the session after it, once each")
        for parameter in self._parameters:
            if parameter.is_job or parameter.session:
                raise InvalidOption(
                    f"{self.what} takes {parameter.name} after its own parameters; "
                    f"what the runner injects comes first: (job: Job, session: AsyncSession, ...)"
                )
        first = self._parameters[0] if self._parameters else None
        if first is not None and first.name in ("self", "cls") and first.bare:
            raise InvalidOption(f"{self.what} is a method; decorate a class with @worker, or a function of a module")


def _fitted(name: str, decode: Decode, value: Any) -> Any:
    try:
        return decode(value)
    except Misfit as misfit:
        raise misfit.at(f"args{step(name)}") from misfit.__cause__


def _plain(parameter: Parameter) -> inspect.Parameter:
    return inspect.Parameter(parameter.name, parameter.kind, default=parameter.default)


def _is_json(default: Any) -> bool:
    if default is inspect.Parameter.empty:
        return False
    try:
        return not values.has_references(values.to_json(default))
    except InvalidArguments:
        return False

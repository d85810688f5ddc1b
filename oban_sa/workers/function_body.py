"""A function as a worker: its parameters are the job's args, after what the runner injects."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

from oban_sa.arguments import libraries
from oban_sa.arguments.annotations import Unknown
from oban_sa.arguments.decoders import Decoders
from oban_sa.arguments.entities import is_mapped, mapped_within, refuse_untaken, taking, waits
from oban_sa.arguments.load import OnMissing, call_with_objects, prefetch
from oban_sa.arguments.mismatch import Decode, Misfit, step, untraced
from oban_sa.arguments.round_trip import Kind, check, told
from oban_sa.arguments.scalars import ANYTHING, as_is
from oban_sa.arguments.versions import KEY, Versions
from oban_sa.errors import EntityLocked, EntityNotFound, InvalidArguments, InvalidOption
from oban_sa.jobs import values
from oban_sa.jobs.references import Reference
from oban_sa.jobs.values import JSONDict
from oban_sa.models import Job
from oban_sa.outbox import references
from oban_sa.workers.body import (
    AttemptSession,
    check_crossing,
    check_entities,
    check_function,
    check_session,
    place,
    runner_of,
)
from oban_sa.workers.keywords import JOB_OPTIONS
from oban_sa.workers.options import Executor, Options
from oban_sa.workers.other_queues import instead, is_borrowed
from oban_sa.workers.parameters import Parameter, Unresolved, meaning, parameters, without_none
from oban_sa.workers.record import recording
from oban_sa.workers.signature import Names, Signature

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VAR_POSITIONAL = inspect.Parameter.VAR_POSITIONAL
_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD

_INJECTED = {"job": "Job", "session": "AsyncSession"}
"""What a first parameter of this name is most likely meant to be."""


class FunctionBody:
    """A function whose parameters are named in the job's args.

    `*rest` becomes a list under its name, `**fields` become args of their own. A default is written into the job, so
    that it means what it meant when it was asked for; one that JSON can't hold is left to the function.
    """

    timeout = None
    backoff = None

    def __init__(self, function: Any, options: Options, *, local: Mapping[str, object]) -> None:
        self.target = function
        self.what = f"{function.__qualname__}()"
        self._local = local
        self._on_missing: OnMissing = options.on_missing
        self._versions = Versions(options.version, options.upgrade, what=self.what)
        check_function(function, what=self.what)
        self.executor: Executor = place(function, options.executor, what=self.what)
        if self.executor == "process":
            check_crossing(function, what=self.what)
        everything = parameters(function, local=local, what=self.what)
        self.session_class = check_session(everything, self.executor, what=self.what)
        self._injected = self._leading(everything)
        self._last = self._session_at_the_end(everything[len(self._injected) :])
        self._parameters = everything[len(self._injected) : len(everything) - (self._last is not None)]
        self._refuse_misplaced()
        self._calls = inspect.Signature([_plain(parameter) for parameter in self._parameters])
        self._function = runner_of(function, self.executor)
        if options.record:
            self._function = recording(self._function, self.executor)
        self._names = frozenset(each.name for each in self._parameters if each.kind is not _VAR_KEYWORD)
        required = tuple(
            each.name
            for each in self._parameters
            if each.default is inspect.Parameter.empty and each.kind not in (_VAR_POSITIONAL, _VAR_KEYWORD)
        )
        self._required = frozenset(required)
        self._rest = next((each.name for each in self._parameters if each.kind is _VAR_POSITIONAL), None)
        # What comes before *rest can only be given by position when there is a rest.
        by_position = _POSITIONAL if self._rest is not None else _POSITIONAL[:1]
        self._by_position = [each.name for each in self._parameters if each.kind in by_position]
        # The parameters that may be given by position, where all may be given by name as well.
        anyhow = [each.name for each in self._parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        by_name = [each.name for each in self._parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
        self._anyhow = anyhow if len(anyhow) + len(by_name) == len(self._parameters) else None
        # Nothing is injected, and nothing goes by position.
        self._takes_names = not (self._injected or self._by_position or self._rest is not None or self._last)
        self._fields = next((each.name for each in self._parameters if each.kind is _VAR_KEYWORD), None)
        self._signed = Names(self.what, self._names if self._fields is None else None, required)
        self._defaults = {each.name: each.default for each in self._parameters if _is_json(each)}
        for each in self._parameters:
            libraries.refuse_field(each.default, each.name, what=self.what)
        asks_for_rows = any(list(mapped_within(each.annotation, local)) for each in self._parameters)
        if asks_for_rows or self._on_missing != "cancel":
            with suppress(Unknown):  # what is defined later is looked at when it is first needed
                _ = self._reader

    def _hint(self, kwargs: Mapping[str, object]) -> str:
        """Say where options of a job go, when they stand among its arguments, or what lacks its annotation."""
        options = [name for name in kwargs if name in JOB_OPTIONS and name not in self._calls.parameters]
        borrowed = [name for name in kwargs if name not in self._calls.parameters and is_borrowed(name)]
        if borrowed and not options:
            return f"{instead(borrowed[0], JOB_OPTIONS)}; options of a job go before: .options(...).new(...)"
        if not options:
            first = self._parameters[0] if self._parameters else None
            if first is not None and first.bare and (kind := _INJECTED.get(first.name)):
                kind = "Session" if first.name == "session" and self.executor == "thread" else kind
                return (
                    f"; {first.name} is an argument here like any other, for want of an annotation: "
                    f"what the runner gives is written {first.name}: {kind}"
                )
            return ""
        given = ", ".join(f"{name}=..." for name in options)
        return f"; options of a job go before: .options({given}).new(...)"

    def bind(
        self, args: tuple[object, ...], kwargs: dict[str, object], rest: Callable[[JSONDict], JSONDict] | None = None
    ) -> JSONDict:
        """Return the args of a job that calls the function so; raises `TypeError` as calling it would.

        `rest` is given them before they are JSON, and returns those that the job is to have already.
        """
        bound = self._bound(args, kwargs)
        given: JSONDict = {}
        for name in self._calls.parameters:
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
        self._check_names(given)
        return self._encoded(given if rest is None else rest(given))

    def _bound(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Mapping[str, object]:
        if self._anyhow is not None and len(args) <= len(self._anyhow):
            # What inspect does takes longer than all else; what doesn't go without it is told by it what is wrong.
            bound = {**dict(zip(self._anyhow, args, strict=False)), **kwargs}
            if len(bound) == len(args) + len(kwargs) and self._required <= bound.keys() <= self._names:
                return bound
        try:
            return self._calls.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{self.what} {error}{self._hint(kwargs)}") from None

    def encode(self, args: Mapping[str, object]) -> JSONDict:
        """Return the args of a job from those by name, looking only at the names; raises `InvalidArguments`."""
        given = dict(args)
        plain = self._written(given)
        self._check_names(plain)
        return self._settled(plain, given) if values.has_references(plain) else plain

    def _encoded(self, given: JSONDict) -> JSONDict:
        plain: JSONDict = given  # which `bind` has just made
        if not values.is_flat(given):
            plain = self._written(given)
            if values.has_references(plain):
                return self._settled(plain, given)
        reader = self._reader
        loading = reader.loading
        for name, kind in reader.kinds:
            if name not in plain:
                continue
            if name in loading:
                with taking():
                    _checked(name, kind, plain[name], given[name])
            else:
                _checked(name, kind, plain[name], given[name])
        if reader.fields is not ANYTHING:
            for name in plain.keys() - self._names:
                with taking():
                    _checked(name, reader.fields, plain[name], given[name])
        return plain

    def _written(self, given: JSONDict) -> JSONDict:
        typed = values.Typed(references.entity)
        plain: JSONDict = values.to_json(given, typed=typed)
        if typed.used:
            # Where no annotation says what to make of them, sets and keys that are no text would stay what they became.
            reader = self._reader
            untyped = {name: value for name, value in given.items() if reader.of(name, self._names) is ANYTHING}
            values.to_json(untyped, mapped=references.entity)
        return plain

    def _settled(self, plain: JSONDict, given: JSONDict) -> JSONDict:
        """Check what doesn't wait for the flush, and write which row it is where a mapped object has its key."""
        reader = self._reader
        for name, value in plain.items():
            if waits(value) and not (isinstance(value, Reference) and name in reader.loading):
                continue
            with taking() as accepted:
                _checked(name, reader.of(name, self._names), value, given[name])
            refuse_untaken(value, accepted, what=self.what, where=f"args{step(name)}")
        settled: JSONDict = values.replace_references(plain, references.settled)
        return settled

    def call(self, job: Job, session: AttemptSession = None) -> object:
        """Call the function with what the job's args say; raises `InvalidArguments` where they don't fit."""
        if not self._reader.loading:
            return self._call(job, session, self._read(job))
        return call_with_objects(
            lambda: self._read(job),
            lambda given: self._call(job, session, given),
            session,
            self._on_missing,
            on_loop=self.executor == "loop",
        )

    def _read(self, job: Job) -> JSONDict:
        try:
            # A job whose meta names no version, of a worker whose args have had one, has them as they are read today.
            # Past the instrumentation, which would look at each attribute as if it might have to be loaded.
            loaded = vars(job)
            known = "args" in loaded and "meta" in loaded
            if known and self._versions.number == 1 and KEY not in (loaded["meta"] or ()):
                return self._decoded(loaded["args"])
            return self._decoded(self._versions.current(job))
        except (InvalidArguments, EntityNotFound, EntityLocked) as error:
            raise untraced(error, what=self.target.__name__) from None

    def _call(self, job: Job, session: AttemptSession, given: JSONDict) -> object:
        if self._takes_names:
            return self._function(**given)
        head: list[object] = [job if kind == "job" else session for kind in self._injected]
        if self._by_position:
            defaults = self._calls.parameters
            head += [given.pop(name) if name in given else defaults[name].default for name in self._by_position]
        if self._rest is not None:
            head += given.pop(self._rest, ())
        if self._last is not None:
            if self._last.kind is inspect.Parameter.POSITIONAL_ONLY:
                head.append(session)
            else:
                given[self._last.name] = session
        return self._function(*head, **given)

    def signature(self) -> Signature:
        """Return the names of its args, which are its parameters."""
        entities: dict[str, type] = {}
        for parameter in self._parameters:
            annotation = without_none(self._resolved(parameter))
            if typing.get_origin(annotation) is typing.Annotated:
                annotation = without_none(typing.get_args(annotation)[0])
            if is_mapped(annotation):
                entities[parameter.name] = annotation
        typed = values.Typed()
        defaults = {name: values.to_json(default, typed=typed) for name, default in self._defaults.items()}
        return Signature(self._signed, defaults, entities)

    def check(self, args: Mapping[str, object]) -> None:
        """Raise `InvalidArguments` where a job could not have these args, as far as that can be told yet."""
        self._check_names(args)
        with suppress(InvalidOption), taking():  # an annotation may name what is defined later
            self._decoded(args)

    def _check_names(self, args: Mapping[str, object]) -> None:
        names = args.keys()
        if not (self._required <= names and (names <= self._names or self._fields is not None)):
            self._signed.check(names)  # which says what is wrong

    def _decoded(self, args: Mapping[str, object]) -> JSONDict:
        self._check_names(args)
        given = dict(args)
        reader = self._reader
        if reader.loading:
            prefetch((each for each in reader.converters if each[0] in given), given)
        for name, decode in reader.converters:
            if name in given:
                given[name] = _fitted(name, decode, given[name])
        if reader.fields is not ANYTHING:
            for name in given.keys() - self._names:
                given[name] = _fitted(name, reader.fields.read, given[name])
        return given

    @cached_property
    def _reader(self) -> _Reader:
        """What to do with which args; made when first needed, because annotations may name what is defined later."""
        decoders = Decoders(self._local)
        kinds: dict[str, Kind] = {}
        fields = ANYTHING
        loading = set[str]()
        for parameter in self._parameters:
            annotation = self._resolved(parameter)
            if list(mapped_within(annotation, self._local)):
                loading.add(parameter.name)
            if parameter.default is None:  # `x: int = None` means that None is fine
                annotation = annotation | None if isinstance(annotation, type) else annotation
            if parameter.kind is _VAR_POSITIONAL:
                annotation = list[annotation]  # type: ignore[valid-type]
            kind = decoders.kind(annotation)
            if parameter.kind is _VAR_KEYWORD:
                fields = kind
            elif kind.read is not as_is:
                kinds[parameter.name] = kind
        check_entities(decoders.entities, self.session_class, self.executor, self._on_missing, what=self.what)
        converters = [(name, kind.read) for name, kind in kinds.items()]
        return _Reader(kinds, list(kinds.items()), converters, fields, frozenset(loading))

    def _resolved(self, parameter: Parameter) -> object:
        annotation = parameter.annotation
        if annotation is inspect.Parameter.empty:
            return Any
        if isinstance(annotation, Unresolved):
            scope = getattr(inspect.unwrap(self.target), "__globals__", {})
            annotation = meaning(annotation.text, scope=scope, local=self._local)
            if isinstance(annotation, Unresolved):
                raise Unknown(
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

    def _session_at_the_end(self, rest: list[Parameter]) -> Parameter | None:
        last = rest[-1] if rest else None
        return last if last is not None and last.session and last.kind in _POSITIONAL else None

    def _refuse_misplaced(self) -> None:
        kinds = [*self._injected, *(["session"] if self._last else [])]
        if len(set(kinds)) < len(kinds) or kinds[:2] == ["session", "job"]:
            raise InvalidOption(f"{self.what} takes the job first and the session after it, once each")
        for parameter in self._parameters:
            if parameter.is_job or parameter.session:
                raise InvalidOption(
                    f"{self.what} takes {parameter.name} among its own parameters; what the runner injects comes "
                    f"first: (job: Job, session: AsyncSession, ...); a session may come last too, but not by keyword"
                )
        first = self._parameters[0] if self._parameters else None
        if first is not None and first.name in ("self", "cls") and first.bare:
            raise InvalidOption(f"{self.what} is a method; decorate a class with @worker, or a function of a module")


class _Reader(NamedTuple):
    """How args are read: by parameter, those of `**fields`, and which of them hold mapped objects."""

    by_name: dict[str, Kind]
    kinds: list[tuple[str, Kind]]
    converters: list[tuple[str, Decode]]
    fields: Kind
    loading: frozenset[str]

    def of(self, name: str, parameters: frozenset[str]) -> Kind:
        """Return what is asked for under a name, which is that of a parameter or one of `**fields`."""
        return self.by_name.get(name, ANYTHING if name in parameters else self.fields)


def _checked(name: str, kind: Kind, written: object, given: object) -> None:
    try:
        came = kind.read(written)
        if came is not given:
            check(kind, given, came)
    except Misfit as misfit:
        raise told(misfit, given).at(f"args{step(name)}") from misfit.__cause__


def _fitted(name: str, decode: Decode, value: object) -> object:
    try:
        return decode(value)
    except Misfit as misfit:
        raise misfit.at(f"args{step(name)}") from misfit.__cause__


def _plain(parameter: Parameter) -> inspect.Parameter:
    return inspect.Parameter(parameter.name, parameter.kind, default=parameter.default)


def _is_json(parameter: Parameter) -> bool:
    if parameter.default is inspect.Parameter.empty:
        return False
    try:
        typed = None if parameter.bare else values.Typed()
        return not values.has_references(values.to_json(parameter.default, typed=typed))
    except InvalidArguments:
        return False

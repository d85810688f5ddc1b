"""One kind of work: a name, its options, and the code that does it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property
from types import NoneType
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa.errors import InvalidArguments, InvalidJob, InvalidOption, InvalidPeriod, nearest
from oban_sa.jobs import backoff, deadline
from oban_sa.jobs.keys import Paths
from oban_sa.jobs.unique import Unique
from oban_sa.jobs.values import JSONDict
from oban_sa.models import Job, validation
from oban_sa.models.template import Pattern
from oban_sa.schedule.periods import Period, seconds
from oban_sa.workers.body import AttemptSession, Body, Call, ManyAtOnce, SessionKind
from oban_sa.workers.keys import NONE, OPTIONS, Keys
from oban_sa.workers.options import Executor, Options
from oban_sa.workers.origin import origin_of

ATTRIBUTE: Final = "__oban_definition__"
"""Where `@worker` and `@job` leave the definition of what they decorate."""


class Definition:
    """A worker as the registry knows it; `name` is what the rows of its jobs hold.

    `origin` and `module` say where its code stands, `executor` where it runs, and `session_class` which class of
    session it takes.
    """

    def __init__(self, body: Body, options: Options, *, name: str | None = None, aliases: Iterable[str] = ()) -> None:
        self.body = body
        self.target = body.target
        self.origin = origin_of(body.target)
        self.module: str = body.target.__module__
        self.options = options
        self.name = self._checked(name if name is not None else self.origin, 'name="..."')
        self.aliases = self._checked_all(aliases)
        self.executor: Executor = body.executor
        self.session_class: type[AsyncSession | Session] | None = body.session_class
        self.call: Final[Call] = body.call
        """Runs its code: on the loop returns an awaitable, elsewhere what the code returns.

        What the code raises passes; `InvalidArguments` says that the job's args don't fit, and comes from the call
        itself, before there is anything to await. Where mapped objects are among them, they are loaded in the session,
        on the loop as the first thing that is awaited: `EntityNotFound` says that one is gone, `EntityLocked` that
        another transaction has locked it, and instead of the code's own answer there may be a `Cancel` or a `Snooze`.
        """
        self._timeout = self._either("timeout", body.timeout, options.timeout)
        self._backoff = self._either("backoff", body.backoff, options.backoff)
        self.session: Final[SessionKind | None] = _kind(body.session_class)
        """Which kind of session its code takes, or None."""
        self.has_timeout: Final = self._timeout is not None
        """Whether `timeout` may say something."""
        self.is_plain: Final = (
            self.session is None and self.executor == "loop" and not self.has_timeout and options.chunk is None
        )
        """Whether an attempt is no more than to await `call(job)`: no session, thread, process, time limit or chunk."""
        self._stamps: Final = options.stamps
        self.keys: Final = Keys.of(options)
        """What makes the keys of its jobs, or None."""
        if self.keys is not None and (known := _names(body)) is not None:
            self.keys.check(known, what=body.what)
        self._refuse_untaken(options.unique)
        self.checks: Final = self.keys is not None or options.encrypt
        """Whether a job of it can't be made of the pattern alone."""
        if options.encrypt:
            self._refuse_readable(options.unique, self.keys)
        if options.redact and (takes := _names(body)) is not None:
            for each in options.redact:
                if (name := each.partition(".")[0]) not in takes:
                    raise InvalidOption(f"redact={each!r}: {body.what} takes no {name!r}{nearest(name, takes)}")
        for entry in options.cron:
            try:
                body.check(entry.args)
            except InvalidArguments as error:
                raise InvalidOption(f"cron {entry.expression!r} of {body.what}: {error}; give it other args") from error

    def of_chunk(self, jobs: Sequence[Job]) -> Definition:
        """Return the same whose code is called with the jobs of a chunk."""
        body = self.body
        if not isinstance(body, ManyAtOnce):
            return self

        def call(_: Job, session: AttemptSession = None, /) -> object:
            return body.call_all(jobs, session)

        made = copy(self)
        object.__setattr__(made, "call", call)
        return made

    def job(self, args: JSONDict, options: Mapping[str, Any]) -> Job:
        """Make a job with this worker's options, each of which `options` may replace."""
        keys = self.keys
        if self.options.encrypt:
            from oban_sa.jobs import encryption  # where nothing is encrypted, nothing of it is loaded

            encryption.check()
        if not options:
            job = Job.from_pattern(self.pattern, args)
            return job if keys is None else keys.write(job)
        if not OPTIONS.isdisjoint(options):
            keys = (keys or NONE).replaced(options)
            options = {name: value for name, value in options.items() if name not in OPTIONS}
        self._refuse_untaken(options.get("unique"))
        if self.options.encrypt:
            self._refuse_readable(options.get("unique"), keys)
        job = Job(self.name, args=args, **{**self.options.for_job(), **self.stamped(options)})
        return job if keys is None else keys.write(job)

    def _refuse_untaken(self, unique: object) -> None:
        """Refuse a unique key of args that no job has: all would have the same key, and only one would be kept."""
        if not isinstance(unique, Unique) or not unique.keys or (known := _names(self.body)) is None:
            return
        for name in unique.keys:
            if name not in known:
                hint = nearest(name, known) or (f"; there are {', '.join(sorted(known))}" if known else "")
                raise InvalidOption(f"unique: keys={list(unique.keys)}: {self.body.what} takes no {name!r}{hint}")

    def _refuse_readable(self, unique: object, keys: Keys | None) -> None:
        """Refuse what would write encrypted args, or a hash of them, where they can be read."""
        compared = Unique.of(unique) if unique is True or isinstance(unique, Unique) else None
        if compared is not None and "args" in compared.fields:
            raise InvalidOption(
                f"{self.name} has encrypted args, and a unique key is a hash of them, which can be guessed; compare "
                'something in meta instead: unique=Unique(fields=["worker", "meta"], meta_keys=["..."])'
            )
        for name, given in (("partition", keys and keys.partition), ("sequence", keys and keys.sequence)):
            if isinstance(given, Paths) and given.names:
                raise InvalidOption(
                    f"{name}={given}: {self.name} has encrypted args, and the key would stand in meta for all to read; "
                    f'write {name}="meta...", or a function that returns what may be read'
                )

    def stamped(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options of a job, in whose meta stands what each of this worker's jobs has there.

        Raises `InvalidOption` for a deadline that can't be.
        """
        stamps = self._stamps
        if deadline.SPAN in options:
            options = dict(options)
            span = deadline.seconds(options.pop(deadline.SPAN))
            stamps = {**stamps, deadline.SPAN: span}
            if span is None:
                del stamps[deadline.SPAN]
            options.setdefault("meta", dict(self.options.meta))
        elif "meta" not in options:
            return options
        if not isinstance(options["meta"], (Mapping, NoneType)):
            return options  # refused where the job is made
        return {**options, "meta": {**(options["meta"] or {}), **stamps}} if stamps else options

    @cached_property
    def pattern(self) -> Pattern:
        """What its jobs have in common, for `Job.from_pattern`."""
        Job.registry.configure(cascade=True)  # as the constructor of a mapped class does the first time
        return Pattern.of(self.name, **self.options.for_job())

    def timeout(self, job: Job) -> float | None:
        """Return how many seconds this attempt may take, or None where the worker doesn't say.

        Raises what the worker's own code raises, and `InvalidPeriod` for what is no span of time.
        """
        limit = self._timeout
        if limit is None or isinstance(limit, (int, float)):
            return limit
        answer = limit(job)
        return None if answer is None else _span(answer)

    def backoff(self, job: Job) -> float:
        """Return how many seconds to wait after this failed attempt: what the worker says, else the family's default.

        Raises what the worker's own code raises, and `InvalidPeriod` for what is no span of time.
        """
        wait = self._backoff
        if isinstance(wait, (int, float)):
            return wait
        answer = None if wait is None else wait(job)
        return backoff.default(job.attempt, job.max_attempts) if answer is None else _span(answer)

    def __repr__(self) -> str:
        return f"<Definition {self.name}>"

    def _either(self, what: str, method: Callable[[Job], Period | None] | None, option: Any) -> Any:
        if method is not None and option is not None:
            raise InvalidOption(f"{self.target.__qualname__} has both a method {what} and the option {what}; keep one")
        return method if method is not None else option

    def _checked_all(self, aliases: Iterable[str]) -> tuple[str, ...]:
        if isinstance(aliases, str):
            raise InvalidOption(f"aliases is a list of names; write aliases=[{aliases!r}]")
        return tuple(self._checked(alias, "aliases") for alias in aliases)

    def _checked(self, name: str, option: str) -> str:
        try:
            return validation.name(name, "the name of a worker")
        except InvalidJob as error:
            raise InvalidOption(f"{error}; give {self.target.__name__} another: {option}") from error


def _kind(session_class: type[AsyncSession | Session] | None) -> SessionKind | None:
    if session_class is None:
        return None
    return "async" if issubclass(session_class, AsyncSession) else "sync"


def _names(body: Body) -> frozenset[str] | None:
    try:
        return body.signature().names.known
    except InvalidOption:  # of an annotation that names what is defined later
        return None


def _span(answer: Any) -> float:
    if inspect.iscoroutine(answer):
        answer.close()
        raise InvalidPeriod("it gave a coroutine instead of a span of time; write `def`, and await nothing in it")
    return seconds(answer)


def definition_of(target: object) -> Definition:
    """Return the definition of a decorated class or function; raises `InvalidOption` where it is not decorated.

    A class that derives from a decorated one has none: its jobs would carry the other one's name.
    """
    definition = getattr(target, "__dict__", {}).get(ATTRIBUTE)
    if isinstance(definition, Definition):
        if definition.target is not target and isinstance(target, type):
            raise InvalidOption(
                f"another decorator made {target.__qualname__} anew after @worker; write @worker above it"
            )
        return definition
    name = getattr(target, "__qualname__", repr(target))
    if not isinstance(target, type):
        raise InvalidOption(f"{name} is not decorated with @job")
    parent = next((base for base in target.__mro__ if ATTRIBUTE in vars(base)), None)
    hint = f"; {parent.__qualname__}, from which it derives, is, but jobs need a name of its own" if parent else ""
    raise InvalidOption(f"{name} is not decorated with @worker{hint}")

"""A function that takes many jobs at once: `(jobs: list[Job])`, and a session after them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oban_sa.errors import InvalidArguments, InvalidOption
from oban_sa.jobs import values
from oban_sa.jobs.values import JSONDict
from oban_sa.models import Job
from oban_sa.outbox import references
from oban_sa.workers.body import AttemptSession, check_function, check_session, place, runner_of
from oban_sa.workers.options import Executor, Options
from oban_sa.workers.parameters import Parameter, parameters
from oban_sa.workers.signature import Names, Signature


class ChunkBody:
    """A function that is called with the jobs of a chunk; their args may be any that JSON holds, given by name."""

    timeout = None
    backoff = None

    def __init__(self, function: Any, options: Options, *, local: Mapping[str, object]) -> None:
        self.target = function
        self.what = f"{function.__qualname__}()"
        check_function(function, what=self.what)
        self.executor: Executor = place(function, options.executor, what=self.what)
        if self.executor == "process":
            raise InvalidOption(
                f'{self.what} has a chunk, which reaches no other process; leave out executor="process"'
            )
        if options.sequence is not None:
            raise InvalidOption(
                f"{self.what} has chunk= and sequence=, but jobs of a sequence run one at a time; keep one of them"
            )
        if options.record:
            raise InvalidOption(
                f"{self.what} has chunk= and record=, but returns one value for many jobs; return "
                "ChunkResult(record={job: value}) instead"
            )
        by = None if options.chunk is None else options.chunk.by
        if options.encrypt and by is not None and by.names:
            raise InvalidOption(
                f"{self.what} has encrypted args, in which no job can be found by={by}; "
                'write by="meta...", and put there what may be read'
            )
        everything = parameters(function, local=local, what=self.what)
        self.session_class = check_session(everything, self.executor, what=self.what)
        first, rest = everything[:1], everything[1:]
        if not first or not _takes_jobs(first[0]) or len(rest) > 1 or (rest and rest[0].session is None):
            session = "Session" if self.executor == "thread" else "AsyncSession"
            raise InvalidOption(
                f"{self.what} has a chunk, so it takes (jobs: list[Job]), and after them a session if it wants one: "
                f"(jobs: list[Job], session: {session}); what a job is about is in its args"
            )
        self._function = runner_of(function, self.executor)

    def bind(
        self, args: tuple[object, ...], kwargs: dict[str, object], rest: Callable[[JSONDict], JSONDict] | None = None
    ) -> JSONDict:
        """Return the args of a job; raises `TypeError` for one without a name.

        `rest` is given them before they are JSON, and returns those that the job is to have already.
        """
        if args:
            raise TypeError(f"{self.what} takes the args of a job by name: .new(document_id=7)")
        return self.encode(kwargs if rest is None else rest(kwargs))

    def encode(self, args: Mapping[str, object]) -> JSONDict:
        """Return the args of a job from those by name; raises `InvalidArguments` for what JSON can't hold."""
        plain: JSONDict = values.to_json(dict(args), mapped=references.entity)
        if values.has_references(plain):
            settled: JSONDict = values.replace_references(plain, references.settled)
            return settled
        return plain

    def call(self, job: Job, session: AttemptSession = None) -> object:
        """Call the function with one job."""
        return self.call_all([job], session)

    def call_all(self, jobs: Sequence[Job], session: AttemptSession = None) -> object:
        """Call the function with the jobs of a chunk."""
        return self._function(list(jobs)) if session is None else self._function(list(jobs), session)

    def signature(self) -> Signature:
        """Return no names: the args may be any."""
        return Signature(Names(self.what))

    def check(self, args: Mapping[str, object]) -> None:
        """Accept any args; raises `InvalidArguments` where JSON can't hold them."""
        if values.has_references(self.encode(args)):
            raise InvalidArguments(f"args of {self.what} can't hold ref(...) here")


def _takes_jobs(parameter: Parameter) -> bool:
    kind: object = parameter.annotation
    inner = typing.get_args(kind)
    origin = typing.get_origin(kind)
    is_list = origin in (list, Sequence)
    named = parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return named and is_list and len(inner) == 1 and isinstance(inner[0], type) and issubclass(inner[0], Job)

"""The keys of a worker's jobs: which partition of a queue one belongs to, and which sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from oban_sa.describe.choices import choice
from oban_sa.errors import InvalidOption, nearest
from oban_sa.jobs.keys import HALTS, ON_FAILURE, PARTITION, SEQUENCE, OnFailure, Paths, key_text
from oban_sa.models import Job
from oban_sa.workers.ask import asked

if TYPE_CHECKING:
    from oban_sa.workers.options import Options

KeyOf: TypeAlias = str | tuple[str, ...] | Callable[[Job], object]
"""Where a job has its key, "worker", "args.x" or "meta.x", several of these, or a function that says it for a job."""

Source: TypeAlias = Paths | Callable[[Job], object]


OPTIONS: Final = frozenset({"partition", "sequence", "on_failure"})
"""The options that make the keys of a job."""


class Keys(NamedTuple):
    """Makes the keys of jobs, and writes them into their meta."""

    partition: Source | None = None
    sequence: Source | None = None
    halts: bool = False

    @classmethod
    def of(cls, options: Options) -> Keys | None:
        """Return the keys of a worker's jobs, or None where they have none; raises `InvalidOption`."""
        if options.partition is None and options.sequence is None and options.on_failure is None:
            return None
        return cls._checked(options.partition, options.sequence, options.on_failure)

    @classmethod
    def _checked(cls, partition: Source | None, sequence: Source | None, on_failure: OnFailure | None) -> Keys:
        if sequence is None and on_failure is not None:
            raise InvalidOption(
                f"on_failure={on_failure!r} says what a discarded job does to its sequence, and none is named; write "
                f'sequence="args.account_id", on_failure={on_failure!r}, or leave it out'
            )
        return cls(partition, sequence, on_failure == "halt")

    def replaced(self, given: Mapping[str, object]) -> Keys | None:
        """Return the keys of jobs for which `given`, options among others, say something else."""
        partition = source(given[PARTITION], what=PARTITION) if PARTITION in given else self.partition
        sequence = source(given[SEQUENCE], what=SEQUENCE) if SEQUENCE in given else self.sequence
        was: OnFailure | None = "halt" if self.halts and sequence is not None else None
        keys = self._checked(partition, sequence, on_failure(given["on_failure"]) if "on_failure" in given else was)
        return None if keys == NONE else keys

    def write(self, job: Job) -> Job:
        """Write the keys of a new job into its meta; raises `InvalidJob` where a value is missing or makes none.

        A partition that is None is the one without a name; a sequence that is None is none.
        """
        made: dict[str, object] = {}
        if self.partition is not None:
            made[PARTITION] = _key(self.partition, job, PARTITION) or ""
        if self.sequence is not None and (key := _key(self.sequence, job, SEQUENCE)) is not None:
            made |= {SEQUENCE: key, HALTS: True} if self.halts else {SEQUENCE: key}
        # Past the instrumentation: what has no row yet has no history.
        vars(job)["meta"] = {**job.meta, **made}
        return job

    @property
    def read(self) -> Keys:
        """Those that are read from values, without those that a function says."""
        partition, sequence = (each if isinstance(each, Paths) else None for each in (self.partition, self.sequence))
        return Keys(partition, sequence)

    def check(self, known: frozenset[str], *, what: str) -> None:
        """Raise `InvalidOption` where a key is to be in an arg that the worker, called `what`, doesn't take."""
        for name, given in ((PARTITION, self.partition), (SEQUENCE, self.sequence)):
            for arg in given.names if isinstance(given, Paths) else ():
                if arg not in known:
                    hint = nearest(arg, known) or (f"; there are {', '.join(sorted(known))}" if known else "")
                    raise InvalidOption(f"{name}={given}: {what} takes no {arg!r}{hint}")


NONE: Final = Keys()


def source(given: object, *, what: str) -> Source | None:
    """Accept where a key is, or a function that says it for a job; raises `InvalidOption`."""
    if given is None or isinstance(given, Paths):
        return given
    if not callable(given):
        return Paths.read(given, what=what)
    return asked(
        given,
        what=what,
        when="where a job is made",
        one="one key",
        instead=f'for the worker of a job write {what}="worker"',
        example=f'{what}=lambda job: job.args["tenant_id"]',
    )


def on_failure(given: object) -> OnFailure | None:
    """Accept what a discarded job does to its sequence; raises `InvalidOption`."""
    if given is None:
        return None
    chosen: OnFailure = choice(given, ON_FAILURE, what="on_failure")
    return chosen


def _key(given: Source | None, job: Job, what: str) -> str | None:
    if given is None:
        return None
    if isinstance(given, Paths):
        return given.key(job.worker, job.args, job.meta, what=what)
    return key_text(given(job), what=what)

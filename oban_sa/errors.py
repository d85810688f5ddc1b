"""Every exception that the library raises, as one tree.

    ObanError
    ├── InvalidJob(ValueError)
    │   └── InvalidArguments
    ├── InvalidOption(ValueError)
    │   ├── InvalidPeriod
    │   └── InvalidCron
    ├── ReferenceOutsideSession
    ├── JobElsewhere
    ├── SessionEnded
    ├── UniqueBusy
    ├── LimitReached
    ├── LimitLost
    ├── SchemaError
    │   ├── SchemaMissing
    │   └── SchemaOutdated
    ├── WorkerNotFound(LookupError)
    ├── JobNotFound(LookupError)
    ├── JobOver
    ├── RelayError
    │   ├── RelayTimeout(TimeoutError)
    │   ├── RelayCancelled
    │   └── RelayDiscarded
    ├── StepChanged
    ├── WorkflowNotFound(LookupError)
    ├── DependencyNotFound(KeyError)
    ├── DependencyNotLoaded
    ├── KeyMissing(LookupError)
    ├── EntityNotFound(LookupError)
    ├── AttemptError
    │   ├── AttemptTimedOut(TimeoutError)
    │   ├── AttemptCancelled
    │   ├── AttemptCrashed
    │   ├── AttemptOrphaned
    │   ├── AttemptLost
    │   ├── ChunkRetried
    │   ├── CommitUnanswered
    │   └── EntityLocked
    ├── RunnerError
    └── EmbeddedError

`Suspended`, which ends an attempt that waits, is a `BaseException`, so that `except Exception` lets it pass.

`ObanWarning`, a `UserWarning`, is the base of the warnings `JobNeverWritten`, `NaiveMoment` and `LimitsNotObserved`:
about what most likely does something else than was meant.

A class's docstring is its default message. Errors that SQLAlchemy raises on the user's session pass unchanged.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import partial


class ObanError(Exception):
    """Something that concerns jobs went wrong."""

    traced = True
    """Whether logs show the traceback; False for an error about what a row contains, which no line of code caused."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else type(self).__doc__)


class InvalidJob(ObanError, ValueError):
    """A job has a value that no runner could work with; `index` says which job it was where several were given."""

    index: int | None = None

    def number(self, index: int) -> None:
        """Set `index`, and put it before the message; does nothing where it is set already."""
        if self.index is None:
            self.index = index
            message = str(self)
            path = getattr(self, "path", None)  # messages about a value begin with its path
            start = f"jobs[{index}]." if path and message.startswith(path.partition(".")[0]) else f"jobs[{index}]: "
            self.args = (start + message,)


class InvalidArguments(InvalidJob):
    """A value in a job's args or meta can't be written as JSON; `path` is where it is (`args.items[3].price`)."""

    def __init__(self, message: str | None = None, *, path: str = "args") -> None:
        super().__init__(message)
        self.path = path


class InvalidOption(ObanError, ValueError):
    """An option of a worker, a queue or a runner is unknown or has a value that can't be used."""


class InvalidPeriod(InvalidOption):
    """A span of time is a number of seconds, a timedelta or a text such as "5 minutes"."""


class InvalidCron(InvalidOption):
    """A cron expression has five fields, or six with seconds, or is one of the nicknames such as @hourly."""


class ReferenceOutsideSession(ObanError):
    """A reference names an object that is not in the session its job is enqueued in; add the object first."""


class JobElsewhere(ObanError):
    """A session writes its jobs elsewhere than its data, so that one could be committed without the other."""


class SessionEnded(ObanError):
    """The transaction of a session has ended, so that no flush would write a job that it is given now."""


class UniqueBusy(ObanError):
    """Another transaction holds the unique key of a job, and waiting for its end could become a deadlock."""


class LimitReached(ObanError):
    """A limit outside of jobs had no slot in the time in which one was waited for.

    `name` and `key` (empty where it has none) are those of the limit, and `full` says what of it: "limit", where all
    slots are held or others wait for the next one, or "rate". `retry_in` is after how many seconds the rate allows one
    more; None for slots, which are free when their holders end.
    """

    def __init__(self, message: str | None = None, *, name: str, key: str, full: str, retry_in: float | None) -> None:
        super().__init__(message)
        self.name = name
        self.key = key
        self.full = full
        self.retry_in = retry_in


class LimitLost(ObanError):
    """A slot of a limit outside of jobs was lost while it was held, so that others may have it; `name` and `key` say of
    which one."""

    def __init__(self, message: str | None = None, *, name: str, key: str) -> None:
        super().__init__(message)
        self.name = name
        self.key = key


class SchemaError(ObanError):
    """The database's tables are not what this version of oban_sa works with."""


class SchemaMissing(SchemaError):
    """The database has no tables for jobs yet."""


class SchemaOutdated(SchemaError):
    """The database's tables are older than this version of oban_sa; `found` and `required` are migration versions."""

    def __init__(self, message: str | None = None, *, found: int, required: int) -> None:
        super().__init__(message)
        self.found = found
        self.required = required


class WorkerNotFound(ObanError, LookupError):
    """No worker is registered under the name that a job carries."""


class JobNotFound(ObanError, LookupError):
    """No job has that id."""


class JobOver(ObanError):
    """The job has ended, or was deleted, so that no code of it takes the signal."""


class RelayError(ObanError):
    """A job that was waited for gave no value."""


class RelayTimeout(RelayError, TimeoutError):
    """A job that was waited for has not ended in time; it goes on."""


class RelayCancelled(RelayError):
    """A job that was waited for was cancelled."""


class RelayDiscarded(RelayError):
    """A job that was waited for has failed for good; `errors` are those of the job."""

    def __init__(self, message: str | None = None, *, errors: list[dict[str, object]]) -> None:
        super().__init__(message)
        self.errors = errors


class StepChanged(ObanError):
    """The journal has the result of another function under the name of a step."""


class WorkflowNotFound(ObanError, LookupError):
    """No workflow has that id."""


class DependencyNotFound(ObanError, KeyError):
    """A job waited for nothing of this name, or that recorded nothing."""

    __str__ = Exception.__str__  # that of a KeyError shows the message as a key


class DependencyNotLoaded(ObanError):
    """What a dependency recorded is not in memory, and has to be asked for otherwise."""


class KeyMissing(ObanError, LookupError):
    """Args are encrypted, or are to be, and this process has not the key."""


class EntityNotFound(ObanError, LookupError):
    """The row of a mapped object that a job is about doesn't exist any more."""


class AttemptError(ObanError):
    """An attempt at a job did not succeed; this is what a job's `errors` hold."""


class ChunkRetried(AttemptError):
    """The code of a chunk said of a job that it is to be tried again, or not any more."""

    traced = False


class AttemptTimedOut(AttemptError, TimeoutError):
    """The attempt took longer than its timeout."""


class AttemptCancelled(AttemptError):
    """The attempt was cancelled while it ran."""


class AttemptCrashed(AttemptError):
    """The process that ran this attempt ended before the code came to an answer."""


class AttemptOrphaned(AttemptError):
    """The node that ran this attempt died."""


class AttemptLost(AttemptError):
    """The job was given to another attempt or was cancelled, so this attempt may write nothing more about it."""


class CommitUnanswered(AttemptError):
    """The connection broke while the attempt was committed, and the database could not be asked for the result."""


class EntityLocked(AttemptError):
    """The row of a mapped object that a job is about is locked by another transaction; `skipped` where the attempt did
    not wait for it because of `ForUpdate(skip_locked=True)`."""

    def __init__(self, message: str | None = None, *, skipped: bool = False) -> None:
        super().__init__(message)
        self.skipped = skipped


class Suspended(BaseException):
    """Ends an attempt that waits, so that it holds no slot: only `sleep` and `wait_for` raise it.

    The job goes on in `delay` seconds, or None: when a signal comes. `meta` is merged into that of the job.
    """

    def __init__(self, why: str, *, delay: float | None, meta: dict[str, object]) -> None:
        super().__init__(why)
        self.delay = delay
        self.meta = meta

    def __reduce__(self) -> tuple[object, ...]:  # it crosses from another process
        return partial(type(self), delay=self.delay, meta=self.meta), self.args


class RunnerError(ObanError):
    """The runner can't start or can't go on."""


class EmbeddedError(ObanError):
    """The embedded PostgreSQL can't be started or reached."""


class ObanWarning(UserWarning):
    """Code that concerns jobs most likely does something else than was meant."""


class JobNeverWritten(ObanWarning):
    """A session has ended without writing a job that it was given."""


class LimitsNotObserved(ObanWarning):
    """A queue with limits is served by a node that does not observe them."""


class NaiveMoment(ObanWarning):
    """A moment without a time zone is taken as UTC."""


def nearest(word: str, choices: Iterable[str], then: str = "") -> str:
    """Return a hint to the nearest of `choices`, ``; did you mean 'queue'?``, or "" where none is near.

    `then` is what follows in any case: a sentence of its own after a hint, and else the rest of the one before.
    """
    matches = difflib.get_close_matches(word, list(choices), n=1)
    hint = f"; did you mean {matches[0]!r}?" if matches else ""
    if not then:
        return hint
    return f"{hint} {then[0].upper()}{then[1:]}" if hint else f"; {then}"


def shown(value: object, most: int = 200) -> str:
    """Return the repr() of any value for a message, cut to `most` characters; where it fails, the value's class."""
    try:
        text = repr(value)
    except Exception:  # nested too deep, an integer of more digits than Python writes, a class of the user's own
        return f"this {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def articled(noun: str) -> str:
    """Return the name of a class with its article: `a Job`, `an Engine`, `a User`."""
    vowel = noun[:1] in "aeiouAEIOU" and not _AS_YOU.match(noun)
    return f"{'an' if vowel else 'a'} {noun}"


_AS_YOU = re.compile(r"us|uni(?!n)|ut[ei]|uu|ur[il]|eu|one", re.IGNORECASE)
"""Beginnings of words that are written with a vowel and spoken with a consonant: User, Unit, UUID, URL, OneTimeCode."""

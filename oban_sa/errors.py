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
    ├── SchemaError
    │   ├── SchemaMissing
    │   └── SchemaOutdated
    ├── WorkerNotFound(LookupError)
    ├── JobNotFound(LookupError)
    ├── EntityNotFound(LookupError)
    ├── AttemptError
    │   ├── AttemptTimedOut(TimeoutError)
    │   ├── AttemptCancelled
    │   ├── AttemptCrashed
    │   ├── AttemptOrphaned
    │   ├── CommitUnanswered
    │   └── EntityLocked
    └── RunnerError

`ObanWarning`, a `UserWarning`, is the base of the warnings, of what a program most likely doesn't mean:
`JobNeverWritten` and `NaiveMoment`.

A class's docstring is its default message. On the user's session SQLAlchemy's own errors pass unchanged.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class ObanError(Exception):
    """Something that concerns jobs went wrong."""

    traced = True
    """Whether a traceback tells more than the message; not where nobody's code is at fault but what a row says."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else type(self).__doc__)


class InvalidJob(ObanError, ValueError):
    """A job has a value that no runner could work with; `index` says which job it was where several were given."""

    index: int | None = None

    def number(self, index: int) -> None:
        """Say which of several jobs this is about, in the message too; the first to say so is right."""
        if self.index is None:
            self.index = index
            message = str(self)
            path = getattr(self, "path", None)  # with which messages about a value begin
            start = f"jobs[{index}]." if path and message.startswith(path.partition(".")[0]) else f"jobs[{index}]: "
            self.args = (start + message,)


class InvalidArguments(InvalidJob):
    """A value in a job's args or meta can't be written as JSON; `path` says where it stands (`args.items[3].price`)."""

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


class EntityNotFound(ObanError, LookupError):
    """The row of a mapped object that a job is about doesn't exist any more."""


class AttemptError(ObanError):
    """An attempt at a job did not succeed; this is what a job's `errors` hold."""


class AttemptTimedOut(AttemptError, TimeoutError):
    """The attempt took longer than its timeout."""


class AttemptCancelled(AttemptError):
    """The attempt was cancelled while it ran."""


class AttemptCrashed(AttemptError):
    """The process that ran this attempt ended before the code came to an answer."""


class AttemptOrphaned(AttemptError):
    """The node that ran this attempt died."""


class CommitUnanswered(AttemptError):
    """The connection broke while the attempt was committed, and the database could not be asked what became of it."""


class EntityLocked(AttemptError):
    """The row of a mapped object that a job is about is locked by somebody else; `skipped` where it was not waited for
    because of `ForUpdate(skip_locked=True)`."""

    def __init__(self, message: str | None = None, *, skipped: bool = False) -> None:
        super().__init__(message)
        self.skipped = skipped


class RunnerError(ObanError):
    """The runner can't start or can't go on."""


class ObanWarning(UserWarning):
    """Something about jobs is most likely not meant so."""


class JobNeverWritten(ObanWarning):
    """A session has ended with a job that it was given and never wrote."""


class NaiveMoment(ObanWarning):
    """A moment without a time zone is taken as UTC."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Say which of `choices` was probably meant: ``; did you mean 'queue'?``, or nothing where none is near."""
    matches = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def shown(value: object, most: int = 200) -> str:
    """Show a value in a message, in `most` characters, whatever it is: its repr() may fail, or be without end."""
    try:
        text = repr(value)
    except Exception:  # nested too deep, an integer of more digits than Python writes, a class of the user's own
        return f"this {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def articled(noun: str) -> str:
    """Put the article that a message needs before the name of a class: `a Job`, `an Engine`, `a User`."""
    vowel = noun[:1] in "aeiouAEIOU" and not _AS_YOU.match(noun)
    return f"{'an' if vowel else 'a'} {noun}"


_AS_YOU = re.compile(r"us|uni(?!n)|ut[ei]|uu|ur[il]|eu|one", re.IGNORECASE)
"""How words begin that start with a vowel for the eye alone: User, Unit, UUID, URL, OneTimeCode."""

"""What a runner and a process that works for it say to each other, and how that crosses."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from oban_sa.describe import exceptions
from oban_sa.errors import AttemptError
from oban_sa.telemetry import lines

if TYPE_CHECKING:
    from oban_sa.telemetry import JobEvent

Question: TypeAlias = Literal["read", "write", "wait", "mark"]
"""What a process asks the journal of its attempt: the methods of `oban_sa.steps.journal.Tables`."""

PlainEntry: TypeAlias = tuple[Any, ...]
"""An `oban_sa.steps.journal.Entry`, for a process that has not loaded it."""

HEAD: Final = struct.Struct("!Q")
"""Comes before each message: how many bytes it has."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a process is told when it starts: whom it works for, what it imports, and what it may log."""

    parent: int
    imports: tuple[str, ...]
    levels: Mapping[str, int]
    disabled: int
    warnings: bool


# From the runner; calls are numbered, so that what comes too late for one never meets the next.


@dataclass(frozen=True, slots=True)
class Ask:
    """Run the code of this worker for the job with this row; `entries` are those of its journal, where it was read."""

    number: int
    name: str
    module: str
    row: Mapping[str, object]
    entries: tuple[PlainEntry, ...] | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """The job was asked to be cancelled."""

    number: int


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Raise this in the code."""

    number: int
    error: AttemptError


@dataclass(frozen=True, slots=True)
class Look:
    """Say where the code is."""

    number: int


@dataclass(frozen=True, slots=True)
class Told:
    """What the journal answers, or what it failed of."""

    number: int
    asked: int
    value: object
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """There is no more to do."""


# From the process.


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything is imported."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It can't begin to work."""

    message: str


@dataclass(frozen=True, slots=True)
class Begun:
    """The code runs from now on."""

    number: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the code returned, pickled, and whether it had been interrupted before."""

    number: int
    pickled: bytes
    interrupted: bool = False

    def value(self) -> object:
        """Return it; raises `AttemptError` where it can't be made again here."""
        try:
            return pickle.loads(self.pickled)  # noqa: S301 - by a process of our own, running the user's code
        except Exception as error:
            raise AttemptError(
                f"the answer came from its process and can't be made again here: {exceptions.describe(error)}"
            ) from error


@dataclass(frozen=True, slots=True)
class Failure:
    """What the code raised: pickled where that is possible, and in words."""

    number: int
    pickled: bytes | None
    words: str
    traceback: str

    def error(self) -> BaseException:
        """Return the error, whose cause is its traceback there; one that can't be made here is an `AttemptError`."""
        error: BaseException
        try:
            error = AttemptError(self.words) if self.pickled is None else _Known(io.BytesIO(self.pickled)).load()
        except Exception:
            error = AttemptError(self.words)
        exceptions.set_cause(error, RemoteTraceback(self.traceback))
        return error


@dataclass(frozen=True, slots=True)
class Seen:
    """Where the code is."""

    number: int
    stack: str


@dataclass(frozen=True, slots=True)
class AskJournal:
    """Ask the journal of the attempt; questions are numbered by `asked`."""

    number: int
    asked: int
    what: Question
    values: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Happened:
    """Tell of something that happened to the job."""

    number: int
    event: type[JobEvent]
    facts: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Used:
    """The code has ended, and has asked the journal for these keys; None where that can't be told."""

    number: int
    keys: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Said:
    """A log record, pickled."""

    pickled: bytes


class RemoteTraceback(Exception):
    """Where an error was raised in another process."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def framed(message: object) -> bytes:
    """Return a message as it is written."""
    pickled = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return HEAD.pack(len(pickled)) + pickled


def answered(number: int, value: object, *, interrupted: bool = False) -> Answer | Failure:
    """Return what crosses of an answer; one that can't be pickled is a failure that says so."""
    try:
        return Answer(number, pickle.dumps(value, pickle.HIGHEST_PROTOCOL), interrupted)
    except BaseException as error:  # as below
        refusal = AttemptError(
            f"the answer, of type {type(value).__qualname__}, can't leave its process: "
            f"{exceptions.describe(error)}; return what pickle takes, or None"
        )
        return failed(number, refusal, None)


def failed(number: int, error: BaseException, traceback: TracebackType | None) -> Failure:
    """Return what crosses of an error; `traceback` is as much of its own as is worth telling."""
    if isinstance(error, StopIteration):  # no coroutine may raise it, and the runner's would
        error = RuntimeError("the code raised StopIteration")
    pickled: bytes | None = None
    try:
        pickled = pickle.dumps(error, pickle.HIGHEST_PROTOCOL)
        pickle.loads(pickled)  # noqa: S301 - what this very process pickled; not everything can be made again
    except BaseException:  # its __reduce__ may do anything, and nothing interrupts what has ended
        pickled = None
    words = f"{exceptions.kind(error)}: {exceptions.message(error)}"
    return Failure(number, pickled, words, exceptions.traceback_from(error, traceback))


def said(record: logging.LogRecord) -> Said:
    """Return what crosses of a log record: its message and traceback as texts, and what `extra` holds where it can."""
    crossing = copy.copy(record)
    crossing.msg, crossing.args = lines.message(record), None
    if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
        crossing.exc_text = exceptions.traceback(record.exc_info[1]).rstrip("\n")
    crossing.exc_info = None
    try:
        return Said(pickle.dumps(crossing.__dict__, pickle.HIGHEST_PROTOCOL))
    except Exception:
        plain = {key: value if _pickles(value) else exceptions.shown(value) for key, value in crossing.__dict__.items()}
        return Said(pickle.dumps(plain, pickle.HIGHEST_PROTOCOL))


def _pickles(value: object) -> bool:
    try:
        pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:
        return False
    return True


class _Known(pickle.Unpickler):
    """Makes errors whose classes this process knows already: importing something new would hold up the loop."""

    def find_class(self, module: str, name: str, /) -> Any:
        if module not in sys.modules:
            raise pickle.UnpicklingError(f"{module} is not imported here")
        return super().find_class(module, name)

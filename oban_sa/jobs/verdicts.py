"""What happens to a job after an attempt: pure, without a clock and without a database."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from oban_sa.describe import exceptions
from oban_sa.errors import AttemptCancelled, AttemptOrphaned, InvalidArguments, InvalidPeriod, Suspended
from oban_sa.jobs import backoff, values
from oban_sa.jobs.answers import Cancel, Record, Snooze, is_error
from oban_sa.jobs.durable import suspension
from oban_sa.jobs.states import JobState
from oban_sa.jobs.values import JSONDict
from oban_sa.schedule import periods
from oban_sa.schedule.periods import Period

MAX_ERROR: Final = 32_000
"""Characters of an error's text; of a longer one the head and the tail are kept."""

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")


# Tuples, both: one of each is made for every attempt, and they are made in a third of the time.
class Attempt(NamedTuple):
    """One try at a job: `attempt` counts from 1 and includes this one; `meta` is the job's as it was fetched.

    `holder` (`[node, producer uuid]`) and `attempted_at`, the database's moment of the fetch, tell this try from every
    other one at the same job: a snoozed job has the same `attempt` again the next time.
    """

    job_id: int
    attempt: int
    max_attempts: int
    meta: Mapping[str, object] | None = None
    holder: Sequence[str] = ()
    attempted_at: datetime | None = None


class Verdict(NamedTuple):
    """What is written about an attempt, and only where the attempt still holds its job.

    `delay` is seconds from the database's now to `scheduled_at`; `error` is the text of a new entry in `errors`; `meta`
    is merged into the job's own; with `refund` the attempt is given back, one less was spent. `holder` and
    `attempted_at` are the attempt's own.
    """

    job_id: int
    attempt: int
    state: JobState
    delay: float | None = None
    error: str | None = None
    meta: JSONDict | None = None
    refund: bool = False
    holder: Sequence[str] = ()
    attempted_at: datetime | None = None

    @property
    def plain(self) -> bool:
        """Whether the attempt is completed and nothing else is said of it, as of most."""
        return self.state is _COMPLETED and self.meta is None and self.error is None


def judge(
    attempt: Attempt,
    answer: object,
    *,
    delay: Period | None = None,
    undecided: BaseException | None = None,
    traceback: str | None = None,
) -> Verdict:
    """Return what happens to a job whose attempt ended with `answer`: what the code returned, or what it raised.

    Every `BaseException` is an answer, `SystemExit` and `CancelledError` among them, and a `Cancel`, `Snooze` or
    `Record` is the same answer whether it was raised or returned; only `AttemptCancelled` means that
    the attempt was asked to stop. `delay` is how long the worker wants to wait before the next attempt. If it is None,
    the backoff of `jobs/backoff.py` decides. If it is no span of time, that backoff decides too, and the error says so.
    `undecided` is what the worker's own backoff raised, which the error then tells. `traceback` replaces the one of the
    exception, for those that come from another process.
    """
    if answer is None:  # as of most
        job_id, number, _, _, holder, attempted_at = attempt
        return Verdict(job_id, number, _COMPLETED, None, None, None, False, holder, attempted_at)
    if is_error(answer):
        if (suspended := suspension(answer)) is not None:
            return _suspended(attempt, suspended)
        return _failed(attempt, answer, delay, traceback, undecided)
    if isinstance(answer, Snooze):
        return _snoozed(attempt, answer)
    if isinstance(answer, Cancel):
        return _cancelled(attempt, f"{AttemptCancelled.__name__}: {exceptions.message(answer.reason, MAX_ERROR)}")
    if isinstance(answer, Record):
        meta = {"recorded": True, "return": answer.encoded}
        return _verdict(attempt, JobState.COMPLETED, meta=meta)
    return _verdict(attempt, _COMPLETED)


_COMPLETED: Final = JobState.COMPLETED  # Python 3.11 takes longer to find a member of an enum


def given_back(attempt: Attempt, meta: JSONDict | None = None) -> Verdict:
    """Return the verdict on an attempt that was cut short by a shutdown: available again, nothing spent."""
    return _verdict(attempt, JobState.AVAILABLE, meta=meta, refund=True)


def in_spite_of(verdict: Verdict, interruption: BaseException) -> Verdict:
    """Return the verdict on an attempt whose code caught its interruption and went on to an answer, which counts.

    The interruption is kept among the job's errors, unless there is an error to keep already.
    """
    if verdict.error is not None:
        return verdict
    said = exceptions.message(interruption).removesuffix(".")
    text = f"{type(interruption).__name__}: {said}; the code caught this and went on, so its answer counts"
    return verdict._replace(error=text)


def orphaned(node: str, *, silent_for: float | None = None) -> str:
    """Return the text of the error that a rescued attempt leaves: the node died."""
    since = "" if silent_for is None or not math.isfinite(silent_for) else f" {periods.describe(silent_for)} ago"
    return storable(f"{AttemptOrphaned.__name__}: node {node} stopped beating{since} while it ran this attempt")


def error_text(error: BaseException, traceback: str | None = None) -> str:
    """Return what is kept about an exception: `Type: message`, then its traceback; never raises.

    An error of ours that no code is at fault for, because a row says what doesn't fit, is its message alone. The first
    line is a summary, for dashboards show it alone. The text is bounded, and PostgreSQL can store it.
    """
    if not exceptions.is_traced(error):
        traceback = ""
    elif traceback is None:
        traceback = exceptions.traceback(error)
    head = f"{exceptions.kind(error)}: {exceptions.message(error) or 'no message'}"
    return exceptions.bounded(storable(f"{head}\n{traceback}".rstrip() if traceback else head), MAX_ERROR)


def _verdict(
    attempt: Attempt,
    state: JobState,
    delay: float | None = None,
    error: str | None = None,
    meta: JSONDict | None = None,
    refund: bool = False,
) -> Verdict:
    return Verdict(
        attempt.job_id, attempt.attempt, state, delay, error, meta, refund, attempt.holder, attempt.attempted_at
    )


def storable(text: str) -> str:
    """Return `text` with NUL characters and lone surrogates, which PostgreSQL can't store, replaced by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def _failed(
    attempt: Attempt,
    error: BaseException,
    delay: Period | None = None,
    traceback: str | None = None,
    undecided: BaseException | None = None,
) -> Verdict:
    text = error_text(error, traceback)
    if isinstance(error, AttemptCancelled):
        return _cancelled(attempt, text)
    if attempt.attempt >= attempt.max_attempts:
        return _verdict(attempt, JobState.DISCARDED, error=text)
    try:
        wait = backoff.default(attempt.attempt, attempt.max_attempts) if delay is None else periods.seconds(delay)
    except InvalidPeriod as refused:
        wait = backoff.default(attempt.attempt, attempt.max_attempts)
        undecided = refused
    if undecided is not None:
        why = exceptions.message(undecided) if isinstance(undecided, InvalidPeriod) else error_text(undecided)
        text = exceptions.bounded(f"{text}\n\nThe worker's backoff was not used: {storable(why)}", MAX_ERROR)
    return _verdict(attempt, JobState.RETRYABLE, delay=wait, error=text)


def _snoozed(attempt: Attempt, snooze: Snooze) -> Verdict:
    before = (attempt.meta or {}).get("snoozed", 0)
    count = before + 1 if type(before) is int and before >= 0 else 1
    meta: JSONDict = {"snoozed": count}
    if snooze.meta:
        try:  # it was JSON when the Snooze was made, but a dict can be changed since
            meta = {**values.to_json(snooze.meta, where="meta"), **meta}
        except InvalidArguments as refused:
            return _failed(attempt, refused)
    return _verdict(attempt, JobState.SCHEDULED, delay=snooze.seconds, meta=meta, refund=True)


def _suspended(attempt: Attempt, suspended: Suspended) -> Verdict:
    """The attempt is not counted, whether the job goes on at a moment or when a signal comes."""
    state = JobState.SUSPENDED if suspended.delay is None else JobState.SCHEDULED
    return _verdict(attempt, state, delay=suspended.delay, meta=dict(suspended.meta), refund=True)


def _cancelled(attempt: Attempt, text: str) -> Verdict:
    return _verdict(attempt, JobState.CANCELLED, error=exceptions.bounded(storable(text), MAX_ERROR))

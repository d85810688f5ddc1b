"""What is written instead of an outcome that the database refuses.

Its encoding may be unable to hold a text, or a rule of the application, such as a unique index or a trigger, may forbid
the state.
"""

from __future__ import annotations

from typing import Final

from oban_sa.describe import exceptions
from oban_sa.describe.exceptions import describe
from oban_sa.jobs.ascii import in_ascii, spelled
from oban_sa.jobs.backoff import REFUSED_WAITS
from oban_sa.jobs.states import JobState
from oban_sa.jobs.verdicts import MAX_ERROR, Verdict
from oban_sa.runner.database.errors import is_refused
from oban_sa.runner.execution.outcome import Outcome
from oban_sa.schedule import periods

_LONGEST_NOTE: Final = 4000

_DISCARDED: Final = 2
"""The value of `Outcome.replaced` from which on only the state is left to change."""


def instead_of(outcome: Outcome, error: Exception) -> Outcome | None:
    """The outcome to write instead of one that was refused with `error`; None where nothing is left to try.

    Where a rule forbids the state, other texts don't help. A job that is given back becomes scheduled first, which the
    rule may allow; else the job is discarded, with its own error and the rule's. In all other cases the texts are at
    fault: they are spelled in ASCII, which every encoding has, and if that is refused, left out; state, delay and
    attempt stay. If even that is refused, the state itself is, and the job is discarded.
    """
    verdict = outcome.verdict
    tried = outcome.replaced
    if is_refused(error) and tried < _DISCARDED:
        if verdict.state is JobState.AVAILABLE:
            return outcome._replace(verdict=verdict._replace(state=JobState.SCHEDULED, delay=REFUSED_WAITS))
        if verdict.state is not JobState.DISCARDED:
            return outcome._replace(verdict=_ruled_out(verdict, error), replaced=_DISCARDED)
    if tried == 0:
        spelled = in_ascii(verdict)
        if spelled != verdict:
            return outcome._replace(verdict=spelled, replaced=1)
    if tried <= 1:
        return outcome._replace(verdict=_bare(verdict, error), replaced=2)
    if tried == _DISCARDED:
        note = _note(error, f"The outcome of this attempt ({verdict.state}) could not be written.")
        discarded = verdict._replace(state=JobState.DISCARDED, delay=None, error=note, meta=None, refund=False)
        return outcome._replace(verdict=discarded, replaced=3)
    return None


def _ruled_out(verdict: Verdict, error: Exception) -> Verdict:
    refusal = _note(error, f"The outcome of this attempt ({verdict.state}) could not be written.")
    text = exceptions.bounded(refusal if verdict.error is None else f"{verdict.error}\n\n{refusal}", MAX_ERROR)
    return verdict._replace(state=JobState.DISCARDED, delay=None, error=text, refund=False)


def _bare(verdict: Verdict, error: Exception) -> Verdict:
    """The same without texts; of meta, numbers are kept, such as how often the job was snoozed."""
    lost = [name for name, value in (("error", verdict.error), ("meta", verdict.meta)) if value is not None]
    meta = {
        key: value
        for key, value in (verdict.meta or {}).items()
        if key.isascii() and "\0" not in key and type(value) in (int, bool)
    }
    delay = None if verdict.delay is None else min(verdict.delay, periods.LONGEST)
    what = " and ".join(lost) or "delay"
    note = _note(error, f"The {what} of this attempt ({verdict.state}) could not be written.")
    return verdict._replace(delay=delay, error=note, meta=meta or None)


def _note(error: Exception, sentence: str) -> str:
    return f"{spelled(describe(error))[:_LONGEST_NOTE]}\n{sentence}"

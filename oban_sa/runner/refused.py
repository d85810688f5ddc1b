"""What is written instead of an outcome that the database refuses, as where its encoding can't hold a text.

Or where a rule of the application's refuses the state, such as a unique index over jobs that wait, or a trigger.
"""

from __future__ import annotations

from typing import Any, Final

from oban_sa import failures, periods
from oban_sa.failures import describe
from oban_sa.runner.acker import Outcome
from oban_sa.runner.disconnects import is_refused
from oban_sa.states import JobState
from oban_sa.verdicts import MAX_ERROR, Verdict, storable

_LONGEST_NOTE: Final = 4000

_DISCARDED: Final = 2
"""How often an outcome has been replaced when nothing but its state is left to change."""

WAITS: Final = 60.0
"""Seconds that a job waits which a rule keeps from being available, before it is tried again."""


def instead_of(outcome: Outcome, error: Exception) -> Outcome | None:
    """The outcome to write instead of one that was refused with `error`; None where nothing is left to try.

    What a rule refuses is refused whatever is said in it. So a job that is given back waits as a scheduled one first,
    which the rule may allow, and else the job is discarded, with its own error and the rule's. Of everything else the
    texts are to blame: they are spelled in ASCII, which every encoding has; then they are left out. The state, the
    delay and the attempt stay what they were. An outcome that is refused even so is the database's word against the
    state itself, and the job is discarded.
    """
    verdict = outcome.verdict
    tried = outcome.replaced
    if is_refused(error) and tried < _DISCARDED:
        if verdict.state is JobState.AVAILABLE:
            return outcome._replace(verdict=verdict._replace(state=JobState.SCHEDULED, delay=WAITS))
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
    text = failures.bounded(refusal if verdict.error is None else f"{verdict.error}\n\n{refusal}", MAX_ERROR)
    return verdict._replace(state=JobState.DISCARDED, delay=None, error=text, refund=False)


def in_ascii(verdict: Verdict) -> Verdict:
    """Return the verdict with all its texts in ASCII, other characters spelled as `\\u20ac`."""
    meta = verdict.meta
    return verdict._replace(
        error=None if verdict.error is None else _spelled(verdict.error),
        meta=None if meta is None else _spelled_within(meta),
    )


def _bare(verdict: Verdict, error: Exception) -> Verdict:
    """The same without the texts; what is kept of meta are numbers, such as how often the job was snoozed."""
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
    return f"{_spelled(describe(error))[:_LONGEST_NOTE]}\n{sentence}"


def _spelled(text: str) -> str:
    return storable(text).encode("ascii", "backslashreplace").decode("ascii")


def _spelled_within(value: Any) -> Any:
    if isinstance(value, str):
        return _spelled(value)
    if isinstance(value, _DICT):
        return {_spelled_within(key): _spelled_within(each) for key, each in value.items()}
    if isinstance(value, _LIST):
        return [_spelled_within(each) for each in value]
    return value


# As type[Any], because strict checkers know nothing of what is in a dict or list that was Any before.
_DICT: Final[type[Any]] = dict
_LIST: Final[type[Any]] = list

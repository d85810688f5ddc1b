from __future__ import annotations

import asyncio
import json
import math
import pickle
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sa.describe import exceptions as failures
from oban_sa.errors import AttemptCancelled, AttemptOrphaned, AttemptTimedOut, InvalidArguments, WorkerNotFound
from oban_sa.jobs import backoff
from oban_sa.jobs.answers import Cancel, Record, Snooze
from oban_sa.jobs.states import JobState
from oban_sa.jobs.verdicts import MAX_ERROR, Attempt, Verdict, error_text, given_back, judge, orphaned, storable
from tests.strategies import json_objects, json_values

FIRST = Attempt(7, 1, 20, {})
LAST = Attempt(7, 3, 3, {})


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")

    __repr__ = __str__


class Hostile(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


class Poisonous:
    def __repr__(self) -> str:
        return "a\0b\ud800"


class Lying(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


attempts = st.builds(
    lambda job_id, max_attempts, spent, meta: Attempt(job_id, min(spent, max_attempts), max_attempts, meta),
    st.integers(1, 2**62),
    st.integers(1, 100),
    st.integers(1, 100),
    st.none() | json_objects | st.builds(lambda count: {"snoozed": count}, st.integers(0, 100) | json_values),
)
errors = st.sampled_from(
    [
        ValueError, KeyError, Exception, asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit,
        StopIteration, MemoryError, RecursionError, AttemptTimedOut, AttemptCancelled, WorkerNotFound,
        Unprintable, Hostile, Lying,
    ]
).flatmap(lambda kind: st.builds(kind, st.text())) | st.builds(
    lambda inner: BaseExceptionGroup("several", inner),
    st.lists(st.builds(ValueError, st.text()), min_size=1, max_size=3),
)  # fmt: skip
answers = (
    json_values
    | st.builds(object)
    | st.builds(Cancel, st.text() | st.none() | st.builds(Unprintable))
    | st.builds(Snooze, st.floats(0, 1e6), st.none() | json_objects)
    | st.builds(Record, json_values)
    | errors
    | errors.map(raised)
)
delays = (
    st.none()
    | st.floats()
    | st.integers()
    | st.text(max_size=5)
    | st.timedeltas()
    | st.booleans()
    | st.builds(Unprintable)
)


# The table


@pytest.mark.parametrize("answer", [None, True, False, 0, "done", {"a": 1}, [], object(), Cancel, ValueError, print])
def test_any_plain_answer_completes(answer):
    assert judge(FIRST, answer) == Verdict(7, 1, JobState.COMPLETED)


def test_a_record_completes_and_stays_in_the_meta():
    record = Record({"sent": True})
    assert judge(FIRST, record) == Verdict(
        7, 1, JobState.COMPLETED, meta={"recorded": True, "return": record.encoded}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "expected"),
    [(None, 1), ({}, 1), ({"snoozed": 1}, 2), ({"snoozed": None}, 1), ({"snoozed": "2"}, 1), ({"snoozed": True}, 1),
     ({"snoozed": -5}, 1), ({"other": 7}, 1)],
)  # fmt: skip
def test_a_snooze_schedules_gives_the_attempt_back_and_counts_itself(before, expected):
    assert judge(Attempt(7, 3, 20, before), Snooze("1 minute")) == Verdict(
        7, 3, JobState.SCHEDULED, delay=60, meta={"snoozed": expected}, refund=True
    )


def test_a_snooze_on_the_last_attempt_is_still_a_snooze():
    assert judge(LAST, Snooze(1)).state is JobState.SCHEDULED


def test_the_meta_of_a_snooze_is_merged_beside_its_count():
    assert judge(FIRST, Snooze(1, {"page": 4, "snoozed": 99})).meta == {"page": 4, "snoozed": 1}


def test_a_snooze_whose_meta_was_spoiled_after_it_was_made_fails_instead_of_spoiling_what_is_written_with_it():
    snooze = Snooze(1, {"page": 4})
    assert snooze.meta is not None
    snooze.meta["pages"] = {1, 2}
    verdict = judge(FIRST, snooze)
    assert verdict.state is JobState.RETRYABLE
    assert verdict.error is not None
    assert verdict.error.startswith("InvalidArguments: meta.pages is a set")


def test_a_cancel_cancels_with_its_reason():
    assert judge(FIRST, Cancel("asked to stop")) == Verdict(
        7, 1, JobState.CANCELLED, error="AttemptCancelled: asked to stop"
    )


def test_an_attempt_that_was_cancelled_is_cancelled_even_where_attempts_are_left():
    verdict = judge(FIRST, raised(AttemptCancelled()))
    assert verdict.state is JobState.CANCELLED
    assert verdict.error is not None
    assert verdict.error.startswith("AttemptCancelled: The attempt was cancelled while it ran.\nTraceback")


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), AttemptTimedOut(),
     WorkerNotFound(), ExceptionGroup("several", [ValueError("a")]), BaseExceptionGroup("worse", [SystemExit(1)])],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_is_raised_is_tried_again_until_attempts_are_spent(error):
    verdict = judge(FIRST, raised(error), delay=5)
    assert verdict.state is JobState.RETRYABLE
    assert verdict.delay == 5
    assert verdict.refund is False
    assert verdict.error is not None
    assert verdict.error.startswith(f"{type(error).__name__}: ")
    last = judge(LAST, raised(error), delay=5)
    assert last.state is JobState.DISCARDED
    assert last.delay is None
    assert last.error is not None


def test_without_a_wish_the_family_decides_how_long_to_wait():
    verdict = judge(Attempt(7, 10, 20), ValueError())
    assert verdict.delay is not None
    assert 1_039 <= verdict.delay <= 1_039 * 1.1


@pytest.mark.parametrize(("delay", "expected"), [(0, 0), (2.5, 2.5), ("1 minute", 60), (timedelta(hours=1), 3600)])
def test_a_wish_may_be_any_span_of_time(delay, expected):
    assert judge(FIRST, ValueError("no"), delay=delay).delay == expected


@pytest.mark.parametrize(
    "delay",
    [-1, math.nan, math.inf, True, "soon", 1e300, [1], timedelta(-1), Unprintable(), Poisonous()],
    ids=lambda _: "",
)
def test_a_wish_that_can_not_be_waited_is_not_followed_and_the_error_says_so(delay):
    verdict = judge(FIRST, raised(ValueError("no")), delay=delay)
    assert verdict.delay is not None
    assert 17 <= verdict.delay <= 17 * 1.1
    assert verdict.error is not None
    assert verdict.error.startswith("ValueError: no\nTraceback")
    assert "The worker's backoff was not used: " in verdict.error
    assert verdict.error == storable(verdict.error)


def test_what_was_given_back_is_available_and_nothing_was_spent():
    assert given_back(LAST) == Verdict(7, 3, JobState.AVAILABLE, refund=True)


# What holds for every answer


@given(attempts, answers, delays)
def test_a_verdict_is_always_one_that_can_be_written(attempt, answer, delay):
    verdict = judge(attempt, answer, delay=delay)
    assert (verdict.job_id, verdict.attempt) == (attempt.job_id, attempt.attempt)
    assert verdict.state in {
        JobState.COMPLETED, JobState.SCHEDULED, JobState.RETRYABLE, JobState.DISCARDED, JobState.CANCELLED,
    }  # fmt: skip
    assert (verdict.delay is not None) == (verdict.state in {JobState.SCHEDULED, JobState.RETRYABLE})
    assert (verdict.error is not None) == (verdict.state not in {JobState.COMPLETED, JobState.SCHEDULED})
    if verdict.delay is not None:
        assert 0 <= verdict.delay < 40 * 366 * 86_400 * 1_000
        assert math.isfinite(verdict.delay)
    if verdict.error is not None:
        assert len(verdict.error) <= MAX_ERROR
        assert "\0" not in verdict.error
        assert verdict.error.encode()
    assert json.loads(json.dumps(verdict.meta)) == verdict.meta


@given(attempts, answers)
def test_an_attempt_is_given_back_only_where_it_was_snoozed(attempt, answer):
    verdict = judge(attempt, answer)
    assert verdict.refund == (verdict.state is JobState.SCHEDULED) == isinstance(answer, Snooze)
    assert given_back(attempt).refund


@given(st.integers(1, 20), st.lists(st.booleans(), max_size=200))
def test_a_job_is_tried_no_more_often_than_it_may_be_however_often_it_snoozes(max_attempts, snoozes):
    spent = failures = 0
    meta: dict[str, Any] = {}
    for snooze in [*snoozes, *[False] * max_attempts]:
        verdict = judge(Attempt(1, spent + 1, max_attempts, meta), Snooze(1) if snooze else raised(ValueError("no")))
        spent += 0 if verdict.refund else 1
        failures += 0 if snooze else 1
        meta |= verdict.meta or {}
        assert spent <= max_attempts
        if verdict.state is JobState.DISCARDED:
            break
    assert verdict.state is JobState.DISCARDED
    assert failures == spent == max_attempts


def test_values_are_frozen():
    for value in (FIRST, judge(FIRST, None)):
        with pytest.raises(AttributeError):
            value.attempt = 2  # type: ignore[misc]


# The text of an error


def failing() -> None:
    raise ValueError("first line\nsecond line")


def caught(function: Any) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_the_first_line_says_what_happened_and_the_rest_where():
    text = error_text(caught(failing))
    head, *rest = text.splitlines()
    assert head == "ValueError: first line"
    assert rest[0] == "second line"
    assert rest[1] == "Traceback (most recent call last):"
    assert any("in failing" in line for line in rest)
    assert rest[-2:] == ["ValueError: first line", "second line"]


def test_an_error_without_a_message_says_so():
    assert error_text(asyncio.CancelledError()).splitlines()[0] == "CancelledError: no message"


def test_causes_and_notes_are_kept():
    def chained() -> None:
        try:
            failing()
        except ValueError as error:
            error.add_note("while reading page 4")
            raise LookupError("outer") from error

    text = error_text(caught(chained))
    assert text.startswith("LookupError: outer\n")
    assert "ValueError: first line" in text
    assert "while reading page 4" in text
    assert "direct cause" in text


def test_every_error_of_a_group_is_told():
    group = raised(ExceptionGroup("several", [raised(ValueError("one")), raised(KeyError("two"))]))
    text = error_text(group)
    assert text.startswith("ExceptionGroup: several (2 sub-exceptions)\n")
    assert "ValueError: one" in text
    assert "KeyError: 'two'" in text


def test_an_error_from_another_process_tells_where_it_happened_there():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(int, "seven").exception()
    assert error is not None
    text = error_text(error)
    assert text.startswith("ValueError: invalid literal for int()")
    assert "_process_worker" in text


def test_a_traceback_that_was_written_elsewhere_takes_the_place_of_its_own():
    assert error_text(raised(ValueError("no")), "Traceback of another process") == (
        "ValueError: no\nTraceback of another process"
    )


@pytest.mark.parametrize("failure", [RuntimeError, RecursionError, SystemExit])
def test_an_error_whose_traceback_can_not_be_formatted_is_written_down_all_the_same(failure, monkeypatch):
    def fail(*args: Any, **options: Any) -> Any:
        raise failure

    monkeypatch.setattr(failures.tracebacks.TracebackException, "__init__", fail)
    text = error_text(raised(ValueError("no")))
    assert text.startswith("ValueError: no\nTraceback (most recent call last):\n")
    assert ", in raised\n" in text
    assert text.endswith("\nValueError: no")


@pytest.mark.parametrize("kind", [Unprintable, Hostile, Lying])
def test_an_error_that_can_not_say_what_it_is_is_written_down_all_the_same(kind):
    text = error_text(raised(kind("x")))
    assert text.startswith(f"{kind.__name__}: <str() of this {kind.__name__} failed>\n")
    assert "in raised" in text


def test_a_reason_that_can_not_say_what_it_is_cancels_all_the_same():
    assert judge(FIRST, Cancel(Unprintable())).error == "AttemptCancelled: <str() of this Unprintable failed>"


def test_an_endless_message_is_cut_in_the_middle_and_still_tells_where_it_happened():
    text = error_text(raised(ValueError("start" + "x" * 10_000_000 + "end")))
    assert len(text) <= MAX_ERROR
    assert text.startswith("ValueError: startxxx")
    assert "characters left out" in text
    assert "Traceback (most recent call last):" in text
    assert text.endswith("end")


def test_an_endless_recursion_is_told_in_bounds():
    def one(depth: int) -> None:
        two(depth + 1)

    def two(depth: int) -> None:
        one(depth + 1)

    text = error_text(caught(lambda: one(0)))
    assert text.startswith("RecursionError: maximum recursion depth exceeded")
    assert len(text) <= MAX_ERROR


def test_a_chain_of_very_many_errors_is_told_in_bounds():
    error: BaseException = ValueError("first")
    for number in range(3_000):
        following = ValueError(number)
        following.__cause__ = error
        error = following
    text = error_text(error)
    assert text.startswith("ValueError: 2999")
    assert len(text) <= MAX_ERROR


@given(st.text())
def test_what_postgresql_can_not_store_is_replaced_and_the_rest_is_kept(text):
    kept = storable(text)
    assert len(kept) == len(text)
    assert all(new == old or new == "\ufffd" for new, old in zip(kept, text, strict=True))
    assert "\0" not in kept
    kept.encode()


@pytest.mark.parametrize("poison", ["a\0b", "a\ud800b", "\udfff"])
def test_poisonous_messages_reasons_and_tracebacks_are_made_storable(poison):
    clean = storable(poison)
    assert clean != poison
    for text in (
        error_text(ValueError(poison)),
        error_text(ValueError("no"), poison),
        judge(FIRST, Cancel(poison)).error,
        orphaned(poison),
    ):
        assert clean in text
        assert text.encode()
        assert "\0" not in text


def test_a_rescued_attempt_is_told_that_its_node_died():
    assert orphaned("web.1") == "AttemptOrphaned: node web.1 stopped beating while it ran this attempt"
    assert orphaned("web.1", silent_for=90).startswith(
        f"{AttemptOrphaned.__name__}: node web.1 stopped beating 1 min 30 s ago"
    )


def test_the_backoff_of_a_verdict_is_jittered_so_that_jobs_which_failed_together_do_not_return_together():
    waits = {judge(Attempt(1, 10, 20), ValueError()).delay for _ in range(20)}
    assert len(waits) > 1
    assert min(waits) >= backoff.exponential(10)


def test_what_a_row_says_wrongly_is_one_line_without_a_traceback():
    error: Any = raised(InvalidArguments("welcome: args.user_id must be a whole number, not 'x'", path="args.user_id"))
    assert "Traceback" in error_text(error)
    error.traced = False
    assert error_text(error) == "InvalidArguments: welcome: args.user_id must be a whole number, not 'x'"
    assert error_text(error, "Traceback of another process") == error_text(error)
    assert error_text(pickle.loads(pickle.dumps(error))) == error_text(error)

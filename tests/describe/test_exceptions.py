"""Exceptions of every odd kind are described as far as they can be, and nothing raises meanwhile."""

from __future__ import annotations

import pytest

from oban_sa.describe import exceptions
from oban_sa.jobs.verdicts import MAX_ERROR, Attempt, judge
from tests.hostile import HOSTILE, Frozen, Unprintable, raised

each_hostile = pytest.mark.parametrize("oddity", HOSTILE)


@each_hostile
def test_an_exception_is_described_on_one_short_line(oddity: str) -> None:
    name, make = HOSTILE[oddity]
    for described in (exceptions.describe(raised(make())), exceptions.named(raised(make()))):
        assert described.partition(":")[0] == name
        assert len(described.splitlines()) == 1
        assert len(described) < 1_200
        described.encode()
        assert "\x1b" not in described


@each_hostile
def test_the_traceback_of_an_exception_says_where_it_was_raised(oddity: str) -> None:
    name, make = HOSTILE[oddity]
    text = exceptions.traceback(raised(make()))
    assert "Traceback (most recent call last)" in text
    assert "in raised\n" in text
    assert name in text


@each_hostile
def test_the_error_of_an_attempt_is_written_whatever_it_is(oddity: str) -> None:
    name, make = HOSTILE[oddity]
    verdict = judge(Attempt(7, 1, 20, {}), raised(make()))
    assert verdict.state == "retryable"
    assert verdict.error is not None
    assert verdict.error.startswith(f"{name}: ")
    assert "in raised\n" in verdict.error or oddity == "a huge text"
    assert len(verdict.error) <= MAX_ERROR
    assert "\0" not in verdict.error
    verdict.error.encode()


def test_a_message_that_can_not_be_made_is_replaced_by_words() -> None:
    assert exceptions.message(Unprintable()) == "<str() of this Unprintable failed>"
    assert exceptions.shown(Unprintable()) == "<repr() of this Unprintable failed>"
    assert exceptions.describe(Unprintable()) == "Unprintable: <str() of this Unprintable failed>"


def test_an_exception_that_says_nothing_is_its_name() -> None:
    assert exceptions.describe(ValueError()) == "ValueError"
    assert exceptions.named(ValueError(" \n ")) == "ValueError"
    assert exceptions.named(None) == "unknown error"


def test_a_described_exception_joins_its_lines_and_a_named_one_keeps_the_first() -> None:
    error = ValueError("one\n  two\tthree\nfour")
    assert exceptions.describe(error) == "ValueError: one two three four"
    assert exceptions.named(error) == "ValueError: one"


def test_an_exception_that_lets_nothing_be_set_is_set_all_the_same() -> None:
    error, cause = raised(Frozen()), ValueError("cause")
    assert exceptions.traceback_of(error) is not None
    exceptions.set_traceback(error, None)
    exceptions.set_cause(error, cause)
    assert (error.__traceback__, error.__cause__) == (None, cause)

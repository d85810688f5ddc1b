from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sa.jobs import backoff


@pytest.mark.parametrize(
    ("attempt", "max_attempts", "expected"),
    [
        (1, 20, 17),
        (2, 20, 19),
        (5, 20, 47),
        (10, 20, 1_039),
        (20, 20, 1_048_591),
        (3, 5, 23),
        (1, 100, 16),
        (5, 100, 17),
        (50, 100, 1_039),
        (100, 100, 1_048_591),
        (0, 20, 16),
    ],
)
def test_waits_are_those_of_the_family(attempt, max_attempts, expected):
    assert backoff.exponential(attempt, max_attempts=max_attempts) == expected


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_later_attempts_never_wait_less_and_always_a_moment_that_a_timestamp_holds(attempt, max_attempts):
    wait = backoff.exponential(attempt, max_attempts=max_attempts)
    assert wait <= backoff.exponential(attempt + 1, max_attempts=max_attempts)
    assert datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=backoff.jittered(wait)) < datetime.max.replace(
        tzinfo=UTC
    )


@given(st.data(), st.integers(1, 1000))
def test_however_many_attempts_there_are_the_last_wait_is_at_most_that_of_the_twentieth(data, max_attempts):
    attempt = data.draw(st.integers(1, max_attempts))
    assert backoff.exponential(attempt, max_attempts=max_attempts) <= backoff.exponential(20)


def drawing(number: float) -> Any:
    """Have chance give this number; hypothesis would let it give the same one each time."""
    return mock.patch.object(backoff.random, "random", return_value=number)


chances = st.floats(0, 1, exclude_max=True)


@given(st.floats(0, 1e9), st.floats(0, 1), chances)
def test_jitter_only_lengthens_and_only_by_its_ratio(wait, ratio, chance):
    with drawing(chance):
        assert wait <= backoff.jittered(wait, ratio=ratio) <= wait * (1 + ratio)


def test_jitter_differs_from_one_time_to_the_next():
    assert len({backoff.jittered(100.0) for _ in range(20)}) > 1


@given(st.data(), st.integers(1, 200), chances)
def test_the_default_is_the_exponential_with_at_most_a_tenth_more(data, max_attempts, chance):
    attempt = data.draw(st.integers(1, max_attempts))
    least = backoff.exponential(attempt, max_attempts=max_attempts)
    with drawing(chance):
        assert least <= backoff.default(attempt, max_attempts) <= least * 1.1


@given(st.integers(0, 10**6), chances)
def test_a_runner_waits_between_a_tenth_of_a_second_and_fifteen_before_it_tries_again(attempt, chance):
    with drawing(chance):
        assert 0.1 <= backoff.retrying(attempt) <= 15.0


def test_a_runner_whose_database_stays_away_comes_back_ever_less_often():
    assert max(backoff.retrying(1) for _ in range(50)) <= 0.1
    assert min(backoff.retrying(20) for _ in range(50)) >= 7.5

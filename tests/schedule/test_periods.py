from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oban_sa.errors import InvalidOption, InvalidPeriod
from oban_sa.schedule.periods import LONGEST, describe, seconds


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        (0, 0.0),
        (90, 90.0),
        (0.25, 0.25),
        (timedelta(minutes=2, milliseconds=500), 120.5),
        ("1 minute", 60.0),
        ("5 minutes", 300.0),
        ("90s", 90.0),
        ("90", 90.0),
        (" 1.5 ", 1.5),
        (".5s", 0.5),
        ("1h30m", 5400.0),
        ("1 h 30 min", 5400.0),
        ("2 Hours and 5 Minutes", 7500.0),
        ("1 day, 2 hours, and 3 seconds", 93_603.0),
        ("250ms", 0.25),
        ("1 day", 86_400.0),
        ("2 weeks", 1_209_600.0),
        ("1.5 hrs", 5400.0),
    ],
)
def test_a_span_is_read_in_every_way_it_may_be_written(period, expected):
    assert seconds(period) == pytest.approx(expected)
    assert type(seconds(period)) is float


@pytest.mark.parametrize(
    ("period", "words"),
    [
        (True, "True is not a span of time"),
        (False, "False is not a span of time"),
        (None, "None is not a span of time"),
        ([1], "is not a span of time"),
        (-1, "negative"),
        (-0.001, "negative"),
        (timedelta(seconds=-1), "negative"),
        (math.nan, "finite"),
        (math.inf, "finite"),
        (10**400, "longer than a thousand years"),
        pytest.param(10**5000, "longer than a thousand years", id="5001 digits"),
        ("99999999999999999999 days", "longer than a thousand years"),
        ("9" * 400, "not a finite"),
        ("", "is not a span of time"),
        ("soon", "is not a span of time"),
        ("-5 minutes", "is not a span of time"),
        ("5 minutes ago", "is not a span of time"),
        ("5 minuts", "did you mean 'minute"),
        ("5 secnds", "not a unit of time; did you mean 'seconds'\\? Write seconds \\(90\\)"),
        ("5 months", 'for it has no fixed length; count it in days, such as "30 days"$'),
        ("5 parsecs", "'parsecs' in '5 parsecs' is not a unit"),
        ("1 month", "no fixed length; count it in days"),
        ("2 years", "no fixed length"),
        ("5m 5m", "twice"),
        ("5m 5 minutes", "twice"),
        ("٣ minutes", "is not a span of time"),
        ("1e5", "is not a unit|is not a span"),
        ("1,5 h", "is not a span of time"),
        ("5 minutes and", "is not a span of time"),
    ],
)
def test_what_is_no_span_of_time_is_refused_with_what_to_write(period, words):
    with pytest.raises(InvalidPeriod, match=words) as refused:
        seconds(period)
    assert isinstance(refused.value, InvalidOption)
    assert isinstance(refused.value, ValueError)
    assert len(str(refused.value)) < 300


def test_what_can_not_even_be_shown_is_refused_all_the_same():
    class Broken:
        def __repr__(self):
            raise RuntimeError

    with pytest.raises(InvalidPeriod, match="this Broken is not a span of time"):
        seconds(Broken())  # type: ignore[arg-type]


@given(st.text(max_size=20) | st.floats() | st.integers() | st.timedeltas())
def test_anything_is_either_a_finite_number_of_seconds_or_refused(period):
    try:
        amount = seconds(period)
    except InvalidPeriod:
        return
    assert 0 <= amount <= LONGEST


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_amounts_of_different_units_add_up(days, hours, minutes, secs):
    expected = timedelta(days=days, hours=hours, minutes=minutes, seconds=secs).total_seconds()
    assert seconds(f"{days}d{hours}h{minutes}m{secs}s") == expected
    assert seconds(f"{secs} seconds, {minutes} minutes, {hours} hours and {days} days") == expected


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (0, "0 seconds"),
        (0.0001, "1 ms"),
        (0.25, "250 ms"),
        (0.9999, "1 second"),
        (1, "1 second"),
        (1.5, "1.5 seconds"),
        (59.94, "59.9 seconds"),
        (59.96, "1 minute"),
        (60, "1 minute"),
        (90, "1 min 30 s"),
        (300, "5 minutes"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 hour"),
        (3600, "1 hour"),
        (7500, "2 h 5 min"),
        (86_399, "1 day"),
        (86_400, "1 day"),
        (93_600, "1 d 2 h"),
        (864_000, "10 days"),
        (-90, "-1 min 30 s"),
        (math.inf, "inf"),
    ],
)
def test_a_number_of_seconds_is_said_as_people_do(amount, words):
    assert describe(amount) == words


@given(st.floats(0, 1e9))
def test_what_is_said_is_read_back_to_within_rounding(amount):
    assert seconds(describe(amount)) == pytest.approx(amount, rel=0.05, abs=0.001)

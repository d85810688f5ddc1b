"""Our cron expressions, as Oban for Elixir can read them."""

from __future__ import annotations

import random
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oban_sa.errors import InvalidCron
from oban_sa.schedule.cron import Days, parse
from oban_sa.schedule.elixir_cron import for_elixir

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import cron_differences as differences


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("0 9 * * *", "0 9 * * *"),
        ("  0\t9  * * * ", "0 9 * * *"),
        ("*/15 8-18/2 1,15 * *", "*/15 8-18/2 1,15 * *"),
        ("0 9 * JAN,jun MON-FRI", "0 9 * JAN,JUN MON-FRI"),
        ("0 9 * * mon", "0 9 * * MON"),
        ("0 9 * * 7", "0 9 * * 0"),
        ("0 9 * * 5-7", "0 9 * * 0,5,6"),
        ("0 9 * * FRI-SUN", "0 9 * * 0,5,6"),
        ("0 9 * * 0-7", "0 9 * * *"),
        ("0 9 * * 7,1,2,3", "0 9 * * 0-3"),
        ("0 9 * * 5/2", "0 9 * * 0,5"),
        ("5/15 * * * *", "5,20,35,50 * * * *"),
        ("0-59/60 * * * *", "0-59/60 * * * *"),
        ("000 09 * * *", "0 09 * * *"),
        ("0 0 9 * * *", "0 9 * * *"),
        ("30 0 9 * * *", None),
        ("*/10 * * * * *", None),
        ("0 0 L * *", None),
        ("0 0 15,L * *", None),
        ("@hourly", "@hourly"),
        (" @DAILY ", "@daily"),
        ("@reboot", "@reboot"),
        ("@Annually", "@annually"),
    ],
)
def test_an_expression_is_said_in_words_that_elixir_knows_or_not_at_all(ours: str, theirs: str | None) -> None:
    assert for_elixir(parse(ours)) == theirs


@pytest.mark.parametrize(("days", "theirs"), [("both", "0 9 1-7 * MON"), ("either", None)])
def test_of_two_day_fields_elixir_asks_for_both(days: Days, theirs: str | None) -> None:
    assert for_elixir(parse("0 9 1-7 * mon", days=days)) == theirs


WHOLE: Final = ("minute", 59), ("hour", 23), ("day", 31), ("month", 12), ("weekday", 6)
NAMES: Final = (
    ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"),
    ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),
)


def as_elixir_reads(expression: str) -> tuple[set[int], ...]:
    """The values of each field by Elixir's grammar; fails where it would refuse the expression."""
    fields = expression.split(" ")
    assert len(fields) == 5
    found: list[set[int]] = []
    for number, (field, (_, high)) in enumerate(zip(fields, WHOLE, strict=True)):
        low = 1 if number in (2, 3) else 0
        for names, of, first in ((NAMES[0], 4, 0), (NAMES[1], 3, 1)):
            if number == of:
                for index, name in enumerate(names):
                    field = field.replace(name, str(index + first))
        values: set[int] = set()
        for part in field.split(","):
            match = re.fullmatch(r"(?:(\*)|(\d+)(?:-(\d+))?)(?:/([1-9]\d?))?", part)
            assert match is not None, part
            assert match[4] is None or match[2] is None or match[3] is not None, part
            start, end = (low, high) if match[1] else (int(match[2]), int(match[3] or match[2]))
            assert low <= start <= end <= high, part
            values |= set(range(start, end + 1, int(match[4] or 1)))
        found.append(values)
    return tuple(found)


@given(st.integers(min_value=0), st.sampled_from(["either", "both"]))
@settings(deadline=None)
def test_whatever_is_said_elixir_reads_as_the_same_moments(seed: int, days: Days) -> None:
    expression = differences.expression(random.Random(seed))
    try:
        schedule = parse(expression, days=days)
    except InvalidCron:
        return
    said = for_elixir(schedule)
    if said is None:
        return
    minutes, hours, month_days, months, weekdays = as_elixir_reads(said)
    moment: datetime | None = datetime(2026, 1, 1, tzinfo=UTC)
    for _ in range(5):
        assert moment is not None
        moment = schedule.next_after(moment)
        assert moment is not None
        assert (moment.minute in minutes, moment.hour in hours, moment.month in months, moment.second) == (1, 1, 1, 0)
        assert moment.day in month_days
        assert moment.isoweekday() % 7 in weekdays
    times = schedule._times
    assert times is not None
    assert (minutes, hours, months) == (set(times.minutes.all), set(times.hours.all), set(times.months.all))
    assert (month_days, weekdays) == (set(times.days.all), set(times.weekdays.all))

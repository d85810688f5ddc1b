"""Cron expressions: what they name, in which zone, and what is refused."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oban_sa.errors import InvalidCron
from oban_sa.schedule import cron
from oban_sa.schedule.cron import Days, Schedule, parse

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import cron_differences as differences

NEW_YORK = "America/New_York"


def walls(expression: str, start: str, count: int, *, timezone: str = NEW_YORK, way: int = 1) -> list[str]:
    """The next `count` ticks as the wall clock shows them; `start` is a reading of it, the first of two."""
    schedule = parse(expression, timezone=timezone, days="either")
    zone = ZoneInfo(timezone)
    moment: datetime | None = datetime.fromisoformat(start)
    assert moment is not None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    found = []
    for _ in range(count):
        moment = schedule.next_after(moment) if way > 0 else schedule.previous_before(moment)
        assert moment is not None
        assert moment.tzinfo is UTC
        found.append(moment.astimezone(zone).isoformat()[:16] + moment.astimezone(zone).isoformat()[-6:])
    return found


@pytest.mark.parametrize(
    ("expression", "canonical"),
    [
        ("@hourly", "0 * * * *"),
        ("@Daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("  0\t9  * * mon-FRI ", "0 9 * * 1-5"),
        ("0 0 9 * jan,Dec *", "0 9 * 1,12 *"),
        ("30 0 9 * * *", "30 0 9 * * *"),
        ("*/15 * L * FRI-SUN", "*/15 * L * 5-7"),
        ("@reboot", "@reboot"),
    ],
)
def test_spellings_of_one_expression_are_the_same(expression: str, canonical: str) -> None:
    assert parse(expression, days="either").canonical == canonical


@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        ("0 9 * * MON-FRI", "2026-01-02T09:00", ["2026-01-05T09:00", "2026-01-06T09:00"]),
        ("*/20 10-11 * * *", "2026-01-01T10:45", ["2026-01-01T11:00", "2026-01-01T11:20"]),
        ("5/25 * * * *", "2026-01-01T00:00", ["2026-01-01T00:05", "2026-01-01T00:30", "2026-01-01T00:55"]),
        ("0 0 * * 7", "2026-01-01T00:00", ["2026-01-04T00:00", "2026-01-11T00:00"]),
        ("0 0 * * 0", "2026-01-01T00:00", ["2026-01-04T00:00", "2026-01-11T00:00"]),
        ("0 0 * * SAT-SUN", "2026-01-01T00:00", ["2026-01-03T00:00", "2026-01-04T00:00", "2026-01-10T00:00"]),
        ("0 0 * * 5/2", "2026-01-01T00:00", ["2026-01-02T00:00", "2026-01-04T00:00", "2026-01-09T00:00"]),
        ("0 0 29 2 *", "2026-01-01T00:00", ["2028-02-29T00:00", "2032-02-29T00:00"]),
        ("0 0 29 2 *", "2096-03-01T00:00", ["2104-02-29T00:00"]),
        ("0 0 L * *", "2028-01-31T00:00", ["2028-02-29T00:00", "2028-03-31T00:00"]),
        ("0 0 1,L 2 *", "2026-01-31T00:00", ["2026-02-01T00:00", "2026-02-28T00:00", "2027-02-01T00:00"]),
        # Both restricted: either will do.
        ("0 0 13 * FRI", "2026-02-07T00:00", ["2026-02-13T00:00", "2026-02-20T00:00", "2026-02-27T00:00"]),
        ("0 0 13 1 FRI", "2026-01-10T00:00", ["2026-01-13T00:00", "2026-01-16T00:00", "2026-01-23T00:00"]),
        # A star is no restriction, one with a step included: both must hold.
        ("0 0 */2 * MON", "2026-01-01T00:00", ["2026-01-05T00:00", "2026-01-19T00:00"]),
        ("0 0 1-7 * */7", "2026-01-01T00:00", ["2026-01-04T00:00", "2026-02-01T00:00"]),
    ],
)
def test_the_next_ticks(expression: str, start: str, expected: list[str]) -> None:
    assert [each[:16] for each in walls(expression, start, len(expected), timezone="Etc/UTC")] == expected


def test_seconds_come_first() -> None:
    schedule = parse("*/20 30 9 * * *")
    moment: datetime | None = datetime(2026, 1, 1, 9, 30, 39, 999999, tzinfo=UTC)
    found = []
    for _ in range(3):
        assert moment is not None
        moment = schedule.next_after(moment)
        found.append(f"{moment:%d %H:%M:%S}")
    assert found == ["01 09:30:40", "02 09:30:00", "02 09:30:20"]


# The nights in which the clocks change.


@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        # 2:00 to 3:00 does not exist on 9 March 2025: right after the gap, once.
        ("30 2 * * *", "2025-03-08T12:00", ["2025-03-09T03:00-04:00", "2025-03-10T02:30-04:00"]),
        ("15,45 2 * * *", "2025-03-08T12:00", ["2025-03-09T03:00-04:00", "2025-03-10T02:15-04:00"]),
        ("0 2,3 * * *", "2025-03-08T12:00", ["2025-03-09T03:00-04:00", "2025-03-10T02:00-04:00"]),
        ("0 30 2 * * *", "2025-03-08T12:00", ["2025-03-09T03:00-04:00", "2025-03-10T02:30-04:00"]),
        # 1:00 to 2:00 happens twice on 2 November 2025: the first time.
        ("30 1 * * *", "2025-11-01T12:00", ["2025-11-02T01:30-04:00", "2025-11-03T01:30-05:00"]),
        ("0 30 1 * * *", "2025-11-01T12:00", ["2025-11-02T01:30-04:00", "2025-11-03T01:30-05:00"]),
        ("0 1,2 * * *", "2025-11-01T12:00", ["2025-11-02T01:00-04:00", "2025-11-02T02:00-05:00"]),
        # Asked from within the second time round, the first is over.
        ("30 1 * * *", "2025-11-02T01:15-05:00", ["2025-11-03T01:30-05:00"]),
        # Intervals go on evenly.
        ("*/30 * * * *", "2025-03-09T01:15", ["2025-03-09T01:30-05:00", "2025-03-09T03:00-04:00"]),
        ("45 * * * *", "2025-03-09T01:15", ["2025-03-09T01:45-05:00", "2025-03-09T03:45-04:00"]),
        (
            "*/30 * * * *",
            "2025-11-02T01:15",
            ["2025-11-02T01:30-04:00", "2025-11-02T01:00-05:00", "2025-11-02T01:30-05:00", "2025-11-02T02:00-05:00"],
        ),
        ("@hourly", "2025-11-02T00:30", ["2025-11-02T01:00-04:00", "2025-11-02T01:00-05:00", "2025-11-02T02:00-05:00"]),
    ],
)
def test_ticks_where_the_clocks_change(expression: str, start: str, expected: list[str]) -> None:
    assert walls(expression, start, len(expected)) == expected


def test_asked_from_within_a_repeated_hour_the_tick_before_is_in_the_first_of_the_two() -> None:
    assert walls("45 1 * * *", "2025-11-02T01:15-05:00", 2, way=-1) == [
        "2025-11-02T01:45-04:00",
        "2025-11-01T01:45-04:00",
    ]
    assert walls("*/45 * * * *", "2025-11-02T01:15-05:00", 2, way=-1) == [
        "2025-11-02T01:00-05:00",
        "2025-11-02T01:45-04:00",
    ]


def test_a_day_that_a_zone_left_out_ticks_at_its_end() -> None:
    found = walls("0 12 30 12 *", "2010-12-31T00:00", 2, timezone="Pacific/Apia")
    assert found == ["2011-12-31T00:00+14:00", "2012-12-30T12:00+14:00"]


def test_a_midnight_that_does_not_exist_is_replaced_by_the_first_moment_of_the_day() -> None:
    found = walls("@daily", "2018-11-03T12:00", 2, timezone="America/Sao_Paulo")
    assert found == ["2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00"]


@pytest.mark.parametrize("timezone", differences.ZONES)
@pytest.mark.parametrize("expression", ["*/7 * * * *", "30 2 * * *", "*/25 0-3 * * *", "15,45 1,2 * * *", "0 * * * *"])
def test_a_walk_through_every_second_around_the_changes_finds_the_same_ticks(expression: str, timezone: str) -> None:
    schedule = parse(expression, timezone=timezone)
    for change in list(differences._changes(ZoneInfo(timezone)))[:4] or [datetime(2026, 3, 1, tzinfo=UTC)]:
        start, end = change - timedelta(hours=4), change + timedelta(hours=4)
        expected = sorted(walked(schedule, start, end))
        found = []
        moment = schedule.next_after(start)
        while moment is not None and moment <= end:
            found.append(moment)
            moment = schedule.next_after(moment)
        assert found == expected
        backwards = []
        moment = schedule.previous_before(end + timedelta(microseconds=1))
        while moment is not None and moment > start:
            backwards.append(moment)
            moment = schedule.previous_before(moment)
        assert backwards[::-1] == expected


def walked(schedule: Schedule, start: datetime, end: datetime) -> Iterator[datetime]:
    """The ticks in (start, end], by looking at the wall clock once a minute."""
    times = schedule._times
    assert times is not None

    def named(wall: datetime) -> bool:
        return wall.minute in times.minutes.all and wall.hour in times.hours.all and times.on(wall.date())

    minute = timedelta(minutes=1)
    moment = start - timedelta(days=1, seconds=start.second)
    before = (moment - minute).astimezone(schedule.zone).replace(tzinfo=None)
    shown: set[datetime] = set()
    while moment <= end:
        wall = moment.astimezone(schedule.zone).replace(tzinfo=None)
        left_out = [before + n * minute for n in range(1, int((wall - before) / minute))]
        ticks = named(wall) if times.even else (named(wall) and wall not in shown) or any(map(named, left_out))
        shown.add(wall)
        if ticks and start < moment:
            yield moment
        before = wall
        moment += minute


def test_croniter_and_cronsim_agree_or_the_difference_is_explained() -> None:
    unexplained = []
    same = 0
    for question in differences.questions(random.Random(7), 1500):
        answer = differences.ours(question)
        for ask in (differences.by_croniter, differences.by_cronsim):
            other = differences._asked(ask, question)
            if other == answer:
                same += 1
            elif differences.explain(question, other) == "UNEXPLAINED":
                unexplained.append(f"{question}: {answer} {other}")
    assert unexplained == []
    assert same > 5900


# Properties.


expressions = st.integers(min_value=0).map(lambda seed: differences.expression(random.Random(seed)))
moments = st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


def valid(expression: str, timezone: str) -> Schedule | None:
    try:
        return parse(expression, timezone=timezone, days="either")
    except InvalidCron:
        return None


@given(expressions, moments, st.sampled_from(differences.ZONES))
@settings(deadline=None)
def test_next_and_previous_are_each_others_inverse(expression: str, moment: datetime, timezone: str) -> None:
    schedule = valid(expression, timezone)
    if schedule is None:
        return
    after = schedule.next_after(moment)
    assert after is not None
    assert after > moment
    before = schedule.previous_before(after)
    assert before is not None
    assert before <= moment
    assert schedule.next_after(before) == after


@given(st.text(max_size=40) | st.text(alphabet="0123456789*/-,LMONFRI# @", max_size=60))
@settings(deadline=None)
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        schedule = parse(text)
    except InvalidCron:
        return
    assert schedule.reboot or schedule.next_after(datetime(2026, 1, 1, tzinfo=UTC)) is not None


# Both day fields.


@pytest.mark.parametrize(
    ("days", "weekday", "start", "way", "expected"),
    [
        ("both", "SUN", "2024-11-21T00:00", 1, "2027-09-05T01:00"),
        ("both", "MON", "2024-11-21T00:00", -1, "2022-09-05T01:00"),
        ("either", "SUN", "2024-11-21T00:00", 1, "2025-09-05T01:00"),
        ("either", "MON", "2024-11-21T00:00", -1, "2024-09-30T01:00"),
    ],
)
def test_where_both_day_fields_are_restricted_either_will_do_or_both_have_to_match(
    days: Days, weekday: str, start: str, way: int, expected: str
) -> None:
    schedule = parse(f"0 1 5 9 {weekday}", days=days)
    moment = datetime.fromisoformat(start).replace(tzinfo=UTC)
    found = schedule.next_after(moment) if way > 0 else schedule.previous_before(moment)
    assert found == datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_what_says_nothing_new_of_its_days_is_the_same_expression() -> None:
    assert parse("0 9 * * MON", days="both").canonical == parse("0 9 * * MON").canonical
    either, both = (parse("0 9 1-7 * MON", days=days) for days in ("either", "both"))
    assert (either.canonical, both.canonical) == ("0 9 1-7 * 1", "0 9 1-7 * 1 days=both")
    with pytest.raises(InvalidCron, match=r'days is "either" or "both", not .any.'):
        parse("* * * * *", days="any")  # type: ignore[arg-type]
    with pytest.raises(InvalidCron, match="day of month '30' never comes in month 2"):
        parse("0 0 30 2 MON", days="both")


@given(expressions, moments)
@settings(deadline=None)
def test_both_days_are_those_that_each_of_the_fields_allows(expression: str, moment: datetime) -> None:
    *fields, month, week = expression.split()
    try:
        both = parse(expression, days="both")
        of_month = parse(" ".join([*fields, month, "*"]))
        of_week = parse(" ".join([*fields[:-1], "*", month, week]))
    except InvalidCron:
        return
    after = both.next_after(moment)
    assert after is not None
    just_before = after - timedelta(microseconds=1)
    assert of_month.next_after(just_before) == of_week.next_after(just_before) == after


# Refusals.


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("61 * * * *", "minute '61' is out of range; write 0-59"),
        ("60 0 * * * *", "second '60' is out of range; write 0-59"),
        ("* 24 * * *", "hour '24' is out of range; write 0-23"),
        ("* * 0 * *", "day of month '0' is out of range; write 1-31"),
        ("* * * 13 *", "month '13' is out of range; write 1-12 or JAN-DEC"),
        ("* * * * 8", "day of week '8' is out of range; write 0-7 or SUN-SAT"),
        ("0-59/0 * * * *", "minute '0-59/0' has a step out of range; write one of 1 to 60"),
        ("*/90 * * * *", "minute '*/90' has a step out of range"),
        ("99999999-999999999 * * * *", "minute '99999999-999999999' is out of range"),
        (f"{'9' * 450} * * * *", "is out of range"),
        ("* " * 5000, "has 10000 characters, more than 500"),
        ("* * 30 2 *", "day of month '30' never comes in month 2"),
        ("* * 31 2,4,JUN */2", "day of month '31' never comes in month 2, 4, 6"),
        ("0 22-2 * * *", "hour '22-2' runs backwards; write 22-23,0-2"),
        ("* * * FOO *", "'FOO' is no name of a month; write JAN, FEB"),
        ("* * * * MONDAY", "did you mean 'MON'?"),
        ("MON * * * *", "a name where only numbers are known"),
        ("* * * * ?", "write * instead"),
        ("* * * * 5#1", "has a #"),
        ("* * 15W * *", "has a W"),
        ("* * * * 5L", "has an L"),
        ("H * * * *", "has an H"),
        ("1,,2 * * * *", "nothing beside a comma"),
        ("*-5 * * * *", "is not understood"),
        ("٣ * * * *", "is not understood"),
        ("* * * *", "4 fields, but there are five"),
        ("* * * * * * *", "7 fields"),
        ("", "0 fields"),
        ("0 9 1-7 * MON", 'days="either" is each day that matches one of the two'),
        ("0 9 1-7 * MON", "(on about 124 days a year)"),
        ("0 9 1-7 * MON", "(on about 12 days a year)"),
        ("0 1 5 9 SUN", "(on one day in about 7 years)"),
        ("0 0 L * 1-5", "day of month 'L' and day of week '1-5' are both restricted"),
        ("@dayly", "did you mean '@daily'?"),
        (None, "a cron expression is a text"),
    ],
)
def test_a_mistake_is_named_with_what_to_write_instead(expression: str, words: str) -> None:
    with pytest.raises(InvalidCron) as refused:
        parse(expression)
    assert words in str(refused.value)
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize(
    ("timezone", "words"),
    [
        ("Europe/Berlim", "did you mean 'Europe/Berlin'?"),
        ("europe/berlin", "did you mean 'Europe/Berlin'?"),
        ("../../etc/passwd", "is unknown"),
        ("America", "is unknown"),
        ("", "write a name such as Europe/Berlin"),
        (None, "is unknown"),
    ],
)
def test_an_unknown_zone_is_refused_with_the_nearest_name(timezone: str, words: str) -> None:
    with pytest.raises(InvalidCron) as refused:
        parse("* * * * *", timezone=timezone)
    assert words in str(refused.value)


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        parse("* * * * *").next_after(datetime(2026, 1, 1))


def test_reboot_has_no_moments() -> None:
    schedule = parse("@reboot")
    assert schedule.reboot
    assert schedule.next_after(datetime(2026, 1, 1, tzinfo=UTC)) is None
    assert schedule.previous_before(datetime(2026, 1, 1, tzinfo=UTC)) is None


def test_the_calendar_ends() -> None:
    schedule = parse("0 0 1 1 *", timezone="Asia/Tokyo")
    assert schedule.next_after(datetime(9999, 6, 1, tzinfo=UTC)) is None
    assert schedule.previous_before(datetime(1, 1, 1, tzinfo=UTC)) is None


def test_schedules_are_values() -> None:
    assert parse("@daily") == parse("@daily")
    assert hash(parse("@daily")) == hash(parse("@daily"))
    assert parse("@daily") != parse("@daily", timezone="Asia/Tokyo")
    assert cron.LONGEST == 500

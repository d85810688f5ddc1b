"""Cron expressions and their moments, in a time zone.

Own code, because no library found keeps what is promised here: croniter 7.0 fires `30 1 * * *` twice on the day an hour
repeats and accepts 30 February; cronsim 2.8 does the same where seconds are given, returns an earlier moment for one
inside a repeated hour, and its errors ("Bad minute") don't name the part that is wrong. Tests compare this module with
both; `docs/cron.md` has every difference and its reason.
"""

from __future__ import annotations

import zoneinfo
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias, cast, get_args

from oban_sa.errors import InvalidCron, nearest
from oban_sa.schedule.cron_fields import DAY, HOUR, MINUTE, MONTH, NICKNAMES, SECOND, WEEKDAY, Values, read

Days: TypeAlias = Literal["either", "both"]
"""Whether an expression that restricts both the day of month and the day of week needs "either" or "both" to match."""

LONGEST: Final = 500
"""Characters that an expression may have, enough to list every second, minute and hour one by one."""

_SECOND: Final = timedelta(seconds=1)
_DAY: Final = timedelta(days=1)
# No zone changes its offset and changes it back within this; the shortest known is Morocco's month of Ramadan.
_STRIDE: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The moments that a cron expression names in a time zone; made by `parse`.

    `canonical` is equal for all spellings of an expression: nicknames are written out, names of months and days are
    numbers. `reboot` is True for `@reboot`, which has no moments.
    """

    expression: str
    timezone: str
    canonical: str
    reboot: bool = False
    zone: zoneinfo.ZoneInfo = field(repr=False, compare=False, default_factory=lambda: zoneinfo.ZoneInfo("Etc/UTC"))
    _times: _Times | None = field(repr=False, compare=False, default=None)

    @property
    def either(self) -> bool:
        """Whether both day fields are restricted, and one of them has to match."""
        return self._times is not None and self._times.restricts_both and not self._times.both

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first moment later than `moment`, in UTC; None for `@reboot` and past the year 9999."""
        return self._beside(moment, 1)

    def previous_before(self, moment: datetime) -> datetime | None:
        """Return the last moment earlier than `moment`, in UTC; None for `@reboot` and before the year 1."""
        return self._beside(moment, -1)

    def _beside(self, moment: datetime, way: int) -> datetime | None:
        if moment.tzinfo is None:
            raise ValueError(f"{moment!r} has no time zone; write datetime.now(UTC), or .replace(tzinfo=UTC)")
        if self._times is None:
            return None
        try:
            walk = _even if self._times.even else _fixed
            return walk(self._times, self.zone, moment.astimezone(UTC), way)
        except OverflowError:
            return None


def parse(expression: str, *, timezone: str = "Etc/UTC", days: Days | None = None) -> Schedule:
    """Return the schedule of an expression; raises InvalidCron, which names the field and the part that is wrong.

    Five fields are minute, hour, day of month, month and day of week; six start with the second. Or one of the
    nicknames: @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, @reboot.

    An expression that restricts both the day of month and the day of week needs `days`: "either" field matches, as in
    cron, or "both", as in Oban for Elixir and `oban` for Python.
    """
    if not isinstance(cast("object", expression), str):
        raise InvalidCron(f'a cron expression is a text such as "0 9 * * MON-FRI", not {expression!r}')
    zone = _zone(timezone)
    if days is not None and days not in get_args(Days):
        raise InvalidCron(f'days is "either" or "both", not {days!r:.40}')
    if len(expression) > LONGEST:
        raise InvalidCron(
            f"cron {expression[:40]!r}... has {len(expression)} characters, more than {LONGEST}; "
            "write ranges and steps such as 0-59/5 instead of lists"
        )
    text = " ".join(expression.split())
    if text.lower() == "@reboot":
        return Schedule(expression, timezone, "@reboot", reboot=True, zone=zone)
    if text.startswith("@"):
        nickname = NICKNAMES.get(text.lower())
        if nickname is None:
            known = [*NICKNAMES, "@reboot"]
            raise InvalidCron(
                f"cron {expression!r} is no nickname that cron has"
                + nearest(text.lower(), known, f"write one of {', '.join(known)}, or five fields")
            )
        text = nickname
    try:
        times, canonical = _times(text, days)
    except InvalidCron as error:
        raise InvalidCron(f"cron {expression!r}: {error}") from None
    return Schedule(expression, timezone, canonical, zone=zone, _times=times)


def _zone(timezone: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, AttributeError, OSError):
        pass
    known = {name.lower(): name for name in zoneinfo.available_timezones()}
    if not known:
        raise InvalidCron(f"no time zones are known on this machine, {timezone!r} neither; install the package tzdata")
    text = str(timezone)[:64]
    close = known.get(text.lower())
    hint = f"; did you mean {close!r}?" if close else nearest(text, known.values())
    raise InvalidCron(f"time zone {text!r} is unknown{hint or '; write a name such as Europe/Berlin or Etc/UTC'}")


class _Times(NamedTuple):
    """The readings of a wall clock that an expression allows, in any time zone."""

    seconds: Values
    minutes: Values
    hours: Values
    days: Values
    months: Values
    weekdays: Values
    both: bool = False
    """Whether a day has to match both day fields where both are restricted."""

    @property
    def restricts_both(self) -> bool:
        """Whether both day fields are restricted; a field that starts with a star is not, `*/2` included."""
        return not (self.days.star or self.weekdays.star)

    @property
    def even(self) -> bool:
        """Whether this is an interval rather than a time of day: with a `*` for minute or hour, as in Debian's cron."""
        return self.minutes.star or self.hours.star

    def on(self, day: date) -> bool:
        """Return whether the expression has a moment on that day."""
        if day.month not in self.months:
            return False
        of_month = day.day in self.days or (self.days.last and day.day == monthrange(day.year, day.month)[1])
        of_week = day.isoweekday() % 7 in self.weekdays
        return (of_month and of_week) if self.both or not self.restricts_both else (of_month or of_week)

    def possible(self) -> bool:
        if self.days.star or self.days.last or (self.restricts_both and not self.both):
            return True
        return any(self.days.all[0] <= monthrange(2024, month)[1] for month in self.months.all)

    def beside(self, wall: datetime, way: int) -> datetime:
        """Return the nearest reading of the wall clock after `wall`, or before it where `way` is -1.

        Raises OverflowError where the calendar ends.
        """
        if self.on(wall.date()) and (found := self._within(wall.time(), way)):
            return datetime.combine(wall.date(), found)
        day = next(each for each in _days(wall.date(), way, self.months) if self.on(each))
        edge = 0 if way > 0 else -1
        return datetime.combine(day, time(self.hours.all[edge], self.minutes.all[edge], self.seconds.all[edge]))

    def _within(self, moment: time, way: int) -> time | None:
        hour, minute, second = moment.hour, moment.minute, moment.second
        edge = 0 if way > 0 else -1
        if hour in self.hours:
            if minute in self.minutes and (found := self.seconds.beside(second, way)) is not None:
                return time(hour, minute, found)
            if (found := self.minutes.beside(minute, way)) is not None:
                return time(hour, found, self.seconds.all[edge])
        if (found := self.hours.beside(hour, way)) is not None:
            return time(found, self.minutes.all[edge], self.seconds.all[edge])
        return None


def _days(day: date, way: int, months: Values) -> Iterator[date]:
    """Yield the days after a day (before it where `way` is -1) that are in `months`."""
    while True:
        day += way * _DAY
        while day.month not in months:
            day = (day.replace(day=28) + timedelta(days=4)).replace(day=1) if way > 0 else day.replace(day=1) - _DAY
        yield day


@lru_cache(maxsize=512)
def _times(text: str, days: Days | None) -> tuple[_Times, str]:
    parts = text.split(" ") if text else []
    if len(parts) not in (5, 6):
        raise InvalidCron(
            f"{len(parts)} fields, but there are five (minute, hour, day of month, month, day of week), or six that "
            'start with the second; write for example "0 9 * * MON-FRI"'
        )
    fields = (MINUTE, HOUR, DAY, MONTH, WEEKDAY)
    values = [read(part, of) for part, of in zip(parts[-5:], fields, strict=True)]
    minute, hour, day, month, weekday = values
    second = read(parts[0], SECOND) if len(parts) == 6 else read("0", SECOND)
    times = _Times(second, minute, hour, day, month, weekday, both=days == "both")
    if not times.possible():
        months = ", ".join(f"{month}" for month in times.months.all)
        raise InvalidCron(f"day of month {parts[-3]!r} never comes in month {months}; write a day that the month has")
    if times.restricts_both and days is None:
        raise InvalidCron(_two_meanings(times, parts[-3], parts[-1]))
    shown = [each.canonical for each in (second, *values)]
    if times.restricts_both and times.both:
        shown.append("days=both")
    return times, " ".join(shown if shown[0] != "0" else shown[1:])


_CALENDAR: Final = (date(2001, 1, 1), date(2029, 1, 1))
"""Years in which each date falls on each day of the week: the Gregorian calendar repeats after 28 years."""


def _two_meanings(times: _Times, day: str, weekday: str) -> str:
    either, both = (_often(times._replace(both=meant)) for meant in (False, True))
    return (
        f"day of month {day!r} and day of week {weekday!r} are both restricted, which is read in two ways; say which "
        f'you mean: days="either" is each day that matches one of the two, as cron does it ({either}), and days="both" '
        f"only those that match both, as Oban for Elixir and for Python do ({both})"
    )


def _often(times: _Times) -> str:
    first, end = _CALENDAR
    days = sum(times.on(first + timedelta(days=number)) for number in range((end - first).days))
    years = end.year - first.year
    if not days:
        return "never"
    if days < years:
        return f"on one day in about {years / days:.0f} years"
    found = round(days / years)
    return f"on about {found} {'day' if found == 1 else 'days'} a year"


# From readings of a wall clock to moments. A wall clock jumps: readings that a jump skips are a gap, those that it
# repeats happen twice.


def _fixed(times: _Times, zone: zoneinfo.ZoneInfo, moment: datetime, way: int) -> datetime:
    """Return the nearest moment of a time of day: one in a gap fires right after it, a repeated one the first time."""
    wall = moment.astimezone(zone)
    # Going back from inside a repeated hour, the readings still ahead have happened once before.
    start = wall.replace(tzinfo=None) + (_repeated(wall) if way < 0 else timedelta())
    if way < 0 and moment.microsecond:
        start += _SECOND
    while True:
        start = times.beside(start, way)
        found = _moment(start, zone)
        if (found > moment) if way > 0 else (found < moment):
            return found


def _repeated(wall: datetime) -> timedelta:
    """Return how far the wall clock was put back, where it shows the reading `wall` for the second time, else zero."""
    first, second = cast("timedelta", wall.replace(fold=0).utcoffset()), cast("timedelta", wall.utcoffset())
    return first - second if wall.fold and first > second else timedelta()


def _moment(wall: datetime, zone: zoneinfo.ZoneInfo) -> datetime:
    """Return the first moment at which the wall clock shows `wall`, or has jumped past it."""
    early, late = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if late >= early:
        return early
    # A gap: with the offset from before the jump, `wall` is after it, and the other way round.
    return _change(late, early, zone)


def _even(times: _Times, zone: zoneinfo.ZoneInfo, moment: datetime, way: int) -> datetime:
    """Return the nearest moment of an interval: it fires when the wall clock shows a reading, also the second time."""
    start = moment.replace(microsecond=0)
    if way < 0 and moment.microsecond:
        start += _SECOND
    probe = start if way > 0 else start - _SECOND
    while True:
        offset = _offset(probe, zone)
        wall = times.beside((start + offset).replace(tzinfo=None), way)
        found = wall.replace(tzinfo=UTC) - offset
        change = _first_change(probe, found, zone)
        if change is None:
            return found
        # The clock jumps before that moment: go on from the jump, with the offset after it.
        start, probe = (change - _SECOND, change) if way > 0 else (change, change - _SECOND)


def _first_change(start: datetime, end: datetime, zone: zoneinfo.ZoneInfo) -> datetime | None:
    """Return the moment nearest to `start`, between it and `end`, from which another offset is valid, or None."""
    offset = _offset(start, zone)
    stride = _STRIDE if end > start else -_STRIDE
    while start != end:
        near_end = abs(end - start) <= _STRIDE
        probe = end if near_end else start + stride
        if _offset(probe, zone) != offset:
            return _change(min(start, probe), max(start, probe), zone)
        start = probe
    return None


def _change(low: datetime, high: datetime, zone: zoneinfo.ZoneInfo) -> datetime:
    """Return the first moment after `low` at which the offset of `high` is valid."""
    after = _offset(high, zone)
    while high - low > _SECOND:
        middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
        low, high = (low, middle) if _offset(middle, zone) == after else (middle, high)
    return high


def _offset(moment: datetime, zone: zoneinfo.ZoneInfo) -> timedelta:
    return cast("timedelta", moment.astimezone(zone).utcoffset())

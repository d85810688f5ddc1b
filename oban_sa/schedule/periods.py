"""Spans of time: a number of seconds, a timedelta or a text such as "5 minutes".

A text is one or more amounts, each with a unit, largest first or in any other order, no unit twice::

    period = amount { [","] ["and"] amount } | number
    amount = number unit
    unit   = ms | s | m | h | d | w, or in words: millisecond, second, minute, hour, day, week, their plurals,
             and sec, min, hr

Case and blanks don't matter: "90s", "1h30m", "1 day", "2 hours and 5 minutes", "1.5 h". A number alone is seconds, as
in a variable of the environment. Months and years are refused, because they have no fixed length.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final, TypeAlias

from oban_sa.errors import InvalidPeriod, nearest, shown

Period: TypeAlias = int | float | timedelta | str

LONGEST: Final = 1000 * 366 * 86_400
"""Seconds in the longest period that is taken, a thousand years: what is added to a timestamp must stay one."""

_MILLISECOND, _SECOND, _MINUTE, _HOUR, _DAY, _WEEK = 0.001, 1, 60, 3_600, 86_400, 604_800
_UNITS: Final[dict[str, float]] = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), _MILLISECOND),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), _SECOND),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), _MINUTE),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), _HOUR),
    **dict.fromkeys(("d", "day", "days"), _DAY),
    **dict.fromkeys(("w", "week", "weeks"), _WEEK),
}
_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_AMOUNT: Final = re.compile(r"\s*(?:,\s*)?(?:and\s+)?([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([^\W\d_]+)\s*")
_EXAMPLES: Final = 'write seconds (90), a timedelta or a text such as "5 minutes" or "1h30m"'


def seconds(period: Period) -> float:
    """Return how many seconds `period` lasts, never negative.

    Raises `InvalidPeriod` for what is negative, not finite, longer than a thousand years, a bool or not understood.
    """
    if isinstance(period, bool):
        raise InvalidPeriod(f"{period!r} is not a span of time; {_EXAMPLES}")
    # Of a subclass the plain value, not what its own methods return.
    if isinstance(period, int):
        return _checked(int.__index__(period), period)
    if isinstance(period, float):
        return _checked(float.__float__(period), period)
    if isinstance(period, timedelta):
        return _checked(timedelta.total_seconds(period), period)
    if isinstance(period, str):  # pyright: ignore[reportUnnecessaryIsInstance] - it may come from anywhere
        return _checked(_read(str.__str__(period)), period)
    raise InvalidPeriod(f"{_shown(period)} is not a span of time; {_EXAMPLES}")


def span(period: Period, what: str) -> float:
    """Do as `seconds`, for an option; the message of what is refused begins with its name, `what`."""
    try:
        return seconds(period)
    except InvalidPeriod as error:
        raise InvalidPeriod(f"{what}: {error}") from None


def describe(seconds: float) -> str:
    """Return a number of seconds as text for people: "1 minute", "2 h 5 min", "250 ms".

    It has the two largest units at most, and is rounded to the smaller one.
    """
    if not math.isfinite(seconds):
        return str(seconds)
    if seconds < 0:
        return f"-{describe(-seconds)}"
    if 0 < seconds < 0.9995:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 59.95:
        return _plural(round(seconds, 1), "second")
    if seconds < _HOUR - 0.5:
        return _pair(round(seconds), (_MINUTE, "minute", "min"), (_SECOND, "second", "s"))
    if seconds < _DAY - 30:
        return _pair(round(seconds / 60) * 60, (_HOUR, "hour", "h"), (_MINUTE, "minute", "min"))
    return _pair(round(seconds / 3600) * 3600, (_DAY, "day", "d"), (_HOUR, "hour", "h"))


def _read(text: str) -> float:
    lowered = text.strip().lower()
    if _NUMBER.fullmatch(lowered):
        return float(lowered)
    if lowered in _UNITS:
        raise InvalidPeriod(f'{_shown(text)} is a unit of time; write how many: "1 {lowered}"')
    total, position, seen = 0.0, 0, set[float]()
    while position < len(lowered):
        amount = _AMOUNT.match(lowered, position)
        if amount is None:
            raise InvalidPeriod(f"{_shown(text)} is not a span of time; {_EXAMPLES}")
        number, unit = amount.groups()
        length = _UNITS.get(unit)
        if length is None:
            raise InvalidPeriod(f"{unit!r} in {_shown(text)} is not a unit of time{_instead(unit)}")
        if length in seen:
            raise InvalidPeriod(f"{_shown(text)} names the unit {unit!r} twice; {_EXAMPLES}")
        seen.add(length)
        total += float(number) * length
        position = amount.end()
    if not seen:
        raise InvalidPeriod(f"{_shown(text)} is not a span of time; {_EXAMPLES}")
    return total


def _instead(unit: str) -> str:
    if unit.startswith(("month", "year")):
        return ', for it has no fixed length; count it in days, such as "30 days"'
    return nearest(unit, [known for known in _UNITS if len(known) > 2], _EXAMPLES)


def _checked(amount: float, period: Period) -> float:
    if amount != amount or amount in (math.inf, -math.inf):  # isfinite() raises for a huge int
        raise InvalidPeriod(f"{_shown(period)} is not a finite span of time; {_EXAMPLES}")
    if amount < 0:
        raise InvalidPeriod(f"a span of time can't be negative, and {_shown(period)} is; {_EXAMPLES}")
    if amount > LONGEST:
        raise InvalidPeriod(f"{_shown(period)} is longer than a thousand years")
    return float(amount)


def _shown(period: object) -> str:
    return shown(period, 60)


def _plural(amount: float, unit: str) -> str:
    return f"{amount:g} {unit}" if amount == 1 else f"{amount:g} {unit}s"


def _pair(amount: int, large: tuple[int, str, str], small: tuple[int, str, str]) -> str:
    whole, rest = divmod(amount, large[0])
    rest //= small[0]
    if rest == 0:
        return _plural(whole, large[1])
    return f"{whole} {large[2]} {rest} {small[2]}"

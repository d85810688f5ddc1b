"""The fields of a cron expression: the values that each may have, and their syntax."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Final, NamedTuple

from oban_sa.errors import InvalidCron, nearest

NICKNAMES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


class Field(NamedTuple):
    """One of the fields: its name, its lowest and highest value, and names for its values."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    @property
    def span(self) -> str:
        named = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return f"{self.low}-{self.high}{named}"


SECOND: Final = Field("second", 0, 59)
MINUTE: Final = Field("minute", 0, 59)
HOUR: Final = Field("hour", 0, 23)
DAY: Final = Field("day of month", 1, 31)
_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")

MONTH: Final = Field("month", 1, 12, _MONTHS)
WEEKDAY: Final = Field("day of week", 0, 7, _WEEKDAYS)


@dataclass(frozen=True, slots=True)
class Values:
    """The values of a field: `all` in order, whether it starts with a `star`, and whether it has L, the `last` day."""

    all: tuple[int, ...]
    star: bool
    last: bool
    canonical: str

    def __contains__(self, value: int) -> bool:
        return value in self.all

    def beside(self, value: int, way: int) -> int | None:
        """Return the next value above `value`, or below it where `way` is -1; None where there is none."""
        if way > 0:
            index = bisect_right(self.all, value)
            return self.all[index] if index < len(self.all) else None
        index = bisect_left(self.all, value)
        return self.all[index - 1] if index else None


def read(text: str, of: Field) -> Values:
    """Return the values that a text names for a field; raises InvalidCron for a text with a mistake in it."""
    values: set[int] = set()
    canonical: list[str] = []
    last = False
    for part in text.upper().split(","):
        if part == "L" and of is DAY:
            last = True
            canonical.append("L")
            continue
        found, spelled = _part(part, text, of)
        values |= found
        canonical.append(spelled)
    if of is WEEKDAY:
        values = {value % 7 for value in values}
    return Values(tuple(sorted(values)), text.startswith("*"), last, ",".join(canonical))


_RANGE: Final = re.compile(r"(?P<first>\*|[0-9A-Z]+)(?:-(?P<final>[0-9A-Z]+))?(?:/(?P<step>[0-9]+))?", re.ASCII)


def _part(part: str, text: str, of: Field) -> tuple[set[int], str]:
    if not part:
        raise InvalidCron(f"{of.name} {text!r} has nothing beside a comma; write values such as {of.low},{of.low + 1}")
    match = _RANGE.fullmatch(part)
    if match is None or (match["first"] == "*" and match["final"]):
        raise InvalidCron(f"{of.name} {_shown(part)} {_unknown(part, of)}")
    step = _step(match["step"], part, of)
    if match["first"] == "*":
        # A star for the day of week ends with Saturday: 7 is Sunday, as 0 is.
        low, high = of.low, (6 if of is WEEKDAY else of.high)
        spelled = "*"
    else:
        low = _value(match["first"], part, of)
        if match["final"]:
            high = _value(match["final"], part, of)
            if of is WEEKDAY and match["final"] in ("SUN", "0") and low:
                high = 7
        else:
            high = of.high if match["step"] else low
        if high < low:
            raise InvalidCron(
                f"{of.name} {_shown(part)} runs backwards; write {low}-{of.high},{of.low}-{high} to go past the end"
            )
        spelled = f"{low}" if high == low else f"{low}-{high}"
    return set(range(low, high + 1, step)), spelled if step == 1 else f"{spelled}/{step}"


def _value(text: str, part: str, of: Field) -> int:
    if text in of.names:
        return of.names.index(text) + of.low
    if not text.isdigit():
        raise InvalidCron(f"{of.name} {_shown(part)} {_unknown(text, of)}")
    # int() raises for thousands of digits; numbers of ten are out of range already.
    if len(text) > 9 or not of.low <= int(text) <= of.high:
        raise InvalidCron(f"{of.name} {_shown(part)} is out of range; write {of.span}")
    return int(text)


def _step(text: str | None, part: str, of: Field) -> int:
    if text is None:
        return 1
    most = of.high - of.low + 1
    if len(text) > 9 or not 1 <= int(text) <= most:
        raise InvalidCron(
            f"{of.name} {_shown(part)} has a step out of range; write one of 1 to {most}, as in */{min(most, 5)}"
        )
    return int(text)


_FOREIGN: Final = {
    "?": "has a ?, which is Quartz's; write * instead",
    "#": "has a #, which cron does not have; run it every week and look at the day in the job",
    "W": "has a W, which cron does not have; write MON-FRI as the day of week",
    "L": "has an L, which is only known alone and as a day of month, for the last one",
    "H": "has an H, which is Jenkins's; write the number you want",
    "~": "has a ~ for a random value; write the number you want",
}


def _unknown(word: str, of: Field) -> str:
    if re.fullmatch("[A-Z]{3,}", word):
        hint = nearest(word, of.names) if of.names else ""
        if of.names:
            return f"is no name of a {of.name}{hint or '; write ' + ', '.join(of.names)}"
        return f"is a name where only numbers are known; write {of.span}"
    for sign, answer in _FOREIGN.items():
        if sign in word:
            return answer
    return f"is not understood; write *, a value of {of.span}, a list 1,2, a range 1-5 or a step */2"


def _shown(part: str) -> str:
    return repr(part if len(part) <= 40 else part[:40] + "...")

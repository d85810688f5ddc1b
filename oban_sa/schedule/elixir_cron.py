"""Cron expressions in the syntax of Oban for Elixir, whose dashboard (Oban Web) reads those of every node."""

from __future__ import annotations

import re
from typing import Final

from oban_sa.schedule.cron import Schedule
from oban_sa.schedule.cron_fields import DAY, HOUR, MINUTE, MONTH, NICKNAMES, SECOND, WEEKDAY, Field, Values, read

_FIELDS: Final = (MINUTE, HOUR, DAY, MONTH, WEEKDAY)
_PART: Final = re.compile(r"\*(/[1-9][0-9]?)?|[0-9]{1,2}(-[0-9]{1,2}(/[1-9][0-9]?)?)?", re.ASCII)


def for_elixir(schedule: Schedule) -> str | None:
    """Return an expression of the same moments that `Oban.Cron.Expression` of Elixir parses; None where there is none.

    That takes five fields of `*`, numbers, ranges, steps and lists, names in upper case, days of the week from 0 to 6,
    and nicknames in lower case. It has no seconds and no last day of a month, and where both day fields are restricted
    a day has to match both.
    """
    text = " ".join(schedule.expression.split())
    if text.startswith("@"):
        return text.lower() if text.lower() in (*NICKNAMES, "@reboot") else None
    second, *parts = text.split() if len(text.split()) == 6 else ["0", *text.split()]
    if read(second, SECOND).all != (0,):
        return None
    values = [read(part, of) for part, of in zip(parts, _FIELDS, strict=True)]
    if values[2].last or schedule.either:
        return None
    return " ".join(_field(part, value, of) for part, value, of in zip(parts, values, _FIELDS, strict=True))


def _field(text: str, values: Values, of: Field) -> str:
    """Return a field as it was written where Elixir parses that, else as a list of its values."""
    text = text.upper()
    if all(_known(part, of) for part in text.split(",")):
        return text
    if len(values.all) == of.high - of.low + 1 - (of is WEEKDAY):
        return "*"
    runs: list[list[int]] = []
    for value in values.all:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    # A range of two is two values, which reads better.
    spelled = [[f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(value) for value in run] for run in runs]
    return ",".join(part for run in spelled for part in run)


def _known(part: str, of: Field) -> bool:
    for name in of.names:
        part = part.replace(name, str(of.names.index(name) + of.low))
    if _PART.fullmatch(part) is None:
        return False
    values = [int(number) for number in part.partition("/")[0].split("-") if number != "*"]
    most = of.high - (of is WEEKDAY)
    return values == sorted(values) and all(of.low <= value <= most for value in values)

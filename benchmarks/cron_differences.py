"""Compare cron moments with croniter and cronsim, and explain every difference.

    python benchmarks/cron_differences.py [pairs] [seed]

A pair is an expression in a time zone and a moment; each is asked for the next and for the previous tick. Half of the
moments lie within hours of a change of the zone's offset. A difference is explained when a named change of our rules
gives exactly the other's answer; one that nothing explains is printed, and makes the exit code 1. `docs/cron.md` says
why we keep our rules.
"""

from __future__ import annotations

import random
import re
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter  # type: ignore[import-untyped]
from cronsim import CronSim

from oban_sa.errors import InvalidCron
from oban_sa.schedule import cron
from oban_sa.schedule.cron import Schedule

ZONES = (
    "Etc/UTC",
    "America/New_York",
    "Europe/Berlin",
    "Europe/Dublin",  # winter time is the exception there, and has a negative offset
    "America/Sao_Paulo",  # used to change at midnight
    "Africa/Cairo",  # changes at midnight
    "Africa/Casablanca",  # changes for Ramadan
    "Australia/Lord_Howe",  # changes by half an hour
    "Asia/Kathmandu",
    "Pacific/Apia",  # has no 30 December 2011
    "America/St_Johns",
)
FIRST, LAST = datetime(2010, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]


@dataclass(frozen=True)
class Question:
    """What all three are asked."""

    schedule: Schedule
    moment: datetime
    way: int

    def __str__(self) -> str:
        wall = self.moment.astimezone(self.schedule.zone)
        word = "after" if self.way > 0 else "before"
        return f"{self.schedule.expression!r} in {self.schedule.timezone}, {word} {wall.isoformat()}"


# Asking


def ours(question: Question) -> datetime | None:
    ask = question.schedule.next_after if question.way > 0 else question.schedule.previous_before
    return ask(question.moment)


def by_cronsim(question: Question) -> datetime | None:
    wall = question.moment.astimezone(question.schedule.zone)
    try:
        return next(CronSim(question.schedule.expression, wall, reverse=question.way < 0)).astimezone(UTC)
    except StopIteration:
        return None


def by_croniter(question: Question) -> datetime | None:
    wall = question.moment.astimezone(question.schedule.zone)
    # implement_cron_bug is its name for cron's rule about stars in the fields of days.
    asked = croniter(question.schedule.expression, wall, second_at_beginning=True, implement_cron_bug=True)
    answer: datetime = (asked.get_next if question.way > 0 else asked.get_prev)(datetime)
    return answer.astimezone(UTC)


# Explaining: each predicate says whether it accounts for the other's answer. Those that read an answer off the wall
# clock don't use our own search.


def wrong_side(question: Question, answer: datetime) -> bool:
    return (answer - question.moment) * question.way <= timedelta()


def interval(question: Question, answer: datetime) -> bool:
    times = _times(question)
    return not times.even and _ours_with(question, times._replace(hours=replace(times.hours, star=True))) == answer


def time_of_day(question: Question, answer: datetime) -> bool:
    times = _times(question)
    plain = {name: replace(getattr(times, name), star=False) for name in ("minutes", "hours")}
    return times.even and _ours_with(question, times._replace(**plain)) == answer


def week_ends_on_saturday(question: Question, answer: datetime) -> bool:
    *fields, week = question.schedule.expression.split()
    shorter = re.sub(r"(?<![-\d])(\d)/", r"\1-6/", week)
    if shorter == week or "7-6" in shorter:
        return False
    changed = cron.parse(" ".join([*fields, shorter]), timezone=question.schedule.timezone, days="either")
    return ours(replace(question, schedule=changed)) == answer


def not_on_the_wall(question: Question, answer: datetime) -> bool:
    return not _shown(question, answer) and not _shown_in_gap(question, answer)


def misses(question: Question, answer: datetime) -> bool:
    nearer = ours(question)
    return nearer is not None and (answer - nearer) * question.way > timedelta() and _shown(question, nearer)


def _times(question: Question) -> Any:
    return question.schedule._times


def _ours_with(question: Question, times: Any) -> datetime | None:
    return ours(replace(question, schedule=replace(question.schedule, _times=times)))


def _shown(question: Question, moment: datetime) -> bool:
    """Whether the wall clock shows one of the expression's readings at that moment."""
    wall, times = moment.astimezone(question.schedule.zone), _times(question)
    named = wall.second in times.seconds and wall.minute in times.minutes and wall.hour in times.hours
    return named and times.on(wall.date())


def _shown_in_gap(question: Question, moment: datetime) -> bool:
    """Whether a clock that jumps at that moment leaves out one of the expression's readings."""
    zone = question.schedule.zone
    wall = moment.astimezone(zone).replace(tzinfo=None)
    before = (moment - timedelta(seconds=1)).astimezone(zone).replace(tzinfo=None) + timedelta(seconds=1)
    seconds = int((wall - before).total_seconds())
    times = _times(question)
    return any(
        each.second in times.seconds and each.minute in times.minutes and each.hour in times.hours and times.on(each)
        for each in (before + timedelta(seconds=second) for second in range(seconds))
    )


EXPLANATIONS: dict[str, Callable[[Question, datetime], bool]] = {
    "answers with a moment on the wrong side of the one asked about": wrong_side,
    "takes a time of day for an interval where the clock changes": interval,
    "takes an interval for a time of day where the clock changes": time_of_day,
    "ends n/step in the day of week on Saturday instead of Sunday": week_ends_on_saturday,
    "answers with a moment that the expression does not name": not_on_the_wall,
    "misses a tick": misses,
}


def explain(question: Question, answer: object) -> str:
    if not isinstance(answer, datetime):
        return "finds nothing" if answer is None else f"raises {type(answer).__name__}"
    for name, holds in EXPLANATIONS.items():
        if holds(question, answer):
            return name
    return "UNEXPLAINED"


# Making questions


def questions(random: random.Random, pairs: int) -> Iterator[Question]:
    changes = {name: list(_changes(ZoneInfo(name))) for name in ZONES}
    for _ in range(pairs):
        schedule = None
        while schedule is None:
            zone = random.choice(ZONES)
            try:
                schedule = cron.parse(expression(random), timezone=zone, days="either")
            except InvalidCron:  # 30 February
                continue
        moment = FIRST + timedelta(seconds=random.randrange(int((LAST - FIRST).total_seconds())))
        if changes[zone] and random.random() < 0.5:
            moment = random.choice(changes[zone]) + timedelta(seconds=random.randint(-6 * 3600, 6 * 3600))
        for way in (1, -1):
            yield Question(schedule, moment, way)


def expression(random: random.Random) -> str:
    fields = [
        field(random, 0, 59, [], star=0.3),
        field(random, 0, 23, [], star=0.4),
        field(random, 1, 31, [], star=0.6),
        field(random, 1, 12, MONTHS, star=0.7),
        field(random, 0, 7, WEEKDAYS, star=0.6),
    ]
    if random.random() < 0.03:
        fields[2] = "L"
    if random.random() < 0.2:
        fields.insert(0, field(random, 0, 59, [], star=0.2))
    return " ".join(fields)


def field(random: random.Random, low: int, high: int, names: list[str], *, star: float) -> str:
    if random.random() < star:
        return "*" if random.random() < 0.6 else f"*/{random.randint(1, high - low)}"
    return ",".join(part(random, low, high, names) for _ in range(random.choice([1, 1, 1, 2, 3])))


def part(random: random.Random, low: int, high: int, names: list[str]) -> str:
    first, last = sorted((random.randint(low, high), random.randint(low, high)))
    kind = random.random()
    if kind < 0.5 or first == last:
        return random.choice(names) if names and kind < 0.2 else f"{first}"
    if kind < 0.8:
        return f"{first}-{last}"
    if kind < 0.95:
        return f"{first}-{last}/{random.randint(1, last - first)}"
    return f"{first}/{random.randint(1, high - low)}"


def _changes(zone: ZoneInfo) -> Iterator[datetime]:
    moment = FIRST
    while moment < LAST:
        change = cron._first_change(moment, moment + timedelta(days=400), zone)
        if change is None:
            moment += timedelta(days=400)
            continue
        yield change
        moment = change


def _asked(ask: Callable[[Question], datetime | None], question: Question) -> object:
    """The answer, or the error; nobody may think about it for longer than a second."""
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        return ask(question)
    except Exception as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class NeverEnds(Exception):
    """No answer within a second."""


def _alarm(*_: object) -> None:
    raise NeverEnds


def main(pairs: int = 100_000, seed: int = 20260101) -> int:
    signal.signal(signal.SIGALRM, _alarm)
    counts: dict[str, Counter[str]] = {"croniter": Counter(), "cronsim": Counter()}
    examples: dict[tuple[str, str], str] = {}
    spent: defaultdict[str, float] = defaultdict(float)
    peers = {"croniter": by_croniter, "cronsim": by_cronsim}
    for question in questions(random.Random(seed), pairs):
        began = time.perf_counter()
        answer = ours(question)
        spent["oban_sa"] += time.perf_counter() - began
        for peer, ask in peers.items():
            began = time.perf_counter()
            other = _asked(ask, question)
            spent[peer] += time.perf_counter() - began
            verdict = "the same" if other == answer else explain(question, other)
            counts[peer][verdict] += 1
            if verdict != "the same" and (verdict == "UNEXPLAINED" or (peer, verdict) not in examples):
                shown = other.isoformat() if isinstance(other, datetime) else repr(other)
                example = f"{question}: ours {answer and answer.isoformat()}, {peer} {shown}"
                examples.setdefault((peer, verdict), example)
                if verdict == "UNEXPLAINED" and counts[peer][verdict] <= 30:
                    print(example)
    print(f"{pairs} pairs, each asked for the next and the previous tick; seed {seed}")
    for peer, verdicts in counts.items():
        print(f"\n{peer}")
        for verdict, count in verdicts.most_common():
            print(f"  {count:>8}  {verdict}")
            if verdict != "the same":
                print(f"            e.g. {examples[peer, verdict]}")
    print("\nmicroseconds per question: " + ", ".join(f"{name} {1e6 * spent[name] / pairs / 2:.0f}" for name in spent))
    return any(verdicts["UNEXPLAINED"] for verdicts in counts.values())


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))

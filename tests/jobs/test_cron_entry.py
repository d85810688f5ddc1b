"""Entries of a crontab: how they are written, what they are called, and which ticks become jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from oban_sa.errors import InvalidCron, InvalidOption
from oban_sa.jobs.cron_entry import MOST_CAUGHT_UP, CronEntry, Span, entries, workerless
from oban_sa.jobs.references import ref

NOW = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
NEVER = Span(NOW, NOW)


def minutely(**options: Any) -> CronEntry:
    return CronEntry("* * * * *", "jobs.Report", **options)


def due(entry: CronEntry, *, after: int, missed: tuple[int, int] | None = None) -> list[int]:
    """Minutes before 12:00 at which jobs are due; `after` and `missed` are in minutes before 12:00 too."""
    noon = NOW.replace(second=0)
    span = NEVER if missed is None else Span(noon - missed[0] * MINUTE, noon - missed[1] * MINUTE)
    found = entry.due(after=noon - after * MINUTE, now=NOW, missed=span)
    assert found.until == noon
    return [int((noon - tick) / MINUTE) for tick in found.ticks]


def test_every_tick_since_the_last_one_is_due_oldest_first() -> None:
    assert due(minutely(), after=3) == [2, 1, 0]


def test_nothing_is_due_before_the_next_tick() -> None:
    found = minutely().due(after=NOW.replace(second=0), now=NOW, missed=NEVER)
    assert found.ticks == ()
    assert found.until is None


def test_a_tick_is_due_at_its_very_moment() -> None:
    found = minutely().due(after=NOW - MINUTE, now=NOW.replace(second=0), missed=NEVER)
    assert found.ticks == (NOW.replace(second=0),)


@pytest.mark.parametrize(("catch_up", "expected"), [("none", [8, 7, 1, 0]), ("all", [8, 7, 6, 5, 4, 3, 2, 1, 0])])
def test_ticks_of_a_time_without_a_leader_are_made_up_for_as_asked(catch_up: Any, expected: list[int]) -> None:
    assert due(minutely(catch_up=catch_up), after=9, missed=(7, 2)) == expected


def test_the_last_missed_tick_is_made_up_for_unless_another_is_due_anyway() -> None:
    assert due(minutely(catch_up="last"), after=9, missed=(20, 0)) == [0]
    assert due(minutely(catch_up="last"), after=9, missed=(20, 1)) == [0]
    assert due(minutely(catch_up="none"), after=9, missed=(20, 0)) == []


def test_making_up_is_bounded() -> None:
    assert due(minutely(catch_up="all"), after=10_000, missed=(20_000, 0)) == list(range(MOST_CAUGHT_UP))[::-1]


def test_years_of_missed_ticks_cost_nothing_where_they_are_not_made_up_for() -> None:
    entry = CronEntry("* * * * * *", "jobs.Report")
    missed = Span(datetime.min.replace(tzinfo=UTC), NOW - timedelta(seconds=2))
    assert len(entry.due(after=NOW - timedelta(days=4000), now=NOW, missed=missed).ticks) == 2


def test_without_overlap_only_the_newest_tick_is_due() -> None:
    assert due(minutely(overlap=False), after=5) == [0]


def test_the_name_is_the_same_wherever_it_is_derived_and_tells_entries_apart() -> None:
    names = [
        minutely().name,
        minutely(timezone="Asia/Tokyo").name,
        minutely(args={"a": 1}).name,
        CronEntry("* * * * *", "jobs.Other").name,
        CronEntry("*/2 * * * *", "jobs.Report").name,
        minutely(name="mine").name,
    ]
    assert names[0] == "e6c8abc4"
    assert len(set(names)) == 6
    assert minutely(priority=3, meta={"b": 2}, catch_up="all").name == names[0]
    assert CronEntry(" *  * * * *", "jobs.Report").name == names[0]


def test_meta_of_worker_and_entry_is_kept_but_the_ticks_own_keys_are_not_theirs() -> None:
    entry = minutely(name="it", meta={"b": 2, "cron": False}, timezone="Asia/Tokyo")
    assert entry.meta_at(NOW, {"a": 1, "b": 1}) == {
        "a": 1,
        "b": 2,
        "cron": True,
        "cron_at": "2026-01-01T12:00:30+00:00",
        "cron_expr": "* * * * *",
        "cron_name": "it",
        "cron_tz": "Asia/Tokyo",
    }


def test_entries_are_written_in_several_ways() -> None:
    found = entries(
        [
            CronEntry("@daily", "jobs.A"),
            {"expression": "@daily", "worker": "jobs.B", "timezone": "Asia/Tokyo"},
            {"expr": "@daily", "worker": "jobs.C", "tz": "Asia/Tokyo"},
            ("@daily", "jobs.D"),
            ("@daily", "jobs.E", {"args": {"a": 1}, "overlap": False}),
        ]
    )
    assert [entry.worker for entry in found] == ["jobs.A", "jobs.B", "jobs.C", "jobs.D", "jobs.E"]
    assert [entry.timezone for entry in found][:3] == ["Etc/UTC", "Asia/Tokyo", "Asia/Tokyo"]
    assert found[4].args == {"a": 1}
    assert not found[4].overlap


def test_which_days_an_entry_means_is_written_as_its_other_options_are() -> None:
    tuesday = datetime(2026, 1, 6, tzinfo=UTC)
    table = {"expression": "0 9 1-7 * MON", "worker": "Report", "days": "both"}
    found = entries(
        [CronEntry("0 9 1-7 * MON", "Report", days="either"), table, ("0 9 1-7 * MON", "Report", {"days": "both"})]
    )
    ticks = [each.schedule.next_after(tuesday) for each in found]
    assert [tick and (tick.month, tick.day) for tick in ticks] == [(1, 6), (2, 2), (2, 2)]
    assert found[0].name != found[1].name == found[2].name
    assert workerless({"expression": "0 9 1-7 * MON", "days": "both"})[0].days == "both"
    with pytest.raises(InvalidCron, match="both restricted"):
        entries(("0 9 1-7 * MON", "Report"))
    with pytest.raises(InvalidCron, match='days is "either" or "both"'):
        CronEntry("0 9 * * *", "Report", days="all")  # type: ignore[arg-type]


def test_workers_write_entries_without_a_worker() -> None:
    assert [entry.expression for entry in workerless("@daily")] == ["@daily"]
    found = workerless(["@daily", {"expr": "@hourly"}, CronEntry("@weekly", priority=2)])
    assert [entry.expression for entry in found] == ["@daily", "@hourly", "@weekly"]
    assert workerless(None) == ()
    named = found[2].of("jobs.Report")
    assert (named.worker, named.priority, len(named.name)) == ("jobs.Report", 2, 8)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([CronEntry("@daily")], "has no worker; write CronEntry('@daily', MyWorker)"),
        ("@daily", "has no worker"),
        ({"worker": "jobs.A"}, "needs an expression"),
        ({"expression": "@daily", "worker": "jobs.A", "tiemzone": "UTC"}, "did you mean 'timezone'?"),
        (("@daily",), "is no entry of a crontab"),
        (("@daily", "jobs.A", "args"), "is no entry of a crontab"),
        (7, "is no entry of a crontab"),
        (("61 * * * *", "jobs.A"), "minute '61' is out of range"),
        (("@daily", "jobs.A", {"catch_up": "lst"}), "did you mean 'last'?"),
        (("@daily", "jobs.A", {"catch_up": "often"}), "write one of none, last, all"),
        (("@daily", "jobs.A", {"overlap": "no"}), "overlap is True or False"),
        (("@daily", "jobs.A", {"args": [1]}), "args is a dict"),
        (("@daily", "jobs.A", {"args": {"a": {1}}}), "args.a"),
        (("@daily", "jobs.A", {"args": {"a": ref(object())}}), "can't hold ref"),
        (("@daily", "jobs.A", {"name": "x" * 128}), "name is a text of at most 127"),
        (("@daily", " "), "blank worker"),
    ],
)
def test_a_mistake_in_an_entry_is_named(given: Any, words: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        entries(given)
    assert words in str(refused.value)


def test_an_entry_on_a_worker_names_no_other() -> None:
    with pytest.raises(InvalidOption, match="leave its worker out"):
        workerless(CronEntry("@daily", "jobs.Other"))
    with pytest.raises(InvalidCron, match="out of range"):
        workerless(["@daily", "0 25 * * *"])

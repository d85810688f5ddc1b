"""`python -m oban_sa bench` leaves nothing behind."""

from __future__ import annotations

import pytest

from oban_sa.cli import bench
from tests.cli.conftest import People


def schemas(people: People) -> list[str]:
    return [row[0] for row in people.sql("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'oban%'")]


def test_it_measures_in_a_schema_of_its_own_and_drops_it(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ONE_BY_ONE", 5)
    monkeypatch.setattr(bench, "ROUND_TRIPS", 5)
    found = people.json("bench", "--jobs", "100", "--limit", "5")
    assert found.keys() == {
        "server",
        "python",
        "jobs",
        "limit",
        "round_trip_ms",
        "commit_ms",
        "rates",
        "floor",
        "commit_to_start_ms",
    }
    assert found["rates"].keys() == {"insert_by_copy", "drain", "insert_in_sessions", "insert_one_by_one"}
    assert found["floor"].keys() == found["rates"].keys()
    assert all(rate > 0 for rate in (*found["rates"].values(), *found["floor"].values()))
    assert schemas(people) == []
    assert people.states() == {}


def test_the_schema_is_dropped_when_measuring_fails(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def broken(self: object, jobs: int) -> None:
        seen.extend(schemas(people))
        raise RuntimeError("no")

    monkeypatch.setattr(bench._Bench, "drain", broken)
    assert people.run("bench", "--jobs", "100").exit_code == 1
    assert len(seen) == 1
    assert schemas(people) == []


def test_a_drain_that_completed_nothing_gives_no_figure(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    async def idle(self: object, limit: int) -> int:
        return 0

    monkeypatch.setattr(bench.Floor, "drain", idle)
    refused = people.run("bench", "--jobs", "100")
    assert refused.exit_code == 1
    assert "0 of 100 jobs were completed by their first attempt" in refused.stderr
    assert schemas(people) == []


def test_it_says_what_bounds_the_figures(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ONE_BY_ONE", 5)
    monkeypatch.setattr(bench, "ROUND_TRIPS", 5)
    shown = people.run("bench", "--jobs", "100", "--limit", "5")
    assert "FLOOR" in shown.stdout
    assert "A round trip to the database takes" in shown.stdout
    assert "draining jobs ..." in shown.stderr

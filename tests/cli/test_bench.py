"""`python -m oban_sa bench` measures in a schema of its own and leaves nothing behind."""

from __future__ import annotations

import pytest

from oban_sa.cli import _measure
from tests.cli.conftest import Shell


def schemas(shell: Shell) -> list[str]:
    return [row[0] for row in shell.sql("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'oban%'")]


def test_it_measures_in_a_schema_of_its_own_and_drops_it(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "TIMES", 5)
    found = shell.json("bench", "--jobs", "100", "--limit", "5")
    assert found.keys() == {
        "server",
        "python",
        "jobs",
        "limit",
        "round_trip_ms",
        "commit_ms",
        "rates",
        "cpu",
        "commit_to_start_ms",
    }
    assert found["rates"].keys() == {"insert_by_copy", "drain", "insert_in_sessions"}
    assert found["cpu"].keys() == found["rates"].keys()
    assert all(rate > 0 for rate in found["rates"].values())
    assert all(0 < share <= 1 for share in found["cpu"].values())
    assert schemas(shell) == []
    assert shell.states() == {}


def test_the_schema_is_dropped_when_measuring_fails(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def broken(self: object, jobs: int) -> None:
        seen.extend(schemas(shell))
        raise RuntimeError("no")

    monkeypatch.setattr(_measure.Bench, "drain", broken)
    assert shell.run("bench", "--jobs", "100").exit_code == 1
    assert len(seen) == 1
    assert schemas(shell) == []


def test_a_drain_that_completed_nothing_gives_no_figure(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    class Idle(_measure.Runner):
        async def run(self, *, until_idle: bool = False) -> None:
            """Do nothing."""

    monkeypatch.setattr(_measure, "Runner", Idle)
    refused = shell.run("bench", "--jobs", "100")
    assert refused.exit_code == 1
    assert "0 of 100 jobs were completed by their first attempt" in refused.stderr
    assert schemas(shell) == []


def test_it_says_what_bounds_the_figures(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "TIMES", 5)
    shown = shell.run("bench", "--jobs", "100", "--limit", "5")
    assert "A round trip to the database takes" in shown.stdout
    assert "this process kept a CPU busy" in shown.stdout
    assert "Python is the bound" in shown.stdout or "the bound is the database" in shown.stdout
    assert "draining jobs ..." in shown.stderr

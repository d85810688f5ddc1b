"""The benchmarks run, and refuse figures of work that was not done. How fast anything is, no test says."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import asyncpg
import pytest

from benchmarks import environments, filling, gauges, page, results
from benchmarks.contest import Arena, Refused, Taken
from benchmarks.full import measure as full
from benchmarks.full import table as full_table
from benchmarks.page import tables
from benchmarks.scenario import Scenario
from benchmarks.scenarios import BY_NAME, SCENARIOS
from benchmarks.turn import Turn
from oban_sa import Oban
from tests.databases import Server
from tests.support import plain_url, run_python

PYTHONS = {
    name: (sys.executable, module) for name, module in (("floor", "benchmarks.bare"), ("oban_sa", "benchmarks.ours"))
}
TINY = {
    "drain": {"jobs": 60, "concurrency": 20},
    "latency": {"jobs": 3},
    "loaded": {"jobs": 40, "rate": 400, "concurrency": 20},
    "schedule": {"jobs": 20, "over": 0.2},
    "startup": {"jobs": 1},
    "rest": {"nodes": 2, "over": 0.2},
    "crowd": {"nodes": 2, "jobs": 3, "warm": 2, "every": 0.02},
    "alone": {"jobs": 20},
    "unblocked": {"jobs": 3, "blocking": 2},
    "bare": {"jobs": 30, "concurrency": 4},
    "silent": {"over": 0.1, "writers": 3},
    "bare_silent": {"over": 0.1, "writers": 3},
    "by_hand": {"jobs": 12},
    "steps": {"jobs": 6, "steps": 3},
    "signals": {"jobs": 5},
}


@pytest.fixture
async def arena(server: Server) -> AsyncIterator[Arena]:
    async with Arena(plain_url(server.url), PYTHONS) as made:
        yield made


def tiny(name: str) -> Scenario:
    """A scenario with next to no work."""
    scenario = BY_NAME[name]
    finished = min(scenario.finished, 30)
    return replace(scenario, options={**scenario.options, **TINY.get(scenario.kind, {"jobs": 40})}, finished=finished)


def turns() -> list[tuple[str, str]]:
    """A scenario and a contender for every kind of turn there is."""
    found: dict[tuple[object, ...], tuple[str, str]] = {}
    for scenario in SCENARIOS:
        for contender in sorted(set(scenario.contenders) & set(PYTHONS)):
            asked = scenario.asked(contender, quick=True)
            shape = contender, asked["kind"], scenario.held, "processes" in asked
            found.setdefault(shape, (scenario.name, contender))
    return list(found.values())


@pytest.mark.parametrize(("name", "contender"), turns())
async def test_every_kind_of_turn_is_taken_and_measured(arena: Arena, name: str, contender: str) -> None:
    scenario = tiny(name)
    if name == "enqueue_session" and "session" not in inspect.signature(Oban.enqueue_many).parameters:
        with pytest.raises(Refused, match="takes no session"):
            await arena.turn(scenario, contender, quick=False)
        return
    answer, versions = await arena.turn(scenario, contender, quick=False)
    taken = Taken()
    taken.add(answer, scenario)
    found = taken.document()
    # Statements are counted where the server can.
    figure = (
        results.median(found, "connections") if scenario.measures == "rest" else results.main_figure(scenario, found)
    )
    assert figure is not None
    assert figure > 0
    assert "Python" in versions


async def test_a_turn_that_fails_is_refused_with_what_it_said(arena: Arena) -> None:
    scenario = replace(tiny("drain_50"), kinds={"floor": "nonsense"})
    with pytest.raises(Refused, match="there is no 'nonsense' here"):
        await arena.turn(scenario, "floor", quick=False)


@pytest.mark.parametrize("executed", [[], [1], [1, 1], [1, 2, 2]])
def test_jobs_that_did_not_run_once_each_are_refused(executed: list[int]) -> None:
    turn = Turn({"url": "", "jobs": 2})
    with pytest.raises(SystemExit, match="nothing is counted"):
        turn.once(executed)


async def test_jobs_that_are_not_completed_are_refused(database_url: str) -> None:
    turn = Turn({"url": plain_url(database_url), "jobs": 1})
    await filling.fill(turn)
    with pytest.raises(SystemExit, match="available"):
        await filling.check(turn)
    connection = await asyncpg.connect(turn.url)
    await connection.execute("UPDATE oban_jobs SET state = 'completed', attempt = 2")
    with pytest.raises(SystemExit, match="completed"):
        await filling.check(turn)
    await connection.execute("UPDATE oban_jobs SET attempt = 1")
    await filling.check(turn)
    await connection.close()


async def test_the_databases_of_a_run_are_dropped(server: Server, arena: Arena) -> None:
    await arena.turn(tiny("enqueue_one"), "floor", quick=False)
    query = "SELECT count(*) FROM pg_database WHERE datname LIKE $1"
    pattern = f"{arena._prefix}%"
    assert await arena.admin.fetchval(query, pattern) == 2  # the template, and where statements are counted
    await arena.__aexit__()
    connection = await asyncpg.connect(plain_url(server.url))
    assert await connection.fetchval(query, pattern) == 0
    await connection.close()
    await arena.__aenter__()


def test_a_run_writes_results_and_the_page_is_made_of_them(server: Server, tmp_path: Path) -> None:
    kept = tmp_path / "results.json"
    common = ("--quick", "--rounds", "2", "--without-peers", "--results", str(kept), "--database-url")
    ran = run_python("-m", "benchmarks", "--only", "drain_50,enqueue_one", *common, plain_url(server.url), timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert "left" in ran.stderr
    document = results.load(kept)
    assert document["scenarios"].keys() == {"drain_50", "enqueue_one"}
    figures = document["scenarios"]["drain_50"]["figures"]
    assert len(figures["oban_sa"]["values"]["rate"]) == 2
    assert results.to_floor(BY_NAME["drain_50"], figures, "oban_sa") is not None
    assert document["left_out"].keys() == {"oban", "pgqueuer", "procrastinate", "chancy", "dbos"}
    (tmp_path / "docs" / "performance").mkdir(parents=True)
    (tmp_path / "docs" / "performance" / "steps.md").write_text("## What was made faster\n\nBy hand.\n")
    made = page.make(document, tmp_path)
    assert "## What was made faster\n\nBy hand." in made
    assert "quick run" in made
    assert "oban is left out: not asked for" in made
    assert (tmp_path / "docs" / "performance.md").read_text() == made
    drawn = (tmp_path / "docs" / "plots" / "drain.svg").read_text()
    assert ET.fromstring(drawn).tag.endswith("svg")
    again = run_python(
        "-m", "benchmarks", "--resume", "--only", "drain_50", *common, plain_url(server.url), timeout=300
    )
    assert again.returncode == 0, again.stderr
    assert "round 1" not in again.stderr
    assert results.load(kept)["scenarios"] == document["scenarios"]


def test_each_scenario_is_in_one_section_of_the_page() -> None:
    assert sorted(name for section in page.SECTIONS for name in section.names) == sorted(BY_NAME)


def test_many_nodes_are_compared_with_one() -> None:
    def measured(p50: float, statements: float) -> dict[str, Any]:
        return {"oban_sa": {"latency": {"p50": p50, "p99": 2 * p50}, "values": {"statements": [statements]}}}

    known = {"crowd_1": measured(2.0, 8.0), "crowd_20": measured(3.0, 24.0)}
    text = tables.crowd([(BY_NAME[name], figures) for name, figures in known.items()], known)
    assert "| Twenty nodes, a job each 50 ms | oban_sa | 3.00 | 6.00 | 24.0 |  |  |  |  |" in text
    assert "| oban_sa | 1.50 | 1.50 | 3.00 |  |  |  |  |" in text


def test_scenarios_are_chosen_by_names_and_patterns() -> None:
    def chosen(*words: str) -> list[str]:
        return [line.split()[0] for line in run_python("-m", "benchmarks", "--list", *words).stdout.splitlines()]

    assert chosen() == list(BY_NAME)
    assert chosen("--only", "crowd*,enqueue_one") == ["enqueue_one", "crowd_1", "crowd_20"]
    assert chosen("--only", "finished*") == ["finished_1m"]
    assert chosen("--only", "finished_10m") == ["finished_10m"]


def test_cpu_is_counted_of_processes_that_live_and_of_those_that_ended() -> None:
    before = gauges.Run({1: (5.0, 5.0), 2: (3.9, 3.0), 3: (1.0, 1.0)}, ended=10.0)
    after = gauges.Run({1: (5.5, 5.5), 3: (1.0, 1.0), 4: (0.25, 0.2)}, ended=13.5)
    assert after.since(before) == pytest.approx(0.5 + 0.25 + 0.5)  # the second ended after another half
    assert gauges.Run({1: (5.5, 5.5)}).since(before) == pytest.approx(0.5)  # never less than what those ran that live


def test_ratios_are_to_the_floor_and_to_the_best_of_the_others() -> None:
    rates = {"floor": [100.0], "oban_sa": [70.0, 80.0, 90.0], "oban": [10.0], "pgqueuer": [40.0]}
    figures: dict[str, Any] = {name: {"values": {"rate": values}} for name, values in rates.items()}
    figures["chancy"] = {"values": {}, "refused": ["it lost a job"]}
    drain = BY_NAME["drain_50"]
    assert results.to_floor(drain, figures, "oban_sa") == pytest.approx(0.8)
    assert results.to_best_peer(drain, figures, "oban_sa") == ("pgqueuer", pytest.approx(2.0))
    waits = {"floor": 1.0, "oban_sa": 1.5, "oban": 3.0, "pgqueuer": 6.0}
    figures = {name: {"latency": {"p50": wait}} for name, wait in waits.items()}
    assert results.to_best_peer(BY_NAME["latency_idle"], figures, "oban_sa") == ("oban", pytest.approx(0.5))


def test_who_has_no_python_that_is_new_enough_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    stranger = environments.Contender("stranger", "nowhere", ("nothing",), (9, 0))
    with pytest.raises(environments.LeftOut, match=r"it needs Python 9\.0 or newer"):
        environments.python_of(stranger)


def test_unknown_scenarios_are_refused_and_named() -> None:
    ran = run_python("-m", "benchmarks", "--only", "drain_51")
    assert ran.returncode == 2
    assert "there is no scenario drain_51; there are drain_10" in ran.stderr


async def test_a_full_table_is_looked_at_and_kept_for_the_next_time(server: Server) -> None:
    url = plain_url(server.url)
    async with full_table.full(url, 300, keep=True) as ground:
        looked = await full._looked(ground, "jobs list --state discarded")
        assert looked.buffers > 0
        assert (await full._sizes(ground)).keys() > {"the database", "oban_jobs", "oban_jobs_staging_index"}
        await full._asked(ground, "UPDATE oban_jobs SET worker = 'seen' WHERE id = 1")
    async with full_table.full(url, 300, keep=False) as ground:
        assert await full._asked(ground, "SELECT worker FROM oban_jobs WHERE id = 1") == "seen"
        assert await full._asked(ground, "SELECT count(*) FROM oban_jobs WHERE state = 'completed'") == 294

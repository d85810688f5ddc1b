"""What the commands for people read, beside a million rows of jobs that are over. Counts, never times.

Each command is really run. Before one of its statements runs on the command's connection, it is explained there, and
what that did is undone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from benchmarks.full.explain import buffers, explaining
from oban_sa.cli import group
from oban_sa.client.search import LATEST, NEWEST
from tests.performance.conftest import ROWS
from tests.performance.test_million import Plan, walk
from tests.support import plain_url

BY_INDEX = 1_500
"""Buffers that a statement reads that an index leads to what it shows."""
BY_ID = NEWEST // 15
"""The same for one that looks at the newest jobs, of which a page holds some thirty."""
BY_PLACE = 6 * LATEST
"""The same for one that looks at jobs of a state or a queue, each of which is found by its key."""
COUNTING = 30_000
"""The same for one that counts up to ten thousand entries of an index for each state and queue."""


@dataclass
class Watched:
    """Runs commands, and keeps what each of their statements about our tables took."""

    url: str
    plans: list[tuple[str, Plan]] = field(default_factory=list)

    def run(self, *words: str, about: str | None = "oban_jobs") -> str:
        """Run a command that has statements about a table, or none about our tables at all."""
        with explaining(self._keep):
            answer = CliRunner().invoke(group, words, env={"OBAN_DATABASE_URL": plain_url(self.url)})
        assert answer.exit_code == 0, (answer.output, answer.exception)
        read = [statement for statement, _ in self.plans]
        assert read == [] if about is None else any(about in statement for statement in read), read
        return answer.stdout

    def _keep(self, statement: str, top: dict[str, Any]) -> None:
        plan = Plan(buffers(top), None)
        walk(top, plan)
        self.plans.append((statement, plan))

    def assert_bounded(self, buffers: int) -> None:
        for statement, plan in self.plans:
            assert plan.buffers <= buffers, (plan.buffers, plan.indexes, plan.scanned, statement[:4000])
            # A million rows have 14,000 pages at least; what reads them all can't hide below a bound.
            assert plan.scanned == [] or ROWS < NEWEST, statement


@pytest.fixture
def watched(table: str) -> Watched:
    return Watched(table)


@pytest.mark.parametrize(
    "words",
    [
        "list",
        "list --oldest",
        "list --state discarded",
        "list --state discarded --queue hooks",
        "list --state discarded --queue queue1 --limit 100",
        "list --queue nosuch",
        "list --queue queue1",
        "list --state completed --oldest",
        "list --since 2h --until 1h",
        "list state:discarded queue:hooks",
        "list queue:nosuch priority:3",
        "list id:1,7,12 worker:Nope",
        "list --queue queue1 --until 2020-01-01",
        "show 7",
        "retry 7",
        "cancel 7",
        "update 7 --priority 3",
        "enqueue Nope",
        "delete --state discarded --queue nosuch",
        "cancel --queue nosuch",
        "retry --state cancelled --yes",
        "delete --queue queue1 --until 2020-01-01 --yes",
    ],
)
def test_what_an_index_leads_to_is_found_by_it(watched: Watched, words: str) -> None:
    watched.run("jobs", *words.split())
    # What is changed is counted first, up to ten thousand entries of the index.
    watched.assert_bounded(BY_INDEX if words.split()[0] in ("list", "show") else 2 * BY_INDEX)


@pytest.mark.parametrize("words", ["list --state discarded --queue hooks", "list state:discarded queue:hooks"])
def test_a_state_and_a_queue_that_have_no_job_are_seen_to_have_none_at_a_glance(database_url: str, words: str) -> None:
    # Many places: the hint that names a queue like it must not go through all of them.
    with psycopg.connect(plain_url(database_url), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO oban_jobs (worker, queue, priority, state) "
            "SELECT 'w', 'hook' || queue, priority, state FROM generate_series(1, 8) queue, "
            "generate_series(0, 9) priority, unnest(enum_range(NULL::oban_job_state)) state"
        )
        connection.execute("ANALYZE oban_jobs")
    watched = Watched(database_url)
    answer = watched.run("jobs", *words.split())
    assert "There are no such jobs." in answer
    assert sum(plan.buffers for _, plan in watched.plans) < 100, [plan.buffers for _, plan in watched.plans]


@pytest.mark.parametrize(
    "words",
    [
        "list --worker Nope",
        "list --args id=7",
        'list --meta {"a":1}',
        "list --tag nope",
        "delete --worker Nope --yes",
        "retry --tag nope --yes",
    ],
)
def test_what_no_index_serves_is_looked_for_among_the_newest(watched: Watched, words: str) -> None:
    watched.run("jobs", *words.split())
    watched.assert_bounded(BY_ID)


@pytest.mark.parametrize(
    "words",
    [
        "list --state completed --worker Nope",
        "list --queue queue1 --args id=7",
        "list --since 30d --tag nope",
        "cancel --worker Nope --yes",
        "cancel --queue queue1 --worker Nope --yes",
    ],
)
def test_jobs_of_a_state_or_queue_are_looked_at_up_to_a_bound(watched: Watched, words: str) -> None:
    watched.run("jobs", *words.split())
    watched.assert_bounded(BY_PLACE)


@pytest.mark.parametrize("words", ["status", "queues list"])
def test_the_cluster_is_counted_up_to_a_bound(watched: Watched, words: str) -> None:
    watched.run(*words.split())
    watched.assert_bounded(COUNTING)


def test_looking_further_costs_what_was_asked_for(watched: Watched) -> None:
    watched.run("jobs", "list", "--worker", "Nope", "--window", "1000")
    watched.assert_bounded(BY_INDEX)


def test_the_crontab_is_listed_without_reading_jobs(watched: Watched) -> None:
    watched.run("cron", "list", about="oban_sa_crons")
    watched.assert_bounded(BY_INDEX)
    assert [statement for statement, _ in watched.plans if "oban_jobs" in statement] == []


@pytest.mark.parametrize("words", ["migrate", "grants --role runner --to app"])
def test_tables_that_are_up_to_date_and_rights_are_told_without_reading_a_row(watched: Watched, words: str) -> None:
    watched.run(*words.split(), about=None)

"""What is read to tell what a job waits for does not grow with what waits beside it. Counts, never times."""

from __future__ import annotations

import psycopg
import pytest

from tests.performance.skew import LEDGER, QUEUE, REPORTS
from tests.performance.test_commands import Watched
from tests.support import plain_url

AT_MOST = 250
"""Buffers of one statement: what executes, with pages of what others of these tests have rolled back, and some entries
of an index. A statement that looks at all that wait reads thousands, also where the table is small."""


CLEAN = "SELECT count(attempted_by) FROM oban_jobs WHERE state = 'executing'"
"""Has the index marked entries of what was rolled back, which the next statement then passes over."""


@pytest.fixture(params=["never analyzed", "analyzed"])
def watched(request: pytest.FixtureRequest, skewed: str) -> Watched:
    with psycopg.connect(plain_url(skewed), autocommit=True) as connection:
        if request.param == "analyzed":
            connection.execute("ANALYZE oban_jobs")
        connection.execute("SET enable_seqscan = off")
        connection.execute(CLEAN)
    return Watched(skewed)


@pytest.mark.parametrize(
    ("queue", "which", "said"),
    [
        (QUEUE, "meta->>'partition' = 'acme' ORDER BY id DESC", "5 of 5 execute"),
        (QUEUE, "meta->>'partition' <> 'acme' ORDER BY id DESC", None),
        (LEDGER, "state = 'available' ORDER BY id DESC", "was discarded, which halted its sequence, 17"),
        (LEDGER, "state = 'available' ORDER BY id", "was discarded, which halted its sequence, 17"),
        (REPORTS, "true", " others, in its workflow"),
    ],
)
def test_what_a_job_waits_for_is_told_from_few_entries(
    watched: Watched, queue: str, which: str, said: str | None
) -> None:
    with psycopg.connect(plain_url(watched.url)) as connection:
        row = connection.execute(f"SELECT id FROM oban_jobs WHERE queue = '{queue}' AND {which} LIMIT 1").fetchone()
        assert row is not None
    shown = watched.run("jobs", "show", str(row[0]))
    assert said in shown if said is not None else "waits for" not in shown
    # Of a workflow a thousand members are looked at.
    watched.assert_bounded(6_000 if queue == REPORTS else AT_MOST)


@pytest.mark.parametrize("words", ["status", "queues list", "sequences list"])
def test_what_is_used_of_limits_is_told_from_few_entries(watched: Watched, words: str) -> None:
    shown = watched.run(*words.split())
    assert "17" in shown
    about_limits = [
        (statement, plan)
        for statement, plan in watched.plans
        # What counts all jobs has a bound of its own, and so does what waits behind a halted sequence.
        if "counted" not in statement and "behind" not in statement
    ]
    watched.plans[:] = about_limits
    watched.assert_bounded(AT_MOST)


def test_a_full_partition_with_very_many_jobs_is_counted_up_to_a_bound(watched: Watched) -> None:
    assert "acme (at least 1,000 wait)" in watched.run("queues", "list")
    [(statement, plan)] = [each for each in watched.plans if "levels" in each[0]]
    assert plan.buffers <= 2_000, statement
    assert plan.scanned == []


def test_halted_sequences_are_found_among_any_number_of_jobs(watched: Watched) -> None:
    watched.run("queues", "list")
    [(statement, plan)] = [each for each in watched.plans if "behind" in each[0]]
    assert "oban_jobs_halting_index" in plan.indexes
    assert plan.buffers <= 2_000, statement
    assert plan.scanned == []

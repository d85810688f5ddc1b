"""What a node with nothing to do sends, counted by `tests.performance.sent`."""

from __future__ import annotations

import pytest

from tests.performance.sent import at_rest


async def test_all_that_a_node_at_rest_does_is_counted(database_url: str) -> None:
    counted = await at_rest(database_url, seconds=2, poll_every=0.2, stage_every=0.2, heartbeat_every=0.5)
    print(counted)
    assert counted.about("oban_jobs", "SKIP LOCKED") >= 5, "looks for jobs"
    assert counted.about("UPDATE", "oban_producers") >= 2, "signs of life"
    assert counted.about("oban_leaders") >= 1, "who leads"
    assert abs(counted.about("COMMIT") - counted.about("BEGIN")) <= 1, "one may be under way at either end"
    assert counted.each_second == len(counted.statements) / 2


@pytest.mark.parametrize("queues", [1, 10])
async def test_a_node_at_rest_sends_few_statements_however_many_queues_it_has(database_url: str, queues: int) -> None:
    counted = await at_rest(database_url, queues=queues, seconds=4, settle=3)
    assert counted.each_second <= 9, counted
    # The looks for jobs of all queues at once and for due jobs; with one for each queue it would be ten times as many.
    assert 2 <= counted.about("unnest", "pg_relation_size") <= 5, counted
    assert counted.about("picked", "executing") == counted.about("DISCARD PLANS") == 0, counted

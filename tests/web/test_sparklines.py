"""The small bars of a queue: what ended in the last minutes, from what runners have counted."""

from __future__ import annotations

import re

import pytest

from oban_sa import Job
from oban_sa.web import Access
from oban_sa.web.sparklines import Sparkline
from tests.web.conftest import Web

ROW = """
INSERT INTO oban_sa_metrics (step, queue, worker, at, node, outcomes)
VALUES (:step, :queue, :worker, date_trunc('minute', timezone('UTC', clock_timestamp())) - :ago * interval '1 minute',
    :node, CAST(:outcomes AS jsonb))
"""


async def counted(web: Web, outcomes: str, *, ago: int = 1, queue: str = "mailers", **given: object) -> None:
    row = {"step": 60, "worker": "*", "node": "web.1", "queue": queue, "ago": ago, "outcomes": outcomes, **given}
    await web.sql(ROW, **row)


async def test_a_queue_shows_what_ended_of_late_on_all_nodes(web: Web) -> None:
    await web.add(Job("shop.Mail", queue="mailers"), Job("shop.Mail", queue="quiet"))
    await counted(web, '{"completed": 5, "retryable": 1}')
    await counted(web, '{"completed": 2, "discarded": 1, "snoozed": 1}', node="web.2")
    await counted(web, '{"completed": 4}', ago=20)
    # Neither old minutes, nor those of one worker, nor hours.
    await counted(web, '{"completed": 100}', ago=45)
    await counted(web, '{"completed": 100}', worker="shop.Mail")
    await counted(web, '{"completed": 100}', step=3600)
    page = await web.get("/queues")
    assert page.count('class="spark"') == 1
    assert 'aria-label="14 attempts ended in the last 30 minutes, 2 failed"' in page
    [drawing] = re.findall(r'<svg class="spark".*?</svg>', page, re.DOTALL)
    # Two minutes with bars, of which one has failures.
    assert (drawing.count("<rect "), drawing.count('class="failed"')) == (3, 1)


async def test_what_other_programs_wrote_there_is_no_count(web: Web) -> None:
    await web.add(Job("shop.Mail", queue="mailers"))
    await counted(web, "[1]", ago=1)
    await counted(web, '{"completed": "many", "discarded": -4, "retryable": true, "cancelled": 1.5}', ago=2)
    await counted(web, '{"completed": 1}', ago=-5)
    await counted(web, '{"completed": 1}', ago=3)
    assert "1 attempt ended in the last 30 minutes, 0 failed" in await web.get("/queues")


async def test_a_queue_that_is_not_shown_is_not_counted(web: Web) -> None:
    await web.add(Job("shop.Mail", queue="mailers"), Job("shop.Mail", queue="hidden"))
    await counted(web, '{"completed": 7}', queue="hidden")
    web.access = Access.read_only(queues={"mailers"})
    assert 'class="spark"' not in await web.get("/queues")


@pytest.mark.parametrize(("ended", "failed"), [(1, 0), (1, 1), (10_000, 1)])
def test_nothing_that_happened_is_too_low_to_be_seen(ended: int, failed: int) -> None:
    spark = Sparkline()
    spark.add(0, {"completed": ended - failed, "discarded": failed})
    spark.add(5, {"completed": 1_000_000})
    heights = [float(height) for height in re.findall(r'height="([\d.]+)"/>', spark.svg())]
    assert len(heights) == 2 if failed in (0, ended) else 3
    assert min(heights) >= (1.0 if failed in (0, ended) else 0.0)


async def test_the_statement_reads_by_the_primary_key(web: Web) -> None:
    from oban_sa.sql.sparklines import ended

    await web.sql(
        "INSERT INTO oban_sa_metrics (step, queue, worker, at, node) SELECT 60, 'q' || q, w, timezone('UTC', now()) "
        "- m * interval '1 minute', 'n' FROM generate_series(1, 20) q, unnest(ARRAY['*', 'a', 'b']) w, "
        "generate_series(0, 600) m"
    )
    await web.sql("ANALYZE oban_sa_metrics")
    from sqlalchemy.dialects import postgresql

    text = str(ended().compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": False}))
    text = text.replace("%(queues)s", "ARRAY['q1', 'q2']").replace("%(param_1)s", "1000").replace("public.", "")
    plan = "\n".join(row[0] for row in await web.sql(f"EXPLAIN (COSTS OFF) {text}"))
    assert "oban_sa_metrics_pkey" in plan, plan
    assert "Seq Scan on oban_sa_metrics" not in plan

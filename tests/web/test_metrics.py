"""The page of what was done: sums by time and worker, percentiles, spans, filters, rights; charts in a browser."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from oban_sa import Job, Runner
from oban_sa.client import metrics as client
from oban_sa.web import Access
from oban_sa.wire.sketches import bin_of
from oban_sa.workers import Registry
from oban_sa.workers.function import job
from tests import strangers
from tests.support import plain_url
from tests.web.conftest import Opened, Web

STEPS = {"1h": 60, "24h": 3_600, "7d": 3_600, "30d": 86_400}
SLOW = bin_of(2.0)


async def keep(web: Web, worker: str, *, queue: str = "default", node: str = "web.1", **more: Any) -> None:
    """Rows of a worker and of its queue in all steps, `ago` seconds back: `ended` attempts that took two seconds."""
    values: dict[str, Any] = {"ended": 1, "ago": 0, "failures": "{}", "backlog": None, **more}
    for each in (worker, "*"):
        await web.sql(
            "INSERT INTO oban_sa_metrics AS m (step, queue, worker, at, node, outcomes, failures, run, wait, backlog, "
            "oldest) SELECT step, :queue, :worker, date_bin(step * interval '1 second', timezone('UTC', now()) - "
            ":ago * interval '1 second', '2000-01-01'), :node, jsonb_build_object('completed', CAST(:ended AS int)), "
            "CAST(:failures AS jsonb), jsonb_build_object(CAST(:bin AS text), CAST(:ended AS int)), "
            "jsonb_build_object(CAST(:bin AS text), CAST(:ended AS int)), CAST(:backlog AS int), "
            "CAST(:backlog AS int) * 10.0 FROM unnest(ARRAY[60, 3600, 86400]) step ON CONFLICT DO NOTHING",
            queue=queue, worker=each, node=node, bin=str(SLOW), **values,
        )  # fmt: skip


def lines(text: str) -> list[list[str]]:
    """The cells of the table of workers."""
    part = text.split("<h2>By worker</h2>")[1].split("<h2>By time</h2>")[0]
    rows = re.findall(r'<tr data-row id="worker-.*?</tr>', part, re.DOTALL)
    return [
        [" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in re.findall(r"<td.*?</td>", row)] for row in rows
    ]


async def test_where_nothing_was_done_the_page_says_what_writes_it(web: Web) -> None:
    text = await web.get("/metrics")
    assert "Nothing was done in this time." in text
    assert "metrics_every" in text


async def test_what_a_runner_did_is_shown_with_percentiles_and_classes_of_errors(web: Web) -> None:
    registry = Registry()

    @job(registry=registry, name="shop.Charge", max_attempts=1)
    async def charge(n: int) -> None:
        if n % 4 == 0:
            raise (TimeoutError if n else KeyError)("no")

    await web.add(*(Job("shop.Charge", args={"n": n}, max_attempts=1) for n in range(8)))
    await Runner(web.engine, queues={"default": 5}, registry=registry).run(until_idle=True)
    for span in STEPS:
        text = await web.get("/metrics", span=span)
        [line] = lines(text)
        assert line[:5] == ["shop.Charge", "default", "8", "2", "25.0 %"], span
        assert "TimeoutError 1" in line[-1]
        assert "KeyError 1" in line[-1]
        assert all(re.fullmatch(r"[\d.]+ (µs|ms|s)|0 ms|[\d.<]+ ?\w+", cell) for cell in line[5:9]), line
        assert text.count('data-v="6"') == 1


async def test_a_span_has_what_was_done_in_it(web: Web) -> None:
    for worker, ago in (("now", 0), ("hours", 7_200), ("days", 3 * 86_400), ("weeks", 20 * 86_400)):
        await keep(web, worker, ago=ago)
    seen = {span: {line[0] for line in lines(await web.get("/metrics", span=span))} for span in STEPS}
    assert seen == {
        "1h": {"now"},
        "24h": {"now", "hours"},
        "7d": {"now", "hours", "days"},
        "30d": {"now", "hours", "days", "weeks"},
    }
    assert "the span is one of 1h, 24h, 7d, 30d" in await web.get("/metrics", 400, span="25h")


async def test_nodes_are_added_up_and_percentiles_are_of_all(web: Web) -> None:
    await keep(web, "w", node="web.1", ended=10, backlog=4)
    await keep(web, "w", node="web.2", ended=30, backlog=9)
    text = await web.get("/metrics")
    [line] = lines(text)
    assert line[2] == "40"
    assert line[5:8] == ["2.0 s"] * 3 or all(cell.startswith(("1.9", "2.0", "2 s")) for cell in line[5:8]), line
    assert 'data-v="9"' in text
    assert 'data-v="90.0"' in text


async def test_a_queue_and_a_worker_are_filtered_by(web: Web) -> None:
    await keep(web, "a", queue="mailers", ended=3)
    await keep(web, "b", queue="mailers", ended=4)
    await keep(web, "a", queue="reports", ended=5)
    assert [line[:3] for line in lines(await web.get("/metrics", queue="mailers"))] == [
        ["b", "mailers", "4"],
        ["a", "mailers", "3"],
    ]
    text = await web.get("/metrics", worker="a")
    assert [line[:3] for line in lines(text)] == [["a", "reports", "5"], ["a", "mailers", "3"]]
    assert text.count('data-v="8"') == 1
    assert "Jobs that wait" not in text
    assert lines(await web.get("/metrics", worker="a", queue="reports"))[0][2] == "5"
    assert "Nothing was done" in await web.get("/metrics", queue="nosuch")


async def test_only_queues_that_a_visitor_sees_are_counted_and_errors_may_be_hidden(web: Web) -> None:
    await keep(web, "shop.Mail", queue="mailers", ended=3, failures='{"SecretError": 1}')
    await keep(web, "shop.Secret", queue="hidden", ended=98_765, backlog=77)
    web.access = Access.read_only("bob", queues={"mailers"}, see_errors=False)
    for path in ("/metrics", "/metrics?queue=hidden", "/metrics?worker=shop.Secret", "/metrics?queue=mailers"):
        text = await web.get(path)
        for word in ("98,765", "98765", "98,768", 'data-v="77"', "SecretError", ">shop.Secret<", ">hidden<"):
            assert word not in text, (path, word)
    assert lines(await web.get("/metrics"))[0][2] == "3"
    web.access = Access.read_only("bob")
    assert "SecretError" in await web.get("/metrics")


async def test_a_page_reads_a_bounded_number_of_rows_and_says_so(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        await keep(web, f"w{number}", node=f"web.{number}", ago=number * 60, ended=1)
    monkeypatch.setattr(client, "MOST_ROWS", 5)
    monkeypatch.setattr(client, "MOST_OF_WORKERS", 4)
    monkeypatch.setattr(client, "MEASURED", 3)
    text = await web.get("/metrics")
    assert len(lines(text)) == 4
    assert text.count("There is more than is read at once") == 2
    assert "Percentiles of workers are of what ended from" in text
    assert [line[5] == "–" for line in lines(text)].count(True) == 1
    assert text.count('data-v="1"') == 5


async def test_what_other_programs_wrote_is_no_count(web: Web) -> None:
    await keep(web, "w", ended=5)
    strange = '{"completed": 2, "cancelled": -3, "discarded": 1.5, "retryable": "4", "scheduled": 1e300, "x": [1]}'
    pad = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 9999) n)"
    much = f"jsonb_build_object('completed', 9, 'pad', {pad})"
    for node, outcomes in (("b", f"'{strange}'"), ("c", "'[7]'"), ("d", "'7'"), ("e", "'null'"), ("f", much)):
        for worker in ("w", "*"):
            await web.sql(
                "INSERT INTO oban_sa_metrics (step, queue, worker, at, node, outcomes) SELECT 60, 'default', "
                f"'{worker}', date_trunc('minute', timezone('UTC', now())), '{node}', {outcomes}::jsonb"
            )
    text = await web.get("/metrics")
    assert [line[2:4] for line in lines(text)] == [["7", "0"]]
    assert text.count('data-v="7"') == 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=strangers.metrics)
async def test_rows_of_strangers_break_no_page(web: Web, row: dict[str, Any]) -> None:
    url = plain_url(web.engine.url.render_as_string(hide_password=False))
    with psycopg.connect(url, autocommit=True) as connection:
        for step, worker in ((row["step"], row["worker"]), (60, "*"), (60, "w")):
            at = row["at"] if step == row["step"] else datetime.now(UTC).replace(tzinfo=None, second=0).isoformat()
            given = {**row, "step": step, "worker": worker, "at": at}
            connection.execute(*strangers.insert("oban_sa_metrics", given))  # type: ignore[arg-type]
    for span in STEPS:
        await web.get("/metrics", span=span)


@pytest.mark.browser
async def test_charts_are_drawn_in_a_browser_and_kept_up_to_date(web: Web, opened: Opened) -> None:
    await keep(web, "shop.Charge", ended=3, backlog=4)
    await keep(web, "shop.Charge", ended=5, ago=120, backlog=1)
    page = await opened.page("/")
    await page.click("nav a:has-text('Metrics')")
    await page.wait_for_selector("[data-chart=outcomes] canvas")
    assert await page.locator("[data-chart] canvas").count() == 5
    await page.click("#theme-button")
    await page.click("#theme-button")
    await page.wait_for_selector("html[data-theme=dark] [data-chart=oldest] canvas")
    await page.click("nav a:has-text('24h')")
    await page.wait_for_url(re.compile("span=24h"))
    await page.wait_for_selector("[data-chart=outcomes] canvas")
    await page.keyboard.press("g")
    await page.keyboard.press("q")
    await page.wait_for_selector("h1:has-text('Queues')")
    assert await page.locator("canvas").count() == 0
    assert opened.said == []


@pytest.mark.browser
async def test_metrics_are_read_without_scripts(web: Web, opened: Opened) -> None:
    await keep(web, "shop.Charge", ended=7, backlog=4)
    page = await opened.page("/metrics", java_script_enabled=False)
    assert await page.locator("#by-time tbody tr").count() == 1
    assert not await page.locator(".chart").first.is_visible()
    await page.select_option("select[name=queue]", "default")
    await page.click("button:has-text('Show')")
    assert "shop.Charge" in await page.inner_text("main")

"""`python -m examples.dashboard_demo`: a runner, producers and the dashboard, on a private PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import click
import uvicorn
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from examples.dashboard_demo import jobs
from oban_sa import Job, Oban, Queue, Runner, Workflow, embedded, enqueue
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.migrations import migrate
from oban_sa.web import Access, Dashboard
from oban_sa.wire.sketches import bin_of

PROJECT: Final = Path(__file__).resolve().parents[2]
BROWSER: Final = "/usr/bin/chromium-headless-shell"
PICTURES: Final = {"light": ("jobs", "job", "queues"), "dark": ("jobs", "workflow", "metrics")}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--port", default=8431, show_default=True, help="The port of the dashboard.")
@click.option("--database-url", metavar="URL", help="A PostgreSQL to use, instead of a private one.")
@click.option("--folder", default=".oban-dashboard-demo", show_default=True, help="Where the private PostgreSQL is.")
@click.option("--screens", type=click.Path(path_type=Path), help="Write pictures of the pages into it, and end.")
@click.option("--browser", default=BROWSER, show_default=True, help="The Chromium that takes them.")
def command(port: int, database_url: str | None, folder: str, screens: Path | None, browser: str) -> None:
    """Show the dashboard of a busy shop, whose visitor may do everything."""
    if screens is not None:
        screens.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(KeyboardInterrupt):
        if database_url is not None:
            asyncio.run(show(database_url, port, screens, browser))
            return
        with embedded.start(PROJECT / folder) as server:
            asyncio.run(show(server.url, port, screens, browser))


async def show(url: str, port: int, screens: Path | None, browser: str) -> None:
    """Run everything until it is stopped, or until the pictures are taken."""
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=20)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(migrate)
        oban = Oban(engine)
        await fill(engine, oban)
        await remember(engine)
        async with runners(engine), served(oban, port):
            producer = asyncio.create_task(produce(engine, oban))
            click.echo(f"The dashboard of a busy shop is at http://127.0.0.1:{port}/. Ctrl-C stops it.")
            if screens is None:
                await producer
            else:
                await asyncio.sleep(15)
                await take(f"http://127.0.0.1:{port}", screens, browser)
            producer.cancel()
    finally:
        await engine.dispose()


@asynccontextmanager
async def runners(engine: AsyncEngine) -> AsyncIterator[None]:
    """Two nodes of the shop, within the limits of their queues."""
    queues = {"default": 3, "mailers": 4, "payments": Queue(3, global_limit=4, rate="120/minute"), "reports": 1}
    fewer = {"default": 2, "mailers": 2, "payments": queues["payments"]}
    crontab = [
        CronEntry("*/5 * * * *", "shop.SyncStock", name="stock", args={"warehouse": "north"}),
        CronEntry(
            "0 6 * * MON-FRI", "shop.BuildReport", name="report", args={"month": "now"}, timezone="Europe/Berlin"
        ),
    ]
    async with (
        Runner(engine, queues=queues, node="web.1", crontab=crontab),
        Runner(engine, queues=fewer, node="web.2", crontab=crontab),
    ):
        yield


@asynccontextmanager
async def served(oban: Oban, port: int) -> AsyncIterator[None]:
    """Serve the dashboard."""
    dashboard = Dashboard(oban, access=lambda request: Access.all("ada"), allowed_hosts=["127.0.0.1", "localhost"])
    config = uvicorn.Config(dashboard, port=port, log_level="critical", timeout_graceful_shutdown=1, lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it tells by nothing else
        await asyncio.sleep(0.05)
    try:
        yield
    finally:
        server.should_exit = True
        await task


async def fill(engine: AsyncEngine, oban: Oban) -> None:
    """Enqueue what is there from the start: a backlog, jobs for later, and a workflow of which a part fails."""
    for number in range(120):
        await oban.enqueue(one(number))
    for hours in range(1, 13):
        await oban.enqueue(jobs.build_report.options(schedule_in=f"{hours} hours").new(month=f"2026-{hours:02}"))
    flow = Workflow("catalogue")
    flow.call("download", jobs.import_part, part="download")
    for part in ("products", "prices", "pictures"):
        flow.add(part, jobs.import_part.options(max_attempts=1).new(part=part), deps="download")
    flow.add("publish", jobs.import_part.new(part="publish"), deps=["products", "prices", "pictures"])
    async with AsyncSession(engine) as session, session.begin():
        enqueue(session, flow)


async def remember(engine: AsyncEngine) -> None:
    """Write what the runners of the shop would have written in the day before, which had one bad quarter of an hour."""
    chance = random.Random(7)
    rows: list[dict[str, object]] = []
    # A worker with its queue, attempts a minute, seconds that they take, share that fails and the class of the error.
    shop = (
        ("shop.SendMail", "mailers", 360, 0.2, 0.08, "ConnectionError"),
        ("shop.Charge", "payments", 110, 0.5, 0.09, "CardDeclined"),
        ("shop.SyncStock", "default", 150, 0.8, 0.0, ""),
    )
    for step, first, last in ((60, 1, 60), (3_600, 1, 24)):
        for ago in range(first, last):
            bad = step == 60 and 20 <= ago < 35
            for worker, queue, rate, seconds, failing, error in shop:
                count = round(rate * step / 60 * (0.8 + 0.2 * math.sin(ago / 7)) * chance.uniform(0.9, 1.1))
                share = min(1.0, failing * (5 if bad and worker == "shop.SendMail" else chance.uniform(0.8, 1.2)))
                failed = round(count * share)
                given_up = failed // 6
                took = _bins(chance, count, seconds * (2 if bad else 1))
                waited = _bins(chance, count, 0.05 * (40 if bad and queue == "mailers" else 1))
                outcomes = {"completed": count - failed, "retryable": failed - given_up, "discarded": given_up}
                row = {"step": step, "ago": ago, "queue": queue, "run": took, "wait": waited, "outcomes": outcomes}
                backlog = round(rate * chance.uniform(0.0, 0.2) + (8 * rate if bad and queue == "mailers" else 0))
                rows += (
                    {**row, "worker": worker, "failures": {error: failed} if failed else {}, "backlog": None},
                    {**row, "worker": "*", "failures": {}, "backlog": backlog},
                )
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO oban_sa_metrics (step, queue, worker, at, node, outcomes, failures, run, wait, backlog, "
                "oldest) SELECT step, queue, worker, date_bin(step * interval '1 second', timezone('UTC', now()), "
                "'2000-01-01') - ago * step * interval '1 second', 'web.1', outcomes, failures, run, wait, backlog, "
                "backlog / 20.0 FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(step int, ago int, queue text, "
                "worker text, outcomes jsonb, failures jsonb, run jsonb, wait jsonb, backlog int) "
                "ON CONFLICT DO NOTHING"
            ),
            {"rows": json.dumps(rows)},
        )


def _bins(chance: random.Random, count: int, middle: float) -> dict[str, int]:
    """Return a histogram of so many durations around so many seconds."""
    found: Counter[str] = Counter()
    for _ in range(50):
        found[str(bin_of(chance.lognormvariate(math.log(middle), 0.5)))] += max(1, count // 50)
    return dict(found)


async def produce(engine: AsyncEngine, oban: Oban) -> None:
    """Enqueue a few jobs each second, for ever."""
    number = 1_000
    while True:
        await oban.enqueue(one(number))
        number += 1
        await asyncio.sleep(random.uniform(0.02, 0.12))


def one(number: int) -> Job:
    """Return a job of the shop."""
    kind = random.random()
    if kind < 0.5:
        return jobs.send_mail.new(to=f"user{number}@example.com", template=random.choice(["welcome", "invoice"]))
    if kind < 0.8:
        return jobs.charge.new(order={"id": number}, token=f"tok_{number}")
    return jobs.sync_stock.new(warehouse=random.choice(["north", "south", "harbour"]))


async def take(address: str, folder: Path, browser: str) -> None:
    """Take pictures of pages, in the light and in the dark."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for scheme, names in PICTURES.items():
            window = await launched.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
            for name in names:
                if name == "job":
                    await window.goto(f"{address}/?q=state:retryable,discarded")
                    await window.click("[data-row] .what a")
                    await window.wait_for_selector("h1 .id")
                elif name == "workflow":
                    await window.goto(f"{address}/workflows")
                    await window.click("[data-row] a")
                    await window.wait_for_selector(".graph")
                else:
                    await window.goto(address + ("/" if name == "jobs" else f"/{name}"))
                if name == "metrics":
                    await window.wait_for_selector("[data-chart=outcomes] canvas")
                await window.screenshot(path=folder / f"{name}-{scheme}.png")
        await launched.close()


if __name__ == "__main__":
    command()

"""What an operator does, in a real browser: finding, reading, retrying, pausing; with keys, and without scripts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route

from oban_sa import Job, Runner
from oban_sa.jobs.states import JobState
from oban_sa.web import Access, Dashboard
from oban_sa.web import page as page_module
from oban_sa.workers import Registry
from oban_sa.workers.function import job
from tests.factories import producer
from tests.support import eventually
from tests.web.conftest import Opened, Web, failed, served
from tests.web.test_metrics import keep

pytestmark = pytest.mark.browser

HTML = "text/html; charset=utf-8"
PAGES = (
    "/",
    "/?q=sate:x",
    "/?q=nosuch",
    "/queues",
    "/nodes",
    "/crons",
    "/workflows",
    "/metrics",
    "/metrics?span=7d&queue=default",
    "/metrics?queue=nosuch",
    "/health",
    "/bulk?verb=retry",
)


async def test_a_failed_job_is_found_read_retried_and_seen_to_complete_without_reloading(
    web: Web, opened: Opened
) -> None:
    registry = Registry()

    @job(name="shop.Charge", registry=registry)
    async def charge(order: dict[str, Any]) -> None: ...

    (job_id, *_) = await web.add(failed(args={"order": {"id": 4711}}), failed(args={"order": {"id": 1}}))
    page = await opened.page("/?q=state:discarded")
    await page.evaluate("window.mark = 'the same document'")
    await page.fill("#q", "args.order.id:4711")
    await page.press("#q", "Enter")
    await page.wait_for_url(re.compile("4711"))
    assert await page.locator("[data-row]").count() == 1
    await page.click(f"#job-{job_id} .what a")
    await page.wait_for_selector("h1:has-text('Charge')")
    assert "httpx.ConnectTimeout: <script>alert(1)</script>" in await page.inner_text(".attempt")
    await page.click(".frames summary")
    assert await page.locator(".frames pre").is_visible()
    await page.click("button:has-text('Retry')")
    await page.wait_for_selector("h1 .state-available")
    async with Runner(web.engine, queues={"default": 2}, registry=registry, node="web.1", stage_every=0.1):
        await page.wait_for_selector("h1 .state-completed")
    assert await page.evaluate("window.mark") == "the same document"
    assert await web.oban.get_job(job_id)
    assert [(event.action, event.job_ids) for event in web.events] == [("retry", (job_id,))]
    assert opened.said == []


async def test_a_queue_is_paused_on_one_node(web: Web, opened: Opened) -> None:
    await web.row(producer("web.1", queue="mailers", limit=5))
    await web.row(producer("web.2", queue="mailers", limit=5))
    page = await opened.page("/queues")
    await page.click("button:has-text('Pause mailers on web.2')")
    await page.wait_for_selector(".flash:has-text('paused')")
    assert [(pause.queue, pause.node) for pause in await web.oban.check_pauses()] == [("mailers", "web.2")]
    await web.sql("UPDATE oban_producers SET meta = meta || '{\"paused\": true}' WHERE node = 'web.2'")
    await page.wait_for_selector("button:has-text('Resume mailers on web.2')")
    assert await page.locator("button:has-text('Pause mailers on web.1')").count() == 1
    assert opened.said == []


async def test_an_entry_of_the_crontab_is_paused_and_resumed_by_its_button(web: Web, opened: Opened) -> None:
    await web.sql("INSERT INTO oban_sa_crons (name, expression, worker) VALUES ('daily', '@daily', 'shop.Report')")
    page = await opened.page("/crons")
    await page.click("button:has-text('Pause daily')")
    await page.wait_for_selector(".flash:has-text('The entry is paused')")
    assert [each.name for each in await web.oban.check_cron_pauses()] == ["daily"]
    assert await page.inner_text("#cron-1 .state-paused") == "paused"
    await page.click("button:has-text('Resume daily')")
    await page.wait_for_selector(".flash:has-text('The entry is resumed')")
    assert await web.oban.check_cron_pauses() == []
    assert await page.locator("#cron-1 .state-paused").count() == 0
    assert opened.said == []


async def test_the_search_box_completes_the_last_word(web: Web, opened: Opened) -> None:
    await web.add(Job("shop.Mail", queue="mailers"), Job("shop.Maintain", queue="ops"))
    page = await opened.page("/")

    async def options(typed: str) -> list[str]:
        await page.fill("#q", typed)
        found: list[str] = await page.evaluate("[...document.getElementById('q').list.options].map(o => o.value)")
        return found

    assert await options("sta") == ["state:", *(f"state:{state}" for state in JobState)]
    assert await options("queue:mailers -worker:Mai") == [
        "queue:mailers -worker:Mail",
        "queue:mailers -worker:Maintain",
    ]
    assert await options("queue:ops,m") == ["queue:ops,mailers"]
    assert await options("maint") == ["worker:Maintain"]  # the name alone is enough
    assert await options("nosuch") == []
    await page.keyboard.press("Enter")
    await page.wait_for_selector(".empty")
    assert await options("mail") == ["queue:mailers", "worker:Mail"]  # also once the page has changed
    assert opened.said == []


async def test_all_1200_that_match_are_retried_and_how_far_it_is_is_seen(web: Web, opened: Opened) -> None:
    await web.add(*(failed(args={"n": number}) for number in range(1_200)))
    page = await opened.page("/?q=state:discarded")
    await page.evaluate(
        """window.seen = [];
        new MutationObserver(() => {
          const bar = document.querySelector('progress');
          if (bar && !window.seen.includes(bar.value)) window.seen.push(bar.value);
        }).observe(document.documentElement, {childList: true, subtree: true, attributes: true});"""
    )
    await page.click(".all a:has-text('retry')")
    await page.fill("#typed", "1200")
    await page.click("button:has-text('Retry 1,200 jobs')")
    await page.wait_for_selector(".flash:has-text('1,200 jobs made available.')")
    assert page.url.endswith("/?q=state%3Adiscarded&done=retry&n=1200"), page.url
    assert await page.evaluate("window.seen") == [500, 1000]
    assert set((await web.states()).values()) == {"available"}
    assert opened.said == []


async def told(web: Web, *jobs: Job) -> list[int]:
    """Store jobs, and wait until open pages were told that something has changed."""
    live = web.dashboard.instances[0].live
    await eventually(lambda: live.viewers > 0 and live.looks > 1, 30)
    number = live.number
    ids = await web.add(*jobs)
    await eventually(lambda: live.number > number, 30)
    return ids


async def test_chosen_rows_are_acted_on_and_kept_while_the_list_changes(web: Web, opened: Opened) -> None:
    one, two = await web.add(failed(), failed())
    page = await opened.page("/?q=state:discarded")
    await page.keyboard.press("j")
    await page.keyboard.press("x")
    assert await page.inner_text(".chosen") == "1 chosen:"
    await told(web, failed())
    assert await page.inner_text(".chosen") == "1 chosen:"
    await page.click("#choose button:has-text('Retry')")
    await page.wait_for_selector(".flash:has-text('1 job made available.')")
    assert (await web.states())[two] == "available"
    assert (await web.states())[one] == "discarded"


async def test_live_updates_pause_and_go_on(web: Web, opened: Opened) -> None:
    page = await opened.page("/")
    await page.wait_for_selector("html[data-feed=live]")
    await page.keyboard.press("p")
    await page.wait_for_selector("html[data-feed=paused]")
    (job_id,) = await told(web, Job("shop.Mail"))
    assert await page.locator(f"#job-{job_id}").count() == 0
    await page.click("#live-button")
    await page.wait_for_selector(f"#job-{job_id}")
    await page.close()
    await eventually(lambda: not web.dashboard.instances[0].live.running, 30)


async def test_where_a_proxy_holds_events_back_the_page_asks_by_itself(web: Web, browser: Any) -> None:
    async def without_events(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/live":
            await receive()
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await web.dashboard(scope, receive, send)

    async with served(without_events) as address:
        page = await Opened(address, browser).page("/")
        await page.wait_for_selector("html[data-feed=polling]")
        (job_id,) = await web.add(Job("shop.Mail"))
        await page.wait_for_selector(f"#job-{job_id}")


async def test_a_read_only_visitor_has_no_button_and_is_refused_by_the_server(web: Web, opened: Opened) -> None:
    web.access = Access.read_only("bob")
    (job_id,) = await web.add(failed())
    page = await opened.page("/")
    assert await page.locator("form[method=post], input[type=checkbox]").count() == 0
    status = await page.evaluate(
        """id => fetch('/jobs', {method: 'POST', body: new URLSearchParams({verb: 'retry', id})})
        .then(answer => answer.status)""",
        job_id,
    )
    assert status == 403
    assert await web.states() == {job_id: "discarded"}
    assert [(event.user, event.allowed) for event in web.events] == [("bob", False)]


async def test_a_form_of_another_site_is_refused(web: Web, opened: Opened) -> None:
    (job_id,) = await web.add(failed())
    form = (
        f'<form method="post" action="{opened.address}/jobs"><input name="verb" value="retry">'
        f'<input name="id" value="{job_id}"><button>Win a prize</button></form>'
    )

    async def prize(request: object) -> HTMLResponse:
        return HTMLResponse(form)

    async with served(Starlette(routes=[Route("/", prize)])) as evil:
        page = await opened.page()
        await page.goto(evil.replace("127.0.0.1", "localhost"))
        await page.click("button")
        await page.wait_for_selector("text=another site")
        await page.goto(evil)  # the same site at another port
        await page.click("button")
        await page.wait_for_selector("text=another site")
    assert await web.states() == {job_id: "discarded"}


async def test_under_a_prefix_in_the_dark_and_without_scripts_it_does_its_work(web: Web, browser: Any) -> None:
    (job_id, _) = await web.add(failed(args={"order": {"id": 4711}}), failed())
    dashboard = Dashboard(web.oban, access=lambda request: Access.all("ada"))
    async with served(Starlette(routes=[Mount("/admin/oban", app=dashboard)])) as address:
        opened = Opened(address, browser)
        page = await opened.page("/admin/oban/", java_script_enabled=False, color_scheme="dark")
        await page.fill("#q", "args.order.id:4711")
        await page.click(".search button:has-text('Search')")
        await page.wait_for_url(re.compile("/admin/oban/.*4711"))
        assert await page.locator("[data-row]").count() == 1
        await page.check("input[name=id]")
        await page.click("#choose button:has-text('Retry')")
        await page.wait_for_selector(".flash:has-text('1 job made available.')")
        await page.click(".pages a:has-text('Health')")
        await page.wait_for_selector("h1:has-text('Health')")
        assert (await web.states())[job_id] == "available"
        scripted = await opened.page("/admin/oban/", color_scheme="dark")
        await scripted.wait_for_selector("html[data-feed=live]")
        ground = await scripted.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert ground == "rgb(15, 20, 25)"
        assert opened.said == []


def answering(body: str) -> Any:
    """What answers a browser with a page."""

    async def answer(route: Any) -> None:
        await route.fulfill(body=body, content_type=HTML)

    return answer


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_on_any_page(
    web: Web, opened: Opened, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: set[str] = set()
    find = page_module._templates.get_template

    def found_template(name: str, *given: Any) -> Any:
        rendered.add(name)
        return find(name, *given)

    monkeypatch.setattr(page_module._templates, "get_template", found_template)
    monkeypatch.setattr("oban_sa.web.pages.bulk.SLICE", 1)
    (job_id, *_) = await web.add(
        failed(tags=["urgent"], meta={"cron_name": "daily", "unique": "x"}),
        *(Job("shop.Mail", state=state, attempt=1) for state in ("completed", "scheduled", "cancelled", "retryable")),  # type: ignore[arg-type]
    )
    await web.row(producer("web.1", limit=5))
    await web.row(producer("web.2", limit=5, silent_for=100, paused=True))
    await web.sql("INSERT INTO oban_sa_crons (name, expression, worker) VALUES ('daily', '@daily', 'shop.Report')")
    await web.sql("INSERT INTO oban_sa_crons (name, expression, worker) VALUES ('weekly', '@weekly', 'shop.Report')")
    await web.oban.pause_cron("weekly")
    await web.sql(
        "INSERT INTO oban_sa_metrics (step, queue, worker, at, node, outcomes) VALUES (60, 'default', '*', "
        "date_trunc('minute', timezone('UTC', now())), 'web.1', '{\"completed\": 3, \"discarded\": 1}')"
    )
    flow = "00000000-0000-7000-8000-000000000001"
    await web.sql(
        "INSERT INTO oban_sa_flows (id, root_id, path, kind, lane, name, total, unfinished, discarded) "
        "VALUES (CAST(:f AS uuid), CAST(:f AS uuid), ARRAY[CAST(:f AS uuid)], 'workflow', 0, 'import', 3, 2, 1)",
        f=flow,
    )
    await web.sql(
        "INSERT INTO oban_sa_members (job_id, flow_id, name) VALUES (:j, CAST(:f AS uuid), 'load')", j=job_id, f=flow
    )
    await keep(web, "shop.Charge", ended=3, backlog=4, failures='{"TimeoutError": 2}')
    source = (Path(__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    found: list[str] = []
    page = await opened.page("/", color_scheme=scheme)
    # The answers to forms are shown as pages of their own, and one of them would go on by itself.
    answers = {
        "/confirm": await web.post("/jobs", 200, verb="delete", id=job_id),
        "/progress": await web.post("/bulk", 200, verb="retry", q="queue:default", total=4),
    }
    for path, body in answers.items():
        body = body.replace('hx-trigger="load, submit"', "")
        await page.route(opened.address + path, answering(body))
    paths = (*PAGES, f"/jobs/{job_id}", f"/jobs/{job_id}/edit", f"/workflows/{flow}", "/jobs/0", *answers, "/?denied")
    for path in paths:
        if path == "/?denied":
            web.access = Access.none()
        await page.goto(opened.address + path)
        if path == "/metrics":
            await page.wait_for_selector("[data-chart=outcomes] canvas")
        await page.evaluate(source)
        result = await page.evaluate("axe.run()")
        assert len(result["passes"]) > (10 if path != "/?denied" else 5)
        found += [
            f"{path}: {each['id']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
            for each in result["violations"]
            for node in each["nodes"]
        ]
    assert found == []
    all_of_them = {name for name in page_module._templates.list_templates() if not name.startswith(("_", "base"))}
    assert rendered >= all_of_them, all_of_them - rendered
    # The browser says so of answers that are refusals, which these pages are meant to be.
    assert [text for text in opened.said if "Failed to load resource" not in text] == []

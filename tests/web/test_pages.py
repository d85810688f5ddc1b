"""What the pages show, and what their forms do."""

from __future__ import annotations

import json
import re
from html import unescape

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import Job, Oban, Workflow, enqueue
from oban_sa.migrations import migrate
from oban_sa.web import Access, Dashboard
from oban_sa.web.words import frames, number, summary
from tests.factories import executing, producer
from tests.web.conftest import TRACE, Web, failed

HOSTILE = "<img src=x onerror=alert(1)>\"'&\u202e\x1b[31m"


def rows(text: str) -> list[int]:
    return [int(found) for found in re.findall(r'<tr id="job-(\d+)"', text)]


async def test_an_empty_database_has_pages_that_say_so(web: Web) -> None:
    assert "There are no jobs yet." in await web.get("/")
    assert "There are no queues yet." in await web.get("/queues")
    assert "No node of this instance runs." in await web.get("/nodes")
    assert "No entries are known." in await web.get("/crons")
    assert "There are no workflows." in await web.get("/workflows")
    assert "No node leads." in await web.get("/health")


async def test_jobs_are_found_by_a_query_and_why_they_failed_is_in_the_list(web: Web) -> None:
    one, _ = await web.add(failed(args={"order": {"id": 17}}), Job("shop.Mail"))
    text = await web.get("/", q="state:discarded args.order.id:17")
    assert rows(text) == [one]
    assert "httpx.ConnectTimeout: &lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert 'aria-current="true"><span class="name"><span class="pip pip-discarded"' in text


async def test_a_query_that_can_t_be_read_says_what_to_write(web: Web) -> None:
    await web.add(failed())
    text = await web.get("/", 400, q="sate:discarded")
    assert "&#39;sate&#39; is no field of a job; did you mean &#39;state&#39;?" in text
    assert 'value="sate:discarded"' in text
    assert rows(text) == []


async def test_pages_go_on_where_the_last_one_ended(web: Web) -> None:
    ids = await web.add(*(Job("shop.Mail") for _ in range(70)))
    for query in ("", "state:available"):
        path, seen = f"/?q={query}", list[int]()
        while path:
            text = await web.get(path)
            seen += rows(text)
            older = re.search(r'rel="next" href="([^"]+)"', text)
            path = unescape(older[1]) if older else ""
        assert seen == sorted(ids, reverse=True)


async def test_a_window_that_was_searched_is_said_and_looked_beyond(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oban_sa.client.search.NEWEST", 10)
    await web.add(Job("shop.Rare"), *(Job("shop.Mail") for _ in range(30)))
    text = await web.get("/", q="worker:Rare")
    assert "The 10 newest were searched." in text
    for _ in range(3):
        older = re.search(r'rel="next" href="([^"]+)">Look further back', text)
        assert older is not None
        text = await web.get(unescape(older[1]))
    assert len(rows(text)) == 1


async def test_no_value_of_a_row_is_taken_for_html(web: Web) -> None:
    (job_id,) = await web.add(
        failed(
            HOSTILE,
            queue=HOSTILE,
            args={HOSTILE: HOSTILE},
            meta={"cron_name": HOSTILE, "sequence": HOSTILE, "partition": HOSTILE, "cron_expr": HOSTILE, "lane": 1},
            tags=[HOSTILE],
            attempted_by=[HOSTILE],
            errors=[{"error": HOSTILE, "at": HOSTILE, "attempt": HOSTILE}, {"error": {"a": HOSTILE}}, {}],
        )
    )
    await web.row(producer(HOSTILE, queue=HOSTILE, limit=3, unknown=[HOSTILE]))
    await web.sql(
        "INSERT INTO oban_sa_crons (name, expression, worker, timezone) VALUES (:h, :h, :h, :h)",
        h=HOSTILE,
    )
    for path in ("/", f"/jobs/{job_id}", f"/jobs/{job_id}/edit", "/queues", "/nodes", "/crons", "/health"):
        text = await web.get(path)
        assert "<img" not in text, path
        assert "onerror=alert(1)>" not in text, path
        # What a form sends back has to stay as it is.
        read = re.sub(r'value="[^"]*"|<textarea.*?</textarea>', "", text, flags=re.DOTALL)
        assert "\x1b" not in read, path
    assert "<img" not in await web.get("/", q=HOSTILE.replace('"', ""))
    assert "<img" not in await web.get("/bulk", verb="delete", q=f"queue:{HOSTILE[:20].replace(' ', '_')}")


async def test_strange_rows_of_other_programs_are_shown(web: Web) -> None:
    (job_id,) = await web.add(failed())
    for column, value in (
        ("errors", "ARRAY['17', '\"text\"', 'null', '[1]']::jsonb[]"),
        ("args", "'[1, 2]'::jsonb"),
        ("meta", "'7'::jsonb"),
        ("completed_at", "'infinity'"),
        ("scheduled_at", "'-infinity'"),
        ("attempted_by", "'{}'"),
        ("meta", """'{"unique": "no uuid", "recorded": true, "return": "!!", "sequence": 7, "began": 3}'::jsonb"""),
    ):
        await web.sql(f"UPDATE oban_jobs SET {column} = {value}")
        for path in ("/", f"/jobs/{job_id}", f"/jobs/{job_id}/raw", f"/jobs/{job_id}/edit"):
            await web.get(path)


async def test_a_job_has_its_moments_errors_and_json(web: Web) -> None:
    (job_id,) = await web.add(failed(args={"id": 2**60, "token": "abc"}))
    text = await web.get(f"/jobs/{job_id}")
    for said in ("shop.Charge", "2 of 2", "1 frame of libraries", "1152921504606846976", "Retry", "Delete…", "Change…"):
        assert said in text
    assert ">Cancel<" not in text
    assert "abc" not in text
    raw = json.loads(await web.get(f"/jobs/{job_id}/raw"))
    assert (raw["id"], raw["args"]["token"], raw["state"]) == (job_id, "***", "discarded")


@pytest.mark.parametrize("word", ["0", "-1", "x", "9" * 30, "9" * 5000, "1e3", "%00", "9223372036854775807"])
async def test_a_job_that_is_not_there_is_said_so(web: Web, word: str) -> None:
    assert "<h1>Not found</h1>" in await web.get(f"/jobs/{word}", 404)


async def test_chosen_jobs_are_retried_cancelled_and_deleted(web: Web) -> None:
    one, two, three = await web.add(failed(), failed(), Job("shop.Mail"))
    assert (
        await web.post("/jobs", verb="retry", id=[one], q="state:discarded") == "/?q=state%3Adiscarded&done=retry&n=1"
    )
    assert await web.post("/jobs", verb="cancel", id=[three, two]) == "/?done=cancel&n=1"
    assert await web.states() == {one: "available", two: "discarded", three: "cancelled"}
    question = await web.post("/jobs", 200, verb="delete", id=[two, three])
    assert "Delete 2 jobs?" in question
    assert len(await web.states()) == 3
    assert await web.post("/jobs", verb="delete", id=[two, three], sure="1") == "/?done=delete&n=2"
    assert list(await web.states()) == [one]
    assert await web.post("/jobs", verb="retry", single="1", id=one) == f"/jobs/{one}?done=retry&n=0"
    assert "1 job made available." in await web.get("/?done=retry&n=1")
    assert "<b>" not in await web.get("/?done=<b>&n=<b>")
    await web.post("/jobs", 400, verb="enqueue", id=one)
    await web.post("/jobs", 404, verb="retry", id="x")


async def test_a_job_is_changed_but_for_its_worker(web: Web) -> None:
    (job_id,) = await web.add(Job("shop.Mail", args={"to": "ada"}))
    form = {
        "queue": "slow",
        "priority": "3",
        "max_attempts": "5",
        "tags": "A, b",
        "args": '{"to": "bob"}',
        "meta": "{}",
    }
    form["scheduled_at"] = "2030-01-01T00:00:00"
    assert await web.post(f"/jobs/{job_id}/edit", **form) == f"/jobs/{job_id}?done=update"
    (row,) = await web.sql("SELECT worker, queue, priority, max_attempts, tags, args, state::text FROM oban_jobs")
    assert tuple(row) == ("shop.Mail", "slow", 3, 5, ["a", "b"], {"to": "bob"}, "scheduled")
    assert await web.post(f"/jobs/{job_id}/edit", **form) == f"/jobs/{job_id}?done=same"
    await web.post(f"/jobs/{job_id}/edit", 403, worker="os.system")
    await web.post(f"/jobs/{job_id}/edit", 403, state="completed")
    assert (await web.sql("SELECT worker, state::text FROM oban_jobs")) == [("shop.Mail", "scheduled")]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("priority", "-1", "priority is a whole number"),
        ("max_attempts", "0", "max_attempts"),
        ("args", "[1]", "args is a JSON object"),
        ("args", "{", "args is not JSON"),
        ("args", '{"a": "\\u0000"}', "args"),
        ("queue", " ", "queue must not be blank"),
        ("queue", "q" * 200, "at most 127 characters"),
        ("scheduled_at", "soon", "scheduled_at is a moment"),
        ("priority", "9" * 10, "priority"),
    ],
)
async def test_a_change_that_can_t_be_is_explained_and_what_was_typed_is_kept(
    web: Web, field: str, value: str, said: str
) -> None:
    (job_id,) = await web.add(Job("shop.Mail"))
    text = unescape(await web.post(f"/jobs/{job_id}/edit", 400, **{field: value}))
    assert said in text
    assert value in text or value == " "


async def test_hidden_args_can_t_be_changed(web: Web) -> None:
    (job_id,) = await web.add(Job("shop.Mail", args={"password": "x"}))
    assert "can't be changed here" in unescape(await web.get(f"/jobs/{job_id}/edit"))
    await web.post(f"/jobs/{job_id}/edit", 403, args='{"password": "***"}')
    assert await web.post(f"/jobs/{job_id}/edit", priority="2")
    assert await web.sql("SELECT args, priority FROM oban_jobs") == [({"password": "x"}, 2)]


async def test_queues_are_paused_scaled_and_resumed_on_all_nodes_or_one(web: Web) -> None:
    await web.add(Job("shop.Mail", queue="mailers"))
    await web.row(producer("web.1", queue="mailers", limit=5))
    await web.row(producer("web.2", queue="mailers", limit=5, silent_for=100))
    text = await web.get("/queues")
    assert text.count("<strong>mailers</strong>") == 1
    assert "silent" in text
    await web.post("/queues", verb="pause", queue="mailers", node="web.1")
    await web.post("/queues", verb="scale", queue="mailers", limit="7")
    assert [(pause.queue, pause.node) for pause in await web.oban.check_pauses()] == [("mailers", "web.1")]
    await web.post("/queues", verb="pause", queue="mailers")
    assert "paused" in await web.get("/queues")
    await web.post("/queues", verb="resume", queue="mailers")
    assert await web.oban.check_pauses() == []
    for limit in ("0", "x", "", "9" * 20, "-3"):
        await web.post("/queues", 400, verb="scale", queue="mailers", limit=limit)
    await web.post("/queues", 400, verb="pause", queue="*")
    await web.post("/queues", 400, verb="explode", queue="mailers")


async def test_nodes_show_who_leads_and_what_each_runs(web: Web) -> None:
    (job_id,) = await web.add(Job("shop.Mail"))
    await web.row(producer("web.1", limit=5))
    await web.row(executing([job_id], by="00000000-0000-0000-0000-000000000000"))
    await web.sql(
        "INSERT INTO oban_leaders (name, node, elected_at, expires_at) VALUES ('oban_sa.Oban', 'web.1', "
        "timezone('UTC', now()), timezone('UTC', now()) + interval '1 minute')"
    )
    text = await web.get("/nodes")
    assert f"Mail #{job_id}" in text


async def test_an_entry_of_the_crontab_is_run_now_as_its_last_job_was(web: Web) -> None:
    await web.sql(
        "INSERT INTO oban_sa_crons (name, expression, worker, timezone, opts) "
        "VALUES ('daily', '0 9 * * *', 'shop.Report', 'Europe/Berlin', '{\"args\": {\"to\": \"ada\"}}')"
    )
    assert "Run now" in await web.get("/crons")
    await web.post("/crons", verb="run", name="daily")
    (first,) = await web.sql("SELECT worker, queue, args, meta ->> 'cron_name' FROM oban_jobs")
    assert tuple(first) == ("shop.Report", "default", {"to": "ada"}, "daily")
    await web.sql('UPDATE oban_jobs SET queue = \'reports\', meta = meta || \'{"cron_at": "x", "k": 1}\'')
    await web.post("/crons", verb="run", name="daily")
    last = (await web.sql("SELECT queue, meta FROM oban_jobs ORDER BY id DESC LIMIT 1"))[0]
    assert last[0] == "reports"
    assert last[1]["k"] == 1
    assert "cron_at" not in last[1]
    assert web.events[-1].target == "cron daily"
    await web.post("/crons", 404, verb="run", name="nosuch")
    await web.post("/crons", 400, verb="delete", name="daily")


async def test_an_entry_of_the_crontab_is_paused_and_resumed(web: Web) -> None:
    await web.sql("INSERT INTO oban_sa_crons (name, expression, worker) VALUES ('daily', '@daily', 'shop.Report')")
    where = await web.post("/crons", verb="pause", name="daily")
    text = await web.get(where)
    assert "The entry is paused" in text
    assert "state-paused" in text
    assert 'value="resume"' in text
    assert [each.name for each in await web.oban.check_cron_pauses()] == ["daily"]
    assert (web.events[-1].action, web.events[-1].target) == ("pause_cron", "cron daily")
    text = await web.get(await web.post("/crons", verb="resume", name="daily"))
    assert "The entry is resumed" in text
    assert "state-paused" not in text
    assert await web.oban.check_cron_pauses() == []
    assert web.events[-1].action == "resume_cron"
    await web.post("/crons", 404, verb="pause", name="nosuch")


async def test_an_entry_is_paused_only_by_who_may_in_its_queue(web: Web) -> None:
    await web.sql(
        "INSERT INTO oban_sa_crons (name, expression, worker, opts) VALUES "
        "('mine', '@daily', 'shop.Report', '{\"queue\": \"mailers\"}'), ('other', '@daily', 'shop.Report', '{}')"
    )
    web.access = Access.read_only("bob", pause_cron={"mailers"})
    text = await web.get("/crons")
    assert text.count('value="pause"') == 1
    assert "Run now" not in text
    await web.post("/crons", 403, verb="pause", name="other")
    await web.post("/crons", 403, verb="run", name="mine")
    await web.post("/crons", verb="pause", name="mine")
    assert [each.name for each in await web.oban.check_cron_pauses()] == ["mine"]


async def test_a_workflow_is_drawn_cancelled_and_retried(web: Web) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession

    flow = Workflow("import")
    flow.add("load", Job("shop.Load"))
    flow.add("check", Job("shop.Check"), deps="load")
    flow.add_many("parts", [Job("shop.Part")], deps="check")
    async with AsyncSession(web.engine) as session, session.begin():
        enqueue(session, flow)
    assert "import" in await web.get("/workflows")
    text = await web.get(f"/workflows/{flow.id}")
    assert text.count('class="box"') == 2
    assert text.count('class="group"') == 1
    assert text.count('<path d="M') >= 2
    job_id = int(re.findall(r'href="/jobs/(\d+)"', text)[1])
    assert "Workflow" in await web.get(f"/jobs/{job_id}")
    assert await web.post(f"/workflows/{flow.id}", verb="cancel") == f"/workflows/{flow.id}?done=workflow_cancel&n=3"
    assert set((await web.states()).values()) == {"cancelled"}
    await web.get("/workflows/nosuch", 404)
    await web.get("/workflows/00000000-0000-7000-8000-000000000000", 404)
    await web.post(f"/workflows/{flow.id}", 400, verb="delete")


def test_frames_of_libraries_are_folded_and_the_last_line_is_the_summary() -> None:
    text = str(frames({"error": TRACE}))
    assert text.count("<details") == 1
    assert "<script>" not in text
    assert text.index("1 frame of libraries") < text.index("/app/shop/jobs.py")
    assert summary({"error": TRACE}) == "httpx.ConnectTimeout: <script>alert(1)</script>"
    assert summary({"error": "** (RuntimeError) no\n    (app) lib/a.ex:3"}) == "** (RuntimeError) no"
    assert summary({}) == "{}"


def test_numbers_are_short_where_they_are_large() -> None:
    assert [number(value) for value in (0, 1_234, 999_999, 4_910_918, 2_000_000_000)] == [
        "0", "1,234", "999,999", "4.9 M", "2.0 G",
    ]  # fmt: skip


async def test_every_page_works_on_each_driver_and_in_another_schema(driven: AsyncEngine) -> None:
    async with driven.begin() as connection:
        await connection.execute(text("CREATE SCHEMA jobs"))
        await connection.run_sync(migrate, "jobs")
    oban = Oban(driven, schema="jobs")
    made = await oban.enqueue(Job("shop.Mail", args={"order": {"id": 17}}, meta={"lane": 1, "sequence": "k"}))
    dashboard = Dashboard(oban, access=lambda request: Access.all())
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=dashboard), base_url="http://test")
    queries = ("args.order.id:17", "-tag:x node:a error:b", "state:available queue:default worker:Mail since:1h", "17")
    paths = [f"/?q={query}" for query in queries]
    paths += [
        "/",
        "/queues",
        "/nodes",
        "/crons",
        "/workflows",
        "/metrics",
        "/health",
        f"/jobs/{made.id}",
        "/bulk?verb=cancel",
    ]
    for path in paths:
        assert (await client.get(path)).status_code == 200, path
    answer = await client.post("/bulk", data={"verb": "cancel", "q": "args.order.id:17", "total": "1"})
    assert answer.headers["location"].endswith("n=1")
    assert (await oban.get_job(made)).state == "cancelled"


async def test_where_tables_are_missing_the_page_says_so_and_what_makes_them(web: Web) -> None:
    await web.sql("ALTER TABLE oban_jobs RENAME TO others")
    text = await web.get("/", 503)
    assert "The tables are not there" in text
    assert "python -m oban_sa migrate" in text

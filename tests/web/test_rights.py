"""Who may see and do what: decided by the application, refused by the server, and told of."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from oban_sa import Job, Oban
from oban_sa.errors import InvalidOption
from oban_sa.web import Access, Dashboard
from oban_sa.web.access import VERBS
from oban_sa.web.app import _routes
from tests.factories import executing, producer
from tests.web.conftest import Web, failed

FORMS = {
    "retry": ("/jobs", {"verb": "retry", "id": "{id}"}),
    "cancel": ("/jobs", {"verb": "cancel", "id": "{id}"}),
    "delete": ("/jobs", {"verb": "delete", "id": "{id}", "sure": "1"}),
    "bulk retry": ("/bulk", {"verb": "retry", "q": "queue:default", "total": "1"}),
    "bulk delete": ("/bulk", {"verb": "delete", "q": "queue:default", "total": "1"}),
    "update": ("/jobs/{id}/edit", {"priority": "3"}),
    "pause": ("/queues", {"verb": "pause", "queue": "default"}),
    "resume": ("/queues", {"verb": "resume", "queue": "default"}),
    "scale": ("/queues", {"verb": "scale", "queue": "default", "limit": "3"}),
    "stop": ("/queues", {"verb": "stop", "queue": "default"}),
    "sequence": ("/queues", {"verb": "sequence", "queue": "default", "key": "17"}),
    "cron": ("/crons", {"verb": "run", "name": "daily"}),
    "cron pause": ("/crons", {"verb": "pause", "name": "daily"}),
    "cron resume": ("/crons", {"verb": "resume", "name": "daily"}),
    "workflow": ("/workflows/00000000-0000-7000-8000-000000000000", {"verb": "cancel"}),
    "workflow retry": ("/workflows/00000000-0000-7000-8000-000000000000", {"verb": "retry"}),
}
PAGES = ("/", "/queues", "/nodes", "/crons", "/workflows", "/metrics", "/health")


def test_without_access_everybody_may_look_and_nobody_act() -> None:
    assert Access() == Access.read_only()
    assert not any(Access().may(verb) for verb in VERBS)
    assert all(Access.all().may(verb) and Access.all().everywhere(verb) for verb in VERBS)
    assert not any(Access.none().may(verb) for verb in VERBS)


def test_a_right_holds_in_some_queues() -> None:
    access = Access(pause={"mailers", "hidden"}, cancel=True, queues=frozenset({"mailers", "default"}))
    assert access.may("pause", "mailers")
    assert access.may("pause")
    assert not access.may("pause", "default")
    assert not access.may("pause", "hidden")
    assert not access.may("cancel", "hidden")
    assert (access.within("pause"), access.within("cancel")) == ({"mailers"}, {"mailers", "default"})
    assert access.within("delete") == set()
    assert not access.everywhere("cancel")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Access(pause="mailers"), "True, False or a set of queues"),
        (lambda: Access(queues="mailers"), "a set of queues"),
        (lambda: Access.all(canel=False), "did you mean 'cancel'?"),
        (lambda: Dashboard("oban"), "Dashboard takes an Oban"),
        (lambda: Dashboard({}), "Dashboard takes an Oban"),
        (lambda: Dashboard({}, access=Access.all("ada")), "access is a function of the request"),
        (lambda: Dashboard({}, access=lambda: Access.all()), "access is a function of the request"),  # type: ignore[arg-type, misc]
        (lambda: Dashboard(create_async_engine("postgresql+asyncpg://x/y")), "write Dashboard(Oban(engine))"),  # type: ignore[arg-type]
        (lambda: Dashboard({"a/b": None}), "part of its address"),
    ],
)
def test_mistakes_are_refused_where_they_are_made(make: Any, said: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        make()
    assert said in str(refused.value)


async def test_every_form_is_refused_to_a_read_only_visitor_and_told_of(
    web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    (job_id,) = await web.add(failed())
    await web.sql("INSERT INTO oban_sa_crons (name, expression, worker) VALUES ('daily', '@daily', 'shop.Report')")
    before = await web.sql("SELECT CAST(j AS text) FROM oban_jobs j")
    web.access = Access.read_only("bob")
    posts = {route.path for route in _routes(web.dashboard.instances[0]) if "POST" in getattr(route, "methods", ())}
    tried = {re.sub(r"workflows/.*", "workflows/{id}", path) for path, _ in FORMS.values()}
    assert posts == tried
    for name, (path, form) in FORMS.items():
        web.events.clear()
        filled = {key: value.format(id=job_id) for key, value in form.items()}
        with caplog.at_level(logging.WARNING, "oban_sa.web"):
            said = await web.post(path.format(id=job_id), 403, **filled)
        assert "Nothing was changed" in said, name
        (event,) = web.events
        assert (event.user, event.allowed, event.count) == ("bob", False, 0), name
    assert "bob at 127.0.0.1 was refused: retry jobs" in caplog.text
    assert await web.sql("SELECT CAST(j AS text) FROM oban_jobs j") == before
    assert await web.sql("SELECT name FROM oban_sa_queues WHERE meta <> '{}'") == []
    assert await web.sql("SELECT name FROM oban_sa_cron_pauses") == []


async def test_a_read_only_visitor_sees_no_button_and_no_form_but_those_that_search(web: Web) -> None:
    (job_id, *_) = await web.add(failed(), Job("shop.Mail"))
    await web.row(producer(limit=10))
    pages = (*PAGES, f"/jobs/{job_id}")
    for page in ("/", "/queues", f"/jobs/{job_id}"):
        assert 'method="post"' in (await web.get(page)), page
    web.access = Access.read_only()
    for page in pages:
        text = await web.get(page)
        assert 'method="post"' not in text, page
        assert "read-only" in text
        assert set(re.findall(r"<button.*?>(?:<span.*?</span>)*([^<]*)", text)) <= {"Search", "Show", "Close", "", "?"}
    await web.get(f"/jobs/{job_id}/edit", 403)
    await web.get("/bulk", 403, verb="retry")


async def test_a_visitor_without_any_right_sees_nothing(web: Web) -> None:
    (job_id,) = await web.add(failed())
    web.access = Access.none()
    for page in (*PAGES, f"/jobs/{job_id}", f"/jobs/{job_id}/raw", "/bulk?verb=retry", "/live"):
        text = await web.get(page, 403)
        assert "shop" not in text
    await web.post("/jobs", 403, verb="retry", id=job_id)


async def test_a_right_for_one_queue_changes_no_job_of_another(web: Web) -> None:
    mine, other = await web.add(failed(queue="mailers"), failed(queue="reports"))
    web.access = Access.read_only("bob", retry={"mailers"}, pause={"mailers"})
    await web.post("/jobs", 403, verb="retry", id=[mine, other])
    assert await web.states() == {mine: "discarded", other: "discarded"}
    await web.post("/queues", 403, verb="pause", queue="reports")
    await web.post("/queues", verb="pause", queue="mailers")
    await web.post("/bulk", verb="retry", q="state:discarded", total="1")
    assert await web.states() == {mine: "available", other: "discarded"}


async def test_only_some_queues_are_shown_at_all(web: Web) -> None:
    mine, other = await web.add(failed(queue="mailers"), failed("shop.Secret", queue="hidden", max_attempts=20))
    await web.row(producer("web.9", queue="hidden"))
    await web.row(executing([other], by="00000000-0000-0000-0000-000000000000", node="web.9"))
    web.access = Access.all("bob", queues={"mailers"})
    searches = ("Secret", "queue:hidden", f"id:{other}", "-queue:mailers", "state:executing", "queue:hiden")
    for page in ("/", "/queues", "/nodes", "/crons", *(f"/?q={search}" for search in searches)):
        text = await web.get(page)
        assert "shop.Secret" not in text, page
        assert "web.9" not in text, page
    await web.get("/workflows", 403)
    await web.get(f"/jobs/{other}", 404)
    await web.get(f"/jobs/{other}/raw", 404)
    await web.post("/jobs", 403, verb="cancel", id=other)
    await web.get(f"/jobs/{mine}")


async def test_health_names_no_queue_that_is_hidden(web: Web) -> None:
    await web.add(Job("shop.Secret", queue="hidden"))
    assert "hidden (1)" in await web.get("/health")
    web.access = Access.read_only(queues={"mailers"})
    assert "hidden (1)" not in await web.get("/health")


async def test_args_and_errors_may_be_hidden_from_a_visitor_and_not_searched(web: Web) -> None:
    (job_id,) = await web.add(failed(args={"to": "ada@example.com"}, meta={"k": "ada@example.com"}))
    web.access = Access.all(see_args=False, see_errors=False)
    for page in ("/", f"/jobs/{job_id}", f"/jobs/{job_id}/raw", f"/jobs/{job_id}/edit"):
        text = await web.get(page)
        assert "ada@example.com" not in text, page
        assert "ConnectTimeout" not in text, page
    assert "you may not see args" in await web.get("/", 400, q="args.to:ada@example.com")
    assert "you may not see args" in await web.get("/", 400, q="-meta.k:ada")
    assert "you may not see errors" in await web.get("/", 400, q="error:Timeout")
    await web.post("/bulk", 400, verb="retry", q="args.to:ada@example.com")
    await web.post(f"/jobs/{job_id}/edit", 403, args="{}")


async def test_an_asynchronous_answer_is_waited_for_and_a_wrong_one_is_no_right(web: Web) -> None:
    async def rights(request: Any) -> Access:
        return Access.read_only(request.headers.get("x-user"))

    client = web.client_of(Dashboard(Oban(web.engine), access=rights))
    assert "eve &lt;b&gt;" in (await client.get("/", headers={"X-User": "eve <b>"})).text
    client = web.client_of(Dashboard(Oban(web.engine), access=lambda request: True))  # type: ignore[arg-type, return-value]
    assert (await client.get("/")).status_code == 500


async def test_every_action_is_told_of(web: Web) -> None:
    one, two = await web.add(failed(), failed())
    await web.post("/jobs", verb="retry", id=[one, two])
    await web.post("/queues", verb="pause", queue="default", node="web.1")
    told = [(event.user, event.action, event.allowed, event.job_ids, event.target, event.count) for event in web.events]
    assert told == [
        ("ada", "retry", True, (one, two), None, 2),
        ("ada", "pause", True, (), "queue default on web.1", 0),
    ]

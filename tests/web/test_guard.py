"""Requests of other sites and for other hosts are refused; every answer carries a strict policy."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import event

from oban_sa import Oban
from oban_sa.web import Access, Dashboard
from oban_sa.web.app import _routes
from oban_sa.web.guard import POLICY
from tests.web.conftest import Web, failed


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 303),  # not a browser, so no site can have sent it
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "none"}, 303),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://test"}, 403),
        ({"Origin": "http://test"}, 303),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://test:8080"}, 403),
        ({"Origin": "http://test.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://admin.example"}, 303),
        ({"Origin": "https://admin.example", "Sec-Fetch-Site": "cross-site"}, 303),
    ],
)
async def test_a_form_of_another_site_changes_nothing(web: Web, headers: dict[str, str], code: int) -> None:
    (job_id,) = await web.add(failed())
    web.client = web.client_of(
        Dashboard(web.oban, access=lambda request: Access.all(), allowed_origins=["https://admin.example"])
    )
    await web.post("/jobs", code, headers=headers, verb="retry", id=job_id)
    assert await web.states() == {job_id: "available" if code == 303 else "discarded"}


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("localhost", 200),
        ("localhost:8431", 200),
        ("LOCALHOST", 200),
        ("[::1]:8431", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("", 403),
        ("[::1", 403),
    ],
)
async def test_other_hosts_are_refused_where_hosts_are_named(web: Web, host: str, code: int) -> None:
    client = web.client_of(Dashboard(Oban(web.engine), allowed_hosts=["localhost", "[::1]"]))
    assert (await client.get("/", headers={"Host": host})).status_code == code


async def test_every_answer_has_the_policy_and_no_page_needs_more(web: Web) -> None:
    (job_id,) = await web.add(failed())
    assert "unsafe" not in POLICY
    paths = ["/", "/?q=sate:x", f"/jobs/{job_id}", f"/jobs/{job_id}/edit", f"/jobs/{job_id}/raw", "/queues", "/nodes"]
    paths += [
        "/crons",
        "/workflows",
        "/metrics",
        "/health",
        "/bulk?verb=delete",
        "/nosuch",
        "/static/x/nosuch",
        "/jobs/0",
    ]
    for path in paths:
        answer = await web.client.get(path)
        assert answer.headers["content-security-policy"] == POLICY, path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store", path
        if "html" in answer.headers["content-type"]:
            assert not re.search(r"<script(?![^>]*src=)|\sstyle=|\son[a-z]+=|javascript:|https?://", answer.text), path


async def test_nothing_changes_by_get(web: Web) -> None:
    for route in _routes(web.dashboard.instances[0]):
        methods = getattr(route, "methods", set())
        assert not {"POST", "GET"} <= methods
    (job_id,) = await web.add(failed())
    for path in ("/jobs", "/bulk", "/queues", "/crons", f"/jobs/{job_id}/edit"):
        await web.client.get(
            path, params={"verb": "retry", "id": job_id, "q": "state:discarded", "total": 1, "priority": 5}
        )
    assert await web.states() == {job_id: "discarded"}
    assert await web.sql("SELECT priority FROM oban_jobs") == [(0,)]


async def test_pages_read_in_transactions_that_can_only_read(web: Web) -> None:
    seen: list[tuple[str, str, str]] = []
    reader = web.dashboard.instances[0].reader

    @event.listens_for(reader.engine.sync_engine, "commit")
    @event.listens_for(reader.engine.sync_engine, "rollback")
    def ended(connection: object) -> None:
        names = ("transaction_read_only", "jit", "statement_timeout")
        settings = ", ".join(f"current_setting('{name}')" for name in names)
        row = connection.exec_driver_sql(f"SELECT {settings}").one()  # type: ignore[attr-defined]
        seen.append(tuple(row))

    for path in ("/", "/queues", "/nodes", "/crons", "/workflows", "/metrics", "/health"):
        await web.get(path)
    assert set(seen) == {("on", "off", "2s")}

"""Secrets are hidden before they reach a page, and can't be guessed by searching."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import Any

import pytest

from oban_sa import Job
from oban_sa.web import Dashboard, Shown, masked
from tests.web.conftest import Web, failed

KEYS = (
    "password",
    "DB_PASSWORD",
    "api_key",
    "apiKey",
    "accessToken",
    "Authorization",
    "client-secret",
    "cookie",
    "pin",
)


@pytest.mark.parametrize("key", KEYS)
def test_values_whose_keys_sound_like_secrets_are_masked_at_any_depth(key: str) -> None:
    job = Job("a", args={"deep": [{key: {"inner": "hush"}}], "to": "ada"}, meta={key: "hush"})
    shown = masked(job)
    assert shown.args == {"deep": [{key: "***"}], "to": "ada"}
    assert shown.meta == {key: "***"}
    assert job.args["deep"][0][key] == {"inner": "hush"}


@pytest.mark.parametrize("key", ["passenger", "author", "spinner", "compass", "id"])
def test_other_values_are_shown(key: str) -> None:
    assert masked(Job("a", args={key: "x"})).args == {key: "x"}


def test_passwords_in_urls_and_errors_are_masked() -> None:
    job = Job(
        "a", args={"url": "postgresql://u:hush@db/x"}, errors=[{"error": "no postgresql://u:hush@db/x", "at": "1"}]
    )
    assert "hush" not in str(masked(job))


async def test_what_is_hidden_appears_on_no_page_and_is_searched_by_none(web: Web) -> None:
    (job_id,) = await web.add(failed(args={"token": "hush", "n": 1}, meta={"secret": {"k": "hush"}}))
    for path in ("/", f"/jobs/{job_id}", f"/jobs/{job_id}/raw", f"/jobs/{job_id}/edit"):
        assert "hush" not in await web.get(path)
    for query in (
        "args.token:hush",
        "-args.token:hush",
        "meta.secret.k:hush",
        "args.n:1 args.token:hush",
        "args.token:h",
    ):
        text = await web.get("/", 400, q=query)
        assert "is hidden on all pages" in text
        assert f'id="job-{job_id}"' not in text
        await web.get("/bulk", 400, verb="retry", q=query)
    assert f'id="job-{job_id}"' in await web.get("/", q="args.n:1")


async def test_what_a_worker_redacts_appears_on_no_page_and_is_found_by_no_search(web: Web) -> None:
    args = {"card": "4111-x", "customer": {"phone": "555-x", "name": "Ada"}, "rows": [{"pin": "777-x"}], "n": 1}
    meta = {"redacted": ["card", "customer.phone", "rows.pin"]}
    errors = [{"error": "ValueError: no money on 4111-x of 555-x", "at": "2026-01-01T00:00:00Z", "attempt": 1}]
    (hidden,) = await web.add(failed(args=args, meta=meta, errors=errors))
    (plain,) = await web.add(
        failed(args={"card": "4111-x", "customer": {"phone": "555-x"}, "rows": [{"pin": "777-x"}]})
    )
    for path in (f"/jobs/{hidden}", f"/jobs/{hidden}/raw", f"/jobs/{hidden}/edit"):
        text = await web.get(path)
        assert not {"4111-x", "555-x", "777-x"} & set(re.findall(r"\d+-x", text))
    assert "Ada" in await web.get(f"/jobs/{hidden}")
    assert "[redacted]" in await web.get(f"/jobs/{hidden}/raw")
    for query in ("args.card:4111-x", "-args.card:4111-y", "args.customer.phone:555-x", "-args.customer.phone:5"):
        text = await web.get("/", q=query)
        assert (f'id="job-{hidden}"' in text, f'id="job-{plain}"' in text) == (False, True), query
    assert f'id="job-{hidden}"' in await web.get("/", q="args.customer.name:Ada")
    assert f'id="job-{hidden}"' in await web.get("/", q="args.n:1")
    assert "1 job" in await web.get("/bulk", verb="retry", q="args.card:4111-x")


async def test_the_application_says_what_is_shown(web: Web) -> None:
    await web.add(failed(args={"to": "ada@example.com", "n": 1}))

    def redact(job: Job) -> Shown:
        return replace(masked(job), args={"n": job.args.get("n")}, errors=())

    client = web.client_of(Dashboard(web.oban, redact=redact))
    text = (await client.get("/")).text
    assert "ada@example.com" not in text
    assert "ConnectTimeout" not in text
    assert (await client.get("/", params={"q": "args.to:ada@example.com"})).status_code == 400


@pytest.mark.parametrize("broken", [lambda job: 1 / 0, lambda job: {"args": job.args}])
async def test_where_it_fails_nothing_is_shown(web: Web, broken: Any, caplog: pytest.LogCaptureFixture) -> None:
    (job_id,) = await web.add(failed(args={"to": "ada@example.com"}))
    client = web.client_of(Dashboard(web.oban, redact=broken))
    with caplog.at_level(logging.ERROR, "oban_sa.web"):
        for path in ("/", f"/jobs/{job_id}", f"/jobs/{job_id}/raw"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert "ada@example.com" not in answer.text
            assert "ConnectTimeout" not in answer.text
    assert "redact= failed" in caplog.text

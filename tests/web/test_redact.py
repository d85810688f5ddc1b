"""Secrets are hidden before they reach a page, and can't be guessed by searching."""

from __future__ import annotations

import logging
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

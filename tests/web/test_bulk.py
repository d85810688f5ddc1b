"""All jobs that a query finds, changed a slice at a time, each once."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from oban_sa import Job
from oban_sa.web import Access
from oban_sa.web.pages import bulk
from tests.web.conftest import Web, failed


def fields(text: str) -> dict[str, str]:
    """The hidden fields of the form that a page goes on with."""
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text)
    return {name: unescape(value) for name, value in found}


async def go_on(web: Web, text: str, **typed: str) -> list[str]:
    """Send the form of a page, and those of the pages that follow; returns the headings, and where it leads."""
    seen: list[str] = []
    for _ in range(50):
        answer = await web.client.post("/bulk", data={**fields(text), **typed})
        if answer.status_code == 303:
            return [*seen, answer.headers["location"]]
        assert answer.status_code == 200, answer.text
        text = answer.text
        seen += re.findall(r"<h1>(.*?)</h1>", text)
    raise AssertionError("it never ended")


async def test_1200_jobs_are_retried_and_how_far_it_is_is_shown(web: Web) -> None:
    await web.add(*(failed(args={"n": number}) for number in range(1_200)), Job("shop.Mail", state="completed"))
    question = await web.get("/bulk", verb="retry", q="state:discarded worker:Charge")
    assert "Type the number 1200 to go on" in question
    for wrong in ("", "1199", "x"):
        said = await web.post("/bulk", 400, **fields(question), typed=wrong)
        assert "another one" in said
    assert set((await web.states()).values()) == {"discarded", "completed"}
    seen = await go_on(web, question, typed="1,200")
    assert seen[:2] == ["Retry: 500 of 1,200", "Retry: 1,000 of 1,200"]
    assert seen[-1] == "/?q=state%3Adiscarded+worker%3ACharge&done=retry&n=1200"
    states = list((await web.states()).values())
    assert (states.count("available"), states.count("completed")) == (1_200, 1)
    assert [(event.action, event.query, event.count) for event in web.events] == [
        ("retry", "state:discarded worker:Charge", 500),
        ("retry", "state:discarded worker:Charge", 500),
        ("retry", "state:discarded worker:Charge", 200),
    ]


async def test_a_job_that_fails_again_meanwhile_is_not_retried_twice(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "SLICE", 3)
    await web.add(*(failed(state="retryable") for _ in range(10)))
    real = bulk.change_jobs
    times: dict[int, int] = {}

    async def changed(page: Any, act: Any, ids: Any, **more: Any) -> int:
        for job_id in ids:
            times[job_id] = times.get(job_id, 0) + 1
        number = await real(page, act, ids, **more)
        await web.sql(
            "UPDATE oban_jobs SET state = 'retryable', scheduled_at = timezone('UTC', now()) + interval '1 minute' "
            "WHERE id = ANY(:ids)",
            ids=list(ids),
        )
        return number

    monkeypatch.setattr(bulk, "change_jobs", changed)
    await go_on(web, await web.get("/bulk", verb="retry", q="state:retryable"))
    assert len(times) == 10
    assert set(times.values()) == {1}


async def test_few_jobs_need_no_number_and_states_that_a_verb_leaves_alone_are_not_meant(web: Web) -> None:
    one, two = await web.add(failed(), Job("shop.Mail"))
    question = await web.get("/bulk", verb="retry", q="")
    assert "Type the number" not in question
    assert (await go_on(web, question))[-1] == "/?done=retry&n=1"
    assert await web.states() == {one: "available", two: "available"}
    await web.get("/bulk", 400, verb="retry", q="state:executing")
    await web.get("/bulk", 400, verb="cancel", q="sate:x")
    await web.get("/bulk", 400, verb="enqueue", q="")


async def test_a_right_that_is_taken_away_stops_it(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "SLICE", 2)
    await web.add(*(failed() for _ in range(5)))
    question = await web.get("/bulk", verb="delete", q="state:discarded")
    first = await web.post("/bulk", 200, **fields(question))
    web.access = Access.read_only()
    await web.post("/bulk", 403, **fields(first))
    assert len(await web.states()) == 3

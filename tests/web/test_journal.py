"""What the page of a job shows of its steps: how far it has come, and what it waits for."""

from __future__ import annotations

import pytest

from oban_sa import Job
from oban_sa.jobs.states import JobState
from oban_sa.web import Access, journal
from tests.web.conftest import Web

SAID = """
    INSERT INTO oban_sa_journal (job_id, name, code, value, done, attempt)
    VALUES (:id, :name, :code, CAST(:value AS jsonb), :done, 1)
"""


async def add(web: Web, job_id: int, name: str, code: str, value: str, *, done: bool = True) -> None:
    await web.sql(SAID, id=job_id, name=name, code=code, value=value, done=done)


async def test_progress_and_steps_are_seen_and_no_results(web: Web) -> None:
    job = Job("shop.pay", args={"card": "4111-x"}, meta={"redacted": ["card"]}, state=JobState.EXECUTING)
    (job_id,) = await web.add(job)
    assert "Progress" not in await web.get(f"/jobs/{job_id}")
    await add(web, job_id, ":progress", "progress", '{"done": 0.4, "note": "rows of 4111-x <b>"}', done=False)
    await add(web, job_id, "charge", "shop.charge", '{"secret": "hush"}')
    await add(web, job_id, "approval", "wait_for", "null", done=False)
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/raw"):
        text = await web.get(path)
        assert "4111-x" not in text
        assert "hush" not in text
        assert "rows of [redacted]" in text
    text = await web.get(f"/jobs/{job_id}")
    assert "40 %" in text
    assert "<b>" not in text.partition("rows of")[2]
    assert "<td>charge</td><td>shop.charge</td>" in text
    assert ":progress" not in text


@pytest.mark.parametrize("state", [JobState.SUSPENDED, JobState.SCHEDULED])
async def test_a_job_that_waits_for_a_signal_says_so(web: Web, state: JobState) -> None:
    meta = {"waits_for": "approval", "wait_until": "infinity", "journal": True}
    (job_id,) = await web.add(Job("shop.pay", meta=meta, state=state))
    assert "a signal approval comes" in await web.get(f"/jobs/{job_id}")


async def test_who_may_see_no_args_sees_how_far_it_is_and_no_words(web: Web) -> None:
    meta = {"waits_for": "appro<val", "journal": True}
    (job_id,) = await web.add(Job("shop.pay", meta=meta, state=JobState.SUSPENDED))
    await add(web, job_id, ":progress", "progress", '{"done": 0.6, "note": "bo<oked"}', done=False)
    await add(web, job_id, "charge", "shop.charge", "1")
    words = ("60 %", "bo&lt;oked", "a signal appro&lt;val comes", "charge")
    page = await web.get(f"/jobs/{job_id}")
    assert [word in page for word in words] == [True, True, True, True]
    assert "bo<oked" in await web.get(f"/jobs/{job_id}/raw")
    web.access = Access(user="eve", see_args=False)
    page = await web.get(f"/jobs/{job_id}")
    assert [word in page for word in words] == [True, False, False, False]
    assert "bo<oked" not in await web.get(f"/jobs/{job_id}/raw")


async def test_the_last_steps_are_shown_of_very_many(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MOST", 3)
    (job_id,) = await web.add(Job("shop.pay"))
    for number in range(3):
        await add(web, job_id, f"step {number}", "f", "1")
    assert "the last 3" not in await web.get(f"/jobs/{job_id}")
    await add(web, job_id, "step 3", "f", "1")
    text = await web.get(f"/jobs/{job_id}")
    assert "the last 3" in text
    assert [f"step {n}</td>" in text for n in range(4)] == [False, True, True, True]

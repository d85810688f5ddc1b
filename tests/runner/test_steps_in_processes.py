"""Durable steps of code in processes: the journal is the runner's, and all is as in a thread."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oban_sa import Oban, signal, telemetry
from oban_sa.runner.concurrency.processes.child import Child
from oban_sa.runner.execution.journals import Journals
from tests.runner import step_process_jobs as jobs
from tests.runner.conftest import Harness
from tests.runner.step_process_jobs import STEPS, lines
from tests.support import eventually

WITHIN = 180.0
"""Seconds: to start a process takes most of one, where the processor is free."""


@pytest.fixture
def harness(harness: Harness) -> Harness:
    harness.registry = jobs.registry
    harness.options["process_pool"] = 1
    return harness


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "done")


async def journal(harness: Harness) -> list[Any]:
    return [
        tuple(row) for row in await harness.sql("SELECT name, code, value, attempt FROM oban_sa_journal ORDER BY 1")
    ]


async def left(path: str, *some: str) -> None:
    assert lines(path) == list(some)


@pytest.mark.parametrize("worker", [jobs.pays, jobs.pays_on_a_loop], ids=["def", "async def"])
async def test_a_step_runs_once_and_later_attempts_get_its_result(harness: Harness, path: str, worker: Any) -> None:
    [job_id] = await harness.enqueue(worker.new(path))
    async with harness.runner():
        done = await harness.becomes(job_id, "completed", WITHIN)
    assert lines(path) == ["charge", *["Paid(order=7, cents=300)"] * 3]
    assert done.attempt == 3
    [(name, code, value, attempt)] = await journal(harness)
    assert (name, value, attempt) == ("charge", {"order": 7, "cents": 300}, 1)
    assert code.startswith("charge")


EVERYWHERE = [(after, None) for after in range(STEPS + 1)] + [(None, inside) for inside in range(1, STEPS + 1)]


@pytest.mark.parametrize(
    ("worker", "kills"),
    [(jobs.ten_steps, EVERYWHERE), (jobs.ten_steps_on_a_loop, [(0, None), (4, None), (None, 4), (10, None)])],
    ids=["def", "async def"],
)
async def test_each_effect_happens_once_wherever_the_process_dies(
    harness: Harness, path: str, worker: Any, kills: list[tuple[int | None, int | None]]
) -> None:
    ids = await harness.enqueue(*(worker.new(path, after, inside) for after, inside in kills))

    async def all_completed() -> None:
        assert await harness.states() == {"completed": len(kills)}

    async with harness.runner(process_pool=2):
        await eventually(all_completed, 240)
    happened = Counter(lines(path))
    twice = {f"{job_id} {inside}" for job_id, (_, inside) in zip(ids, kills, strict=True) if inside is not None}
    every = {f"{job_id} {number}" for job_id in ids for number in range(1, STEPS + 1)}
    assert happened == {each: 2 if each in twice else 1 for each in every}
    for job_id in ids:
        done = await harness.job(job_id)
        assert done.attempt == 2
        assert done.errors[0]["error"].startswith("AttemptCrashed: the process that ran")


async def test_steps_side_by_side_on_a_loop_have_names_that_count_on(harness: Harness, path: str) -> None:
    [job_id] = await harness.enqueue(jobs.ships_side_by_side.new(path))
    async with harness.runner():
        done = await harness.becomes(job_id, "completed", WITHIN)
    assert done.recorded() == ["shipped a", "shipped b"]
    assert sorted(lines(path)) == ["a", "b"]
    assert [row[0] for row in await journal(harness)] == ["ship", "ship#2"]


async def test_a_step_that_raises_is_tried_again_in_place_and_what_is_no_json_is_refused(
    harness: Harness, path: str
) -> None:
    flaky, no_json = await harness.enqueue(jobs.retries_in_place.new(path), jobs.gives_no_json.new())
    async with harness.runner():
        await harness.becomes(no_json, "discarded", WITHIN)
        done = await harness.becomes(flaky, "completed", WITHIN)
    assert (len(lines(path)), done.attempt) == (5, 2)
    assert [row[2:] for row in await journal(harness)] == [(5, 2)]
    assert "InvalidArguments: result of step 'lookup'" in (await harness.job(no_json)).errors[0]["error"]


@pytest.mark.parametrize("worker", [jobs.goes_through, jobs.goes_through_on_a_loop], ids=["def", "async def"])
async def test_items_go_on_after_the_last_one_that_the_code_was_through_with(
    harness: Harness, path: str, worker: Any
) -> None:
    """The first attempt dies with its process, the second one raises."""
    [job_id] = await harness.enqueue(worker.new(path))
    async with harness.runner():
        done = await harness.becomes(job_id, "completed", WITHIN)
    assert (lines(path), done.attempt) == (["0", "1", "2", "3", "4", "5"], 4)


async def test_a_job_that_began_with_the_old_code_keeps_to_it(harness: Harness, path: str) -> None:
    old, new = await harness.enqueue(jobs.old_then_new.new(f"{path}-old"), jobs.new_code.new(f"{path}-new"))
    async with harness.runner():
        for job_id in (old, new):
            await harness.becomes(job_id, "completed", WITHIN)
    assert (lines(f"{path}-old"), lines(f"{path}-new")) == (["False"] * 2, ["True"] * 2)


async def test_events_are_told_by_the_runner(
    harness: Harness, path: str, of: Callable[[type[telemetry.Event]], list[Any]]
) -> None:
    changes, asks = await harness.enqueue(jobs.changes.new(), jobs.waits_on_a_loop.new(path, None))
    async with harness.sessions.begin() as session:
        signal(session, asks, "approval", 7)
    async with harness.runner(node="here"):
        done = await harness.becomes(changes, "completed", WITHIN)
        await harness.becomes(asks, "completed", WITHIN)
    assert done.recorded().startswith(f"the journal of job {changes} has 'count' as the result of int()")
    [changed] = of(telemetry.StepChanged)
    assert (changed.step, changed.recorded, changed.called) == ("count", "int", "float")
    assert [(each.step, each.replayed) for each in of(telemetry.StepStart)] == [("count", False), ("count", True)]
    [stop] = of(telemetry.StepStop)
    assert (stop.step, stop.job_id, stop.runner.node) == ("count", changes, "here")
    assert [(each.signal, each.job_id, each.timed_out) for each in of(telemetry.SignalReceived)] == [
        ("approval", asks, False)
    ]


@pytest.mark.parametrize("how", ["shutdown", "snooze"])
async def test_an_attempt_that_is_given_back_is_remembered(harness: Harness, path: str, how: str) -> None:
    [job_id] = await harness.enqueue(jobs.is_given_back.new(path, how))
    async with harness.runner(grace=0):
        if how == "shutdown":
            await eventually(lambda: left(path, "charge", "run"), WITHIN)
        else:
            await harness.becomes(job_id, "completed", WITHIN)
    async with harness.runner():
        done = await harness.becomes(job_id, "completed", WITHIN)
    assert (done.attempt, lines(path)) == (1, ["charge", "run", "run"])


async def test_an_attempt_that_lost_its_job_journals_nothing_and_ends(
    harness: Harness, path: str, tmp_path: Path
) -> None:
    [job_id] = await harness.enqueue(jobs.loses_its_job.new(path, str(tmp_path / "go")))
    async with harness.runner():
        await eventually(lambda: left(path, "begun"), WITHIN)
        await harness.sql("UPDATE oban_jobs SET state = 'retryable', scheduled_at = now() + interval '1 day'")
        (tmp_path / "go").touch()
        await eventually(lambda: left(path, "begun", "lost", "lost", "lost"), WITHIN)
    assert await journal(harness) == []
    assert (await harness.job(job_id)).state == "retryable"


async def test_a_sleep_ends_the_attempt_and_the_next_one_comes_past_it(
    harness: Harness, path: str, of: Callable[[type[telemetry.Event]], list[Any]]
) -> None:
    [job_id] = await harness.enqueue(jobs.sleeps.new(path))
    async with harness.runner():
        waiting = await harness.becomes(job_id, "scheduled", WITHIN)
        assert waiting.attempt == 0
        assert waiting.meta["wait_until"] == pytest.approx(waiting.scheduled_at.timestamp() * 1000, abs=10_000)
        await harness.sql("UPDATE oban_sa_journal SET until = until - interval '1 day'")
        await harness.sql("UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '1 day'")
        done = await harness.becomes(job_id, "completed", WITHIN)
    assert (lines(path), done.attempt, done.errors) == (["before", "before", "after"], 1, [])
    [suspended] = of(telemetry.Suspended)
    assert (suspended.signal, suspended.job_id) == (None, job_id)


@pytest.mark.parametrize("within", [None, "1 day"])
async def test_a_signal_wakes_it(harness: Harness, path: str, within: str | None) -> None:
    [job_id] = await harness.enqueue(jobs.waits_on_a_loop.new(path, within))
    async with harness.runner():
        waiting = await harness.becomes(job_id, "suspended" if within is None else "scheduled", WITHIN)
        assert (waiting.meta["wait_until"] == "infinity") is (within is None)
        async with harness.sessions.begin() as session:
            signal(session, job_id, "approval", {"ok": True})
        done = await harness.becomes(job_id, "completed", WITHIN)
    assert (done.recorded(), done.attempt, lines(path)) == ({"ok": True}, 1, ["before", "before"])


async def test_code_may_catch_its_suspension_and_go_on(harness: Harness, path: str) -> None:
    goes_on, cleans_up = await harness.enqueue(
        jobs.goes_on_when_suspended.new(path), jobs.cleans_up_when_suspended.new(f"{path}-undo")
    )
    async with harness.runner():
        done = await harness.becomes(goes_on, "completed", WITHIN)
        await harness.becomes(cleans_up, "suspended", WITHIN)
        async with harness.sessions.begin() as session:
            signal(session, cleans_up, "go")
        await harness.becomes(cleans_up, "completed", WITHIN)
    assert (done.recorded(), lines(path), lines(f"{path}-undo")) == (1, ["Suspended"], ["undone"])


async def test_a_timeout_strikes_inside_of_a_step_and_what_was_journalled_stays(harness: Harness, path: str) -> None:
    [job_id] = await harness.enqueue(jobs.is_too_slow.new(path))
    async with harness.runner():
        done = await harness.becomes(job_id, "completed", WITHIN)
    assert lines(path) == ["charge"]
    assert done.errors[0]["error"].startswith("AttemptTimedOut: the attempt took longer than its timeout")


async def test_a_timeout_strikes_while_a_step_waits_for_the_journal(
    harness: Harness, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, hung = Journals.write, asyncio.Event()

    async def hangs(self: Journals, attempt: Any, entry: Any, *, delay: float | None) -> Any:
        if attempt.attempt == 1:
            hung.set()
            await asyncio.Event().wait()
        return await write(self, attempt, entry, delay=delay)

    monkeypatch.setattr(Journals, "write", hangs)
    [job_id] = await harness.enqueue(jobs.is_too_slow.new(path))
    async with harness.runner():
        done = await harness.becomes(job_id, "completed", WITHIN)
        assert "oban_sa answer" not in {task.get_name() for task in asyncio.all_tasks()}
    assert hung.is_set()
    assert lines(path) == ["charge", "charge"]
    assert done.errors[0]["error"].startswith("AttemptTimedOut")


async def test_a_cancelled_job_is_interrupted_inside_of_a_step_and_journals_no_more(
    harness: Harness, path: str
) -> None:
    [job_id] = await harness.enqueue(jobs.is_cancelled.new(path))
    async with harness.runner():

        async def charged() -> None:
            assert [row[0] for row in await journal(harness)] == ["charge"]

        await eventually(charged, WITHIN)
        await Oban(harness.engine).cancel_job(job_id)
        await harness.becomes(job_id, "cancelled", WITHIN)
    assert "slow" not in [row[0] for row in await journal(harness)]


async def test_an_interruption_between_many_steps_loses_none_of_them(harness: Harness, path: str) -> None:
    """It strikes anywhere: while a question is sent, while its answer is awaited, or between two of them."""
    ids = await harness.enqueue(*(jobs.is_asked_to_stop.new(f"{path}-{n}") for n in range(6)))
    oban = Oban(harness.engine)
    async with harness.runner():
        for number, job_id in enumerate(ids):
            await eventually(lambda number=number: left(f"{path}-{number}", "begun"), WITHIN)
            await oban.cancel_job(job_id)
            await harness.becomes(job_id, "cancelled", WITHIN)
    for job_id in ids:
        names = [row[0] for row in await harness.sql(f"SELECT name FROM oban_sa_journal WHERE job_id = {job_id}")]
        numbers = sorted(1 if name == "tick" else int(name.removeprefix("tick#")) for name in names)
        assert numbers == list(range(1, len(names) + 1))


async def test_threads_take_steps_and_one_that_outlives_the_code_is_told_so(harness: Harness, path: str) -> None:
    [job_id] = await harness.enqueue(jobs.takes_steps_in_threads.new(path))
    async with harness.runner():
        done = await harness.becomes(job_id, "completed", WITHIN)
        await eventually(lambda: left(path, "the attempt has ended"), WITHIN)
    assert done.recorded() == [7]
    assert [row[0] for row in await journal(harness)] == ["charge"]


async def test_a_fork_of_the_process_has_no_journal_and_says_so(harness: Harness, path: str) -> None:
    [job_id] = await harness.enqueue(jobs.forks.new(path))
    async with harness.runner():
        await harness.becomes(job_id, "completed", WITHIN)
    [said] = lines(path)
    assert said.startswith("this process was forked by the code of a job, and does not reach the job's journal")


async def test_no_step_is_committed_with_a_session_of_another_process(harness: Harness) -> None:
    [job_id] = await harness.enqueue(jobs.commits_a_session.new())
    async with harness.runner():
        done = await harness.becomes(job_id, "completed", WITHIN)
    assert done.recorded().startswith("step.commit('book', ...) has no part in a session of another process")
    assert await journal(harness) == []


async def test_what_a_completed_job_has_not_asked_its_journal_for_is_told(
    harness: Harness, path: str, of: Callable[[type[telemetry.Event]], list[Any]]
) -> None:
    renames, takes_none, _ = ids = await harness.enqueue(
        jobs.renames.new(), jobs.takes_no_step_any_more.new(), jobs.goes_through.new(path)
    )
    async with harness.runner():
        for job_id in ids:
            await harness.becomes(job_id, "completed", WITHIN)
    assert {each.job_id: each.steps for each in of(telemetry.StepsUnused)} == {
        renames: ("charge 1",),
        takes_none: ("gone",),
    }


async def test_progress_is_told_beside_the_journal(harness: Harness) -> None:
    [job_id] = await harness.enqueue(jobs.tells_its_progress.new())
    async with harness.runner():
        done = await harness.becomes(job_id, "completed", WITHIN)
    [(name, _, value, _)] = await journal(harness)
    assert (name, value) == (":progress", {"done": 1.0, "note": "all"})
    assert (done.attempt, done.meta) == (2, {})  # which says of no journal


async def test_the_journal_is_read_once_in_later_attempts_and_not_at_all_without_steps(
    harness: Harness, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, read = [], Journals.read

    async def counted(self: Journals, attempt: Any) -> Any:
        reads.append((attempt.job_id, attempt.attempt))
        return await read(self, attempt)

    monkeypatch.setattr(Journals, "read", counted)
    pays, *others = await harness.enqueue(jobs.pays.new(path), jobs.fails_without_steps.new(), jobs.takes_none.new())
    async with harness.runner():
        for job_id in (pays, *others):
            await harness.becomes(job_id, "completed", WITHIN)
    assert reads == [(pays, 2), (pays, 3)]
    assert [(await harness.job(job_id)).meta for job_id in others] == [{}, {}]


async def test_code_without_steps_says_no_more_than_it_ever_did(
    harness: Harness, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    receive = Child._receive

    def noted(self: Child, message: object) -> None:
        said.append(type(message).__name__)
        receive(self, message)

    monkeypatch.setattr(Child, "_receive", noted)
    [takes_none] = await harness.enqueue(jobs.takes_none.new())
    async with harness.runner():
        await harness.becomes(takes_none, "completed", WITHIN)
        assert said == ["Ready", "Begun", "Answer"]
        said.clear()
        [takes_one] = await harness.enqueue(jobs.is_too_slow.options(max_attempts=1).new(path))
        await harness.becomes(takes_one, "discarded", WITHIN)
    # Asked once for the journal, once for each step; of the second one there is no end.
    started = ["AskJournal", "Happened", "AskJournal", "Happened"]
    assert said == ["Begun", *started, "Happened", "Used", "Failure"]

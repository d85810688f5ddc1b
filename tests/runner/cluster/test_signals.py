from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any
from uuid import uuid4

import pytest

from oban_sa import Cancel, Job, Oban, job
from oban_sa.errors import InvalidOption
from oban_sa.runner.cluster.heartbeat import Heartbeat
from oban_sa.runner.cluster.signals import Signals
from oban_sa.runner.database.database import Database
from oban_sa.runner.queue.settings import latest
from oban_sa.wire import messages
from tests.runner.conftest import Harness
from tests.support import eventually

LONG = 60.0
"""Intervals that no test waits for: what happens sooner was signalled."""


class Noted:
    """Notes what was ordered."""

    def __init__(self) -> None:
        self.orders: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def order(*values: Any, **named: Any) -> None:
            self.orders.append((name, *values, *named.items()))

        return order


def obeyed(*payloads: str, name: str = "Oban", node: str = "py1") -> list[tuple[Any, ...]]:
    noted = Noted()
    signals = Signals(noted, name=name, node=node)
    for payload in payloads:
        message = messages.decode(payload)
        assert message is not None
        signals.receive(message)
    return noted.orders


# --- the family's payloads, as they stand in its own words


@pytest.mark.parametrize(
    ("payload", "order"),
    [
        ('{"action":"pause","queue":"mailers","ident":"any"}', ("pause", "mailers")),
        ('{"action":"pause","queue":"*","ident":"Oban.py1"}', ("pause", "*")),
        ('{"action":"resume","queue":"mailers"}', ("resume", "mailers")),
        ('{"action":"scale","queue":"mailers","ident":"any","limit":5}', ("scale", "mailers", 5)),
        (
            '{"action":"scale","queue":"mailers","ident":"Oban.py1","limit":5,"node":"py1"}',
            ("scale", "mailers", 5),
        ),
        ('{"action":"start","queue":"new","limit":3,"ident":"any"}', ("start", "new", 3, ("paused", False))),
        (
            '{"action":"start","queue":"new","limit":3,"ident":"any","paused":true,"local_limit":3}',
            ("start", "new", 3, ("paused", True)),
        ),
        ('{"action":"stop","queue":"new","ident":"any"}', ("stop", "new")),
        ('{"action":"pkill","job_id":77}', ("cancel", 77)),
    ],
)
def test_what_the_family_says_is_understood(payload: str, order: tuple[Any, ...]) -> None:
    assert obeyed(payload) == [order]


def test_a_packed_message_is_understood() -> None:
    payload = {"action": "pause", "queue": "mailers", "ident": "any", "padding": "".join(map(str, range(3_000)))}
    packed = messages.encode(payload)
    assert not packed.startswith("{")
    assert obeyed(packed, "Z:" + packed) == [("pause", "mailers")] * 2


@pytest.mark.parametrize("ident", ['"Oban.py2"', '"Other.py1"', '"Oban"', "null", "7", '["any"]', "{}"])
def test_what_is_said_to_others_is_left_to_them(ident: str) -> None:
    assert obeyed(f'{{"action":"pause","queue":"mailers","ident":{ident}}}') == []


ODD = [
    {},
    {"action": "dance"},
    {"action": ["pause"], "queue": "q"},
    {"action": "pause"},
    {"action": "pause", "queue": None},
    {"action": "pause", "queue": ["q"]},
    {"action": "resume", "queue": ""},
    {"action": "stop", "queue": 7},
    {"action": "scale", "queue": "q"},
    {"action": "scale", "queue": "q", "limit": None},
    {"action": "scale", "queue": "q", "limit": "5"},
    {"action": "scale", "queue": "q", "limit": 0},
    {"action": "scale", "queue": "q", "limit": True},
    {"action": "scale", "queue": "q", "limit": 1e3},
    {"action": "start", "queue": "q", "limit": 10**12},
    {"action": "pkill"},
    {"action": "pkill", "job_id": "77"},
    {"action": "pkill", "job_id": True},
    {"action": "pkill", "job_id": {"id": 77}},
]


@pytest.mark.parametrize("message", ODD, ids=str)
def test_an_odd_message_orders_nothing(message: dict[str, Any]) -> None:
    assert obeyed(json.dumps(message)) == []


def test_each_kind_of_oddity_is_mentioned_once(caplog: pytest.LogCaptureFixture) -> None:
    signals = Signals(Noted(), name="Oban", node="py1")
    for _ in range(3):
        for message in ODD:
            signals.receive(message)
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 7
    assert len(set(said)) == 7
    assert any("scale without a limit of at least 1" in each for each in said)


def test_an_order_that_fails_harms_no_later_one(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Noted):
        def pause(self, queue: str) -> None:
            raise RuntimeError("no")

    failing = Failing()
    signals = Signals(failing, name="Oban", node="py1")
    signals.receive({"action": "pause", "queue": "q"})
    signals.receive({"action": "resume", "queue": "q"})
    assert failing.orders == [("resume", "q")]
    assert "could not be obeyed" in caplog.text


# --- what was decided


@pytest.mark.parametrize(
    ("metas", "expected"),
    [
        ({}, None),
        ({"q": {"Oban": {"paused": True, "paused_at": "2026-01-01T00:00:00"}}}, True),
        ({"q": {"Other": {"paused": True, "paused_at": "2026-01-01T00:00:00"}}}, None),
        ({"q": {"Oban.n2": {"paused": True, "paused_at": "2026-01-01T00:00:00"}}}, None),
        ({"q": {"Oban": {"limit": 5, "limit_at": "2026-01-01T00:00:00"}}}, None),
        (
            {
                "*": {"Oban": {"paused": True, "paused_at": "2026-01-01T00:00:00"}},
                "q": {"Oban": {"paused": False, "paused_at": "2026-01-01T00:00:00.1"}},
            },
            False,
        ),
        (
            {
                "*": {"Oban": {"paused": False, "paused_at": "2026-01-01T00:00:02"}},
                "q": {"Oban.n1": {"paused": True, "paused_at": "2026-01-01T00:00:01.9"}},
            },
            False,
        ),
        # What somebody wrote by hand, without a moment, holds until anything is decided; of two the narrower one.
        ({"q": {"Oban": {"paused": True}, "Oban.n1": {"paused": False}}}, False),
        ({"q": {"Oban": "nonsense"}, "*": {"Oban": [1]}}, None),
    ],
)
def test_the_last_word_holds_however_wide_it_was(metas: Any, expected: bool | None) -> None:
    decision = latest(metas, "q", "paused", name="Oban", node="n1")
    assert (None if decision is None else decision.value) is expected


# --- in a runner


class Gate:
    """Jobs that run until they are let go, and say what became of them."""

    def __init__(self, harness: Harness) -> None:
        self.open = asyncio.Event()
        self.began: list[int] = []
        self.cancelled: list[int] = []

        @job(registry=harness.registry)
        async def wait(job: Job) -> None:
            self.began.append(job.id)
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                assert job.cancelled()
                self.cancelled.append(job.id)
                raise

        self.wait = wait


@pytest.fixture
def gate(harness: Harness) -> Gate:
    return Gate(harness)


@pytest.fixture
def oban(harness: Harness) -> Oban:
    return Oban(harness.engine)


async def shown(oban: Oban, queue: str = "default") -> Any:
    checks = [check for check in await oban.check_queues() if check.queue == queue]
    return checks[0] if checks else None


def only_signals(harness: Harness) -> dict[str, Any]:
    """Options of a runner that learns nothing by polling within a test."""
    return {"heartbeat_every": LONG, "dead_after": 3 * LONG, "poll_every": 0.1}


async def test_a_cancelled_running_job_is_interrupted_and_ends_cancelled(
    harness: Harness, gate: Gate, oban: Oban
) -> None:
    one, two = await harness.enqueue(gate.wait.new(), gate.wait.new())
    async with harness.runner(**only_signals(harness)) as runner:
        await eventually(lambda: len(gate.began) == 2 and runner._notifier.proven)
        assert (await oban.cancel_job(one)).state == "executing"
        ended = await harness.becomes(one, "cancelled")
        assert gate.cancelled == [one]
        assert (await harness.job(two)).state == "executing"
        gate.open.set()
        await harness.becomes(two, "completed")
    assert ended.cancelled_at is not None
    assert [entry["attempt"] for entry in ended.errors] == [1]
    assert ended.errors[0]["error"].startswith("AttemptCancelled: ")
    assert "cancel_attempted_at" in ended.meta


async def test_a_thread_hears_at_once_that_its_job_is_cancelled(harness: Harness, oban: Oban) -> None:
    began, heard = threading.Event(), threading.Event()

    @job(registry=harness.registry, cancel="ask")
    def spin(job: Job) -> Cancel:
        began.set()
        while not job.cancelled():
            threading.Event().wait(0.01)
        heard.set()
        return Cancel("as asked")

    [job_id] = await harness.enqueue(spin.new())
    async with harness.runner(**only_signals(harness)) as runner:
        await eventually(lambda: began.is_set() and runner._notifier.proven)
        await oban.cancel_job(job_id)
        ended = await harness.becomes(job_id, "cancelled")
    assert heard.is_set()
    assert ended.errors[0]["error"] == "AttemptCancelled: as asked"


async def test_a_worker_that_only_wants_to_be_asked_is_not_interrupted(harness: Harness, oban: Oban) -> None:
    jobs: list[Job] = []
    finish = asyncio.Event()

    @job(registry=harness.registry, cancel="ask")
    async def careful(job: Job, fail: bool) -> None:
        jobs.append(job)
        await finish.wait()
        if fail:
            raise ValueError("gave up")

    one, two = await harness.enqueue(careful.new(False), careful.new(True))
    async with harness.runner(**only_signals(harness)) as runner:
        await eventually(lambda: len(jobs) == 2 and runner._notifier.proven)
        await oban.cancel_jobs([one, two])
        await eventually(lambda: all(job.cancelled() for job in jobs))
        finish.set()
        await harness.becomes(one, "completed")
        ended = await harness.becomes(two, "cancelled")
    assert "ValueError: gave up" in ended.errors[0]["error"]


async def test_a_cancellation_that_nobody_heard_is_found_in_the_tables(
    harness: Harness, gate: Gate, oban: Oban
) -> None:
    [job_id] = await harness.enqueue(gate.wait.new())
    async with harness.runner() as runner:
        await eventually(lambda: gate.began)
        await runner._notifier.stop()
        await oban.cancel_job(job_id)
        await harness.becomes(job_id, "cancelled")


async def test_a_mark_of_an_earlier_attempt_cancels_nothing(harness: Harness, gate: Gate) -> None:
    [job_id] = await harness.enqueue(gate.wait.options(meta={"cancel_attempted_at": "2020-01-01T00:00:00"}).new())
    [other] = await harness.enqueue(gate.wait.new())
    async with harness.runner(**only_signals(harness)) as runner:
        await eventually(lambda: len(gate.began) == 2)
        await runner._notifier.stop()
        await Oban(harness.engine).cancel_job(other)
        await runner._decisions.tick()
        await harness.becomes(other, "cancelled")
        gate.open.set()
        await harness.becomes(job_id, "completed")
    assert gate.cancelled == [other]


async def test_code_that_cleans_up_is_not_interrupted_again(harness: Harness, oban: Oban) -> None:
    steps: list[str] = []
    cleaned = asyncio.Event()

    @job(registry=harness.registry)
    async def tidy() -> None:
        steps.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("cleaning")
            await cleaned.wait()
            steps.append("clean")

    [job_id] = await harness.enqueue(tidy.new())
    async with harness.runner() as runner:
        await eventually(lambda: steps and runner._notifier.proven)
        await oban.cancel_job(job_id)
        await eventually(lambda: "cleaning" in steps)
        await oban.cancel_job(job_id)
        await runner._decisions.tick()
        cleaned.set()
        await harness.becomes(job_id, "cancelled")
    assert steps == ["began", "cleaning", "clean"]


async def test_a_job_cancelled_before_its_task_begins_still_ends(
    harness: Harness, gate: Gate, monkeypatch: Any
) -> None:
    from oban_sa.runner.execution.attempt import Interrupted
    from oban_sa.runner.queue.attempts import Attempts

    begin = Attempts.begin

    def begin_and_cancel(self: Any, count: Any = None) -> None:
        begin(self, count)
        for running in self._running.values():
            running.interrupt(Interrupted.CANCELLED)

    monkeypatch.setattr(Attempts, "begin", begin_and_cancel)
    [job_id] = await harness.enqueue(gate.wait.new())
    async with harness.runner():
        await harness.becomes(job_id, "cancelled")
    assert gate.began == []


async def test_a_paused_queue_starts_nothing_until_resumed(harness: Harness, gate: Gate, oban: Oban) -> None:
    gate.open.set()
    async with harness.runner(**only_signals(harness), queues={"default": 2, "other": 2}) as runner:
        await eventually(lambda: runner._notifier.proven)
        await oban.pause_queue("default")

        async def paused() -> None:
            assert (await shown(oban)).paused
            assert not (await shown(oban, "other")).paused

        await eventually(paused)
        [held] = await harness.enqueue(gate.wait.new())
        [done] = await harness.enqueue(Job(gate.wait.new().worker, queue="other"))
        await harness.becomes(done, "completed")
        assert (await harness.job(held)).state == "available"
        await oban.resume_queue("default")
        await harness.becomes(held, "completed")
        assert not (await shown(oban)).paused


async def test_a_pause_and_a_limit_survive_a_restart(harness: Harness, gate: Gate, oban: Oban) -> None:
    gate.open.set()
    await oban.pause_queue("default")
    await oban.scale_queue("default", limit=3)
    [held] = await harness.enqueue(gate.wait.new())
    async with harness.runner(queues={"default": 10, "other": 1}) as runner:
        [done] = await harness.enqueue(Job(gate.wait.new().worker, queue="other"))
        await harness.becomes(done, "completed")
        assert (await harness.job(held)).state == "available"
        assert runner._queues.serving["default"].limit == 3
    async with harness.runner():
        await oban.resume_all_queues()
        await harness.becomes(held, "completed")


async def test_a_pause_that_nobody_heard_is_found_in_the_tables(harness: Harness, oban: Oban) -> None:
    async with harness.runner() as runner:
        await runner._notifier.stop()
        await oban.pause_queue("default")
        await eventually(lambda: runner._queues.serving["default"].paused)
        # What Elixir's dashboard resumes, by a signal alone, stays resumed: nothing new was decided in the tables.
        runner._queues.resume("default")
        await runner._decisions.tick()
        assert not runner._queues.serving["default"].paused


async def test_orders_to_one_node_leave_the_others_alone(harness: Harness, oban: Oban) -> None:
    options = only_signals(harness)
    async with harness.runner(**options, node="a") as a, harness.runner(**options, node="b") as b:
        await eventually(lambda: a._notifier.proven and b._notifier.proven)
        await oban.scale_queue("default", limit=4, node="a")
        await oban.pause_queue("default", node="b")
        await eventually(lambda: a._queues.serving["default"].limit == 4 and b._queues.serving["default"].paused)
        assert b._queues.serving["default"].limit == 10
        assert not a._queues.serving["default"].paused


async def test_a_limit_changes_while_jobs_run(harness: Harness, gate: Gate, oban: Oban) -> None:
    await harness.enqueue(*(gate.wait.new() for _ in range(6)))
    async with harness.runner(**only_signals(harness), queues={"default": 1}) as runner:
        await eventually(lambda: len(gate.began) == 1 and runner._notifier.proven)
        await oban.scale_queue("default", limit=4)
        await eventually(lambda: len(gate.began) == 4)

        async def told() -> None:
            check = await shown(oban)
            assert check.limit == 4
            assert list(check.running) == sorted(gate.began)

        await eventually(told)
        gate.open.set()


async def test_a_queue_is_started_and_stopped_while_the_runner_runs(harness: Harness, gate: Gate, oban: Oban) -> None:
    [job_id] = await harness.enqueue(Job(gate.wait.new().worker, queue="new"))
    async with harness.runner() as runner:
        await eventually(lambda: runner._notifier.proven)
        await oban.start_queue("new", limit=2)
        await eventually(lambda: gate.began == [job_id])
        await oban.stop_queue("new")
        await eventually(lambda: "new" not in runner._queues.serving)
        [left] = await harness.enqueue(Job(gate.wait.new().worker, queue="new"))
        assert await shown(oban, "new") is not None  # its job still runs, so its row must beat
        gate.open.set()
        await harness.becomes(job_id, "completed")

        async def gone() -> None:
            assert await shown(oban, "new") is None

        await eventually(gone)
        assert (await harness.job(left)).state == "available"
        await oban.start_queue("new", limit=2, paused=True)
        await eventually(lambda: "new" in runner._queues.serving)
        assert (await harness.job(left)).state == "available"
        await oban.resume_queue("new")
        await harness.becomes(left, "completed")
    assert await oban.check_queues() == []


async def test_a_runner_that_stops_gives_back_what_a_stopped_queue_still_runs(
    harness: Harness, gate: Gate, oban: Oban
) -> None:
    [job_id] = await harness.enqueue(gate.wait.new())
    async with harness.runner(grace=0) as runner:
        await eventually(lambda: gate.began and runner._notifier.proven)
        await oban.stop_queue("default")
        await eventually(lambda: not runner._queues.serving)
    given_back = await harness.job(job_id)
    assert (given_back.state, given_back.attempt) == ("available", 0)
    assert await oban.check_queues() == []


async def test_a_heartbeat_that_comes_late_does_not_write_the_row_of_a_producer_that_left(harness: Harness) -> None:
    row = {"uuid": uuid4(), "name": "Oban", "node": "n", "queue": "q", "meta": "{}"}
    looks = iter([[row]])
    looked = 0

    def rows() -> list[dict[str, Any]]:
        nonlocal looked
        looked += 1
        return next(looks, [])

    lost: list[Any] = []
    heartbeat = Heartbeat(lambda: Database(harness.engine), every=0.01, rows=rows, lost=lost.append)
    await heartbeat.start()
    await eventually(lambda: looked > 3)
    await heartbeat.stop()
    assert lost == []
    assert await harness.sql("SELECT uuid FROM oban_producers") == []


def test_a_way_of_cancelling_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"cancel 'aks' is unknown; did you mean 'ask'\?"):
        job(cancel="aks")  # type: ignore[call-overload]


async def test_a_stranger_on_the_channel_stops_nothing(harness: Harness, gate: Gate, oban: Oban) -> None:
    gate.open.set()
    async with harness.runner() as runner:
        await eventually(lambda: runner._notifier.proven)
        for payload in ("nonsense", "[1]", "null", '{"action":"scale","queue":"default","limit":null}', "Z:!!"):
            await harness.sql("SELECT pg_notify('public.oban_signal', :payload)", payload=payload)
        await oban.scale_queue("default", limit=3)
        await eventually(lambda: runner._queues.serving["default"].limit == 3)
        [job_id] = await harness.enqueue(gate.wait.new())
        await harness.becomes(job_id, "completed")

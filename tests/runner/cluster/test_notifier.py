"""The runner hears of jobs at once, and survives everything else that can arrive, or not arrive, on a channel."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import time
from typing import Any

import pytest
from sqlalchemy import text

from oban_sa import Job, Runner, job, telemetry
from oban_sa.runner.cluster import notifier as notifiers
from tests.runner.conftest import Harness
from tests.support import eventually


def packed(payload: Any) -> str:
    return base64.b64encode(gzip.compress(json.dumps(payload).encode())).decode()


ODD: list[str] = [
    "",
    "hello",
    "{",
    "null",
    "7",
    "[]",
    '["queue"]',
    '"queue"',
    "{}",
    '{"queue": null}',
    '{"queue": 7}',
    '{"queue": []}',
    '{"queue": {}}',
    '{"queue": "unknown"}',
    '{"action": "pause"}',
    '{"action": "pause", "queue": "default", "ident": null}',
    '{"action": "pause", "queue": "default", "ident": 7}',
    '{"action": "pause", "queue": [], "ident": "any"}',
    '{"action": "scale", "queue": "default", "ident": "any", "limit": null}',
    '{"action": "scale", "queue": "default", "ident": "any", "limit": "many"}',
    '{"action": "scale", "queue": "default", "ident": "any", "limit": -1}',
    '{"action": "scale", "queue": "default", "ident": "any", "limit": 0}',
    '{"action": "start", "queue": "", "ident": "any", "limit": 1}',
    '{"action": "start", "queue": 7, "ident": "any", "limit": 1}',
    '{"action": "stop", "ident": "any"}',
    '{"action": "pkill"}',
    '{"action": "pkill", "job_id": "7"}',
    '{"action": "pkill", "job_id": []}',
    '{"action": "dance", "ident": "any"}',
    '{"action": null}',
    '{"action": []}',
    '{"down": "Oban"}',
    '{"node": 7, "ping": "x", "time": []}',
    '{"checks": [{"name": null}]}',
    '{"metrics": {}}',
    '{"crontab": [["*"]]}',
    "Z:",
    "Z:not base64",
    "Z:" + packed([1]),
    packed(7),
    packed({"queue": "\x1b[31mred\n2026-01-01 ERROR forged line"}),
    "H4sIAAAA",
    packed({"queue": "default"})[:-12],
    # Each line of the following brings a part of Elixir's nodes, or a page of its dashboard, down.
    '{"action": "scale", "queue": "default", "ident": "any", "limit": 10, "colour": "red"}',
    '{"action": "start", "queue": "default", "ident": "any", "limit": 10, "colour": "red"}',
    '{"node": "n", "ping": true, "time": "noon"}',
    '{"checks": [{"node": "n", "queue": "q", "uuid": "u", "local_limit": 1, "paused": false, "running": []}]}',
    '{"checks": [{"name": "Oban", "node": "n", "queue": "q", "uuid": "u", "paused": false, "running": []}]}',
    '{"checks": [{"name": "Oban", "node": "n", "queue": "q", "uuid": "u", "local_limit": 1, "paused": false}]}',
    '{"checks": [{"name": "Oban", "node": "n", "queue": "q", "local_limit": 1, "running": [], "started_at": null}]}',
    '{"checks": [{"name": "Oban", "node": "n", "queue": "q", "started_at": "2026-01-01T00:00:00"}]}',
    '{"checks": 7}',
    '{"metrics": [{"series": "full_count", "state": "completed", "queue": "q", "value": {"data": [1]}}]}',
    '{"metrics": [{"series": "exec_time", "value": {"data": [1], "size": 1}}], "node": "n", "time": 1}',
    '{"metrics": [{"series": "full_count", "value": {"data": 1}}], "node": "n", "time": 1.5}',
    '{"crontab": [["* * * * *", "W"]], "name": "Oban", "node": "n"}',
    '{"crontab": [["* * * * *", "W", {}]], "name": "Oban"}',
    "{" * 7000,
    "\x01\x02",
    '{"queue": "\\ud800"}',
]
CHANNELS = ["insert", "signal", "leader", "gossip", "metrics", "cronitor", "sonar", "probe"]


@pytest.fixture
def quick(monkeypatch) -> None:
    """Probe often and be disappointed soon."""
    monkeypatch.setattr(notifiers, "PROBE_WITHIN", 0.3)
    monkeypatch.setattr(notifiers, "PROBE_EVERY", 0.3)


def listening(runner: Runner) -> bool:
    return runner._notifier.proven


async def notify(harness: Harness, channel: str, *payloads: str) -> None:
    async with harness.engine.begin() as connection:
        for payload in payloads:
            await connection.execute(
                text("SELECT pg_notify(:channel, :payload)"), {"channel": f"public.oban_{channel}", "payload": payload}
            )


async def test_a_new_job_is_heard_of(harness: Harness) -> None:
    @job(registry=harness.registry)
    async def nothing() -> None: ...

    async with harness.runner(poll_every=60) as runner:
        await eventually(lambda: listening(runner))
        for _ in range(3):
            [job_id] = await harness.enqueue(nothing.new())
            await harness.becomes(job_id, "completed")


@pytest.mark.parametrize(
    "form", [str, lambda text: packed(json.loads(text)), lambda text: "Z:" + packed(json.loads(text))]
)
async def test_every_form_of_the_family_is_understood(harness: Harness, form: Any) -> None:
    @job(name="worker", registry=harness.registry)
    async def nothing() -> None: ...

    async with harness.runner(poll_every=60) as runner:
        await eventually(lambda: listening(runner))
        [(job_id,)] = await harness.sql("INSERT INTO oban_jobs (worker) VALUES ('worker') RETURNING id")
        await notify(harness, "insert", form('{"queue":"default"}'))
        await harness.becomes(job_id, "completed")


async def test_a_connection_that_was_cut_is_made_again_and_nothing_is_missed(harness: Harness, of) -> None:
    @job(name="worker", registry=harness.registry)
    async def nothing() -> None: ...

    async with harness.runner(poll_every=60) as runner:
        for round_ in range(1, 4):
            await eventually(lambda: listening(runner))
            await harness.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            # Nobody announces this one; it is found by the look that follows a reconnection.
            [(job_id,)] = await harness.sql("INSERT INTO oban_jobs (worker) VALUES ('worker') RETURNING id")
            await harness.becomes(job_id, "completed")
            await eventually(lambda round_=round_: len(of(telemetry.NotifierConnected)) == round_ + 1)
            [heard] = await harness.enqueue(Job("worker"))
            await harness.becomes(heard, "completed")


@pytest.mark.parametrize("channel", CHANNELS)
async def test_odd_messages_leave_the_runner_whole(harness: Harness, channel: str, caplog, of) -> None:
    @job(name="worker", registry=harness.registry)
    async def nothing() -> None: ...

    caplog.set_level(logging.WARNING)
    async with harness.runner(poll_every=60, metrics=True) as runner:
        await eventually(lambda: listening(runner))
        await notify(harness, channel, *ODD)
        [first] = await harness.enqueue(Job("worker"))
        await harness.becomes(first, "completed")
        told = len(caplog.records)
        await notify(harness, channel, *ODD)
        [second] = await harness.enqueue(Job("worker"))
        await harness.becomes(second, "completed")
        assert listening(runner)
        [producer] = runner._queues.all
        assert (producer.limit, producer.paused) == (10, False)
    assert len(of(telemetry.NotifierConnected)) == 1
    assert of(telemetry.NotifierDisconnected) == []
    assert of(telemetry.RunnerRetry) == []
    # Each kind of oddity once, however often it comes.
    assert len(caplog.records) == told
    if channel in ("insert", "signal", "leader"):
        assert any(f"a message on '{channel}' is no JSON object and was ignored" in line for line in caplog.messages)
    assert not any("\n" in line or "\x1b" in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("channel", "payload", "said"),
    [
        ("insert", "hello", "is no JSON object"),
        ("insert", '["default"]', "is no JSON object"),
        ("insert", "{}", "makes no sense (ValueError: no queue is named)"),
        ("insert", '{"queue": null}', "makes no sense (ValueError: no queue is named)"),
        ("insert", '{"queue": ["default"]}', "makes no sense (ValueError: no queue is named)"),
        ("signal", "hello", "is no JSON object"),
        ("signal", '{"action": "pause", "queue": "default", "ident": null}', "its ident is no text"),
        ("signal", '{"action": "pause", "queue": "default", "ident": 7}', "its ident is no text"),
        ("signal", '{"action": "pause", "ident": "any"}', "pause without the name of a queue"),
        ("signal", '{"action": "scale", "queue": "default", "ident": "any", "limit": null}', "scale without a limit"),
        ("signal", '{"action": "dance", "ident": "any"}', "an unknown action"),
        ("signal", '{"action": "pkill"}', "pkill without the job_id"),
        ("leader", "[]", "is no JSON object"),
    ],
)
async def test_an_odd_message_is_mentioned_once_with_what_is_odd(
    harness: Harness, channel: str, payload: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with harness.runner(poll_every=60) as runner:
        await eventually(lambda: listening(runner))
        await notify(harness, channel, *[payload] * 3)
        # What is said after them on the same connection is heard after them.
        await notify(harness, "signal", '{"action": "scale", "queue": "default", "ident": "any", "limit": 7}')
        await eventually(lambda: runner._queues.serving["default"].limit == 7)
    assert [said in line for line in caplog.messages] == [True]


async def test_a_leader_of_the_other_language_that_resigns_harms_nothing(harness: Harness, of) -> None:
    async with harness.runner() as runner:
        await eventually(lambda: listening(runner) and of(telemetry.LeaderElection))
        await notify(harness, "leader", '{"down":"Oban"}', '{"action":"resign","node":"py.1","name":"Oban"}')
        await notify(harness, "signal", '{"action": "scale", "queue": "default", "ident": "any", "limit": 7}')
        await eventually(lambda: runner._queues.serving["default"].limit == 7)
    assert [event.leader for event in of(telemetry.LeaderElection)] == [True]


async def test_a_deaf_connection_is_said_once_and_jobs_are_found_by_polling(
    harness: Harness, quick: None, monkeypatch, caplog, of
) -> None:
    @job(name="worker", registry=harness.registry)
    async def nothing() -> None: ...

    receive = notifiers.Notifier._receive
    monkeypatch.setattr(notifiers.Notifier, "_receive", lambda *args: None)  # as if a pooler had swallowed LISTEN
    async with harness.runner(poll_every=0.05) as runner:
        [job_id] = await harness.enqueue(Job("worker"))
        await harness.becomes(job_id, "completed")
        await eventually(lambda: of(telemetry.NotifierDeaf))
        probed: list[bool] = []
        original = notifiers.Notifier._probed

        async def counted(self, connection):
            probed.append(True)
            return await original(self, connection)

        monkeypatch.setattr(notifiers.Notifier, "_probed", counted)
        await eventually(lambda: len(probed) > 2)
        [job_id] = await harness.enqueue(Job("worker"))
        await harness.becomes(job_id, "completed")
        assert not listening(runner)
        assert len(of(telemetry.NotifierDeaf)) == 1
        assert sum("hears no notifications" in line for line in caplog.messages) == 1
        monkeypatch.setattr(notifiers.Notifier, "_receive", receive)
        await eventually(lambda: listening(runner))
    assert len(of(telemetry.NotifierConnected)) == 1


async def test_a_connection_that_became_deaf_is_noticed(harness: Harness, quick: None, monkeypatch, of) -> None:
    connections = []
    connected = notifiers.Notifier._connected

    async def kept(self):
        connections.append(await connected(self))
        return connections[-1]

    monkeypatch.setattr(notifiers.Notifier, "_connected", kept)
    async with harness.runner() as runner:
        await eventually(lambda: listening(runner))
        await connections[0].execute("UNLISTEN *")
        await eventually(lambda: of(telemetry.NotifierDeaf))
        assert not listening(runner)


async def test_a_loop_that_stood_still_does_not_make_a_connection_deaf(harness: Harness, monkeypatch) -> None:
    async with harness.runner(blocked_after=None) as runner:
        await eventually(lambda: listening(runner))
        monkeypatch.setattr(notifiers, "PROBE_WITHIN", 0.3)
        runner._notifier._heard.clear()
        waiting = asyncio.create_task(runner._notifier._hears())
        await asyncio.sleep(0.05)
        time.sleep(1.0)  # noqa: ASYNC251 - blocks on purpose
        asyncio.get_running_loop().call_later(0.1, runner._notifier._heard.set)
        assert await waiting
        runner._notifier._heard.clear()
        assert not await runner._notifier._hears()


async def test_a_database_that_can_not_be_listened_to_keeps_no_runner_from_starting(harness: Harness, of) -> None:
    @job(name="worker", registry=harness.registry)
    async def nothing() -> None: ...

    async with harness.runner(listen_url="postgresql://nobody@127.0.0.1:1/none", poll_every=0.05):
        [job_id] = await harness.enqueue(Job("worker"))
        await harness.becomes(job_id, "completed")
        await eventually(lambda: of(telemetry.NotifierDisconnected))


async def test_a_connection_that_could_not_listen_is_closed(harness: Harness, monkeypatch, of) -> None:
    import asyncpg

    opened: list[asyncpg.Connection] = []

    async def refuses(self, channel, callback):
        opened.append(self)
        raise asyncpg.InsufficientPrivilegeError("no LISTEN for you")

    monkeypatch.setattr(asyncpg.Connection, "add_listener", refuses)
    async with harness.runner():
        await eventually(lambda: len(opened) >= 2)
        assert opened[0].is_closed()

"""What Oban Web is told, in the words of its own nodes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from oban_sa import Job, job, worker
from oban_sa.jobs.attempted_by import new_producer
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.runner.cluster import oban_web_counts
from oban_sa.runner.cluster.oban_web import Metrics
from oban_sa.runner.database.database import Database
from oban_sa.telemetry import Source
from oban_sa.wire import messages
from oban_sa.wire.sketches import Sketch
from tests.factories import producer
from tests.runner.conftest import Harness
from tests.support import eventually


@asynccontextmanager
async def overheard(harness: Harness, *shorts: str) -> AsyncIterator[dict[str, list[dict[str, Any]]]]:
    """Everything said on these channels."""
    heard: dict[str, list[dict[str, Any]]] = {short: [] for short in shorts}
    url = harness.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(url)

    def hear(_c: object, _p: int, channel: str, payload: object) -> None:
        message = messages.decode(str(payload))
        assert message is not None
        heard[channel.rpartition("_")[2]].append(message)

    for short in shorts:
        await connection.add_listener(messages.channel("public", short), hear)
    try:
        yield heard
    finally:
        await connection.close()


def test_a_sketch_counts_nanoseconds_in_bins_two_percent_wide() -> None:
    sketch = Sketch()
    for seconds in (0.0, 1e-9, 0.001, 0.001, 3600.0):
        sketch.add(seconds)
    value = sketch.value()
    width = math.log(1.02 / 0.98)
    assert value == {
        "data": {"0": 2, str(math.ceil(math.log(1e6) / width)): 2, str(math.ceil(math.log(3.6e12) / width)): 1},
        "size": 5,
    }


def test_a_quantile_read_back_from_a_sketch_is_right_within_two_percent() -> None:
    width = math.log(1.02 / 0.98)
    for nanoseconds in (3, 999, 12_345, 10**9, 7 * 10**12):
        sketch = Sketch()
        sketch.add(nanoseconds / 1e9)
        [number] = sketch.value()["data"]
        estimate = 2 * math.exp(int(number) * width) / (1.02 / 0.98 + 1)
        assert abs(estimate - nanoseconds) <= 0.0201 * nanoseconds + 1


async def test_a_node_tells_of_its_queues_its_jobs_and_its_crontab(harness: Harness) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    @job(registry=harness.registry)
    async def fine() -> None:
        started.set()
        await release.wait()

    @job(registry=harness.registry)
    async def broken() -> None:
        raise ValueError("boo")

    @worker(
        registry=harness.registry,
        queue="reports",
        max_attempts=4,
        tags=["report"],
        meta={"of": "worker", "by": "worker"},
        cron=[
            CronEntry("0 9 * * mon-FRI", args={"kind": "daily"}, priority=3, meta={"by": "entry"}),
            CronEntry("30 0 9 * * *"),
        ],
    )
    class Report:
        async def process(self, job: Job) -> None: ...

    async with (
        overheard(harness, "gossip", "metrics", "cronitor") as heard,
        harness.runner(metrics=True, node="web.1", queues={"default": 3}),
    ):
        [fine_id, broken_id] = await harness.enqueue(fine.new(), broken.options(max_attempts=1).new())
        await started.wait()

        def told_of_running() -> dict[str, Any]:
            found = [c for m in heard["gossip"] for c in m["checks"] if c["running"] == [fine_id]]
            assert found
            return found[0]

        check = await eventually(told_of_running)
        release.set()
        await harness.becomes(fine_id, "completed")
        await harness.becomes(broken_id, "discarded")

        def told_of_all() -> list[dict[str, Any]]:
            series = [each for message in heard["metrics"] for each in message["metrics"]]
            kinds = {(each["series"], each["state"]) for each in series}
            assert {
                ("exec_count", "completed"),
                ("exec_count", "discarded"),
                ("exec_time", "completed"),
                ("wait_time", "discarded"),
                ("full_count", "completed"),
                ("full_count", "discarded"),
            } <= kinds
            return series

        series = await eventually(told_of_all)
        await eventually(lambda: heard["cronitor"])

    assert {key: check[key] for key in ("name", "node", "queue", "local_limit", "paused")} == {
        "name": "Oban",
        "node": "web.1",
        "queue": "default",
        "local_limit": 3,
        "paused": False,
    }
    assert isinstance(check["uuid"], str)
    assert datetime.fromisoformat(check["started_at"]).utcoffset() is not None
    for message in heard["metrics"]:
        assert (message["name"], message["node"], type(message["time"])) == ("Oban", "web.1", int)
    for each in series:
        assert isinstance(each["value"]["data"], list if each["series"].endswith("count") else dict)
        assert ("worker" in each) == (each["series"] != "full_count")
    [entry] = heard["cronitor"][0]["crontab"]
    assert entry[0] == "0 9 * * MON-FRI"
    assert entry[1].endswith("Report")
    assert entry[2] == {
        "name": entry[2]["name"],
        "timezone": "Etc/UTC",
        "queue": "reports",
        "priority": 3,
        "max_attempts": 4,
        "tags": ["report"],
        "args": {"kind": "daily"},
        "meta": {"of": "worker", "by": "entry"},
    }
    assert heard["cronitor"][0]["node"] == "web.1"


async def test_a_node_says_nothing_to_dashboards_unless_asked_to(harness: Harness) -> None:
    async with overheard(harness, "gossip", "metrics", "cronitor") as heard:
        [job_id] = await harness.enqueue(Job("nobody", max_attempts=1))
        async with harness.runner(unknown_after=0.01):
            await harness.becomes(job_id, "discarded")
            await asyncio.sleep(1.2)  # longer than a metrics node would keep silent
    assert heard == {"gossip": [], "metrics": [], "cronitor": []}


async def test_what_does_not_fit_in_one_message_is_said_in_several_or_missed_with_one_word(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    # Ids without any pattern, so that 900 of them hardly compress; 4000 of them fit in no message.
    some, many = ([number**7 % 2**61 for number in range(1, count)] for count in (900, 4000))
    queues = [
        SimpleNamespace(uuid=uuid4(), queue=f"q{n}", limit=9, paused=False, running=ids, started_at=datetime.now(UTC))
        for n, ids in enumerate([some[:300], some[300:600], some[600:], many])
    ]
    metrics = Metrics(
        Database(harness.engine), source=Source(node="web.1"), queues=lambda: queues, leading=lambda: False
    )
    async with overheard(harness, "gossip") as heard:
        for _ in range(2):
            await metrics.tick()
        await eventually(lambda: len([c for m in heard["gossip"] for c in m["checks"]]) == 6)
    await metrics.close()
    assert [c["queue"] for m in heard["gossip"] for c in m["checks"]] == ["q0", "q1", "q2"] * 2
    assert [line.partition(": ")[0] for line in caplog.messages] == ["dashboards miss something of this node"]


async def test_counts_past_the_limit_are_estimates(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oban_sa.runner.cluster.oban_web_counts.EXACT_UP_TO", 100)
    await harness.sql(
        "INSERT INTO oban_jobs (worker, queue, state, completed_at) "
        "SELECT 'w', 'big', 'completed', timezone('UTC', now()) FROM generate_series(1, 5000)"
    )
    await harness.sql("ANALYZE oban_jobs")
    async with overheard(harness, "metrics") as heard, harness.runner(metrics=True):

        def told() -> int:
            found = [
                each["value"]["data"][0]
                for message in heard["metrics"]
                for each in message["metrics"]
                if each["series"] == "full_count" and each["queue"] == "big"
            ]
            assert found
            return found[0]

        assert 2_500 < await eventually(told) < 10_000


ELIXIR = """
INSERT INTO oban_peers (name, node, started_at, expires_at)
VALUES (:name, 'elixir@host', timezone('UTC', now()), timezone('UTC', now()) + :lasts * interval '1 second')
ON CONFLICT (name) DO UPDATE SET expires_at = excluded.expires_at
"""


def count_of(node: str, *, name: str = "Oban") -> dict[str, Any]:
    """What a leader of another kind says of 7 jobs in a queue."""
    series = [{"series": "full_count", "state": "available", "queue": "q", "value": {"data": [7]}}]
    return {"metrics": series, "name": name, "node": node, "time": 1}


async def test_jobs_are_counted_once_beside_a_leader_of_another_kind(harness: Harness, monkeypatch) -> None:
    monkeypatch.setattr(oban_web_counts, "LOOK_EVERY", 0.0)
    now = [1000.0]
    monkeypatch.setattr(oban_web_counts.clock, "monotonic", lambda: now[0])
    await harness.enqueue(Job("worker", queue="q"))
    leads = [True]
    source = Source(node="web.1")
    counts = oban_web_counts.FullCounts(Database(harness.engine), source=source, leading=lambda: leads[0])

    async def said() -> list[int]:
        return [each["value"]["data"][0] for each in await counts.series()]

    assert await said() == [1]
    # Heard on the channel: ours is taken back at once, and nothing is said until the other is silent.
    counts.hear(count_of("elixir@host"))
    assert await said() == [0]
    assert await said() == []
    now[0] += oban_web_counts.SILENT_FOR - 1
    assert await said() == []
    now[0] += 2
    assert await said() == [1]
    # Not of this instance, of this node, and of a node of ours which has just handed over.
    counts.hear(count_of("elixir@host", name="Other"))
    counts.hear(count_of("web.1"))
    await harness.add(producer("web.2", queue="q", uuid=new_producer()))
    counts.hear(count_of("web.2"))
    assert await said() == [1]
    await harness.sql("DELETE FROM oban_producers")
    assert await said() == [1]
    # By the lease of an Elixir node, for as long as it lasts.
    await harness.sql(ELIXIR, name="Other", lasts=60)
    assert await said() == [1]
    await harness.sql(ELIXIR, name="Oban", lasts=60)
    assert await said() == [0]
    assert await said() == []
    await harness.sql(ELIXIR, name="Oban", lasts=-1)
    assert await said() == [1]
    await harness.sql("DROP TABLE oban_peers")
    assert await said() == [1]
    leads[0] = False
    assert await said() == []
    await counts._line.close()


async def test_a_runner_hears_what_others_count(harness: Harness) -> None:
    await harness.enqueue(Job("worker", queue="q"))
    async with overheard(harness, "metrics") as heard, harness.runner(metrics=True, queues={"default": 1}) as runner:

        def ours() -> list[Any]:
            return [
                each["value"]["data"]
                for message in heard["metrics"]
                if message["node"] == runner.node
                for each in message["metrics"]
                if each["series"] == "full_count"
            ]

        await eventually(lambda: ours() == [[1]] or ours())
        text = messages.encode(count_of("elixir@host"))
        await harness.sql("SELECT pg_notify('public.oban_metrics', :text)", text=text)
        await eventually(lambda: ours()[-1] == [0])


async def test_a_crontab_that_is_too_long_is_told_without_the_options_of_its_jobs(harness: Harness, caplog) -> None:
    noise = [number**7 % 2**61 for number in range(1, 900)]
    crontab: list[list[Any]] = [["@daily", "Report", {"name": "a", "timezone": "Etc/UTC", "args": {"ids": noise}}]]
    database = Database(harness.engine)
    metrics = Metrics(
        database, source=Source(node="web.1"), queues=list, leading=lambda: False, crontab=[*crontab, *crontab]
    )
    async with overheard(harness, "cronitor") as heard:
        await metrics.tick()
        await eventually(lambda: heard["cronitor"])
    await metrics.close()
    told = ["@daily", "Report", {"name": "a", "timezone": "Etc/UTC"}]
    assert heard["cronitor"][0]["crontab"] == [told, told]
    assert [line.partition(";")[0] for line in caplog.messages] == ["the crontab is too long for dashboards"]


async def test_jobs_are_counted_less_often_where_that_takes_long(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, counted = 100.0, 0
    counts = oban_web_counts.FullCounts(Database(harness.engine), source=Source(node="web.1"), leading=lambda: True)
    monkeypatch.setattr("oban_sa.runner.cluster.oban_web_counts.clock.monotonic", lambda: now)

    async def count() -> list[tuple[str, str, int]]:
        nonlocal now, counted
        counted += 1
        now += 0.25
        return [("available", "default", counted)]

    monkeypatch.setattr(counts, "_count", count)
    told = []
    for _ in range(14):
        told += await counts._counts()
        now += 1
    # A fiftieth of the time: after a quarter of a second of counting twelve and a half seconds of none.
    assert [number for _, _, number in told] == [1] * 13 + [2]

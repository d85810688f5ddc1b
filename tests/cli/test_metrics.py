"""`python -m oban_sa metrics`: what was written is added up as on the dashboard's page, for people and machines."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.full.explain import explaining
from oban_sa import Job, Oban, Runner
from oban_sa.client import metrics as client
from oban_sa.web import Dashboard
from oban_sa.wire.sketches import bin_of
from oban_sa.workers import Registry
from oban_sa.workers.function import job
from tests.cli.conftest import Shell

HOUR, DAY = 3_600, 86_400


def keep(shell: Shell, worker: str, *, queue: str = "default", node: str = "web.1", **more: Any) -> None:
    """Rows of a worker and of its queue in all steps, `ago` seconds back: attempts that took a tenth of a second."""
    values: dict[str, Any] = {"ended": 1, "failed": 0, "ago": 0, "failures": "{}", "backlog": None, **more}
    for each in (worker, "*"):
        shell.sql(
            "INSERT INTO oban_sa_metrics AS m (step, queue, worker, at, node, outcomes, failures, run, wait, backlog, "
            "oldest) SELECT step, :queue, :worker, date_bin(step * interval '1 second', timezone('UTC', now()) - "
            ":ago * interval '1 second', '2000-01-01'), :node, jsonb_build_object('completed', CAST(:ended AS int), "
            "'discarded', CAST(:failed AS int)), CAST(:failures AS jsonb), "
            "jsonb_build_object(CAST(:bin AS text), CAST(:ended AS int)), "
            "jsonb_build_object(CAST(:bin AS text), CAST(:ended AS int)), CAST(:backlog AS int), "
            "CAST(:backlog AS int) * 10.0 FROM unnest(ARRAY[60, 3600, 86400]) step ON CONFLICT DO NOTHING",
            queue=queue, worker=each, node=node, bin=str(bin_of(0.1)),
            **{**values, "backlog": values["backlog"] if each == "*" else None},
        )  # fmt: skip


def cells(said: str, heading: str) -> list[list[str]]:
    """The lines of the table that begins with a column, split at blanks, without its heading."""
    lines = said.splitlines()
    first = next(at for at, line in enumerate(lines) if line.split()[:1] == [heading])
    last = next((at for at, line in enumerate(lines) if at > first and not line.strip()), len(lines))
    return [line.split() for line in lines[first + 1 : last]]


def test_where_nothing_was_written_is_said_what_writes_it(shell: Shell) -> None:
    said = shell.says("metrics")
    assert said.startswith("The last 60 minutes, until ")
    assert "metrics_every" in said
    assert "grants --role runner" in said
    assert "Nothing of this queue or worker was written" in shell.says("metrics", "--queue", "nosuch")
    assert shell.json("metrics")["all"]["run"] == {"p50": None, "p95": None, "p99": None}


async def test_what_a_runner_did_is_shown_in_every_way(shell: Shell, engine: AsyncEngine) -> None:
    registry = Registry()

    @job(registry=registry, name="shop.Charge", max_attempts=1)
    async def charge(n: int) -> None:
        if n % 4 == 0:
            raise (TimeoutError if n else KeyError)("no")

    shell.enqueue(*(Job("shop.Charge", args={"n": n}, max_attempts=1) for n in range(8)))
    await Runner(engine, queues={"default": 5}, registry=registry).run(until_idle=True)
    for since, step in (("1h", 60), ("90m", 60), ("24h", HOUR), ("1 week", HOUR), ("30d", DAY)):
        found = await asyncio.to_thread(shell.json, "metrics", "--since", since)
        assert found["step"] == step
        assert (found["all"]["ended"], found["all"]["failed"]) == (8, 2), since
        assert found["all"]["failures"] == {"TimeoutError": 1, "KeyError": 1}
        [worker], [queue] = found["workers"], found["queues"]
        assert (worker["worker"], worker["queue"], worker["outcomes"]) == (
            "shop.Charge", "default", {"completed": 6, "discarded": 2},
        )  # fmt: skip
        assert (queue["queue"], queue["ended"], queue["failures"]) == ("default", 8, worker["failures"])
        assert 0 < worker["run"]["p50"] <= worker["run"]["p99"]
        assert sum(each["ended"] for each in found["moments"]) == 8


def test_people_get_tables(shell: Shell) -> None:
    keep(shell, "shop.Charge", ended=9, failed=1, failures='{"TimeoutError": 1}', backlog=4)
    keep(shell, "shop.Mail", queue="mailers", ended=1_200, backlog=30)
    said = shell.says("metrics")
    assert cells(said, "ENDED") == [
        ["1,210", "1", "0.1", "%", *["100", "ms"] * 6, "34", "5", "min"],
    ]  # fmt: skip
    assert cells(said, "WORKER") == [
        ["shop.Charge", "default", "10", "1", "10.0", "%", *["100", "ms"] * 4, "TimeoutError", "1"],
        ["shop.Mail", "mailers", "1,200", "0", "0.0", "%", *["100", "ms"] * 4, "-"],
    ]  # fmt: skip
    assert [line[:4] + line[-3:] for line in cells(shell.says("metrics", "--by", "queue"), "QUEUE")] == [
        ["default", "10", "1", "10.0", "4", "40", "s"],
        ["mailers", "1,200", "0", "0.0", "30", "5", "min"],
    ]
    assert cells(shell.says("metrics", "--by", "error"), "ERROR") == [["TimeoutError", "shop.Charge", "default", "1"]]
    [line] = cells(shell.says("metrics", "--by", "time"), "FROM")
    assert line[2:8] == ["UTC", "1,209", "0", "1", "0", "0"]
    assert "No attempt failed." in shell.says("metrics", "--by", "error", "--queue", "mailers")
    said = shell.says("metrics", "--limit", "1")
    assert "shop.Mail" not in said
    assert "1 more line not shown; --limit 2 shows all." in said


def test_what_waits_is_what_was_seen_last(shell: Shell) -> None:
    keep(shell, "a", ago=600, backlog=50)
    keep(shell, "a", ago=300, backlog=7)
    keep(shell, "a", queue="late", ago=900, backlog=3)
    found = shell.json("metrics")
    assert (found["all"]["available"], found["all"]["oldest"]) == (7, 70.0)
    assert {each["queue"]: (each["available"], each["oldest"]) for each in found["queues"]} == {
        "default": (7, 70.0), "late": (3, 30.0),
    }  # fmt: skip


def test_a_span_a_queue_and_a_worker_are_chosen(shell: Shell) -> None:
    for worker, ago in (("now", 0), ("hours", 2 * HOUR), ("days", 3 * DAY), ("weeks", 20 * DAY)):
        keep(shell, worker, ago=ago, queue=f"of_{worker}", failures='{"KeyError": 2}')
    seen = {
        since: {each["worker"] for each in shell.json("metrics", "--since", since)["workers"]}
        for since in ("10m", "3h", "7d", "100d")
    }
    assert seen == {
        "10m": {"now"},
        "3h": {"now", "hours"},
        "7d": {"now", "hours", "days"},
        "100d": {"now", "hours", "days", "weeks"},
    }
    found = shell.json("metrics", "--since", "7d", "--queue", "of_now", "--queue", "of_days")
    assert [each["worker"] for each in found["workers"]] == ["days", "now"]
    found = shell.json("metrics", "--since", "7d", "--worker", "hours")
    assert [each["worker"] for each in found["workers"]] == ["hours"]
    assert (found["all"]["ended"], found["all"]["failures"]) == (1, {"KeyError": 2})
    assert "AVAILABLE" not in shell.says("metrics", "--since", "7d", "--worker", "hours", "--by", "time")


def test_workers_of_a_week_are_read_by_days_and_hours_and_each_attempt_counts_once(shell: Shell) -> None:
    for number, hours in enumerate(range(7 * 24)):
        keep(shell, "w", node=f"web.{number}", ago=hours * HOUR)
    found = shell.json("metrics", "--since", "7d")
    [worker] = found["workers"]
    # The first hour may have gone by meanwhile.
    assert worker["ended"] == found["all"]["ended"] in (number, number + 1)
    assert sum(each["ended"] for each in found["moments"]) == worker["ended"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--since", "101d"), "what runners did is kept for 100 days; 101 days is further back"),
        (("--since", "1 month"), "no fixed length"),
        (("--since", "yesterday"), "is not a span of time"),
        (("--by", "workers"), "'workers' is not one of"),
        (("--limit", "0"), "0 is not in the range"),
    ],
)
def test_mistakes_are_explained(shell: Shell, given: tuple[str, ...], said: str) -> None:
    assert said in shell.refuses("metrics", *given, code=2)


def test_what_is_not_read_is_said(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        keep(shell, f"w{number}", node=f"web.{number}", ago=number * 60)
    monkeypatch.setattr(client, "MOST_ROWS", 5)
    monkeypatch.setattr(client, "MOST_OF_WORKERS", 4)
    assert "Percentiles of each" not in shell.says("metrics")
    monkeypatch.setattr(client, "MEASURED", 3)
    assert "Percentiles of each are of what ended from 2" in shell.says("metrics", "--by", "queue")
    assert "There is more than is read at once, so this begins at 2" in shell.says("metrics")
    assert "There is more than is read at once, so this begins at 2" in shell.says("metrics", "--by", "time")
    found = shell.json("metrics")
    assert len(found["workers"]) == 4
    assert found["workers_since"] is not None
    assert found["moments_since"] is not None


def test_rows_of_strangers_are_printed_as_text(shell: Shell) -> None:
    keep(shell, "a\x1b[31m\nb", queue="q\u202e", failures='{"X\\u001b[0m": 1}', failed=1)
    shell.sql("UPDATE oban_sa_metrics SET run = '[1]', wait = 'null' WHERE worker <> '*'")
    for by in ("worker", "queue", "error", "time"):
        said = shell.says("metrics", "--by", by)
        assert "\x1b" not in said
        assert "\u202e" not in said
    shell.json("metrics")


async def test_its_statements_are_those_of_the_page(shell: Shell, engine: AsyncEngine) -> None:
    keep(shell, "a")
    of_command: list[str] = []
    with explaining(lambda statement, _: of_command.append(statement)):
        await asyncio.to_thread(shell.says, "metrics")
    of_page: list[str] = []

    def note(*given: Any) -> None:
        if "oban_sa_metrics" in given[2]:
            of_page.append(given[2])

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=Dashboard(Oban(engine))), base_url="http://test")
    assert (await client.get("/metrics")).status_code == 200
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    assert of_command == of_page
    assert len(of_command) == 2

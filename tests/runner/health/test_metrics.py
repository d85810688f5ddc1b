"""A runner's figures, as Prometheus collects them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from oban_sa import Runner, Runners, job
from oban_sa.errors import InvalidOption
from oban_sa.prometheus import Collector
from tests.runner.conftest import Harness
from tests.support import eventually

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scraped(runner: Runner | Runners) -> Samples:
    assert runner.health_address is not None
    host, port = runner.health_address
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://{host}:{port}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def sample(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


async def test_a_runner_serves_what_it_did_and_how_it_stands(harness: Harness) -> None:
    @job(name="mail", registry=harness.registry)
    async def mail(fails: bool) -> None:
        if fails:
            raise RuntimeError("no")

    async with harness.runner(health_port=0, prometheus=True) as runner:
        await harness.enqueue(mail.new(False), mail.new(False), mail.new(True))

        async def counted() -> Samples:
            found = await scraped(runner)
            assert sample(found, "oban_job_runs_total", queue="default", worker="mail", state="completed") == 2
            assert sample(found, "oban_job_runs_total", queue="default", worker="mail", state="retryable") == 1
            return found

        found: Any = await eventually(counted)
        assert sample(found, "oban_job_run_seconds_count", queue="default", worker="mail") == 3
        assert sample(found, "oban_job_wait_seconds_count", queue="default", worker="mail") == 3
        assert sample(found, "oban_queue_limit", queue="default") == 10
        assert sample(found, "oban_queue_paused", queue="default") == 0
        assert sample(found, "oban_jobs_running", queue="default") == 0

        async def listens() -> None:
            assert sample(await scraped(runner), "oban_notifier_up") == 1

        await eventually(listens)


async def test_the_leader_counts_the_table_and_says_how_long_the_first_job_has_waited(harness: Harness) -> None:
    await harness.sql(
        "INSERT INTO oban_jobs (queue, worker, priority, scheduled_at) "
        "SELECT 'idle', 'mail', n % 3, timezone('utc', now()) - n * interval '1 minute' FROM generate_series(1, 5) n"
    )
    await harness.sql("INSERT INTO oban_jobs (queue, worker, state) VALUES ('idle', 'mail', 'completed')")
    async with harness.runner(health_port=0, prometheus=True) as runner:

        async def counted() -> Samples:
            found = await scraped(runner)
            assert sample(found, "oban_leader") == 1
            assert sample(found, "oban_jobs", queue="idle", state="available") == 5
            return found

        found: Any = await eventually(counted)
    assert sample(found, "oban_jobs", queue="idle", state="completed") == 1
    oldest = sample(found, "oban_queue_oldest_seconds", queue="idle")
    assert oldest is not None
    assert 300 <= oldest < 600
    assert sample(found, "oban_queue_oldest_seconds", queue="default") == 0
    assert sample(found, "oban_nodes", queue="default") == 1
    assert sample(found, "oban_nodes", queue="idle") == 0
    assert sample(found, "oban_jobs_capped", queue="idle", state="available") is None


async def test_more_jobs_than_are_counted_are_said_to_be_more(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oban_sa.runner.health import metrics
    from oban_sa.runner.maintenance import backlog

    monkeypatch.setattr(backlog, "MOST", 3)
    monkeypatch.setattr(metrics, "MOST", 3)
    await harness.sql("INSERT INTO oban_jobs (queue, worker) SELECT 'idle', 'mail' FROM generate_series(1, 5)")
    async with harness.runner(health_port=0, prometheus=True) as runner:

        async def capped() -> None:
            found = await scraped(runner)
            assert sample(found, "oban_jobs", queue="idle", state="available") == 3
            assert sample(found, "oban_jobs_capped", queue="idle", state="available") == 1

        await eventually(capped)


async def test_a_node_that_does_not_lead_says_nothing_of_the_table(harness: Harness) -> None:
    async with harness.runner() as leads:
        await eventually(lambda: leads._parts.leading())
        async with harness.runner(health_port=0, prometheus=True) as runner:
            found = await scraped(runner)
            assert sample(found, "oban_leader") == 0
            assert not [name for name, _ in found if name in {"oban_jobs", "oban_queue_oldest_seconds", "oban_nodes"}]


async def test_a_registry_of_the_program_collects_a_runner_without_a_port(harness: Harness) -> None:
    async with harness.runner(prometheus=True) as runner:
        registry = CollectorRegistry()
        registry.register(Collector(runner))
        assert registry.get_sample_value("oban_queue_limit", {"queue": "default"}) == 10


async def test_runners_of_one_process_are_told_apart(harness: Harness) -> None:
    from oban_sa.runner.runners import Runners

    options: Any = {**harness.options, "registry": harness.registry, "prometheus": True}
    runners = Runners(
        Runner(harness.engine, queues={"one": 1}, name="a", **{k: v for k, v in options.items() if k != "queues"}),
        health_port=0,
    )
    async with runners:
        found = await scraped(runners)
    [name] = runners.names
    assert sample(found, "oban_queue_limit", queue="one", runner=name) == 1


async def test_a_runner_that_counts_nothing_says_how_it_would(harness: Harness) -> None:
    async with harness.runner(health_port=0) as runner:
        with pytest.raises(InvalidOption, match="prometheus=True"):
            runner.metrics()
        assert runner.health_address is not None
        host, port = runner.health_address
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://{host}:{port}/metrics")
        assert answer.status_code == 404
        assert answer.json() == {"error": "there is nothing here; ask for /live and /ready"}

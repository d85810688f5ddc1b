"""Several runners under one supervisor, as real processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from oban_sa import Job, enqueue_many
from tests.acceptance import jobs
from tests.support import Process, alive, eventually, forked, plain_url, process, run_python

SHORT = ["--heartbeat-every", "0.2", "--dead-after", "1", "--node", "web"]

Start = Callable[..., Process]


@pytest.fixture
def sql(engine: AsyncEngine) -> Callable[..., Any]:
    """Runs one statement: `await sql("SELECT ...")`."""

    async def run(statement: str) -> list[Any]:
        async with engine.begin() as connection:
            return [tuple(row) for row in (await connection.execute(text(statement))).all()]

    return run


@pytest.fixture
def enqueue(engine: AsyncEngine) -> Callable[..., Any]:
    async def run(*wanted: Job) -> list[int]:
        async with async_sessionmaker(engine, expire_on_commit=False).begin() as session:
            enqueue_many(session, wanted)
        return [job.id for job in wanted]

    return run


@pytest.fixture
def runners(database_url: str):
    """Starts runners on the test's database: `runners(2, "--queues", "default:20")`."""
    with ExitStack() as stack:

        def start(count: int, *arguments: str) -> Process:
            started: AbstractContextManager[Process] = forked(
                ["-m", "oban_sa.runner", "--import", "tests.acceptance.jobs", "--processes", str(count), *arguments],
                env={"OBAN_DATABASE_URL": plain_url(database_url)},
            )
            return stack.enter_context(started)

        yield start


def starts(supervisor: Process) -> Counter[int]:
    """How often each job was started."""
    return Counter(int(line.split()[1]) for line in supervisor.stdout.splitlines() if line.startswith("started"))


def members(supervisor: Process) -> list[int]:
    """The processes of its runners."""
    found: list[int] = []
    for task in Path(f"/proc/{supervisor.pid}/task").iterdir():
        found += [int(pid) for pid in (task / "children").read_text().split()]
    return [pid for pid in found if b"service.member_main" in command(pid)]


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def running(supervisor: Process, count: int) -> list[int]:
    """Wait until so many runners work, and return their processes."""
    for number in range(1, count + 1):
        await supervisor.says(f"as web.{number}", 60)
    return members(supervisor)


async def test_limits_are_shared_and_one_signal_stops_all_of_them_cleanly(
    runners: Start, enqueue: Any, sql: Any
) -> None:
    await enqueue(*(jobs.waits.new(seconds=60) for _ in range(12)))
    supervisor = runners(4, "--queues", "default:10", "--grace", "0.5", *SHORT)
    pids = await running(supervisor, 4)
    assert len(pids) == 4
    limits = await sql("SELECT node, (meta->>'local_limit')::int FROM oban_producers ORDER BY node")
    assert limits == [("web.1", 3), ("web.2", 3), ("web.3", 2), ("web.4", 2)]
    await eventually(lambda: len(starts(supervisor)) == 10, 30)
    supervisor.terminate()
    assert await supervisor.ended(30) == 0, supervisor.output
    assert await sql("SELECT state::text, attempt, count(*) FROM oban_jobs GROUP BY 1, 2") == [("available", 0, 12)]
    assert not any(map(alive, pids))
    assert await sql("SELECT count(*) FROM oban_producers") == [(0,)]
    await supervisor.says("all runners have stopped")


@pytest.mark.chaos
async def test_a_killed_runner_is_started_again_and_its_jobs_are_rescued(
    runners: Start, enqueue: Any, sql: Any
) -> None:
    supervisor = runners(2, "--queues", "default:4", *SHORT)
    pids = await running(supervisor, 2)
    ids = await enqueue(*(jobs.waits.new(seconds=5) for _ in range(4)))
    await eventually(lambda: starts(supervisor) == Counter(ids), 30)
    os.kill(pids[0], signal.SIGKILL)
    await supervisor.says("was killed by SIGKILL (out of memory?); it is started again in ", 30)
    await eventually(lambda: len(members(supervisor)) == 2, 30)

    async def all_completed() -> None:
        assert await sql("SELECT count(*) FROM oban_jobs WHERE state = 'completed'") == [(4,)]

    await eventually(all_completed, 60)
    assert Counter(starts(supervisor).values()) == {1: 2, 2: 2}
    supervisor.terminate()
    assert await supervisor.ended(30) == 0, supervisor.output


async def test_runners_stop_gracefully_when_their_supervisor_is_killed(runners: Start, enqueue: Any, sql: Any) -> None:
    await enqueue(*(jobs.waits.new(seconds=60) for _ in range(2)))
    supervisor = runners(2, "--queues", "default:2", "--grace", "0.5", *SHORT)
    pids = await running(supervisor, 2)
    await eventually(lambda: len(starts(supervisor)) == 2, 30)
    supervisor.kill()
    await supervisor.says("the supervisor is gone; stopping", 30)
    await eventually(lambda: not any(map(alive, pids)), 30)
    assert await sql("SELECT state::text, attempt, count(*) FROM oban_jobs GROUP BY 1, 2") == [("available", 0, 2)]


async def test_a_second_interrupt_ends_all_at_once(runners: Start, enqueue: Any) -> None:
    await enqueue(*(jobs.waits.new(seconds=60) for _ in range(2)))
    supervisor = runners(2, "--queues", "default:2", "--grace", "50", *SHORT)
    pids = await running(supervisor, 2)
    await eventually(lambda: len(starts(supervisor)) == 2, 30)
    supervisor.interrupt()
    await supervisor.says("SIGINT received; stopping all runners", 10)
    await eventually(lambda: supervisor.output.count("SIGTERM received") == 2)
    assert all(map(alive, pids))
    supervisor.interrupt()
    assert await supervisor.ended(20) == 1
    assert not any(map(alive, pids))


GROUP = """
import os, sys
os.setpgrp()
os.execv(sys.executable, [sys.executable, "-m", "oban_sa.runner", *sys.argv[1:]])
"""


async def test_ctrl_c_at_a_terminal_which_goes_to_every_process_stops_all_of_them_gracefully(
    database_url: str, enqueue: Any, sql: Any
) -> None:
    await enqueue(*(jobs.waits.new(seconds=1) for _ in range(2)))
    words = ["-c", GROUP, "--import", "tests.acceptance.jobs", "--processes", "2", "--queues", "default:2", *SHORT]
    with process(words, env={"OBAN_DATABASE_URL": plain_url(database_url)}) as supervisor:
        await eventually(lambda: len(starts(supervisor)) == 2, 60)
        os.killpg(supervisor.pid, signal.SIGINT)
        assert await supervisor.ended(30) == 0, supervisor.output
    assert await sql("SELECT state::text, attempt, count(*) FROM oban_jobs GROUP BY 1, 2") == [("completed", 1, 2)]


async def test_a_signal_while_they_are_being_started_is_a_clean_stop(runners: Start) -> None:
    supervisor = runners(2, *SHORT)
    await supervisor.says("supervising 2 runners", 30)
    supervisor.terminate()
    assert await supervisor.ended(30) == 0, supervisor.output


async def test_a_runner_that_is_stuck_is_killed_in_the_end(runners: Start) -> None:
    supervisor = runners(2, "--grace", "0", *SHORT)
    pids = await running(supervisor, 2)
    os.kill(pids[0], signal.SIGSTOP)
    supervisor.terminate()
    assert await supervisor.ended(40) == 1
    assert not any(map(alive, pids))
    assert "was killed by SIGKILL" in supervisor.output


async def test_all_end_once_nothing_is_left_to_do_anywhere(runners: Start, enqueue: Any, sql: Any) -> None:
    # The second runner serves the queue of the successor alone, and has nothing to do for a while.
    await enqueue(jobs.enqueues_elsewhere.new(seconds=1.5, queue="second"))
    supervisor = runners(2, "--queues", "first:1,second:1", "--until-idle", *SHORT)
    assert await supervisor.ended(60) == 0, supervisor.output
    assert await sql("SELECT queue, state::text FROM oban_jobs ORDER BY id") == [
        ("first", "completed"),
        ("second", "completed"),
    ]


async def test_one_port_answers_for_all(runners: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    supervisor = runners(2, "--health-port", str(port), "--prometheus", *SHORT)

    async def ready() -> None:
        code, report = await asyncio.to_thread(get, f"http://127.0.0.1:{port}/ready")
        assert code == 200, report
        assert [check["ok"] for check in report["checks"].values()] == [True, True]

    await supervisor.says("supervising 2 runners", 30)
    await eventually(ready, 60)
    code, report = await asyncio.to_thread(get, f"http://127.0.0.1:{port}/live")
    assert (code, list(report["checks"])) == (200, ["runner 1 web.1", "runner 2 web.2"])
    limits = await asyncio.to_thread(limits_of, f"http://127.0.0.1:{port}/metrics")
    os.kill(members(supervisor)[0], signal.SIGSTOP)
    code, report = await asyncio.to_thread(get, f"http://127.0.0.1:{port}/live")
    assert (code, report["checks"]["runner 1 web.1"]["detail"]) == (503, "it doesn't answer: TimeoutError")
    fewer = await asyncio.to_thread(limits_of, f"http://127.0.0.1:{port}/metrics")
    os.kill(members(supervisor)[0], signal.SIGCONT)
    assert limits == 10  # both have half of the default
    assert fewer == 5


def limits_of(url: str) -> float:
    """The limit of the default queue in all processes that answer."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return sum(sample.value for each in families for sample in each.samples if sample.name == "oban_queue_limit")


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError as error:
        return 0, str(error)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--import", "tests.acceptance.nowhere"], 2, "there is no module 'nowhere' in the package"),
        (["--queues", "default:1"], 2, "--processes: 2 processes can't share"),
        (["--schema", "gone"], 1, "the schema 'gone' has no table"),
        (["--middleware", "tests.acceptance.jobs:nothing"], 2, "there is no 'nothing' in 'tests.acceptance.jobs'"),
    ],
)
def test_what_keeps_every_runner_from_starting_is_said_once(
    database_url: str, arguments: list[str], code: int, message: str
) -> None:
    url = {"OBAN_DATABASE_URL": plain_url(database_url)}
    done = run_python("-m", "oban_sa.runner", "--processes", "2", *arguments, env=url)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count(message) == 1
    assert "supervising" not in done.stderr
    # And with the very words of a single runner.
    alone = run_python("-m", "oban_sa.runner", *arguments, "--until-idle", env=url)
    assert alone.stderr == done.stderr or "--processes" in message


def test_a_dry_run_says_how_limits_are_shared(database_url: str) -> None:
    url = {"OBAN_DATABASE_URL": plain_url(database_url)}
    words = ["--processes", "2", "--queues", "default:3", "--node", "web", "--dry-run"]
    done = run_python("-m", "oban_sa.runner", *words, env=url)
    assert done.returncode == 0, done.stderr
    assert re.findall("^runner .*", done.stdout, re.MULTILINE) == [
        "runner 1  web.1  default:2",
        "runner 2  web.2  default:1",
    ]


async def test_no_password_is_seen_on_a_command_line(runners: Start, database_url: str) -> None:
    supervisor = runners(2, *SHORT)
    pids = await running(supervisor, 2)
    assert all(b"postgresql" not in command(pid) for pid in pids)
    assert plain_url(database_url) not in supervisor.output


async def test_each_line_of_the_log_names_its_node(runners: Start) -> None:
    supervisor = runners(2, "--log-format", "json", *SHORT)
    await running(supervisor, 2)
    supervisor.terminate()
    assert await supervisor.ended(30) == 0
    lines = [json.loads(line) for line in supervisor.stderr.splitlines()]
    assert Counter(line.get("node") for line in lines if line["message"] == "SIGTERM received") == {
        "web.1": 1,
        "web.2": 1,
    }


@pytest.mark.chaos
async def test_a_private_database_serves_all_of_them(run_folder: Path) -> None:
    data = run_folder / "processes-embedded"
    words = ["-m", "oban_sa.runner", "--embedded", str(data), "--processes", "2", *SHORT]
    with process(words) as supervisor:
        await running(supervisor, 2)
        supervisor.interrupt()
        assert await supervisor.ended(40) == 0, supervisor.output
    assert re.fullmatch(r"postgresql://\S+", supervisor.stdout.strip())

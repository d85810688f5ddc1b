"""`sys.exit()` and Ctrl-C inside of jobs' tasks: an answer of that job, and nothing to any other."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.acceptance import exit_jobs
from tests.acceptance.house import enqueue, sql
from tests.support import ROOT, eventually, forked, plain_url

COMMAND = ["-m", "oban_sa.runner", "--import", "tests.acceptance.exit_jobs"]


@pytest.mark.parametrize(("how", "error"), [("exit", "SystemExit: 3"), ("interrupt", "KeyboardInterrupt: no message")])
@pytest.mark.parametrize("place", ["on_loop", "in_session", "in_process"])
async def test_what_ends_other_programs_is_an_answer_of_one_job(
    database_url: str, engine: AsyncEngine, loop: dict[str, str], place: str, how: str, error: str
) -> None:
    bystanders = [exit_jobs.bystander.new(seconds=1), exit_jobs.bystander_in_thread.new(seconds=1)]
    await enqueue(engine, *bystanders)
    worker = getattr(exit_jobs, place)
    kinds = [*exit_jobs.FAILING] if place == "in_process" else [*exit_jobs.KINDS]
    ids = await enqueue(engine, *(worker.new(kind=kind, how=how) for kind in kinds))
    command = [*COMMAND, "--database-url", plain_url(database_url), "--queues", "default:20", "--until-idle"]
    with forked(command, env=loop) as running:
        assert await running.ended(60) == 0, running.output
    found = {
        job_id: (state, said)
        for job_id, state, said in await sql(
            engine, "SELECT id, state::text, split_part(errors[1]->>'error', E'\\n', 1) FROM oban_jobs"
        )
    }
    for each in bystanders:
        assert found[each.id] == ("completed", None), running.output
    assert {kind: found[job_id] for kind, job_id in zip(kinds, ids, strict=True)} == {
        kind: ("discarded", error) if kind in exit_jobs.FAILING else ("completed", None) for kind in kinds
    }, running.output
    if place != "in_process":
        assert "the runner goes on: File " in running.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_runner_that_went_on_still_stops_when_it_is_told_to(
    database_url: str, engine: AsyncEngine, loop: dict[str, str], number: int
) -> None:
    [job_id] = await enqueue(engine, exit_jobs.on_loop.new(kind="gathered", how="interrupt"))
    with forked([*COMMAND, "--database-url", plain_url(database_url)], env=loop) as running:

        async def failed() -> None:
            states = await sql(engine, f"SELECT state::text FROM oban_jobs WHERE id = {job_id}")
            assert states == [("discarded",)], running.output

        await eventually(failed, 30)
        running.send(number)
        assert await running.ended(30) == 0, running.output


MODULE = """
import sys
from oban_sa.runner.maintenance.lifeline import Lifeline

async def tick(self):
    sys.exit(5)

Lifeline.tick = tick
"""


async def test_a_runner_that_has_lost_a_part_of_its_own_ends(
    database_url: str, loop: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "breaks_a_part.py").write_text(MODULE)
    env = {"PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path), loop.get("PYTHONPATH"), str(ROOT)]))}
    command = [*COMMAND, "--import", "breaks_a_part", "--database-url", plain_url(database_url)]
    with forked(command, env=env) as running:
        assert await running.ended(30) == 5, running.output

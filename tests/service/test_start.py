"""What the process of a runner has loaded, and what its collector does, when its first job begins."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg

from tests.support import plain_url, process, run_python

JOBS = """
import gc, json, sys
from oban_sa import job

@job(name="look")
async def look() -> None:
    facts = {"modules": sorted(sys.modules), "frozen": gc.get_freeze_count(), "collects": gc.isenabled()}
    print("loaded " + json.dumps(facts), flush=True)
"""

MIGRATIONS = {"alembic", "mako", "markupsafe", "pygments", "oban_sa.migrations"}
EXTRAS = {"rich", "pydantic", "msgspec", "fastapi", "pytest", "psycopg"}
UNUSED = {
    "multiprocessing",
    "tomllib",
    "erlpack",
    "oban_sa.bulk",
    "oban_sa.cli",
    "oban_sa.client",
    "oban_sa.embedded",
    "oban_sa.flows",
    "oban_sa.otel",
    "oban_sa.outbox.claim",
    "oban_sa.outbox.flow",
    "oban_sa.outbox.flow_rows",
    "oban_sa.outbox.unique",
    "oban_sa.prometheus",
    "oban_sa.runner.concurrency.processes.child",
    "oban_sa.runner.concurrency.processes.protocol",
    "oban_sa.runner.health.server",
    "oban_sa.runner.runners",
    "oban_sa.sentry",
    "oban_sa.service.supervisor",
    "oban_sa.sql.browse",
    "oban_sa.sql.overview",
    "oban_sa.sql.unique",
    "oban_sa.steps",
    "oban_sa.testing",
    "oban_sa.web",
}
BESIDE = {
    "oban_sa.runner.maintenance.archive",
    "oban_sa.runner.maintenance.beside",
    "oban_sa.runner.maintenance.ticker",
}
"""What of `oban_sa.runner.maintenance` is there before the first job; the rest is imported once that has begun."""


async def test_the_first_job_begins_without_what_only_others_need(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "looking.py").write_text(JOBS)
    with psycopg.connect(plain_url(database_url), autocommit=True) as connection:
        connection.execute("INSERT INTO oban_jobs (worker, queue) VALUES ('look', 'default')")
    words = ["-m", "oban_sa.runner", "--import", "looking", "--database-url", plain_url(database_url), "--until-idle"]
    with process(words, cwd=tmp_path) as runner:
        assert await runner.ended() == 0, runner.output
        (line,) = [line for line in runner.output.splitlines() if line.startswith("loaded ")]
    facts = json.loads(line.removeprefix("loaded "))
    loaded = set(facts["modules"])
    assert "oban_sa.runner.runner" in loaded
    assert loaded & (MIGRATIONS | EXTRAS | UNUSED) == set()
    assert {each for each in loaded if each.startswith("oban_sa.runner.maintenance.")} <= BESIDE
    # What was imported is frozen, and what jobs leave behind is collected.
    assert facts["frozen"] > 10_000
    assert facts["collects"]


def test_a_program_s_collector_is_its_own() -> None:
    done = run_python("-c", "import gc, oban_sa; print(gc.isenabled(), gc.get_freeze_count())")
    assert done.stdout == "True 0\n", done.stderr


def test_a_command_collects_again_once_it_is_imported(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, gc\natexit.register(lambda: print('collects', gc.isenabled()))\n"
    )
    for words in (["-m", "oban_sa", "--help"], ["-m", "oban_sa.runner", "--help"]):
        done = run_python(*words, env={"PYTHONPATH": str(tmp_path)})
        assert done.stdout.endswith("collects True\n"), done.stderr

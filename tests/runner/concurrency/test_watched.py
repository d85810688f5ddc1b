"""Synchronous jobs under coverage, a debugger or a profiler run, and are stopped, as they are without."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support import run_python

ENDED = {
    "plain": "completed",
    "times_out": "discarded AttemptTimedOut",
    "waits_in_c": "discarded AttemptTimedOut",
    "is_cancelled": "cancelled",
    "has_a_session": "completed",
    "times_out_in_the_database": "discarded AttemptTimedOut",
    "times_out_beside_the_database": "discarded AttemptTimedOut",
    "is_given_back": "available",
}


@pytest.mark.parametrize("how", ["coverage", "coverage in Python", "trace", "profile"])
async def test_synchronous_jobs_do_not_hang_where_the_program_is_watched(
    database_url: str, tmp_path: Path, how: str
) -> None:
    program = ["-m", "tests.runner.concurrency.watched", database_url]
    env = {"COVERAGE_FILE": str(tmp_path / "data")}
    if how.startswith("coverage"):
        pytest.importorskip("coverage")
        in_python = how == "coverage in Python"
        env["COVERAGE_CORE"] = "pytrace" if in_python else "ctrace"
        settings = tmp_path / "coveragerc"
        # The one in Python knows of no greenlets, and with them the other may stand still on 3.11: see tools/coverage.
        greenlets = "" if in_python or sys.version_info < (3, 12) else ", greenlet"
        settings.write_text(f"[run]\nsource = oban_sa\nconcurrency = thread{greenlets}\n")
        command = ["-m", "coverage", "run", f"--rcfile={settings}", *program]
    elif how == "trace":
        command = [*program, "trace"]
    else:
        command = ["-m", "cProfile", "-o", str(tmp_path / "profile"), *program, "profile"]
    # One that hangs fails here.
    ended = run_python(*command, env=env, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == ENDED

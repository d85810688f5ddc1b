"""`jobs enqueue` and `jobs update`: jobs made and changed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oban_sa import Job
from tests.cli.conftest import Shell

CODE = """
from oban_sa import job, worker

@job(queue="reports", name="{name}.statement", tags=["monthly"], max_attempts=3)
async def statement(month: int, *, to: str = "ada") -> None: ...
"""


def stored(shell: Shell, columns: str = "worker, queue, args, tags, priority, max_attempts, state::text") -> list[Any]:
    return [tuple(row) for row in shell.sql(f"SELECT {columns} FROM oban_jobs ORDER BY id")]


def test_a_job_is_enqueued_by_the_name_of_its_worker(shell: Shell) -> None:
    said = shell.says(
        "jobs", "enqueue", "app.Mail", "--args", "to=ada", "--args", '{"n": [1, 2]}', "--args", "id=7",
        "--queue", "far", "--priority", "3", "--max-attempts", "5", "--tag", "Urgent", "--meta", "trace=abc",
    )  # fmt: skip
    assert said.startswith("Job 1 enqueued: app.Mail in the queue far, available.\n")
    args = {"to": "ada", "n": [1, 2], "id": 7}
    assert stored(shell) == [("app.Mail", "far", args, ["urgent"], 3, 5, "available")]
    assert stored(shell, "meta") == [({"trace": "abc"},)]


def test_a_job_is_scheduled_by_a_span_of_the_database_clock_or_for_a_moment(shell: Shell) -> None:
    described = shell.json("jobs", "enqueue", "a", "--schedule-in", "1h30m")
    assert described["state"] == "scheduled"
    assert shell.json("jobs", "show", str(described["id"]))["worker"] == "a"
    (seconds,) = shell.sql("SELECT extract(epoch FROM scheduled_at - inserted_at) FROM oban_jobs")[0]
    assert 5399 < seconds < 5401
    said = shell.says("jobs", "enqueue", "b", "--schedule-at", "2100-01-01T06:00+01:00")
    assert "  scheduled  2100-01-01 05:00:00 UTC" in said
    assert str(stored(shell, "scheduled_at")[1][0]) == "2100-01-01 05:00:00"


def test_a_dry_run_writes_nothing_and_needs_no_database(shell: Shell) -> None:
    assert "would be enqueued" in shell.says("jobs", "enqueue", "a", "--args", "x=1", "--dry-run")
    described = shell.json("jobs", "enqueue", "a", "--dry-run", "--database-url", "postgresql://127.0.0.1:1/none")
    assert (described["id"], described["worker"]) == (None, "a")
    assert shell.states() == {}


def test_a_worker_that_no_job_has_is_wondered_about(shell: Shell) -> None:
    shell.says("jobs", "enqueue", "app.jobs.Mail")
    result = shell.run("jobs", "enqueue", "app.jobs.Mial")
    assert result.exit_code == 0
    assert "has the worker 'app.jobs.Mial'; did you mean 'app.jobs.Mail'?" in result.stderr
    assert shell.run("jobs", "enqueue", "app.jobs.Mail").stderr == ""


def test_the_code_is_asked_where_it_is_imported(shell: Shell, folder: Path) -> None:
    name = "typed_jobs_of_a_test"
    (folder / f"{name}.py").write_text(CODE.format(name=name))
    asked = ("--import", name)
    shell.says("jobs", "enqueue", "statement", "--args", "month=5", *asked)
    assert stored(shell) == [(f"{name}.statement", "reports", {"month": 5}, ["monthly"], 0, 3, "available")]
    assert "args.month" in shell.refuses("jobs", "enqueue", "statement", "--args", "month=May", *asked, code=2)
    assert "did you mean 'statement'?" in shell.refuses("jobs", "enqueue", "statment", *asked, code=2)
    assert "args.month" in shell.refuses("jobs", "update", "1", "--args", "month=May", *asked, code=2)
    shell.says("jobs", "update", "1", "--args", "month=6", *asked)
    assert stored(shell, "args") == [({"month": 6},)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["enqueue", "a", "--args", '{"x": 1'], "is not JSON"),
        (["enqueue", "a", "--args", "x"], "is neither a JSON object nor KEY=VALUE"),
        (["enqueue", "a", "--args", '{"x": "\\u0000"}'], "args.x"),
        (["enqueue", "a", "--args", '{"x": "\\ud800"}'], "args.x"),
        (["enqueue", "a", "--args", "x=NaN1", "--priority", "12"], "priority must be between 0 and 9, got 12"),
        (["enqueue", " "], "worker must not be blank"),
        (["enqueue", "a" * 128], "worker must be at most 127 characters long"),
        (["enqueue", "a", "--max-attempts", "0"], "max_attempts must be greater than 0"),
        (["enqueue", "a", "--schedule-in", "2100-01-01"], "write --schedule-at 2100-01-01"),
        (["enqueue", "a", "--schedule-at", "5m"], "write --schedule-in 5m"),
        (["enqueue", "a", "--schedule-in", "1m", "--schedule-at", "2100-01-01"], "exclude each other"),
        (["enqueue", "a", "--import", "no_such_module"], "no_such_module"),
        (["update", "1"], "what is to be changed?"),
        (["update", "1", "--tag", "x", "--no-tags"], "exclude each other"),
        (["update", "1", "--priority", "-1"], "priority must be between 0 and 9"),
        (["update", "1", "--max-attempts", "1"], "max_attempts"),
    ],
)
def test_what_a_job_can_not_be_is_refused(shell: Shell, words: list[str], said: str) -> None:
    shell.enqueue(Job("a", attempt=2))
    assert said in shell.refuses("jobs", *words, code=2)
    assert stored(shell, "attempt, max_attempts, priority") == [(2, 20, 0)]


def test_jobs_are_changed_and_what_was_there_is_told(shell: Shell) -> None:
    one, two = shell.enqueue(Job("a", args={"x": 1}, tags=["old"]), Job("a", queue="slow"))
    words = ("jobs", "update", str(one), str(two), "--queue", "slow", "--priority", "9", "--args", "y=2", "--no-tags")
    dry = shell.says(*words, "--dry-run")
    assert dry.startswith("2 jobs would be changed.\n")
    assert f'  {one}  args         {{"x":1}} -> {{"y":2}}\n' in dry
    assert stored(shell, "queue, priority") == [("default", 0), ("slow", 0)]
    changed = shell.json(*words)
    assert changed["updated"] == 2
    assert changed["jobs"][1] == {"id": two, "changes": {"args": [{}, {"y": 2}], "priority": [0, 9]}}
    assert stored(shell) == [("a", "slow", {"y": 2}, [], 9, 20, "available")] * 2


def test_a_job_is_put_off_and_brought_forward(shell: Shell) -> None:
    (job_id,) = shell.enqueue(Job("a"))
    assert shell.json("jobs", "update", str(job_id), "--schedule-in", "1h")["updated"] == 1
    assert shell.states() == {job_id: "scheduled"}
    shell.says("jobs", "update", str(job_id), "--schedule-at", "2020-01-01")
    assert shell.states() == {job_id: "available"}


def test_one_id_that_is_wrong_changes_none(shell: Shell) -> None:
    (job_id,) = shell.enqueue(Job("a"))
    said = shell.refuses("jobs", "update", str(job_id), "999", "--priority", "5", code=1)
    assert "has the id 999;" in said
    assert stored(shell, "priority") == [(0,)]


def test_an_executing_job_keeps_what_it_was_called_with_which_is_said(shell: Shell) -> None:
    (job_id,) = shell.enqueue(Job("a"))
    shell.sql("UPDATE oban_jobs SET state = 'executing', attempt = 1")
    assert "keeps what it was called with" in shell.run("jobs", "update", str(job_id), "--priority", "5").stderr


def test_a_unique_job_is_not_retried_where_another_stands_in_its_way(shell: Shell) -> None:
    for _ in range(2):
        shell.enqueue(Job("a", unique=True), Job("b", unique=True))
        shell.sql("UPDATE oban_jobs SET state = 'discarded'")
    [waits] = shell.enqueue(Job("a", unique=True))
    said = shell.says("jobs", "retry", "--state", "discarded", "--yes")
    assert said.splitlines() == [
        "1 job made available.",
        f"Job 3 left alone: job {waits}, available, has the same unique key.",
        "Job 2 left alone: job 4, available, has the same unique key.",
        f"Job 1 left alone: job {waits}, available, has the same unique key.",
    ]
    told = shell.json("jobs", "retry", "3")
    assert told == {"retried": 0, "left_alone": {}, "conflicts": {"3": {"id": waits, "state": "available"}}}
    shell.sql("INSERT INTO oban_jobs (worker, state, meta) SELECT 'a', 'discarded', meta FROM oban_jobs, "
              f"generate_series(1, 20) WHERE id = {waits}")  # fmt: skip
    said = shell.says("jobs", "retry", "--worker", "a", "--yes")
    assert len(said.splitlines()) == 13 and "12 more jobs left alone" in said

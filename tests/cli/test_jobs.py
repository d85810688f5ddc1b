"""`python -m oban_sa jobs`, as it is used to find out what went wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from oban_sa import Job, Record
from tests.cli.conftest import Shell
from tests.factories import producer

EVERY_COLUMN = {
    "id", "state", "queue", "worker", "args", "meta", "tags", "errors", "attempt", "max_attempts", "priority",
    "attempted_by", "inserted_at", "scheduled_at", "attempted_at", "completed_at", "cancelled_at", "discarded_at",
}  # fmt: skip


def failed(shell: Shell, **options: Any) -> int:
    """A job that failed once, with a traceback."""
    (job_id,) = shell.enqueue(Job("app.jobs.Mail", args={"to": "ada"}, **options))
    shell.sql(
        """UPDATE oban_jobs SET state = 'retryable', attempt = 1, attempted_by = '{web.1,u}',
           attempted_at = timezone('UTC', now()), errors = ARRAY[CAST(:error AS jsonb)] WHERE id = :id""",
        id=job_id,
        error='{"at": "2024-05-06T07:08:09.5Z", "attempt": 1, "error": "ValueError: no\\nTraceback:\\n'
        '  line 3\\u001b[31m"}',
    )
    return job_id


def test_the_newest_jobs_are_listed_first_and_no_more_than_asked_for(shell: Shell) -> None:
    ids = shell.enqueue(*(Job("app.jobs.Mail", args={"n": n}) for n in range(5)))
    result = shell.run("jobs", "list", "--limit", "3")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["ID", "STATE", "QUEUE", "WORKER", "ATTEMPT", "WHEN", "ARGS"]
    assert [int(line.split()[0]) for line in lines[1:]] == [ids[4], ids[3], ids[2]]
    assert "Mail" in lines[1]
    assert '{"n":4}' in lines[1]
    assert "there are more" in result.stderr


def test_jobs_are_filtered_by_state_queue_and_worker(shell: Shell) -> None:
    one, two, three, four = shell.enqueue(
        Job("app.jobs.Mail", queue="a"),
        Job("app.jobs.Mail", queue="b"),
        Job("app.jobs.Other_Mail", queue="a"),
        Job("app.jobs.Mail", queue="a", schedule_in=60),
    )

    def ids(*words: str) -> list[int]:
        return [job["id"] for job in shell.json("jobs", "list", *words)["jobs"]]

    assert ids() == [four, three, two, one]
    assert ids("--worker", "Mail") == [four, two, one]
    assert ids("--worker", "app.jobs.Mail", "--queue", "a") == [four, one]
    assert ids("--worker", "jobs.Mail") == []
    assert ids("--worker", "Other%Mail") == []
    assert ids("--state", "scheduled", "--state", "available", "--queue", "a") == [four, three, one]
    assert "There are no such jobs." in shell.says("jobs", "list", "--queue", "c")


def test_a_list_for_machines_has_every_column(shell: Shell) -> None:
    failed(shell)
    listed = shell.json("jobs", "list")
    assert listed.keys() == {"jobs", "more"}
    assert listed["more"] is False
    (job,) = listed["jobs"]
    assert job.keys() == EVERY_COLUMN
    assert job["errors"][0]["attempt"] == 1
    assert job["scheduled_at"].endswith("+00:00")


def test_a_job_is_shown_with_its_errors_readable(shell: Shell) -> None:
    job_id = failed(shell, tags=["urgent"], meta={"trace": "abc"})
    shown = shell.says("jobs", "show", str(job_id))
    for part in (
        f"Job {job_id}  app.jobs.Mail\n",
        "  state      retryable\n",
        "  attempt    1 of 20\n",
        "  tags       urgent\n",
        "  held by    web.1 u\n",
        '    "to": "ada"\n',
        '    "trace": "abc"\n',
        "error of attempt 1  2024-05-06 07:08:09 UTC",
        "  ValueError: no\n  Traceback:\n    line 3\\x1b[31m\n",
    ):
        assert part in shown
    assert "\x1b" not in shown
    assert shell.json("jobs", "show", str(job_id)).keys() == EVERY_COLUMN | {"waits_for"}


def test_what_a_job_waits_for_is_shown(shell: Shell) -> None:
    one, two, done = shell.enqueue(*(Job("app.Book", queue="ledger", meta={"sequence": "17"}) for _ in range(3)))
    shell.sql("UPDATE oban_jobs SET state = 'completed' WHERE id = :id", id=done)
    assert "  waits for  a node that serves its queue: none does\n\n" in shell.says("jobs", "show", str(one))
    shell.add(producer("web.1", queue="ledger", limit=10, paused=True))
    assert (
        f"  waits for  job {one}, which comes first in its sequence, 17\n"
        "             its queue to be resumed: it is paused on web.1\n\n"
    ) in shell.says("jobs", "show", str(two))
    assert shell.json("jobs", "show", str(two))["waits_for"] == [
        {
            "why": "sequence",
            "key": "17",
            "job_id": one,
            "text": f"job {one}, which comes first in its sequence, 17",
        },
        {
            "why": "paused",
            "nodes": ["web.1"],
            "text": "its queue to be resumed: it is paused on web.1",
        },
    ]
    assert "waits for" not in shell.says("jobs", "show", str(done))
    assert shell.json("jobs", "show", str(done))["waits_for"] == []


def test_a_node_is_taken_for_dead_after_as_long_as_the_settings_say(shell: Shell, folder: Path) -> None:
    (job_id,) = shell.enqueue(Job("app.Book"))
    shell.add(producer("web.1", silent_for=40.0, limit=10))
    assert "waits for  a node that serves its queue" in shell.says("jobs", "show", str(job_id))
    (folder / "oban.toml").write_text("dead_after = 60\n")
    assert "waits for" not in shell.says("jobs", "show", str(job_id))


def test_the_journal_of_a_job_is_shown_and_what_it_waits_for(shell: Shell) -> None:
    (job_id,) = shell.enqueue(Job("app.jobs.Checkout"))
    for name, code, value, hours, done in (
        ("charge", "app.charge", '{"cents": 300}', None, True),
        ("cool down", "sleep", None, -48.0, True),
        ("approval", "wait_for", None, 2.1, False),
        (":progress", "progress", '{"done": 0.4, "note": "rows"}', None, False),
    ):
        shell.sql(
            "INSERT INTO oban_sa_journal (job_id, name, code, value, until, done, attempt) VALUES (:job_id, :name, "
            ":code, CAST(:value AS jsonb), timezone('UTC', now()) + :hours * interval '1 hour', :done, 1)",
            job_id=job_id,
            name=name,
            code=code,
            value=value,
            hours=hours,
            done=done,
        )
    shown = shell.says("jobs", "show", str(job_id))
    assert "\nprogress\n  40%  rows  " in shown
    assert '\n  charge  {"cents":300}\n' in shown
    assert "\n  cool down  slept until " in shown
    assert "\n  approval  waits for a signal until " in shown
    told = shell.json("jobs", "show", str(job_id))
    assert told.keys() == EVERY_COLUMN | {"waits_for", "journal", "progress"}
    assert {entry["name"] for entry in told["journal"]} == {"charge", "cool down", "approval"}
    assert told["progress"]["note"] == "rows"


def test_what_a_job_recorded_is_shown_decoded(shell: Shell) -> None:
    recorded = Record({"sent": True}).encoded
    (job_id,) = shell.enqueue(Job("app.jobs.Mail", meta={"recorded": True, "return": recorded}))
    assert '"sent": true' in shell.says("jobs", "show", str(job_id))


def test_ages_are_those_of_the_database_clock(shell: Shell) -> None:
    (job_id,) = shell.enqueue(Job("a", schedule_in=60))
    shell.sql("UPDATE oban_jobs SET scheduled_at = timezone('UTC', now()) + interval '2 hours 30 seconds'")
    assert "in 2 h\n" in shell.says("jobs", "show", str(job_id)).replace(")", "\n")


def test_named_jobs_are_retried_without_a_question(shell: Shell) -> None:
    one, two = failed(shell), failed(shell)
    assert "2 jobs made available." in shell.says("jobs", "retry", str(one), str(two))
    assert shell.states() == {one: "available", two: "available"}


@pytest.mark.parametrize("verb", ["retry", "cancel", "delete"])
def test_many_jobs_are_asked_about_first(shell: Shell, verb: str) -> None:
    one, two = failed(shell), failed(shell)
    result = shell.run("jobs", verb, "--queue", "default", answer="n\n")
    assert result.exit_code == 1
    assert f"{verb.capitalize()} 2 jobs (2 retryable)?" in result.stderr
    assert shell.states() == {one: "retryable", two: "retryable"}
    result = shell.run("jobs", verb, "--queue", "default", answer="y\n")
    assert result.exit_code == 0
    assert shell.states() != {one: "retryable", two: "retryable"}


def test_with_yes_nothing_is_asked(shell: Shell) -> None:
    failed(shell), failed(shell)
    assert shell.json("jobs", "delete", "--state", "retryable", "--yes") == {"deleted": 2, "left_alone": {}}
    assert shell.states() == {}


def test_jobs_that_have_ended_are_not_cancelled_and_those_executing_are_asked_to_stop(shell: Shell) -> None:
    ended, running, waiting = shell.enqueue(Job("a"), Job("a"), Job("a"))
    shell.sql("UPDATE oban_jobs SET state = 'completed' WHERE id = :id", id=ended)
    shell.sql("UPDATE oban_jobs SET state = 'executing', attempt = 1 WHERE id = :id", id=running)
    said = shell.says("jobs", "cancel", str(ended), str(running), str(waiting), "--yes")
    assert said == "2 jobs cancelled, of which 1 executing, asked to stop.\n1 job left alone: completed.\n"
    assert shell.states() == {ended: "completed", running: "executing", waiting: "cancelled"}


def test_an_executing_job_is_never_deleted(shell: Shell) -> None:
    (running,) = shell.enqueue(Job("a"))
    shell.sql("UPDATE oban_jobs SET state = 'executing', attempt = 1")
    assert shell.says("jobs", "delete", str(running)) == "0 jobs deleted.\n1 job left alone: executing.\n"
    assert shell.states() == {running: "executing"}


def test_one_id_that_is_wrong_changes_nothing(shell: Shell) -> None:
    job_id = failed(shell)
    said = shell.refuses("jobs", "retry", str(job_id), "999", code=1)
    assert "no job in schema 'public' has the id 999;" in said
    assert shell.states() == {job_id: "retryable"}
    assert "no job in schema 'public' has the id 999;" in shell.refuses("jobs", "show", "999", code=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["jobs", "show", "abc"], "'abc' is no job's id"),
        (["jobs", "show", "99999999999999999999"], "is no job's id"),
        (["jobs", "list", "--state", "retry"], "'retry' is no state; did you mean 'retryable'?"),
        (["jobs", "cancel"], "which jobs? Write their ids: jobs cancel 123 124"),
        (["jobs", "cancel", "1", "--queue", "a"], "but not both"),
        (["jobs", "lits"], "there is no command 'lits'; did you mean 'list'?"),
        (["jobs", "list", "--limit", "0"], "--limit"),
    ],
)
def test_wrong_usage_is_told_what_to_write(shell: Shell, words: list[str], said: str) -> None:
    assert said in shell.refuses(*words, code=2)


def test_a_job_that_is_kept_young_is_shown_with_the_time_since_its_true_start(shell: Shell) -> None:
    """What others look at is its row, where it is younger."""
    shell.enqueue(Job("young"), Job("again"))
    shell.sql(
        "UPDATE oban_jobs SET state = 'executing', attempt = id, attempted_at = timezone('UTC', now()), meta = "
        "json_build_object('began', json_build_object('attempt', 1, 'at', timezone('UTC', now()) - interval '1 hour'))"
    )
    lines = {line.split()[0]: line for line in shell.says("jobs", "list").splitlines()[1:]}
    assert "for 1 h" in lines["1"]
    assert "for 0" in lines["2"]  # this is said of an attempt before


def test_a_job_that_a_rule_of_the_database_refuses_keeps_no_other_from_being_retried(shell: Shell) -> None:
    shell.sql("CREATE UNIQUE INDEX one_waits ON oban_jobs (worker, args) WHERE state = 'available'")
    ids = shell.enqueue(*(Job("a", args={"n": n}) for n in range(5)))
    shell.sql("UPDATE oban_jobs SET state = 'discarded'")
    shell.enqueue(Job("a", args={"n": 2}))
    why = (
        'duplicate key value violates unique constraint "one_waits" '
        'DETAIL: Key (worker, args)=(a, {"n": 2}) already exists.'
    )
    refused = shell.run("jobs", "retry", *map(str, ids))
    assert refused.exit_code == 1
    assert refused.stdout == "4 jobs made available.\n"
    assert refused.stderr.splitlines() == [
        f"The database refused it for job {ids[2]}: {why}",
        "Error: the database refused it for 1 job, as rules on your table say; see above",
    ]
    again = shell.run("jobs", "retry", "--state", "discarded", "--json")
    assert again.exit_code == 1
    assert json.loads(again.stdout) == {"retried": 0, "left_alone": {}, "refused": {str(ids[2]): why}}


def test_a_running_job_whose_node_does_not_answer_says_so(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    (running,) = shell.enqueue(Job("a"))
    shell.sql("UPDATE oban_jobs SET state = 'executing', attempt = 1, attempted_by = '{web.1,x}'")
    assert "\ncode\n  no node has said where it is within 3 seconds: " in shell.says("jobs", "show", str(running))
    assert shell.json("jobs", "show", str(running))["stack"] is None


def test_a_unique_job_is_shown_with_its_key_and_who_has_it(shell: Shell) -> None:
    old, plain = shell.enqueue(Job("a", unique=True), Job("b", meta={"unique": "mine"}))
    assert re.search(r"\n  unique +[0-9a-f-]{36}, which this job has\n", shell.says("jobs", "show", str(old)))
    shell.sql("UPDATE oban_jobs SET state = 'discarded'")
    [new] = shell.enqueue(Job("a", unique=True))
    assert f", which job {new} has, available; a retry leaves this one alone\n" in shell.says("jobs", "show", str(old))
    told = shell.json("jobs", "show", str(old))
    assert told["unique"] == {"key": told["meta"]["unique"], "holder": {"id": new, "state": "available"}}
    shell.sql("UPDATE oban_jobs SET state = 'cancelled'")
    assert f", which job {new} has, cancelled\n" in shell.says("jobs", "show", str(old))
    shell.sql(f"DELETE FROM oban_jobs WHERE id = {new}")
    assert ", which no job has\n" in shell.says("jobs", "show", str(old))
    assert "  unique " not in shell.says("jobs", "show", str(plain)) and "unique" not in shell.json(
        "jobs", "show", str(plain)
    )


def test_a_signal_is_sent_to_a_job_and_refused_where_it_has_ended(shell: Shell) -> None:
    (job_id,) = shell.enqueue(Job("app.jobs.Ship"))
    sent = shell.says("jobs", "signal", str(job_id), "approval", '{"ok": true}')
    assert sent == f"Sent 'approval' to job {job_id}.\n"
    assert shell.json("jobs", "signal", str(job_id), "paid") == {"job": job_id, "signal": "paid", "payload": None}
    rows = shell.sql("SELECT job_id, name, payload FROM oban_sa_signals ORDER BY id")
    assert [tuple(row) for row in rows] == [(job_id, "approval", {"ok": True}), (job_id, "paid", None)]
    assert "is not JSON" in shell.refuses("jobs", "signal", str(job_id), "approval", "yes", code=2)
    assert "no job's id" in shell.refuses("jobs", "signal", "x", "approval", code=2)
    assert "a signal has a name" in shell.refuses("jobs", "signal", str(job_id), " ", code=2)
    assert "no job has the id 999" in shell.refuses("jobs", "signal", "999", "approval", code=1)
    shell.sql("UPDATE oban_jobs SET state = 'completed'")
    assert f"job {job_id} is completed" in shell.refuses("jobs", "signal", str(job_id), "approval", code=1)

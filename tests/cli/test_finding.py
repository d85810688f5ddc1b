"""Jobs found by what they have in common, in a bounded look whose bound is told; and what was meant by a wrong name."""

from __future__ import annotations

from typing import Any

import pytest

from oban_sa import Job
from oban_sa.cli.jobs import apply
from oban_sa.client import search
from tests.cli.conftest import Shell


def ids(shell: Shell, *words: str) -> list[int]:
    return [job["id"] for job in shell.json("jobs", "list", *words)["jobs"]]


def moved(shell: Shell, job_id: int, hours: float) -> None:
    """Make a job one that was due so many hours ago."""
    shell.sql(
        "UPDATE oban_jobs SET scheduled_at = timezone('UTC', now()) - make_interval(secs => :s) WHERE id = :id",
        s=hours * 3600,
        id=job_id,
    )


def test_jobs_of_any_priority_are_listed_and_waited_for(shell: Shell) -> None:
    one, two = shell.enqueue(Job("a", queue="far"), Job("a", queue="far"))
    shell.sql(
        "UPDATE oban_jobs SET priority = 12, scheduled_at = scheduled_at - interval '1 hour' WHERE id = :id", id=one
    )
    assert ids(shell, "--queue", "far", "--state", "available") == [two, one]
    assert shell.json("status")["waiting_longest"]["id"] == one


def test_jobs_are_found_by_what_their_args_and_meta_hold(shell: Shell) -> None:
    number, text, nested, listed = shell.enqueue(
        Job("a", args={"id": 7, "to": "ada"}),
        Job("a", args={"id": "7"}, meta={"batch": 5}),
        Job("a", args={"order": {"id": 17, "by": "x=y"}}),
        Job("a", args={"ids": [1, 2]}, meta={"batch": True}),
    )
    assert ids(shell, "--args", "id=7") == [text, number]
    assert ids(shell, "--args", '{"id": 7}') == [number]
    assert ids(shell, "--args", "id=7", "--args", "to=ada") == [number]
    assert ids(shell, "--args", "order.id=17") == [nested]
    assert ids(shell, "--args", "order.by=x=y", "--state", "available") == [nested]
    assert ids(shell, "--args", '{"ids": [2]}') == [listed]
    assert ids(shell, "--meta", "batch=5") == [text]
    assert ids(shell, "--meta", "batch=true", "--queue", "default") == [listed]
    assert ids(shell, "--args", "id=8") == []


def test_jobs_are_found_by_their_tags(shell: Shell) -> None:
    one, both, _ = shell.enqueue(Job("a", tags=["urgent"]), Job("a", tags=["urgent", "import"]), Job("a"))
    assert ids(shell, "--tag", "Urgent") == [both, one]
    assert ids(shell, "--tag", "urgent", "--tag", "import") == [both]


def test_jobs_are_found_by_when_they_were_due_by_the_database_clock(shell: Shell) -> None:
    old, new, later = shell.enqueue(Job("a"), Job("a"), Job("a", schedule_in=7200))
    moved(shell, old, 30)
    moved(shell, new, 1)
    assert ids(shell, "--since", "2h") == [later, new]
    assert ids(shell, "--until", "2h") == [old]
    assert ids(shell, "--since", "2 days", "--until", "30 minutes", "--worker", "a") == [new, old]
    assert ids(shell, "--since", "2100-01-01") == []
    assert ids(shell, "--until", "2100-01-01T00:00+02:00", "--oldest") == [old, new, later]
    assert ids(shell, "--oldest", "--limit", "1") == [old]


def test_how_far_was_looked_is_told_and_can_be_said(shell: Shell) -> None:
    first, *_ = shell.enqueue(Job("app.Rare", queue="a"), Job("app.B", queue="a"), Job("app.B", queue="a"))
    result = shell.run("jobs", "list", "--worker", "Rare", "--window", "2")
    assert result.stdout == "There are no such jobs.\n"
    assert "Note: looked at the newest 2 jobs and no others; --window 20 looks further" in result.stderr
    assert shell.json("jobs", "list", "--worker", "Rare", "--window", "2")["looked_at"] == 2
    listed = shell.json("jobs", "list", "--worker", "Rare", "--window", "3")
    assert listed.keys() == {"jobs", "more"}
    assert [job["id"] for job in listed["jobs"]] == [first]
    result = shell.run("jobs", "list", "--worker", "Rare", "--queue", "a", "--window", "2")
    assert "looked at the 2 of these that are last due and no others" in result.stderr
    assert ids(shell, "--worker", "Rare", "--queue", "a", "--oldest", "--window", "1") == [first]


def test_where_there_are_thousands_of_queues_the_newest_jobs_are_looked_at(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = shell.enqueue(*(Job("a", queue=f"q{n}") for n in range(4)))
    monkeypatch.setattr(search, "PLACES", 3)
    assert ids(shell, "--state", "available") == made[::-1]
    assert ids(shell, "--queue", "q1") == [made[1]]
    monkeypatch.setattr(search, "NEWEST", 3)
    assert shell.json("jobs", "list", "--state", "available")["looked_at"] == 3


def test_a_name_that_no_job_has_is_told_which_are_near(shell: Shell) -> None:
    shell.enqueue(Job("app.jobs.SendMail", queue="mailers"))
    for verb in (["list"], ["retry"], ["delete", "--json"]):
        result = shell.run("jobs", *verb, "--worker", "SendMial")
        assert result.exit_code == 0
        assert "none of the newest 10,000 jobs has the worker 'SendMial'; did you mean 'SendMail'?" in result.stderr
        result = shell.run("jobs", *verb, "--queue", "mailer")
        assert "no job is in the queue 'mailer'; did you mean 'mailers'?" in result.stderr
    assert "; there are app.jobs.SendMail" in shell.run("jobs", "list", "--worker", "zzz").stderr
    assert shell.run("jobs", "list", "--worker", "SendMail", "--state", "discarded").stderr == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--args", '{"id": 7'], "is not JSON"),
        (["--args", "[1]"], "is JSON, but no object"),
        (["--args", "id"], "is neither a JSON object nor KEY=VALUE; write --args '{\"id\": 7}' or --args id=7"),
        (["--meta", "=7"], "write --meta"),
        (["--since", "yesterday"], "A moment is written as 2026-11-01"),
        (["--until", "3 months"], "count it in days"),
        (["--queue", "\udcff"], "is not valid UTF-8"),
    ],
)
def test_what_can_not_be_looked_for_is_refused(shell: Shell, words: list[str], said: str) -> None:
    assert said in shell.refuses("jobs", "list", *words, code=2)


def test_jobs_are_changed_by_all_that_they_can_be_found_by(shell: Shell) -> None:
    one, two, three = shell.enqueue(Job("a", args={"id": 1}), Job("a", args={"id": 2}), Job("a", tags=["x"]))
    moved(shell, three, 50)
    assert shell.json("jobs", "cancel", "--args", "id=1") == {"cancelled": 1, "left_alone": {}}
    assert shell.json("jobs", "delete", "--until", "2d", "--tag", "x") == {"deleted": 1, "left_alone": {}}
    assert shell.states() == {one: "cancelled", two: "available"}


def test_the_whole_table_is_searched_a_part_at_a_time(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    made = shell.enqueue(*(Job(f"app.{'Some' if n % 2 else 'Other'}") for n in range(9)))
    shell.sql("UPDATE oban_jobs SET state = 'discarded'")
    monkeypatch.setattr(apply, "NEWEST", 4)
    monkeypatch.setattr(apply, "AT_ONCE", 1)
    assert shell.json("jobs", "retry", "--worker", "Some", "--yes") == {"retried": 4, "left_alone": {}}
    assert shell.states() == {id_: "available" if n % 2 else "discarded" for n, id_ in enumerate(made)}


def test_more_than_were_counted_are_asked_about_and_changed(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    made = shell.enqueue(*(Job("a") for _ in range(5)))
    monkeypatch.setattr(search, "COUNTED", 2)
    result = shell.run("jobs", "cancel", "--queue", "default", answer="n\n")
    assert result.exit_code == 1
    assert "Cancel 3 jobs or more (3 available of those that were searched)?" in result.stderr
    assert shell.says("jobs", "cancel", "--queue", "default", "--yes") == "5 jobs cancelled.\n"
    assert shell.states() == dict.fromkeys(made, "cancelled")


def test_any_number_of_ids_may_be_given(shell: Shell) -> None:
    (job_id,) = shell.enqueue(Job("a"))
    said = shell.refuses("jobs", "cancel", *map(str, range(job_id, 40_000)), code=1)
    assert "has the id 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 39988 more;" in said
    assert "has the id 2," in shell.refuses("jobs", "update", *map(str, range(1, 40_000)), "--priority", "1", code=1)


def test_each_state_is_counted_by_itself(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, *over = shell.enqueue(*(Job("a") for _ in range(5)))
    shell.sql("UPDATE oban_jobs SET state = 'completed', scheduled_at = scheduled_at + interval '1 s' WHERE id > 1")
    monkeypatch.setattr(search, "COUNTED", 2)
    assert shell.json("jobs", "cancel", "--queue", "default", "--yes") == {
        "cancelled": 1,
        "left_alone": {"completed": 3},
    }
    assert shell.states() == {waits: "cancelled", **dict.fromkeys(over, "completed")}


def test_jobs_that_the_first_search_did_not_find_are_asked_about_too(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare, *_ = shell.enqueue(Job("app.Rare"), Job("app.B"), Job("app.B"))
    monkeypatch.setattr(search, "NEWEST", 2)
    result = shell.run("jobs", "delete", "--worker", "Rare", answer="n\n")
    assert "None of the jobs that were searched is such a job; search all and delete those?" in result.stderr
    assert rare in shell.states()
    assert shell.says("jobs", "delete", "--worker", "Rare", answer="y\n") == "1 job deleted.\n"
    assert rare not in shell.states()


def test_a_job_that_had_used_up_its_attempts_gets_as_many_as_are_said(shell: Shell) -> None:
    made = shell.enqueue(Job("a", max_attempts=3), Job("a"))

    def spent(*words: str) -> list[Any]:
        shell.sql("UPDATE oban_jobs SET state = 'discarded', max_attempts = 3, attempt = 3")
        shell.says("jobs", "retry", *words)
        return shell.sql("SELECT attempt, max_attempts, state::text FROM oban_jobs ORDER BY id")

    assert spent("--state", "discarded", "--yes") == [(3, 4, "available")] * 2
    assert spent("--state", "discarded", "--attempts", "5", "--yes") == [(3, 8, "available")] * 2
    assert spent(str(made[0]), "--attempts", "2") == [(3, 5, "available"), (3, 3, "discarded")]
    assert "0 is not in the range" in shell.refuses("jobs", "retry", "1", "--attempts", "0", code=2)


def test_a_query_says_the_same_as_the_options(shell: Shell) -> None:
    one, _, three = shell.enqueue(Job("shop.Mail", args={"id": 7}), Job("shop.Mail"), Job("shop.Mail", queue="slow"))
    assert ids(shell, "args.id:7 worker:Mail") == [one]
    assert ids(shell, "queue:slow", "Mail") == [three]
    assert shell.json("jobs", "cancel", "queue:slow", "--yes")["cancelled"] == 1
    assert shell.states()[three] == "cancelled"
    assert "did you mean 'queue'?" in shell.refuses("jobs", "list", "qeue:slow", code=2)
    assert "but not both" in shell.refuses("jobs", "list", "queue:slow", "--queue", "slow", code=2)
    assert "but not both" in shell.refuses("jobs", "retry", "queue:slow", "--queue", "slow", code=2)

"""Jobs found by what they have in common, in a bounded look whose bound is told; and what was meant by a wrong name."""

from __future__ import annotations

from typing import Any

import pytest

from oban_sa import Job
from oban_sa.cli.jobs import changing, finding
from tests.cli.conftest import People


def ids(people: People, *words: str) -> list[int]:
    return [job["id"] for job in people.json("jobs", "list", *words)["jobs"]]


def moved(people: People, job_id: int, hours: float) -> None:
    """Make a job one that was due so many hours ago."""
    people.sql(
        "UPDATE oban_jobs SET scheduled_at = timezone('UTC', now()) - make_interval(secs => :s) WHERE id = :id",
        s=hours * 3600,
        id=job_id,
    )


def test_jobs_of_any_priority_are_listed_and_waited_for(people: People) -> None:
    one, two = people.enqueue(Job("a", queue="far"), Job("a", queue="far"))
    people.sql(
        "UPDATE oban_jobs SET priority = 12, scheduled_at = scheduled_at - interval '1 hour' WHERE id = :id", id=one
    )
    assert ids(people, "--queue", "far", "--state", "available") == [two, one]
    assert people.json("status")["waiting_longest"]["id"] == one


def test_jobs_are_found_by_what_their_args_and_meta_hold(people: People) -> None:
    number, text, nested, listed = people.enqueue(
        Job("a", args={"id": 7, "to": "ada"}),
        Job("a", args={"id": "7"}, meta={"batch": 5}),
        Job("a", args={"order": {"id": 17, "by": "x=y"}}),
        Job("a", args={"ids": [1, 2]}, meta={"batch": True}),
    )
    assert ids(people, "--args", "id=7") == [text, number]
    assert ids(people, "--args", '{"id": 7}') == [number]
    assert ids(people, "--args", "id=7", "--args", "to=ada") == [number]
    assert ids(people, "--args", "order.id=17") == [nested]
    assert ids(people, "--args", "order.by=x=y", "--state", "available") == [nested]
    assert ids(people, "--args", '{"ids": [2]}') == [listed]
    assert ids(people, "--meta", "batch=5") == [text]
    assert ids(people, "--meta", "batch=true", "--queue", "default") == [listed]
    assert ids(people, "--args", "id=8") == []


def test_jobs_are_found_by_their_tags(people: People) -> None:
    one, both, _ = people.enqueue(Job("a", tags=["urgent"]), Job("a", tags=["urgent", "import"]), Job("a"))
    assert ids(people, "--tag", "Urgent") == [both, one]
    assert ids(people, "--tag", "urgent", "--tag", "import") == [both]


def test_jobs_are_found_by_when_they_were_due_by_the_database_clock(people: People) -> None:
    old, new, later = people.enqueue(Job("a"), Job("a"), Job("a", schedule_in=7200))
    moved(people, old, 30)
    moved(people, new, 1)
    assert ids(people, "--since", "2h") == [later, new]
    assert ids(people, "--until", "2h") == [old]
    assert ids(people, "--since", "2 days", "--until", "30 minutes", "--worker", "a") == [new, old]
    assert ids(people, "--since", "2100-01-01") == []
    assert ids(people, "--until", "2100-01-01T00:00+02:00", "--oldest") == [old, new, later]
    assert ids(people, "--oldest", "--limit", "1") == [old]


def test_how_far_was_looked_is_told_and_can_be_said(people: People) -> None:
    first, *_ = people.enqueue(Job("app.Rare", queue="a"), Job("app.B", queue="a"), Job("app.B", queue="a"))
    result = people.run("jobs", "list", "--worker", "Rare", "--window", "2")
    assert result.stdout == "There are no such jobs.\n"
    assert "Note: looked at the newest 2 jobs and no others; --window 20 looks further" in result.stderr
    assert people.json("jobs", "list", "--worker", "Rare", "--window", "2")["looked_at"] == 2
    listed = people.json("jobs", "list", "--worker", "Rare", "--window", "3")
    assert listed.keys() == {"jobs", "more"}
    assert [job["id"] for job in listed["jobs"]] == [first]
    result = people.run("jobs", "list", "--worker", "Rare", "--queue", "a", "--window", "2")
    assert "looked at the 2 of these that are last due and no others" in result.stderr
    assert ids(people, "--worker", "Rare", "--queue", "a", "--oldest", "--window", "1") == [first]


def test_where_there_are_thousands_of_queues_the_newest_jobs_are_looked_at(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = people.enqueue(*(Job("a", queue=f"q{n}") for n in range(4)))
    monkeypatch.setattr(finding, "PLACES", 3)
    assert ids(people, "--state", "available") == made[::-1]
    assert ids(people, "--queue", "q1") == [made[1]]
    monkeypatch.setattr(finding, "NEWEST", 3)
    assert people.json("jobs", "list", "--state", "available")["looked_at"] == 3


def test_a_name_that_no_job_has_is_told_which_are_near(people: People) -> None:
    people.enqueue(Job("app.jobs.SendMail", queue="mailers"))
    for verb in (["list"], ["retry"], ["delete", "--json"]):
        result = people.run("jobs", *verb, "--worker", "SendMial")
        assert result.exit_code == 0
        assert "none of the newest 10,000 jobs has the worker 'SendMial'; did you mean 'SendMail'?" in result.stderr
        result = people.run("jobs", *verb, "--queue", "mailer")
        assert "no job is in the queue 'mailer'; did you mean 'mailers'?" in result.stderr
    assert "; there are app.jobs.SendMail" in people.run("jobs", "list", "--worker", "zzz").stderr
    assert people.run("jobs", "list", "--worker", "SendMail", "--state", "discarded").stderr == ""


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
def test_what_can_not_be_looked_for_is_refused(people: People, words: list[str], said: str) -> None:
    assert said in people.refuses("jobs", "list", *words, code=2)


def test_jobs_are_changed_by_all_that_they_can_be_found_by(people: People) -> None:
    one, two, three = people.enqueue(Job("a", args={"id": 1}), Job("a", args={"id": 2}), Job("a", tags=["x"]))
    moved(people, three, 50)
    assert people.json("jobs", "cancel", "--args", "id=1") == {"cancelled": 1, "left_alone": {}}
    assert people.json("jobs", "delete", "--until", "2d", "--tag", "x") == {"deleted": 1, "left_alone": {}}
    assert people.states() == {one: "cancelled", two: "available"}


def test_the_whole_table_is_looked_through_some_at_a_time(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    made = people.enqueue(*(Job(f"app.{'Some' if n % 2 else 'Other'}") for n in range(9)))
    people.sql("UPDATE oban_jobs SET state = 'discarded'")
    monkeypatch.setattr(changing, "NEWEST", 4)
    monkeypatch.setattr(changing, "_AT_ONCE", 1)
    assert people.json("jobs", "retry", "--worker", "Some", "--yes") == {"retried": 4, "left_alone": {}}
    assert people.states() == {id_: "available" if n % 2 else "discarded" for n, id_ in enumerate(made)}


def test_more_than_were_counted_are_asked_about_and_changed(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    made = people.enqueue(*(Job("a") for _ in range(5)))
    monkeypatch.setattr(finding, "COUNTED", 2)
    result = people.run("jobs", "cancel", "--queue", "default", answer="n\n")
    assert result.exit_code == 1
    assert "Cancel 3 jobs or more (3 available of those that were looked at)?" in result.stderr
    assert people.says("jobs", "cancel", "--queue", "default", "--yes") == "5 jobs cancelled.\n"
    assert people.states() == dict.fromkeys(made, "cancelled")


def test_any_number_of_ids_may_be_given(people: People) -> None:
    (job_id,) = people.enqueue(Job("a"))
    said = people.refuses("jobs", "cancel", *map(str, range(job_id, 40_000)), code=1)
    assert "has the id 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 39988 more;" in said
    assert "has the id 2," in people.refuses("jobs", "update", *map(str, range(1, 40_000)), "--priority", "1", code=1)


def test_each_state_is_counted_by_itself(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, *over = people.enqueue(*(Job("a") for _ in range(5)))
    people.sql("UPDATE oban_jobs SET state = 'completed', scheduled_at = scheduled_at + interval '1 s' WHERE id > 1")
    monkeypatch.setattr(finding, "COUNTED", 2)
    assert people.json("jobs", "cancel", "--queue", "default", "--yes") == {
        "cancelled": 1,
        "left_alone": {"completed": 3},
    }
    assert people.states() == {waits: "cancelled", **dict.fromkeys(over, "completed")}


def test_jobs_that_no_look_has_found_are_asked_about_too(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    rare, *_ = people.enqueue(Job("app.Rare"), Job("app.B"), Job("app.B"))
    monkeypatch.setattr(finding, "NEWEST", 2)
    result = people.run("jobs", "delete", "--worker", "Rare", answer="n\n")
    assert "None of the jobs that were looked at is such a job; look through all and delete those?" in result.stderr
    assert rare in people.states()
    assert people.says("jobs", "delete", "--worker", "Rare", answer="y\n") == "1 job deleted.\n"
    assert rare not in people.states()


def test_a_job_that_had_used_up_its_attempts_gets_as_many_as_are_said(people: People) -> None:
    made = people.enqueue(Job("a", max_attempts=3), Job("a"))

    def spent(*words: str) -> list[Any]:
        people.sql("UPDATE oban_jobs SET state = 'discarded', max_attempts = 3, attempt = 3")
        people.says("jobs", "retry", *words)
        return people.sql("SELECT attempt, max_attempts, state::text FROM oban_jobs ORDER BY id")

    assert spent("--state", "discarded", "--yes") == [(3, 4, "available")] * 2
    assert spent("--state", "discarded", "--attempts", "5", "--yes") == [(3, 8, "available")] * 2
    assert spent(str(made[0]), "--attempts", "2") == [(3, 5, "available"), (3, 3, "discarded")]
    assert "0 is not in the range" in people.refuses("jobs", "retry", "1", "--attempts", "0", code=2)

"""`python -m oban_sa sequences`."""

from __future__ import annotations

from oban_sa import Job, JobState
from tests.cli.conftest import Shell


def test_halted_sequences_are_listed_and_resumed(shell: Shell) -> None:
    assert shell.says("sequences", "list") == "No sequence is halted.\n"
    assert shell.json("sequences", "list") == {"halted": []}
    meta = {"sequence": "17", "halts": True}
    ids = shell.enqueue(Job("app.Book", queue="ledger", meta=meta), Job("app.Book", queue="ledger", meta=meta))
    shell.sql(
        "UPDATE oban_jobs SET state = 'discarded', discarded_at = '2026-01-02 03:04:05' WHERE id = :id", id=ids[0]
    )
    lines = [line.split() for line in shell.says("sequences", "list").splitlines()]
    assert lines[0] == ["QUEUE", "KEY", "JOB", "WORKER", "DISCARDED", "WAITING"]
    assert lines[1] == ["ledger", "17", str(ids[0]), "app.Book", "2026-01-02", "03:04:05", "UTC", "1"]
    [halted] = shell.json("sequences", "list")["halted"]
    assert (halted["queue"], halted["key"], halted["job"], halted["waiting"]) == ("ledger", "17", ids[0], 1)
    assert "No job halts the sequence 18 of the queue ledger" in shell.says("sequences", "resume", "ledger", "18")
    assert shell.says("sequences", "resume", "ledger", "17") == (
        f"The sequence 17 of the queue ledger goes on without job {ids[0]}, which stays discarded.\n"
    )
    assert shell.json("sequences", "resume", "ledger", "17") == {"queue": "ledger", "key": "17", "jobs": []}
    assert shell.json("sequences", "list") == {"halted": []}
    assert JobState.DISCARDED in shell.says("jobs", "show", str(ids[0]))

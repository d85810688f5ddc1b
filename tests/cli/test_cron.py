"""`python -m oban_sa cron list`: last and next moments, in the zone of each entry."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from tests.cli.conftest import Shell

JOBS = """
from oban_sa import worker

@worker(cron=[{"expression": "30 2 * * *", "timezone": "America/New_York", "name": "nightly"}])
class CronListed:
    async def process(self, job): ...
"""


def kept(shell: Shell, name: str, expression: str, timezone: str = "Etc/UTC", last_at: str | None = None) -> None:
    shell.sql(
        """INSERT INTO oban_sa_crons (name, expression, worker, timezone, opts, last_at)
           VALUES (:name, :expression, 'app.jobs.Report', :timezone, '{"queue": "q", "last_job_id": 7}', :last_at)""",
        name=name,
        expression=expression,
        timezone=timezone,
        last_at=None if last_at is None else datetime.fromisoformat(last_at),
    )


def test_entries_of_the_database_have_their_moments_in_their_own_zone(shell: Shell) -> None:
    kept(shell, "tokyo", "0 9 * * *", "Asia/Tokyo", last_at="2024-01-01T00:00:00")
    kept(shell, "boot", "@reboot")
    kept(shell, "odd", "61 * * * *")
    lines = shell.says("cron", "list").splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "boot", "odd", "tokyo"]
    assert "when a runner starts" in lines[1]
    assert "can't be read" in lines[2]
    assert "Mon 2024-01-01 09:00:00 JST" in lines[3]
    assert lines[3].count("09:00:00 JST") == 2
    tokyo = shell.json("cron", "list")["entries"][2]
    assert tokyo.keys() == {
        "name", "expression", "timezone", "worker", "options", "last_at", "next_at", "paused_at", "known_from",
    }  # fmt: skip
    assert tokyo["last_at"] == "2024-01-01T00:00:00+00:00"
    assert tokyo["options"] == {"queue": "q"}
    assert datetime.fromisoformat(tokyo["next_at"]).astimezone(ZoneInfo("Asia/Tokyo")).hour == 9


def test_entries_of_the_code_and_of_the_file_are_compared_with_those_of_the_database(
    shell: Shell, folder: Path
) -> None:
    (folder / "cronlisted.py").write_text(JOBS)
    (folder / "oban.toml").write_text(
        '[[crontab]]\nname = "filed"\nexpression = "@hourly"\nworker = "cronlisted.CronListed"\n'
    )
    kept(shell, "old", "@daily")
    kept(shell, "nightly", "30 2 * * *", "America/New_York", last_at="2024-01-01T07:30:00")
    found = {entry["name"]: entry for entry in shell.json("cron", "list", "--import", "cronlisted")["entries"]}
    assert {name: entry["known_from"] for name, entry in found.items() if name in ("old", "nightly", "filed")} == {
        "old": ["database"],
        "nightly": ["database", "code"],
        "filed": ["code"],
    }
    assert found["nightly"]["last_at"] == "2024-01-01T07:30:00+00:00"
    assert found["filed"]["last_at"] is None
    assert "database and code" in shell.says("cron", "list", "--import", "cronlisted")


def test_the_entries_of_an_instance_are_shown_under_their_own_names(shell: Shell) -> None:
    kept(shell, "Billing: nightly", "@daily")
    kept(shell, "nightly", "@hourly")
    (entry,) = shell.json("cron", "list", "--name", "Billing")["entries"]
    assert (entry["name"], entry["expression"]) == ("nightly", "@daily")


def test_a_module_that_is_not_there_is_named(shell: Shell) -> None:
    assert "there is no module 'nowhere'" in shell.refuses("cron", "list", "--import", "nowhere", code=2)


def test_an_entry_is_paused_and_resumed_and_the_list_says_so(shell: Shell) -> None:
    kept(shell, "nightly", "@daily")
    kept(shell, "hourly", "@hourly")
    assert shell.says("cron", "pause", "nightly", "hourly") == "Paused nightly, hourly.\n"
    assert shell.says("cron", "list").count("paused (") == 2
    assert shell.json("cron", "resume", "hourly") == {"instance": "Oban", "resumed": ["hourly"]}
    found = {entry["name"]: entry["paused_at"] is not None for entry in shell.json("cron", "list")["entries"]}
    assert found == {"nightly": True, "hourly": False}


def test_an_unknown_entry_is_refused_and_none_is_changed(shell: Shell) -> None:
    kept(shell, "nightly", "@daily")
    assert "there is no crontab entry 'nighty'; there are nightly; did you mean" in shell.refuses(
        "cron", "pause", "nightly", "nighty", code=2
    )
    assert shell.json("cron", "list")["entries"][0]["paused_at"] is None


def test_an_entry_of_an_instance_is_paused_by_its_own_name(shell: Shell) -> None:
    kept(shell, "billing: nightly", "@daily")
    shell.says("cron", "pause", "nightly", "--name", "billing")
    assert shell.json("cron", "list")["entries"][0]["paused_at"] is not None

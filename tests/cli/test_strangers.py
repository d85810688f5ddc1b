"""Rows that other programs wrote are shown, with control characters as escapes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oban_sa import Job
from oban_sa.describe import printable
from tests.cli.conftest import Shell

NASTY = "\u001b[31mred\u0007\r\u009b2J\u202eback\u0085"
ESCAPED = r"\x1b[31mred\x07\r\x9b2J\u202eback\x85"


def as_jsonb(shell: Shell, job_id: int, column: str, written: str) -> None:
    shell.sql(f"UPDATE oban_jobs SET {column} = CAST(CAST(:w AS text) AS jsonb) WHERE id = :id", w=written, id=job_id)


def test_names_texts_and_tags_are_shown_with_escapes(shell: Shell) -> None:
    (job_id,) = shell.enqueue(Job("known", args={"to": NASTY}))
    shell.sql(
        "UPDATE oban_jobs SET worker = :n, queue = :n, tags = ARRAY[:n], attempted_by = ARRAY[:n], "
        "errors = ARRAY[jsonb_build_object('error', CAST(:n AS text), 'attempt', CAST(:n AS text), 'at', 'x')]",
        n=NASTY,
    )
    shell.sql("INSERT INTO oban_producers (uuid, node, queue) VALUES (gen_random_uuid(), :n, :n)", n=NASTY)
    shell.sql("INSERT INTO oban_sa_crons (name, expression, worker, timezone) VALUES (:n, :n, :n, :n)", n=NASTY)
    shell.sql(
        "INSERT INTO oban_leaders (name, node, elected_at, expires_at) "
        "SELECT 'oban_sa.Oban', :n, now, now + interval '9 s' FROM timezone('UTC', now()) AS now",
        n=NASTY,
    )
    for words, often in (
        (("jobs", "list"), 2),
        (("jobs", "show", str(job_id)), 5),
        (("queues", "list"), 2),
        (("status",), 4),
        (("cron", "list"), 4),
    ):
        shown = shell.says(*words)
        assert printable.block(shown) == shown, words
        assert shown.count(ESCAPED) >= often, (words, shown)
        assert isinstance(shell.json(*words), dict)
    assert shell.json("jobs", "show", str(job_id))["worker"] == NASTY
    assert shell.json("queues", "list")["queues"][0]["node"] == NASTY
    assert ESCAPED in shell.run("queues", "pause", NASTY).output
    assert "\u001b" not in shell.run("queues", "scale", NASTY, "3", "--node", NASTY).output


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('{"n": 1e20}', {"n": 10**20}),
        ('{"n": 12345678901234567890123}', {"n": 12345678901234567890123}),
        ('{"n": 1e400}', {"n": 10**400}),
        ("[1, 2]", [1, 2]),
        ('"text"', "text"),
        ("null", {}),
    ],
)
def test_numbers_of_any_size_and_args_of_any_shape_are_shown(shell: Shell, written: str, expected: Any) -> None:
    (job_id,) = shell.enqueue(Job("known"))
    as_jsonb(shell, job_id, "args", written)
    assert shell.json("jobs", "show", str(job_id))["args"] == expected
    assert shell.json("jobs", "list")["jobs"][0]["args"] == expected
    whole = json.dumps(expected, separators=(",", ":"))
    assert whole[:80] in shell.says("jobs", "list")
    assert str(job_id) in shell.says("jobs", "show", str(job_id))


def test_what_is_nested_thousands_deep_is_shown(shell: Shell) -> None:
    (job_id,) = shell.enqueue(Job("known"))
    deep = '{"a":[' * 1_500 + "7" + "]}" * 1_500
    for column in ("args", "meta"):
        as_jsonb(shell, job_id, column, deep)
    shell.sql("UPDATE oban_jobs SET errors = ARRAY[args, jsonb_build_object('error', args, 'at', args)]")
    shown = shell.says("jobs", "show", str(job_id))
    assert shown.count("7]}]}") == 3
    assert '{"a":[{"a":[' in shell.says("jobs", "list")
    raw = shell.says("jobs", "show", str(job_id), "--json")
    assert "".join(raw.split()).count('{"a":[' * 1_500 + "7" + "]}" * 1_500) == 5


def test_a_job_whose_arrays_hold_nothing_or_odd_things_is_shown(shell: Shell) -> None:
    (job_id,) = shell.enqueue(Job("known"))
    for column in ("tags", "meta", "attempted_by"):
        shell.sql(f"ALTER TABLE oban_jobs ALTER {column} DROP NOT NULL")
    for values in (
        "tags = NULL, meta = NULL, attempted_by = NULL, errors = '{}'",
        "tags = '{NULL,a}', meta = '[]', attempted_by = '{one}', errors = ARRAY[NULL, '1', '[]', '{}']::jsonb[]",
        """meta = '{"recorded": true, "return": 5}', attempted_by = '{{a,b},{c,NULL}}'""",
        """errors = ARRAY['{"at": "0001-01-01T00:00:00+23:59"}']::jsonb[]""",
    ):
        shell.sql(f"UPDATE oban_jobs SET {values}".replace(":", "\\:").replace("\\:\\:", "::"))
        assert f"Job {job_id}  known" in shell.says("jobs", "show", str(job_id))
        assert shell.json("jobs", "show", str(job_id))["id"] == job_id


def test_a_node_that_never_beat_is_shown_beside_others(shell: Shell) -> None:
    for node, at in (("never", "-infinity"), ("always", "infinity"), ("old", "0044-03-15 BC")):
        shell.sql(
            "INSERT INTO oban_producers (uuid, node, queue, started_at, updated_at) "
            f"VALUES (gen_random_uuid(), '{node}', 'default', '{at}', '{at}')"
        )
    shell.sql("INSERT INTO oban_producers (uuid, node, queue) VALUES (gen_random_uuid(), 'web.1', :q)", q="q" * 100_000)
    lines = {line.split()[1]: line for line in shell.says("queues", "list").splitlines()[1:]}
    assert lines.keys() == {"never", "always", "old", "web.1"}
    assert "never" in lines["never"].replace("never", "", 1)
    assert max(map(len, lines.values())) < 1_000
    found = {queue["node"]: queue for queue in shell.json("queues", "list")["queues"]}
    assert found["never"]["silent_for"] is None
    assert found["never"]["alive"] is False
    assert len(found["web.1"]["queue"]) == 100_000
    assert {node["node"] for node in shell.json("status")["nodes"]} == lines.keys()


def test_a_job_that_was_due_before_all_time_is_the_one_that_waits_longest(shell: Shell) -> None:
    first, _ = shell.enqueue(Job("first"), Job("second"))
    shell.sql("UPDATE oban_jobs SET scheduled_at = '-infinity' WHERE id = :id", id=first)
    assert f"waiting  for ever: job {first}, first in default" in shell.says("status")
    assert shell.json("status")["waiting_longest"]["id"] == first

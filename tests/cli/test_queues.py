"""`python -m oban_sa queues` and `status`: the cluster as the tables show it."""

from __future__ import annotations

from uuid import uuid4

from oban_sa import Job
from oban_sa.holders import new_producer
from tests.cli.conftest import People


def runs(
    people: People, queue: str, node: str = "web.1", *, name: str = "Oban", silent: int = 0, meta: str = "{}"
) -> str:
    """A queue on a node, last heard of `silent` seconds ago."""
    uuid = str(uuid4())
    people.sql(
        """INSERT INTO oban_producers (uuid, name, node, queue, meta, updated_at) VALUES (:uuid, :name, :node, :queue,
           CAST(:meta AS jsonb), timezone('UTC', now()) - make_interval(secs => :silent))""",
        uuid=uuid,
        name=name,
        node=node,
        queue=queue,
        meta=meta,
        silent=silent,
    )
    return uuid


def test_queues_are_listed_by_node_with_what_runs_and_what_waits(people: People) -> None:
    uuid = runs(people, "default", meta='{"local_limit": 10, "paused": false}')
    runs(people, "mailers", meta='{"local_limit": 5, "paused": true}')
    runs(people, "old", "web.2", silent=300)
    runs(people, "others", name="Billing")
    people.enqueue(Job("a"), Job("a"), Job("a", queue="nobody"))
    people.sql(
        "UPDATE oban_jobs SET state = 'executing', attempt = 1, attempted_by = ARRAY['web.1', :u] WHERE id = 1", u=uuid
    )
    lines = [line.split() for line in people.says("queues", "list").splitlines()]
    assert lines[0] == ["QUEUE", "NODE", "LIMIT", "EXECUTING", "AVAILABLE", "STATE", "HEARTBEAT", "STARTED"]
    assert lines[1][:6] == ["default", "web.1", "10", "1", "1", "running"]
    assert lines[2][:6] == ["mailers", "web.1", "5", "0", "0", "paused"]
    assert lines[3][:6] == ["old", "web.2", "-", "0", "0", "silent"]
    assert " ".join(lines[4]) == "No node is known to work on the queue nobody, which has 1 available."
    listed = people.json("queues", "list")
    assert [queue["queue"] for queue in listed["queues"]] == ["default", "mailers", "old"]
    assert listed["queues"][0]["running"] == [1]
    assert listed["queues"][0].keys() == {
        "queue", "node", "limit", "paused", "running", "started_at", "silent_for", "alive", "unknown",
    }  # fmt: skip
    assert listed["unserved"] == [{"queue": "nobody", "available": 1}]
    assert [queue["queue"] for queue in people.json("queues", "list", "--name", "Billing")["queues"]] == ["others"]


def test_nodes_of_others_are_known_by_what_they_run_or_by_their_rows(people: People) -> None:
    """Nodes of Elixir have no rows."""
    ours, theirs = str(new_producer()), str(uuid4())
    runs(people, "default")
    runs(people, "billing", "web.9", name="Billing")
    people.enqueue(*(Job("a", queue=queue) for queue in ("elixir", "elixir", "billing", "default", "lost")))
    people.sql("INSERT INTO oban_jobs (worker, queue) VALUES ('a', 'elixir'), ('a', 'nowhere')")
    people.sql(
        "UPDATE oban_jobs SET state = 'executing', attempt = 1, attempted_by = ARRAY['app@host', :u] WHERE id < 3",
        u=theirs,
    )
    people.sql(
        "UPDATE oban_jobs SET state = 'executing', attempt = 1, attempted_by = ARRAY['web.3', :u] WHERE id = 5", u=ours
    )
    said = people.says("queues", "list").splitlines()[2:]
    assert said == [
        "The queue billing, 1 available, has another node: web.9, which runs none that is known.",
        "The queue elixir, 1 available, has another node: app@host, which runs 2 of its jobs now.",
        "No node is known to work on the queue nowhere, which has 1 available.",
    ]
    assert all(line in people.says("status") for line in said)
    elsewhere = [
        {"queue": "billing", "node": "web.9", "running": []},
        {"queue": "elixir", "node": "app@host", "running": [1, 2]},
    ]
    assert people.json("queues", "list")["elsewhere"] == elsewhere
    assert people.json("status")["elsewhere"] == elsewhere
    assert people.json("queues", "list")["unserved"] == [{"queue": "nowhere", "available": 1}]
    assert "Note:" not in people.says("queues", "pause", "elixir")


def decided(people: People) -> dict[str, dict[str, dict[str, object]]]:
    rows = people.sql("SELECT name, meta FROM oban_sa_queues")
    return {
        queue: {ident: {k: v for k, v in kept.items() if not k.endswith("_at")} for ident, kept in meta.items()}
        for queue, meta in rows
    }


def test_queues_are_paused_resumed_and_scaled_on_all_nodes_or_one(people: People) -> None:
    runs(people, "mailers")
    assert people.says("queues", "pause", "mailers") == "The queue mailers is paused on all nodes of Oban.\n"
    assert people.says("queues", "resume", "mailers", "--node", "web.1").endswith("is resumed on the node web.1.\n")
    assert "runs up to 7 at once" in people.says("queues", "scale", "mailers", "7", "--name", "Billing")
    assert decided(people)["mailers"] == {
        "Oban": {"paused": True},
        "Oban.web.1": {"paused": False},
        "Billing": {"limit": 7},
    }
    said = people.json("queues", "pause", "--all")
    assert said == {"instance": "Oban", "queues": ["*"], "node": None, "paused": True}
    assert decided(people)["*"] == {"Oban": {"paused": True}}


def test_a_name_that_nobody_has_is_wondered_about(people: People) -> None:
    runs(people, "mailers")
    result = people.run("queues", "pause", "mailer", "--node", "web1")
    assert result.exit_code == 0
    assert (
        "no node works on the queue 'mailer' now, so this holds once one does; did you mean 'mailers'?" in result.stderr
    )
    assert "no node 'web1' runs now, so this holds once it starts; did you mean 'web.1'?" in result.stderr


def test_which_queues_must_be_said(people: People) -> None:
    assert "which queues?" in people.refuses("queues", "pause", "--node", "web.1", code=2)
    assert "which queues?" in people.refuses("queues", "pause", "a", "--all", code=2)
    assert "0 is not in the range" in people.refuses("queues", "scale", "a", "0", code=2)


def test_status_shows_nodes_the_leader_the_backlog_and_what_waits_longest(people: People) -> None:
    runs(people, "default")
    runs(people, "mailers", "web.2", silent=300)
    people.sql(
        """INSERT INTO oban_leaders (name, node, elected_at, expires_at) VALUES
           ('oban_sa.Oban', 'web.1', timezone('UTC', now()), timezone('UTC', now()) + interval '1 minute'),
           ('oban_sa.Billing', 'web.9', timezone('UTC', now()), timezone('UTC', now()) - interval '1 minute')"""
    )
    ids = people.enqueue(*(Job("app.A", priority=n, queue=queue) for n in (0, 9) for queue in ("default", "b")))
    people.sql("UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '90 seconds' WHERE id = :id", id=ids[3])
    people.sql("UPDATE oban_jobs SET state = 'discarded' WHERE id = :id", id=ids[0])
    shown = people.says("status")
    for part in (
        "  nodes    1 running, 1 silent\n",
        "  leader   web.1\n",
        f"  waiting  1 min 30 s: job {ids[3]}, app.A in b\n",
        "No node is known to work on the queue b, which has 2 available.\n",
        "available      3\n",
        "discarded      1\n",
    ):
        assert part in shown
    status = people.json("status")
    assert status.keys() == {
        "instance", "schema", "now", "leader", "nodes", "elsewhere", "jobs", "queues", "waiting_longest", "pauses",
    }  # fmt: skip
    assert status["leader"]["node"] == "web.1"
    assert [(node["node"], node["alive"], node["leader"]) for node in status["nodes"]] == [
        ("web.1", True, True),
        ("web.2", False, False),
    ]
    assert status["jobs"]["available"] == {"count": 3, "exact": True}
    assert status["jobs"]["executing"] == {"count": 0, "exact": True}
    assert status["queues"] == {"b": {"available": 2}, "default": {"available": 1, "discarded": 1}}
    assert status["waiting_longest"]["id"] == ids[3]
    assert status["waiting_longest"]["waiting_for"] >= 90
    assert people.json("status", "--name", "Billing")["leader"] is None


def test_a_pause_of_a_queue_that_no_node_works_on_is_shown_until_it_is_resumed(people: People) -> None:
    runs(people, "default")
    people.says("queues", "pause", "default", "nightly")
    people.says("queues", "pause", "reports", "--node", "web.9")
    nobody = "though no node works on it now; `queues resume"
    for command in (["queues", "list"], ["status"]):
        printed = people.says(*command)
        assert f"The queue nightly is paused on all nodes, {nobody} nightly` ends that.\n" in printed
        assert f"The queue reports is paused on the node web.9, {nobody} reports --node web.9` ends that.\n" in printed
        assert "queue default is paused" not in printed
        assert people.json(*command)["pauses"] == [
            {"queue": "default", "node": None},
            {"queue": "nightly", "node": None},
            {"queue": "reports", "node": "web.9"},
        ]
    people.says("queues", "resume", "--all")
    people.says("queues", "resume", "reports", "--node", "web.9")
    assert people.json("queues", "list")["pauses"] == []
    people.says("queues", "pause", "--all")
    assert people.says("queues", "list").splitlines()[-1] == (
        "Every queue is paused on all nodes, those of nodes that start later too; `queues resume --all` ends that."
    )


def test_workers_that_wait_for_a_program_that_knows_them_are_named(people: People) -> None:
    known = '{"unknown": [{"worker": "shop.Send", "version": null}, {"worker": "shop.Mail", "version": 3}, 7]}'
    runs(people, "default", meta=known)
    runs(people, "default", "web.2")
    runs(people, "alone", "web.3", meta='{"unknown": [{"worker": "shop.Send"}]}')
    wait = "wait for a program that knows it"
    expected = [
        f"Jobs of shop.Send in alone {wait}; web.3 does not, no other node works on the queue.",
        f"Jobs of shop.Mail (args of version 3) in default {wait}; web.1 does not, 1 other node may know it.",
        f"Jobs of shop.Send in default {wait}; web.1 does not, 1 other node may know it.",
    ]
    for command in ("queues list", "status"):
        assert [line for line in people.says(*command.split()).splitlines() if line.startswith("Jobs")] == expected
    assert people.json("queues", "list")["queues"][0]["unknown"] == ["shop.Send", "shop.Mail (args of version 3)"]

"""`python -m oban_sa queues` and `status`: the cluster as the tables show it."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

from oban_sa import Job
from oban_sa.jobs.attempted_by import new_producer
from tests.cli.conftest import Shell
from tests.factories import executing, producer


def test_queues_are_listed_by_node_with_what_runs_and_what_waits(shell: Shell) -> None:
    uuid = shell.add(producer(local_limit=10, paused=False))
    shell.add(producer(queue="mailers", local_limit=5, paused=True))
    shell.add(producer("web.2", queue="old", silent_for=300))
    shell.add(producer(queue="others", name="Billing"))
    shell.enqueue(Job("a"), Job("a"), Job("a", queue="nobody"))
    shell.add(executing([1], by=uuid))
    lines = [line.split() for line in shell.says("queues", "list").splitlines()]
    assert lines[0] == ["QUEUE", "NODE", "LIMIT", "EXECUTING", "AVAILABLE", "STATE", "HEARTBEAT", "STARTED"]
    assert lines[1][:6] == ["default", "web.1", "10", "1", "1", "running"]
    assert lines[2][:6] == ["mailers", "web.1", "5", "0", "0", "paused"]
    assert lines[3][:6] == ["old", "web.2", "-", "0", "0", "silent"]
    assert " ".join(lines[4]) == "No node is known to work on the queue nobody, which has 1 available."
    listed = shell.json("queues", "list")
    assert [queue["queue"] for queue in listed["queues"]] == ["default", "mailers", "old"]
    assert listed["queues"][0]["running"] == [1]
    assert listed["queues"][0].keys() == {
        "queue", "node", "limit", "paused", "running", "started_at", "silent_for", "alive", "unknown",
        "limits",
    }  # fmt: skip
    assert listed["unserved"] == [{"queue": "nobody", "available": 1}]
    assert [queue["queue"] for queue in shell.json("queues", "list", "--name", "Billing")["queues"]] == ["others"]


def test_nodes_of_others_are_known_by_what_they_run_or_by_their_rows(shell: Shell) -> None:
    """Nodes of Elixir have no rows."""
    ours, theirs = str(new_producer()), str(uuid4())
    shell.add(producer())
    shell.add(producer("web.9", queue="billing", name="Billing"))
    shell.enqueue(*(Job("a", queue=queue) for queue in ("elixir", "elixir", "billing", "default", "lost")))
    shell.sql("INSERT INTO oban_jobs (worker, queue) VALUES ('a', 'elixir'), ('a', 'nowhere')")
    shell.add(executing([1, 2], by=theirs, node="app@host"))
    shell.add(executing([5], by=ours, node="web.3"))
    said = shell.says("queues", "list").splitlines()[2:]
    assert said == [
        "The queue billing, 1 available, has another node: web.9, which runs none that is known.",
        "The queue elixir, 1 available, has another node: app@host, which runs 2 of its jobs now.",
        "No node is known to work on the queue nowhere, which has 1 available.",
    ]
    assert all(line in shell.says("status") for line in said)
    elsewhere = [
        {"queue": "billing", "node": "web.9", "running": []},
        {"queue": "elixir", "node": "app@host", "running": [1, 2]},
    ]
    assert shell.json("queues", "list")["elsewhere"] == elsewhere
    assert shell.json("status")["elsewhere"] == elsewhere
    assert shell.json("queues", "list")["unserved"] == [{"queue": "nowhere", "available": 1}]
    assert "Note:" not in shell.says("queues", "pause", "elixir")


def decided(shell: Shell) -> dict[str, dict[str, dict[str, object]]]:
    rows = shell.sql("SELECT name, meta FROM oban_sa_queues")
    return {
        queue: {ident: {k: v for k, v in kept.items() if not k.endswith("_at")} for ident, kept in meta.items()}
        for queue, meta in rows
    }


def test_queues_are_paused_resumed_and_scaled_on_all_nodes_or_one(shell: Shell) -> None:
    shell.add(producer(queue="mailers"))
    assert shell.says("queues", "pause", "mailers") == "The queue mailers is paused on all nodes of Oban.\n"
    assert shell.says("queues", "resume", "mailers", "--node", "web.1").endswith("is resumed on the node web.1.\n")
    assert "runs up to 7 at once" in shell.says("queues", "scale", "mailers", "7", "--name", "Billing")
    assert decided(shell)["mailers"] == {
        "Oban": {"paused": True},
        "Oban.web.1": {"paused": False},
        "Billing": {"limit": 7},
    }
    said = shell.json("queues", "pause", "--all")
    assert said == {"instance": "Oban", "queues": ["*"], "node": None, "paused": True}
    assert decided(shell)["*"] == {"Oban": {"paused": True}}


def test_a_name_that_nobody_has_is_wondered_about(shell: Shell) -> None:
    shell.add(producer(queue="mailers"))
    result = shell.run("queues", "pause", "mailer", "--node", "web1")
    assert result.exit_code == 0
    assert (
        "no node works on the queue 'mailer' now, so this holds once one does; did you mean 'mailers'?" in result.stderr
    )
    assert "no node 'web1' runs now, so this holds once it starts; did you mean 'web.1'?" in result.stderr


def test_which_queues_must_be_said(shell: Shell) -> None:
    assert "which queues?" in shell.refuses("queues", "pause", "--node", "web.1", code=2)
    assert "which queues?" in shell.refuses("queues", "pause", "a", "--all", code=2)
    assert "0 is not in the range" in shell.refuses("queues", "scale", "a", "0", code=2)


def test_status_shows_nodes_the_leader_the_backlog_and_what_waits_longest(shell: Shell) -> None:
    shell.add(producer())
    shell.add(producer("web.2", queue="mailers", silent_for=300))
    shell.sql(
        """INSERT INTO oban_leaders (name, node, elected_at, expires_at) VALUES
           ('oban_sa.Oban', 'web.1', timezone('UTC', now()), timezone('UTC', now()) + interval '1 minute'),
           ('oban_sa.Billing', 'web.9', timezone('UTC', now()), timezone('UTC', now()) - interval '1 minute')"""
    )
    ids = shell.enqueue(*(Job("app.A", priority=n, queue=queue) for n in (0, 9) for queue in ("default", "b")))
    shell.sql("UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '25 hours' WHERE id = :id", id=ids[3])
    shell.sql("UPDATE oban_jobs SET state = 'discarded' WHERE id = :id", id=ids[0])
    shown = shell.says("status")
    for part in (
        "  nodes    1 running, 1 silent\n",
        "  leader   web.1\n",
        f"  waiting  1 d 1 h: job {ids[3]}, app.A in b\n",
        "No node is known to work on the queue b, which has 2 available.\n",
        "available      3\n",
        "discarded      1\n",
    ):
        assert part in shown
    status = shell.json("status")
    assert status.keys() == {
        "instance", "schema", "now", "leader", "nodes", "elsewhere", "jobs", "queues", "waiting_longest", "pauses",
        "limits", "halted", "warnings",
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
    assert shell.json("status", "--name", "Billing")["leader"] is None


def test_a_pause_of_a_queue_that_no_node_works_on_is_shown_until_it_is_resumed(shell: Shell) -> None:
    shell.add(producer())
    shell.says("queues", "pause", "default", "nightly")
    shell.says("queues", "pause", "reports", "--node", "web.9")
    nobody = "though no node works on it now; `queues resume"
    for command in (["queues", "list"], ["status"]):
        printed = shell.says(*command)
        assert f"The queue nightly is paused on all nodes, {nobody} nightly` ends that.\n" in printed
        assert f"The queue reports is paused on the node web.9, {nobody} reports --node web.9` ends that.\n" in printed
        assert "queue default is paused" not in printed
        assert shell.json(*command)["pauses"] == [
            {"queue": "default", "node": None},
            {"queue": "nightly", "node": None},
            {"queue": "reports", "node": "web.9"},
        ]
    shell.says("queues", "resume", "--all")
    shell.says("queues", "resume", "reports", "--node", "web.9")
    assert shell.json("queues", "list")["pauses"] == []
    shell.says("queues", "pause", "--all")
    assert shell.says("queues", "list").splitlines()[-1] == (
        "Every queue is paused on all nodes, those of nodes that start later too; `queues resume --all` ends that."
    )


def test_workers_that_wait_for_a_program_that_knows_them_are_named(shell: Shell) -> None:
    unknown = [{"worker": "shop.Send", "version": None}, {"worker": "shop.Mail", "version": 3}, 7]
    shell.add(producer(unknown=unknown))
    shell.add(producer("web.2"))
    shell.add(producer("web.3", queue="alone", unknown=[{"worker": "shop.Send"}]))
    wait = "wait for a program that knows it"
    expected = [
        f"Jobs of shop.Send in alone {wait}; web.3 does not, no other node works on the queue.",
        f"Jobs of shop.Mail (args of version 3) in default {wait}; web.1 does not, 1 other node may know it.",
        f"Jobs of shop.Send in default {wait}; web.1 does not, 1 other node may know it.",
    ]
    for command in ("queues list", "status"):
        assert [line for line in shell.says(*command.split()).splitlines() if line.startswith("Jobs")] == expected
    assert shell.json("queues", "list")["queues"][0]["unknown"] == ["shop.Send", "shop.Mail (args of version 3)"]


def test_limits_of_a_queue_are_set_taken_away_and_set_back(shell: Shell) -> None:
    shell.add(producer(queue="calls"))
    said = shell.says("queues", "limit", "calls", "--global", "30", "--each", "5", "--rate", "60/minute")
    assert said == ("The queue calls has global_limit 30, each 5, rate 60 in 1 minute on all nodes of Oban.\n")
    assert decided(shell)["calls"] == {
        "Oban": {"global_limit": 30, "each": 5, "rate": {"n": 60, "per": 60.0}},
    }
    assert shell.json("queues", "limit", "calls", "--rate", "none", "--by", "partition", "--weight", "acme=3") == {
        "instance": "Oban",
        "queues": ["calls"],
        "node": None,
        "limits": {"rate": None, "by": "partition", "fair": {"acme": 3}},
    }
    assert decided(shell)["calls"]["Oban"]["rate"] is None
    assert shell.says("queues", "limit", "calls", "--off").startswith("The queue calls has no limits on all nodes")
    assert decided(shell)["calls"]["Oban"] == {
        "global_limit": None, "by": None, "each": None, "rate": None, "burst": False, "fair": True,
    }  # fmt: skip
    assert "has the limits of its nodes' settings" in shell.says("queues", "limit", "calls", "--reset")
    assert set(decided(shell)["calls"]["Oban"].values()) == {"declared"}


def test_limits_that_can_not_be_are_refused_with_what_to_write(shell: Shell) -> None:
    for given, message in (
        ([], "which limit? Write for example --global 30"),
        (["--off", "--reset"], "give one"),
        (["--off", "--each", "5"], "leave the others out"),
        (["--each", "5", "--by", "none"], 'write by="partition"'),
        (["--by", "args.tenant_id"], '@worker(partition="args.tenant_id")'),
        (["--global", "0"], "write for example 5, or none"),
        (["--rate", "60/minte"], "did you mean 'minute'?"),
        (["--weight", "acme"], "write for example acme=3"),
        (["--weight", "acme=3", "--no-fair"], "with --no-fair none is taken"),
        (["--globl", "3"], "Did you mean '--global'?"),
    ):
        assert message in " ".join(shell.refuses("queues", "limit", "calls", *given, code=2).split())


def test_limits_without_effect_are_refused_with_what_to_write(shell: Shell) -> None:
    shell.add(producer(queue="calls", uuid=new_producer()))
    for given, message in (
        (["--burst"], "and the queue has none; give both: each=5, or --each 5"),
        (["--weight", "acme=3"], 'give both: by="partition", or --by partition'),
        (["--fair"], "lets partitions take turns, and the queue has none"),
    ):
        assert message in " ".join(shell.refuses("queues", "limit", "calls", *given, code=2).split())
    shell.says("queues", "limit", "calls", "--no-burst", "--no-fair")
    shell.says("queues", "limit", "calls", "--each", "5", "--burst", "--weight", "acme=3")


def test_limits_are_shown_below_the_queues(shell: Shell) -> None:
    limits = {"global_limit": 50, "rate": {"n": 60, "per": 60.0}}
    shell.add(producer(queue="calls", limits=limits))
    shell.add(producer("web.2", queue="calls", limits=limits))
    shell.add(producer("web.3", queue="old", limits={"each": "nonsense"}))
    line = "The queue calls has limits: 50 in the cluster; 60 in 1 minute.\n"
    assert line in shell.says("queues", "list")
    assert line in shell.says("status")
    assert [queue["limits"] for queue in shell.json("queues", "list")["queues"]] == [limits, limits, None]
    shell.add(producer("web.4", queue="calls"))
    said = shell.says("queues", "list")
    assert "The queue calls has no limits, as web.4 has it.\n" in said
    assert "give all nodes the same, or decide for all with `queues limit calls`." in said


def test_how_much_of_limits_is_used_is_shown_below_the_queues(shell: Shell) -> None:
    limits = {"global_limit": 50, "rate": {"n": 60, "per": 3600.0, "shared": True}, "by": "partition", "each": 2}
    uuid = shell.add(producer(queue="calls", limit=9, limits=limits))
    shell.add(producer("python.1", queue="calls"))
    ids = shell.enqueue(*(Job("app.Call", queue="calls", meta={"partition": "acme"}) for _ in range(5)))
    shell.add(executing(ids[:2], by=uuid))
    for command in (["queues", "list"], ["status"]):
        shown = shell.says(*command)
        assert (
            "Of the queue calls 2 of 50 jobs execute in the cluster; 60 starts of 60 are left of the rate.\n"
            "Of the queue calls 1 partition is full, 2 of each: acme (3 wait).\n"
            "Warning: The queue calls has limits, and python.1 serves it without observing them, so they do not hold. "
            "Give its jobs a queue of another name, or stop the queue there.\n"
        ) in shown
        read = shell.json(*command)
        [use] = read["limits"]
        assert use == {
            "queue": "calls",
            "limits": limits,
            "nodes": ["web.1"],
            "executing": 2,
            "left": 60,
            "until": None,
            "full": [{"key": "acme", "executing": 2, "waiting": 3}],
            "full_count": 1,
            "foreign": ["python.1"],
        }
        assert read["halted"] == []
        assert len(read["warnings"]) == 1
    shell.sql("SELECT oban_sa_rate('queue:calls', '', 60, 3600, 'sliding', NULL, 60, 1, timezone('UTC', now()))")
    [use] = shell.json("queues", "list")["limits"]
    assert use["left"] == 0
    until = datetime.fromisoformat(use["until"])
    assert f"; the rate is spent until {until:%Y-%m-%d %H:%M:%S} UTC.\n" in shell.says("queues", "list")


def test_halted_sequences_are_shown_below_the_queues(shell: Shell) -> None:
    meta = {"sequence": "17", "halts": True}
    ids = shell.enqueue(*(Job("app.Book", queue="ledger", meta=meta) for _ in range(3)))
    shell.sql("UPDATE oban_jobs SET state = 'discarded' WHERE id = :id", id=ids[0])
    for command in (["queues", "list"], ["status"]):
        assert (
            f"The sequence 17 of the queue ledger is halted: job {ids[0]} was discarded, and 2 wait behind it; "
            f"`jobs retry {ids[0]}` or `sequences resume ledger 17`.\n"
        ) in shell.says(*command)
        [halted] = shell.json(*command)["halted"]
        assert (halted["job"], halted["waiting"]) == (ids[0], 2)
    others = shell.enqueue(
        *(Job("app.Book", queue="ledger", meta={"sequence": f"n{n}", "halts": True}) for n in range(5))
    )
    shell.sql("UPDATE oban_jobs SET state = 'discarded' WHERE id = ANY(:ids)", ids=others)
    shown = shell.says("queues", "list")
    assert shown.count("is halted") == 5
    assert "More sequences are halted; `sequences list` shows all.\n" in shown

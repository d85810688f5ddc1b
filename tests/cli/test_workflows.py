"""`python -m oban_sa workflows`."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from oban_sa import Batch, Job, Workflow, enqueue
from oban_sa.outbox.staged import Flow
from tests.cli.conftest import Shell
from tests.flows.settling import book, note


def nightly() -> Workflow:
    flow = Workflow("nightly")
    flow.add("extract", Job("w"))
    flow.add_many("thumbs", [Job("w"), Job("w")], deps="extract")
    return flow


def stored(engine: Engine, flow: Flow) -> Flow:
    with Session(engine) as session:
        enqueue(session, flow)
        session.commit()
    return flow


def end(engine: Engine, flow: Flow, name: str, state: str) -> None:
    with engine.begin() as connection:
        change = (
            "UPDATE oban_jobs SET state = CAST(:state AS oban_job_state) WHERE meta ->> 'name' = :name RETURNING id"
        )
        ids = list(connection.scalars(text(change), {"state": state, "name": name}))
        note(connection, flow.id, ids)
    book(engine, flow.id)


@pytest.fixture
def flow(sync_engine: Engine) -> Flow:
    return stored(sync_engine, nightly())


def test_workflows_and_batches_are_listed(shell: Shell, sync_engine: Engine) -> None:
    assert shell.says("workflows", "list") == "No workflow or batch is there.\n"
    flow = stored(sync_engine, nightly())
    batch = stored(sync_engine, Batch([Job("w")], name="letters"))
    end(sync_engine, flow, "extract", "discarded")
    lines = [line.split() for line in shell.says("workflows", "list").splitlines()]
    assert lines[0] == ["ID", "KIND", "NAME", "STATE", "ENDED", "DISCARDED", "MADE"]
    assert lines[1][:8] == [str(batch.id), "batch", "letters", "executing", "0", "of", "1", "0"]
    assert lines[2][:8] == [str(flow.id), "workflow", "nightly", "discarded", "3", "of", "3", "1"]
    found = shell.json("workflows", "list", "--state", "discarded", "--name", "nightly")["workflows"]
    assert [each["id"] for each in found] == [str(flow.id)]
    assert shell.json("workflows", "list", "--name", "other") == {"workflows": []}


def test_one_is_shown_with_its_progress_and_what_is_inside(shell: Shell, sync_engine: Engine, flow: Flow) -> None:
    end(sync_engine, flow, "extract", "completed")
    said = shell.says("workflows", "show", str(flow.id)).splitlines()
    assert said[:3] == [
        f"workflow nightly ({flow.id}) is executing.",
        "[######..............] 1 of 3",
        "  completed: 1",
    ]
    assert said[4].split() == ["thumbs", "group", "executing", "0", "of", "2", "0"]
    end(sync_engine, flow, "thumbs/0", "discarded")
    said = shell.says("workflows", "show", str(flow.id)).splitlines()
    assert said[-2:] == [
        f"`jobs list --meta workflow_id={flow.id} --state discarded` shows what failed.",
        f"`workflows retry {flow.id}` runs it again.",
    ]
    found = shell.json("workflows", "show", str(flow.id))
    assert (found["state"], found["subs"]["thumbs"]["discarded"]) == ("executing", 1)


def test_where_something_failed_inside_of_another_its_jobs_are_found_as_is_said(
    shell: Shell, sync_engine: Engine
) -> None:
    outer, inner = Workflow("outer"), Workflow()
    outer.add("first", Job("w"))
    inner.add("deep", Job("w"))
    outer.add_workflow("inner", inner)
    stored(sync_engine, outer)
    end(sync_engine, outer, "deep", "discarded")
    end(sync_engine, outer, "first", "completed")
    said = shell.says("workflows", "show", str(outer.id)).splitlines()
    assert said[-2:] == [
        f"`jobs list --meta workflow_id={inner.id} --state discarded` shows what failed.",
        f"`workflows retry {outer.id}` runs it again.",
    ]
    [found] = shell.json("jobs", "list", "--meta", f"workflow_id={inner.id}", "--state", "discarded")["jobs"]
    assert found["meta"]["name"] == "deep"


def test_one_is_cancelled_and_retried(shell: Shell, sync_engine: Engine, flow: Flow) -> None:
    identity = str(flow.id)
    assert shell.says("workflows", "cancel", identity) == "Cancelled 3 jobs; those executing are asked to stop.\n"
    book(sync_engine, flow.id)
    assert shell.says("workflows", "cancel", identity) == "All jobs had ended.\n"
    assert shell.says("workflows", "retry", identity) == "3 jobs run again, each after what it waits for.\n"
    book(sync_engine, flow.id)
    assert (
        shell.says("workflows", "retry", identity) == "Nothing had failed; --from NAME runs again what was completed.\n"
    )
    again = shell.says("workflows", "retry", identity, "--from", "extract")
    assert again == "Nothing of extract, or of what waits for it, had ended.\n"
    end(sync_engine, flow, "extract", "completed")
    assert shell.json("workflows", "retry", identity, "--from", "extract") == {"workflow": identity, "retried": 1}
    end(sync_engine, flow, "extract", "completed")
    assert shell.json("workflows", "retry", identity, "--from", "extract", "--callbacks")["retried"] == 1
    with sync_engine.connect() as connection:
        notes = connection.execute(text("SELECT flow_id FROM oban_sa_endings WHERE recount ORDER BY id")).scalars()
        assert [*notes][-1] == flow.id


def test_what_is_not_there_is_refused(shell: Shell, flow: Flow) -> None:
    assert "'nightly' is no id of a workflow" in shell.refuses("workflows", "show", "nightly", code=2)
    gone = "01936f3e-7c11-7d52-8a4e-1f5a0c9b2d61"
    assert "it was pruned, or never was" in shell.refuses("workflows", "cancel", gone, code=1)
    assert "no member, group or workflow named 'x'" in shell.refuses(
        "workflows", "retry", str(flow.id), "--from", "x", code=1
    )

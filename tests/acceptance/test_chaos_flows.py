"""The checker of runs with workflows sees each promise broken where it is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.chaos import checker
from tests.acceptance.chaos.evidence import FINAL, OF_FLOWS, Evidence, put_in_order

NODE, HOLDER, ROOT, BATCH, GRAFT = "n0.0", "a", "root", "batch", "graft"


class Told:
    """What is found of a workflow in which 2 waits for 1, in a run that was as it should be."""

    def __init__(self) -> None:
        self.found = Evidence(tables={name: [] for name in OF_FLOWS})
        self.found.nodes = {HOLDER: NODE}
        self.found.beats = {HOLDER: [half / 2 for half in range(100)]}
        self.line(0, "started", node=NODE, slot=0, process=1)
        self.line(0.4, "about", keys=[ROOT])
        self.line(0.5, "committed", keys=[ROOT])
        self._n = 0
        self.flow(ROOT, "workflow", total=2, completed=2)
        self.table("edges", parent_id=1, child_id=2, forgives=0)
        self.member(1, "plain")
        self.member(2, "in_session", first="suspended")
        self.ran(1)
        self.change(2, "suspended", "available")
        self.ran(2)
        self.found.effects.append({"job_id": 2, "txid": self._n})

    def line(self, at: float, what: str, **said: Any) -> None:
        self.found.lines.append({"at": at, "what": what, "pid": 1, **said})

    def table(self, table: str, /, **row: Any) -> None:
        self.found.tables[table].append(row)

    def flow(self, flow: str, kind: str, *, path: tuple[str, ...] = (), **counts: int) -> None:
        counted = {"total": 0, "unfinished": 0, "completed": 0, "cancelled": 0, "discarded": 0, **counts}
        around = [*path, flow]
        self.table("flows", id=flow, root_id=around[0], path=around, kind=kind, over=True, **counted)

    def member(self, job: int, worker: str, *, first: str = "available", flow: str = ROOT, **other: Any) -> None:
        member: dict[str, Any] = {"job_id": job, "flow_id": flow, "name": f"m{job}", "waiting": 0, "settled": "c"}
        self.table("members", **{**member, "holds": None, **other})
        self.row(job, worker)
        self.change(job, None, first)

    def row(self, job: int, worker: str, **other: Any) -> None:
        row: dict[str, Any] = {"id": job, "state": "completed", "queue": "members", "worker": f"x.{worker}"}
        moments = {f"{each}_at": each == other.get("state", "completed") for each in FINAL}
        rest: dict[str, Any] = {"args": {}, "meta": {}, "attempt": 1, "max_attempts": 20, "errors": [], **moments}
        self.found.rows[job] = {**row, **rest, "attempted_by": [NODE, HOLDER], **other}

    def change(self, job: int, before: str | None, after: str) -> None:
        self._n += 1
        change = {"n": self._n, "at": float(self._n), "txid": self._n, "job": job, "before": before, "after": after}
        held = {"attempt_before": 1, "attempt": 1, "holder": HOLDER, "marked": False}
        self.found.changes.setdefault(job, []).append({**change, **held})

    def ran(self, job: int, end: str = "completed", how: str = "done") -> None:
        self.change(job, "available", "executing")
        about = {"job": job, "attempt": 1, "node": NODE, "holder": HOLDER, "queue": "members"}
        self.line(self._n + 0.1, "begin", key=str(job), worker="plain", **about)
        self.line(self._n + 0.5, "end", how=how, **about)
        self.change(job, "executing", end)

    def broken(self) -> set[str]:
        self.found.lines.sort(key=lambda line: line["at"])
        put_in_order(self.found)
        return {f"{each.promise} {each.what}" for each in checker.check(self.found)}


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_run_as_it_should_be_breaks_nothing(told: Told) -> None:
    assert told.broken() == set()


def test_workflows_that_exist_against_their_transaction_are_seen(told: Told) -> None:
    told.found.lines = [line for line in told.found.lines if line["what"] != "committed"]
    told.line(1, "committed", keys=["lost"])
    told.line(1, "undone", keys=[ROOT])
    assert told.broken() == {
        "P1 a workflow that was rolled back exists",
        "P1 a committed workflow is missing",
        "P1 a workflow exists of whose commit nothing was found",
    }


def test_a_member_without_a_job_is_seen(told: Told) -> None:
    del told.found.rows[1]
    assert "P1 a member has no job" in told.broken()


def test_what_is_not_over_is_seen(told: Told) -> None:
    told.found.tables["flows"][0]["over"] = False
    told.table("notes", lane=0, job_id=1, flow_id=None)
    assert told.broken() == {"P2 a workflow is not over", "P2 a note is left"}


@pytest.mark.parametrize("first", ["suspended", "available"])
def test_a_member_that_begins_before_its_time_is_seen(told: Told, first: str) -> None:
    told.table("edges", parent_id=2, child_id=3, forgives=0)
    told.member(3, "plain", first=first)
    told.found.changes[2].pop()  # it has not ended, as far as is known
    told.change(3, first, "available")
    told.ran(3)
    told.change(2, "executing", "completed")
    said = {
        "suspended": "order a job was let go before its time",
        "available": "order a job that waits for others was available from the beginning",
    }
    assert said[first] in told.broken()


@pytest.mark.parametrize(("forgives", "is_broken"), [(0, True), (1, True), (2, False)])
def test_a_member_that_begins_in_spite_of_a_failure_is_seen(told: Told, forgives: int, is_broken: bool) -> None:
    told.found.tables["edges"][0]["forgives"] = forgives
    told.found.changes[1][-1]["after"] = "discarded"
    assert ("order a job was let go before its time" in told.broken()) == is_broken


def test_a_member_that_is_cancelled_without_cause_is_seen_but_where_a_person_did_it(told: Told) -> None:
    told.table("edges", parent_id=2, child_id=3, forgives=0)
    told.member(3, "plain", first="suspended", settled="x")
    told.member(4, "plain", settled="x")
    for job, before in ((3, "suspended"), (4, "available")):
        told.row(job, "plain", state="cancelled")
        told.change(job, before, "cancelled")
    told.found.tables["flows"][0] |= {"total": 4, "cancelled": 2}
    assert told.broken() == {
        "order a job was cancelled, and nothing that it waits for failed",
        "order a job was cancelled that waited for no other",
    }
    told.line(3, "cutting", root=ROOT)
    told.found.executions, told.found.runs = [], []
    assert told.broken() == set()


def test_what_waits_for_a_graft_waits_for_all_that_it_has(told: Told) -> None:
    told.found.tables["flows"][0]["total"] = told.found.tables["flows"][0]["completed"] = 4
    told.flow(GRAFT, "graft", path=(ROOT,), total=1, completed=1)
    told.found.tables["members"][1]["holds"] = [GRAFT]
    told.table("gates", flow_id=GRAFT, child_id=4, forgives=0)
    told.member(4, "plain", first="suspended")
    told.found.changes[2][-1]["n"] = told._n + 10  # what fills it ends only later
    told.change(4, "suspended", "available")
    told.ran(4)
    told.member(3, "plain", flow=GRAFT)
    told.ran(3)
    assert told.broken() == {"order a job was let go before its time"}


def test_what_is_booked_otherwise_than_it_is_is_seen(told: Told) -> None:
    told.found.tables["members"][0] |= {"settled": "d", "waiting": None}
    told.found.tables["flows"][0]["completed"] = 3
    assert told.broken() == {
        "booked a member is booked as what it is not",
        "booked a member that joined was never counted",
        "booked a workflow counts wrongly",
    }


def test_callbacks_that_were_made_twice_or_never_or_for_nothing_are_seen(told: Told) -> None:
    told.flow(BATCH, "batch")
    told.line(0.6, "committed", keys=[BATCH])
    for number, event in enumerate(("on_complete", "on_complete", "on_attempt", "on_discard")):
        told.row(10 + number, "callback", meta={"batch_id": BATCH, "batch_event": event}, queue="callbacks")
    assert told.broken() == {
        "callbacks an event made several jobs",
        "callbacks on_success made no job",
        "callbacks on_discard made a job, and never was",
    }


@pytest.mark.parametrize("effects", [[], [99], [7, 7]])
def test_writes_that_are_not_there_once_with_the_completion_are_seen(told: Told, effects: list[int]) -> None:
    told.found.effects = [{"job_id": 2, "txid": txid} for txid in effects]
    assert told.broken() == {"P4 a member wrote more or less often than it was completed"}


def test_steps_that_are_taken_again_and_answers_that_change_are_seen(told: Told) -> None:
    told.found.rows[1]["worker"] = "x.stepping"
    for name in ("step 1", "step 3", "step 3"):
        told.table("steps", job_id=1, name=name)
    for at, payload in ((1, "a"), (2, "b")):
        told.line(at, "step begins", job=1, name="step 0")
        told.line(at + 0.1, "step is over", job=1, name="step 0")
        told.line(at, "answered", job=1, payload=payload)
    assert told.broken() == {
        "steps a step was taken again",
        "steps a step with a session is not there once",
        "steps a wait returned one thing and then another",
    }


def test_a_step_that_was_killed_inside_may_be_taken_again(told: Told) -> None:
    for at in (1, 2):
        told.line(at, "step begins", job=1, name="step 0")
    told.line(3, "step is over", job=1, name="step 0")
    assert told.broken() == set()


def test_a_member_that_begins_after_its_workflow_was_cancelled_is_seen_unless_that_was_retried(told: Told) -> None:
    told.line(0.7, "cutting", root=ROOT)
    told.line(0.8, "cut", root=ROOT)
    assert told.broken() == {"cancel a member of a cancelled workflow began"}
    told.line(0.9, "retrying flow", root=ROOT)
    told.found.executions, told.found.runs = [], []
    assert told.broken() == set()


@pytest.mark.parametrize(("state", "is_broken"), [("suspended", False), ("completed", True)])
def test_an_attempt_that_waits_is_suspended_and_not_completed(told: Told, state: str, is_broken: bool) -> None:
    told.found.changes[1][-1]["after"] = state
    for line in told.found.said("end"):
        line["how"] = "Suspended" if line["job"] == 1 else line["how"]
    wanted = f"P3 a job became {state} without the attempt that held it saying so"
    assert (wanted in told.broken()) == is_broken


def test_deadlocks_are_seen(told: Told) -> None:
    told.line(9, "deadlock", text="ERROR: deadlock detected")
    assert told.broken() == {"logs PostgreSQL found a deadlock"}

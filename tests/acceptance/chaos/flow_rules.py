"""Rules about workflows and batches: when their members begin, what is booked of them, and what their code left."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final

from tests.acceptance.chaos.evidence import FINAL, Evidence
from tests.acceptance.chaos.flow_story import Story, Wait, read
from tests.acceptance.chaos.violation import Violation

_BITS: Final = {"completed": 0, "cancelled": 1, "discarded": 2}
_LETTERS: Final = {"completed": "c", "cancelled": "x", "discarded": "d"}
_IDLE: Final = ("suspended", "available", "scheduled", "retryable")
_BY_STATE: Final = {"cancel": "cancelled", "discard": "discarded"}
_WITH_SESSION: Final = (".in_session", ".grafting")


def whole(found: Evidence) -> Iterator[Violation]:
    """The same of workflows and batches, also where the answer to the commit was lost."""
    there = {row["id"] for row in found.tables["flows"]}
    for line in found.said("undone"):
        for key in there.intersection(line["keys"]):
            yield Violation("P1", "a workflow that was rolled back exists", at=line["at"], details=key)
    for line in found.said("committed"):
        for key in set(line["keys"]) - there:
            yield Violation("P1", "a committed workflow is missing", at=line["at"], details=key)
    told = {key for line in found.said("committed") for key in line["keys"]}
    for row in found.tables["flows"]:
        if row["id"] == row["root_id"] and row["id"] not in told:
            yield Violation("P1", "a workflow exists of whose commit nothing was found", details=row["id"])
    for row in found.tables["members"]:
        if row["job_id"] not in found.rows:
            yield Violation("P1", "a member has no job", row["job_id"], details=row["name"])


def over(found: Evidence) -> Iterator[Violation]:
    """Every workflow and every batch is over, and every note is booked."""
    for row in found.tables["flows"]:
        if not row["over"] or row["unfinished"]:
            told = f"{row['kind']} {row['id']}, {row['unfinished']} unfinished"
            yield Violation("P2", "a workflow is not over", details=told)
    for row in found.tables["notes"]:
        yield Violation("P2", "a note is left", row["job_id"], details=f"lane {row['lane']}, flow {row['flow_id']}")


def in_order(found: Evidence) -> Iterator[Violation]:
    """A member is let go once all that it waits for has ended, and never in spite of a failure that is not forgiven.

    It is cancelled only where there is one, or where its workflow was cancelled.
    """
    story, cut = read(found), {line["root"] for line in found.said("cutting")}
    for job, member in story.members.items():
        parents, gates = story.parents.get(job, ()), story.gates.get(job, ())
        first = story.changes[job][0]
        if (parents or gates) and first.after != "suspended":
            yield Violation("order", f"a job that waits for others was {first.after} from the beginning", job)
        is_cut = story.flows[member["flow_id"]]["root_id"] in cut
        waits = list(story.waits(job))
        idle = {change.n for change in story.changes[job] if change.after == "cancelled" and change.before in _IDLE}
        if not is_cut and (at := idle - {wait.until.n for wait in waits}):
            yield Violation("order", "a job was cancelled that waited for no other", job, details=f"change {at}")
        for wait in waits:
            if wait.until.after != "cancelled":
                yield from _let_go(story, job, wait)
            elif not is_cut and not any(_failures(story, job, wait)):
                about = f"change {wait.until.n}"
                yield Violation("order", "a job was cancelled, and nothing that it waits for failed", job, None, about)


def _let_go(story: Story, job: int, wait: Wait) -> Iterator[Violation]:
    def early(other: int, ends: set[str], what: str) -> Violation:
        about = f"change {wait.until.n}: {what} {other} had ended as {ends or 'nothing'}"
        return Violation("order", "a job was let go before its time", job, details=about)

    for parent, bits in story.parents.get(job, ()):
        ends = story.ends(parent, wait)
        if not any(_is_met(end, bits) for end in ends):
            yield early(parent, ends, "what it waits for,")
    for flow, bits in story.gates.get(job, ()):
        for member in story.inside(flow):
            ends = story.ends(member, wait)
            if _was_there(story, member, wait) and not any(_is_met(end, bits and 3) for end in ends):
                yield early(member, ends, f"in {flow},")
        for holder in story.holders(flow):
            if not story.ends(holder, wait):
                yield early(holder, set(), f"what might yet have filled {flow},")


def _failures(story: Story, job: int, wait: Wait) -> Iterator[int]:
    for parent, bits in story.parents.get(job, ()):
        if any(not _is_met(end, bits) for end in story.ends(parent, wait)):
            yield parent
    for flow, bits in story.gates.get(job, ()):
        for member in story.inside(flow):
            if any(not _is_met(end, bits) for end in story.ends(member, wait)):
                yield member


def _was_there(story: Story, member: int, wait: Wait) -> bool:
    """Whether a member had joined when a wait was over: of grafts it did, once the one that filled it was completed.

    Where that one had failed, what waits for the graft and forgives it goes on; a retry fills the graft later.
    """
    joined = story.changes[member][0].n
    holders = story.holders(story.members[member]["flow_id"])
    ended = [each for holder in holders for each in story.changes[holder] if each.after == "completed"]
    return not holders or any(joined < each.n < wait.until.n for each in ended)


def _is_met(end: str, forgives: int) -> bool:
    return end == "completed" or bool(forgives & _BITS[end])


def booked(found: Evidence) -> Iterator[Violation]:
    """Counters of workflows and what is booked of members are what a recount of the jobs gives."""
    story = read(found)
    for job, member in story.members.items():
        state = story.jobs[job]["state"] if job in story.jobs else "missing"
        if member["settled"] != _LETTERS.get(state):
            told = f"it is {state}, and booked as {member['settled']}"
            yield Violation("booked", "a member is booked as what it is not", job, details=told)
        if member["waiting"] is None:
            yield Violation("booked", "a member that joined was never counted", job)
    for flow, row in story.flows.items():
        mine = [job for job in story.inside(flow) if job in story.jobs]
        states = Counter(story.jobs[job]["state"] for job in mine)
        wanted = {"total": len(mine), "unfinished": 0, **{state: states[state] for state in FINAL}}
        counted = {name: row[name] for name in wanted}
        if counted != wanted:
            told = f"{row['kind']} {flow} counts {counted}, and has {wanted}"
            yield Violation("booked", "a workflow counts wrongly", details=told)


def callbacks(found: Evidence) -> Iterator[Violation]:
    """An event of a batch that happened made one job, and one that did not happen none."""
    story = read(found)
    made: dict[str, Counter[str]] = defaultdict(Counter)
    for row in found.rows.values():
        if "batch_event" in row["meta"]:
            made[row["meta"]["batch_id"]][row["meta"]["batch_event"]] += 1
    for flow, row in story.flows.items():
        if row["kind"] != "batch":
            continue
        mine = story.inside(flow)
        ever = {change.after for job in mine for change in story.changes[job]}
        states = [story.jobs[job]["state"] for job in mine if job in story.jobs]
        is_success = all(state == "completed" for state in states)
        happened = {"on_complete", "on_attempt", "on_success" if is_success else "on_exhausted"}
        happened |= {f"on_{word}" for word, state in _BY_STATE.items() if state in states}
        possible = happened | {f"on_{word}" for word, state in _BY_STATE.items() if state in ever}
        if ever & {"cancelled", "discarded"}:
            possible.add("on_exhausted")
        if any(count > 1 for count in made[flow].values()):
            yield Violation("callbacks", "an event made several jobs", details=f"batch {flow}: {dict(made[flow])}")
        for event in sorted(happened - made[flow].keys()):
            yield Violation("callbacks", f"{event} made no job", details=f"batch {flow}, {Counter(states)}")
        for event in sorted(made[flow].keys() - possible):
            yield Violation("callbacks", f"{event} made a job, and never was", details=f"batch {flow}")


def in_sessions(found: Evidence) -> Iterator[Violation]:
    """What a member wrote in its session is there once for each time that it was completed, by that transaction."""
    completions: dict[int, Counter[int]] = defaultdict(Counter)
    for job, changes in found.changes.items():
        if job in found.rows and found.rows[job]["worker"].endswith(_WITH_SESSION):
            completions[job] += Counter(change["txid"] for change in changes if _completes(change))
    written: dict[int, Counter[int]] = defaultdict(Counter)
    for effect in found.effects:
        written[effect["job_id"]][effect["txid"]] += 1
    for job in completions.keys() | written.keys():
        if completions[job] != written[job]:
            told = f"transactions that completed it {dict(completions[job])}, that wrote {dict(written[job])}"
            yield Violation("P4", "a member wrote more or less often than it was completed", job, details=told)


def _completes(change: dict[str, Any]) -> bool:
    return bool(change["after"] == "completed" and change["before"] != "completed")


def steps(found: Evidence) -> Iterator[Violation]:
    """A step is taken no more once its result was returned, and one with a session is there once, also after retries.

    So is what a wait for a signal returned: each attempt gets the same.
    """
    returned: dict[tuple[int, str], float] = {}
    for line in found.said("step is over"):
        returned.setdefault((line["job"], line["name"]), line["at"])
    for line in found.said("step begins"):
        if line["at"] > returned.get((line["job"], line["name"]), line["at"]):
            yield Violation("steps", "a step was taken again", line["job"], line["at"], line["name"])
    taken: dict[int, Counter[str]] = defaultdict(Counter)
    for row in found.tables["steps"]:
        taken[row["job_id"]][row["name"]] += 1
    for row in found.rows.values():
        if not row["worker"].endswith(".stepping"):
            continue
        mine = taken[row["id"]]
        least = {"step 1": 1, "step 3": 1} if row["state"] == "completed" else {}
        if any(count > 1 for count in mine.values()) or least.keys() - mine.keys():
            told = f"{row['state']}, {dict(mine)}"
            yield Violation("steps", "a step with a session is not there once", row["id"], details=told)
    answers: dict[int, set[str]] = defaultdict(set)
    for line in found.said("answered"):
        answers[line["job"]].add(str(line["payload"]))
    for job, said in answers.items():
        if len(said) > 1:
            yield Violation("steps", "a wait returned one thing and then another", job, details=f"{said}")


def cut_short(found: Evidence) -> Iterator[Violation]:
    """Once the cancel of a workflow has returned no member of it begins, unless the workflow was retried."""
    retried = {line["root"] for line in found.said("retrying flow")}
    since = {line["root"]: line["at"] for line in reversed(found.said("cut")) if line["root"] not in retried}
    story = read(found)
    for execution in found.executions:
        member = story.members.get(execution.job)
        moment = None if member is None else since.get(story.flows[member["flow_id"]]["root_id"])
        if moment is not None and execution.fetched > moment:
            told = f"cancelled at {moment:.3f}; {execution.run or 'never began'}"
            yield Violation("cancel", "a member of a cancelled workflow began", execution.job, execution.fetched, told)


def deadlocks(found: Evidence) -> Iterator[Violation]:
    """No transaction is ended for a deadlock."""
    for line in found.said("deadlock"):
        yield Violation("logs", "PostgreSQL found a deadlock", details=line["text"])

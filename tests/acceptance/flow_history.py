"""What became of workflows and batches, and what of it must not be: `violations`.

A trigger numbers all changes of states. A change has its number before its transaction is committed, and whatever
follows from it is done by a later one. So numbers tell what came first, where moments of different clocks do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

WATCH = """
CREATE TABLE effects (job_id bigint NOT NULL);
CREATE TABLE history (
    n bigserial PRIMARY KEY, txid bigint NOT NULL DEFAULT txid_current(), job_id bigint NOT NULL,
    before text, after text NOT NULL
);
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO history (job_id, after) VALUES (NEW.id, NEW.state);
    ELSIF NEW.state <> OLD.state THEN
        INSERT INTO history (job_id, before, after) VALUES (NEW.id, OLD.state, NEW.state);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note_change AFTER INSERT OR UPDATE ON oban_jobs FOR EACH ROW EXECUTE FUNCTION note_change();
"""

UNFINISHED = """
SELECT id, state::text, worker, attempt, meta::text FROM oban_jobs
WHERE state NOT IN ('completed', 'cancelled', 'discarded') ORDER BY id
"""
OPEN = "SELECT id FROM oban_sa_flows WHERE completed_at IS NULL OR unfinished <> 0"
NOTES = "SELECT * FROM oban_sa_endings"

BITS = {"completed": 0, "cancelled": 1, "discarded": 2}
LETTERS = {"completed": "c", "cancelled": "x", "discarded": "d"}
IDLE = ("suspended", "available", "scheduled", "retryable")


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a job's state."""

    n: int
    txid: int
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class Wait:
    """A time in which a member waited for others: from a change until another."""

    since: Change
    until: Change


@dataclass(frozen=True, slots=True)
class Story:
    """All that is read of a database."""

    changes: Mapping[int, Sequence[Change]]
    jobs: Mapping[int, asyncpg.Record]
    members: Mapping[int, asyncpg.Record]
    flows: Mapping[UUID, asyncpg.Record]
    parents: Mapping[int, Sequence[tuple[int, int]]]
    gates: Mapping[int, Sequence[tuple[UUID, int]]]

    def inside(self, flow: UUID) -> list[int]:
        """The members of a flow, and of those inside."""
        return [job for job, each in self.members.items() if flow in self.flows[each["flow_id"]]["path"]]

    def waits(self, job: int) -> Iterator[Wait]:
        """The times in which a job waited for other members; not those that its own code asked for."""
        since = None
        for change in self.changes[job]:
            if change.after == "suspended" and change.before != "executing":
                since = change
            elif change.before == "suspended" and since is not None:
                yield Wait(since, change)
                since = None

    def ends(self, job: int, wait: Wait) -> set[str]:
        """How a job had ended at some time of a wait; what was over before the wait's first transaction is left out."""
        found: set[str] = set()
        mine = self.changes[job]
        for number, change in enumerate(mine):
            after = mine[number + 1] if number + 1 < len(mine) else None
            past = after is not None and (after.n < wait.since.n or after.txid == wait.since.txid)
            if change.after in BITS and change.n < wait.until.n and not past:
                found.add(change.after)
        return found


async def read(connection: asyncpg.Connection) -> Story:
    changes: dict[int, list[Change]] = {}
    for row in await connection.fetch("SELECT * FROM history ORDER BY n"):
        change = Change(row["n"], row["txid"], row["before"], row["after"])
        changes.setdefault(row["job_id"], []).append(change)
    parents: dict[int, list[tuple[int, int]]] = {}
    for row in await connection.fetch("SELECT * FROM oban_sa_edges"):
        parents.setdefault(row["child_id"], []).append((row["parent_id"], row["forgives"]))
    gates: dict[int, list[tuple[UUID, int]]] = {}
    for row in await connection.fetch("SELECT * FROM oban_sa_gates"):
        gates.setdefault(row["child_id"], []).append((row["flow_id"], row["forgives"]))
    jobs = await connection.fetch("SELECT id, state::text, worker, attempt, meta::text, errors FROM oban_jobs")
    members = await connection.fetch("SELECT * FROM oban_sa_members")
    flows = await connection.fetch("SELECT * FROM oban_sa_flows")
    return Story(
        changes,
        {row["id"]: row for row in jobs},
        {row["job_id"]: row for row in members},
        {row["id"]: row for row in flows},
        parents,
        gates,
    )


def dependencies(story: Story, cut: set[UUID]) -> Iterator[str]:
    """A member began before its time, or in spite of a failure, or was cancelled without one.

    `cut` are the roots of trees that were cancelled by hand.
    """
    for job in story.members:
        parents, gates = story.parents.get(job, ()), story.gates.get(job, ())
        if parents or gates:
            first = story.changes[job][0]
            if first.after != "suspended":
                yield f"{job} waits for others, and was {first.after} from the beginning"
        root = story.flows[story.members[job]["flow_id"]]["root_id"]
        waits = list(story.waits(job))
        cancelled = {change.n for change in story.changes[job] if change.after == "cancelled" and change.before in IDLE}
        if root not in cut and cancelled - {wait.until.n for wait in waits}:
            yield f"{job} was cancelled at {cancelled}, and waited for no other member"
        for wait in waits:
            if wait.until.after == "cancelled":
                if root not in cut and not any(_failures(story, job, wait)):
                    yield f"{job} was cancelled at {wait.until.n}, and nothing that it waits for had failed"
                continue
            for parent, bits in parents:
                ends = story.ends(parent, wait)
                if not any(_is_met(end, bits) for end in ends):
                    yield f"{job} was let go at {wait.until.n}, and {parent} had ended as {ends}, which is not met"
            for flow, bits in gates:
                for member in story.inside(flow):
                    ends = story.ends(member, wait)
                    if _was_there(story, member, wait) and not any(_is_met(end, bits and 3) for end in ends):
                        yield f"{job} was let go at {wait.until.n}, and {member} in {flow} had ended as {ends}"
                for holder in _holders(story, flow):
                    if not story.ends(holder, wait):
                        yield f"{job} was let go at {wait.until.n}, and {holder} might yet have filled {flow}"


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
    holders = _holders(story, story.members[member]["flow_id"])
    ended = [each for holder in holders for each in story.changes[holder] if each.after == "completed"]
    return not holders or any(joined < each.n < wait.until.n for each in ended)


def _holders(story: Story, flow: UUID) -> list[int]:
    return [job for job, each in story.members.items() if flow in (each["holds"] or ())]


def _is_met(end: str, forgives: int) -> bool:
    return end == "completed" or bool(forgives & BITS[end])


def counters(story: Story) -> Iterator[str]:
    """What was booked is not what the jobs are."""
    for job, each in story.members.items():
        if each["settled"] != LETTERS.get(story.jobs[job]["state"]):
            yield f"{job} is {story.jobs[job]['state']}, and booked as {each['settled']}"
        if each["waiting"] is None:
            yield f"{job} has joined, and was never counted"
    for flow, row in story.flows.items():
        mine = story.inside(flow)
        states = Counter(story.jobs[job]["state"] for job in mine)
        wanted = {"total": len(mine), "unfinished": 0, **{state: states[state] for state in BITS}}
        found = {name: row[name] for name in wanted}
        if found != wanted:
            yield f"{row['kind']} {flow} counts {found}, and has {wanted}"


def callbacks(story: Story, made: Mapping[UUID, Mapping[str, int]]) -> Iterator[str]:
    """An event of a batch made no job, or several, or did not happen. `made` is how many, by batch and event."""
    for flow, row in story.flows.items():
        if row["kind"] != "batch":
            continue
        mine = story.inside(flow)
        ever = {change.after for job in mine for change in story.changes[job]}
        states = [story.jobs[job]["state"] for job in mine]
        is_success = all(state == "completed" for state in states)
        happened = {"on_complete", "on_attempt", "on_success" if is_success else "on_exhausted"}
        happened |= {f"on_{word}" for word, state in _BY_STATE.items() if state in states}
        possible = happened | {f"on_{word}" for word, state in _BY_STATE.items() if state in ever}
        if ever & {"cancelled", "discarded"}:
            possible.add("on_exhausted")
        found = made.get(flow, {})
        if not happened <= found.keys() <= possible or any(count != 1 for count in found.values()):
            yield f"batch {flow} made {dict(found)}; {happened} happened, and {possible} may have"


_BY_STATE = {"cancel": "cancelled", "discard": "discarded"}


def effects(story: Story, written: Mapping[int, int]) -> Iterator[str]:
    """A job that writes with its completion wrote more or less often than it was completed."""
    for job, row in story.jobs.items():
        if row["worker"].endswith((".in_session", ".grafting")):
            completed = sum(change.after == "completed" for change in story.changes[job])
            if written.get(job, 0) != completed:
                yield f"{job} was completed {completed} times, and wrote {written.get(job, 0)} times"


async def violations(connection: asyncpg.Connection, cut: set[UUID]) -> list[str]:
    """All that is not as it was promised; the jobs have to be over, and the notes booked."""
    story = await read(connection)
    made: dict[UUID, dict[str, int]] = {}
    for row in await connection.fetch(
        "SELECT CAST(meta ->> 'batch_id' AS uuid) AS batch, meta ->> 'batch_event' AS event, count(*) AS jobs "
        "FROM oban_jobs WHERE meta ? 'batch_event' GROUP BY 1, 2"
    ):
        made.setdefault(row["batch"], {})[row["event"]] = row["jobs"]
    rows = await connection.fetch("SELECT job_id, count(*) AS times FROM effects GROUP BY 1")
    written = {row["job_id"]: row["times"] for row in rows}
    return [
        *dependencies(story, cut),
        *counters(story),
        *callbacks(story, made),
        *effects(story, written),
    ]

"""What became of workflows and batches, as triggers saw it.

A trigger numbers all changes of states. A change has its number before its transaction is committed, and whatever
follows from it is done by a later one. So numbers tell what came first, where moments of different clocks do not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.acceptance.chaos.evidence import FINAL, Evidence


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
    jobs: Mapping[int, dict[str, Any]]
    members: Mapping[int, dict[str, Any]]
    flows: Mapping[str, dict[str, Any]]
    parents: Mapping[int, Sequence[tuple[int, int]]]
    gates: Mapping[int, Sequence[tuple[str, int]]]

    def inside(self, flow: str) -> list[int]:
        """The members of a flow, and of those inside."""
        return [job for job, each in self.members.items() if flow in self.flows[each["flow_id"]]["path"]]

    def holders(self, flow: str) -> list[int]:
        """The members that fill a graft."""
        return [job for job, each in self.members.items() if flow in (each["holds"] or ())]

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
            if change.after in FINAL and change.n < wait.until.n and not past:
                found.add(change.after)
        return found


def read(found: Evidence) -> Story:
    """Put in order what the evidence has of flows."""
    changes: dict[int, list[Change]] = {}
    for job, each in found.changes.items():
        of_state = [change for change in each if change["before"] != change["after"]]
        changes[job] = [Change(said["n"], said["txid"], said["before"], said["after"]) for said in of_state]
    parents: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row in found.tables["edges"]:
        parents[row["child_id"]].append((row["parent_id"], row["forgives"]))
    gates: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for row in found.tables["gates"]:
        gates[row["child_id"]].append((row["flow_id"], row["forgives"]))
    members = {row["job_id"]: row for row in found.tables["members"]}
    flows = {row["id"]: row for row in found.tables["flows"]}
    return Story(changes, found.rows, members, flows, parents, gates)

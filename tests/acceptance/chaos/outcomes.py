"""Rules about which jobs there are, how each ended, and what it left."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final

from tests.acceptance.chaos.evidence import FINAL, Evidence
from tests.acceptance.chaos.violation import Violation

_EFFECTS: Final = ("Effect", "EffectInThread", "EffectThenSnooze")
_EXHAUSTED: Final = "AttemptOrphaned: the job was available with all its attempts spent"


def atomic(found: Evidence) -> Iterator[Violation]:
    """A job exists if and only if the transaction that enqueued it committed."""
    ids: dict[str, list[int]] = defaultdict(list)
    for row in found.rows.values():
        ids[row["args"]["key"]].append(row["id"])
    for line in found.said("undone"):
        for key in line["keys"]:
            for job in ids[key]:
                yield Violation("P1", "a job that was rolled back exists", job, details=f"key {key}")
    for line in found.said("committed"):
        for key in line["keys"]:
            if not ids[key]:
                yield Violation("P1", "a committed job is missing", at=line["at"], details=f"key {key}")
    for line in found.said("unknown"):
        there = [key for key in line["keys"] if ids[key]]
        if there and len(there) < len(line["keys"]):
            yield Violation("P1", "a part of a transaction exists", at=line["at"], details=f"{there} of {line['keys']}")
    for key, jobs in ids.items():
        if len(jobs) > 1:
            yield Violation("P1", "a job exists more than once", jobs[0], details=f"key {key}, ids {jobs}")
    undone = {key for line in found.said("undone") for key in line["keys"]}
    for run in found.runs:
        if run.key in undone:
            yield Violation("P1", "a job that was rolled back ran", run.job, run.begin, str(run))
        elif run.job not in found.rows:
            yield Violation("P1", "a job ran that does not exist", run.job, run.begin, str(run))


def nothing_lost(found: Evidence) -> Iterator[Violation]:
    """Every committed job has ended, once nothing was done to it any more."""
    for row in found.rows.values():
        if row["state"] not in FINAL:
            held = f" by {row['attempted_by']}" if row["state"] == "executing" else ""
            yield Violation("P2", f"a job is left {row['state']}", row["id"], details=f"{row['worker']}{held}")


def effects(found: Evidence) -> Iterator[Violation]:
    """What a session wrote is there once where its job is completed, by the transaction that completed it; else not."""
    there: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for effect in found.effects:
        there[effect["job_id"]].append(effect)
    completions: dict[int, set[int]] = defaultdict(set)
    for execution in found.executions:
        if execution.became == "completed" and execution.txid is not None:
            completions[execution.job].add(execution.txid)
    retried = Counter(job for line in found.said("retrying") for job in line["jobs"])
    children = Counter(row["args"]["key"] for row in found.rows.values() if row["args"]["key"].startswith("child of "))
    for row in found.rows.values():
        if row["worker"].rpartition(".")[2] not in _EFFECTS:
            continue
        mine, job = there[row["id"]], row["id"]
        least = 1 if row["state"] == "completed" else 0
        if not least <= len(mine) <= least + retried[job]:
            yield Violation("P4", f"a job that is {row['state']} left {len(mine)} effects", job, details=f"{mine}")
        for effect in mine:
            if effect["txid"] not in completions[job]:
                yield Violation(
                    "P4", "an effect was committed apart from its job's completion", job, details=f"{effect}"
                )
        if row["args"].get("child") and not least <= (count := children[f"child of {row['args']['key']}"]) <= (
            least + retried[job]
        ):
            yield Violation("P4", f"a job that is {row['state']} left {count} children", job)


def stopped(found: Evidence) -> Iterator[Violation]:
    """A runner that is told to stop does, and by itself none ends."""
    for line in found.said("stuck"):
        yield Violation("P6", f"runner {line['node']} did not stop", at=line["at"])
    poisoned = {line["node"] for line in found.said("poison")}
    began = {run.node for run in found.runs}
    for life in found.lives.values():
        if life.code is None or life.killed is not None or (life.code == 7 and life.node in poisoned):
            continue
        if life.stopping is not None and life.code in (0, -15):
            continue
        if life.code == 1 and life.node not in began:
            continue  # it needs a database to start with, and says so
        yield Violation("P6", f"runner {life.node} ended by itself with {life.code}", at=life.ended)


def spent(found: Evidence) -> Iterator[Violation]:
    """Attempts are spent that ended, and no others."""
    for row in found.rows.values():
        texts = [error["error"] for error in row["errors"]]
        counted = sum(not text.startswith(_EXHAUSTED) for text in texts) + (row["state"] == "completed")
        if row["state"] in FINAL and row["attempt"] != counted:
            told = f"attempt {row['attempt']} of {row['worker']}, {len(texts)} errors"
            yield Violation(
                "P6", f"a {row['state']} job has spent attempts that nothing tells of", row["id"], details=told
            )
        if row["attempt"] > row["max_attempts"]:
            yield Violation("P7", "a job had more attempts than its most", row["id"])


def poison(found: Evidence) -> Iterator[Violation]:
    """A job that kills its runner on every attempt ends discarded, after as many attempts as it has and no more."""
    deaths = Counter(line["job"] for line in found.said("poison"))
    cancelled = {line["job"] for line in found.said("cancelling")}
    retried = Counter(job for line in found.said("retrying") for job in line["jobs"])
    for row in found.rows.values():
        if row["worker"].rpartition(".")[2] != "Poison":
            continue
        job = row["id"]
        if deaths[job] > row["max_attempts"] + retried[job]:
            yield Violation(
                "P7", f"a job killed {deaths[job]} runners", job, details=f"of {row['max_attempts']} attempts"
            )
        if row["state"] not in FINAL or (row["state"] == "cancelled" and job in cancelled):
            continue
        if row["state"] != "discarded":
            yield Violation("P7", f"a job that kills its runner ended {row['state']}", job)
        elif not any("AttemptOrphaned" in error["error"] for error in row["errors"]):
            yield Violation("P7", "a job that kills its runner ended without an error that says so", job)

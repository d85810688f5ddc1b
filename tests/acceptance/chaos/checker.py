"""Which promises a run has broken, each named, with what shows it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from tests.acceptance.chaos.evidence import SLACK, Evidence, Execution, Run
from tests.acceptance.chaos.herd import DEAD_AFTER
from tests.acceptance.chaos.plan import QUEUES

FINAL: Final = ("completed", "cancelled", "discarded")

OBEYS_WITHIN: Final = 5.0
"""Seconds in which a node that nothing hampers obeys a pause, its loop being blocked for a while included."""

_EFFECTS: Final = ("Effect", "EffectInThread", "EffectThenSnooze")
_EXHAUSTED: Final = "AttemptOrphaned: the job was available with all its attempts spent"


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: its name, what is wrong, and the job and the moment that show it."""

    promise: str
    what: str
    job: int | None = None
    at: float | None = None
    details: str = ""

    def __str__(self) -> str:
        job = "" if self.job is None else f" job {self.job}"
        at = "" if self.at is None else f" at {self.at:.3f}"
        return f"{self.promise} {self.what}{job}{at}{': ' if self.details else ''}{self.details}"


def check(found: Evidence) -> list[Violation]:
    """Return every violation that the evidence shows."""
    return [violation for rule in RULES for violation in rule(found)]


# P1


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


# P2


def nothing_lost(found: Evidence) -> Iterator[Violation]:
    """Every committed job has ended, once nothing was done to it any more."""
    for row in found.rows.values():
        if row["state"] not in FINAL:
            held = f" by {row['attempted_by']}" if row["state"] == "executing" else ""
            yield Violation("P2", f"a job is left {row['state']}", row["id"], details=f"{row['worker']}{held}")


# P3


def fenced(found: Evidence) -> Iterator[Violation]:
    """Only the attempt that holds a job says how it ended, and only what holds a job runs it."""
    for run in found.runs:
        if run.execution is None:
            yield Violation("P3", "an attempt ran that never held its job", run.job, run.begin, str(run))
        elif run.execution.run is not run:
            yield Violation("P3", "one fetch began an attempt twice", run.job, run.begin, str(run))
    cancelling = _moments(found, "cancelling")
    for execution in found.executions:
        if execution.released is None:
            continue
        if (violation := _released(found, execution, cancelling)) is not None:
            yield violation


def _released(found: Evidence, execution: Execution, cancelling: dict[int, list[float]]) -> Violation | None:
    released = execution.released or 0.0
    run = execution.run
    over = run is None or (run.end is not None and run.end <= released + SLACK)
    spent = execution.attempt_after == execution.attempt
    about = f"{_described(execution)}; {run or 'it never began'}"

    def broken(promise: str, what: str) -> Violation:
        return Violation(promise, what, execution.job, released, about)

    silent = found.silent(execution.holder, since=execution.fetched, until=released + SLACK)
    match execution.became:
        case "completed" | "scheduled":
            # What a session commits, it commits when its code is over.
            if run is None or not over or run.how != "done":
                return broken("P3", f"a job became {execution.became} without the attempt that held it saying so")
        case "retryable":
            if not over:
                return broken("P3", "a job became retryable while the attempt that held it ran")
        case "discarded":
            if not over and not silent:
                return broken("P3", "a job was discarded while the attempt that held it ran")
        case "cancelled":
            if not any(moment <= released for moment in cancelling[execution.job]):
                return broken("P3", "a job was cancelled that nobody had cancelled")
            if not over and not silent:
                return broken("P3", "a job became cancelled while the attempt that held it ran")
        case "available" if spent:
            if not silent:
                node = found.lives.get(found.nodes.get(execution.holder, ""))
                if node is not None and node.stopping is not None and node.stopping <= released:
                    return broken("P6", "a job was given back by a runner that stopped, and its attempt spent")
                return broken("P5", "a job was rescued from a node that beat")
        case "available":
            if not over and not silent and not _stopping(found, execution.holder, released):
                return broken("P5", "a job was given away while it ran")
        case _:
            return broken("P3", f"an executing job became {execution.became}")
    return None


# P4


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


# P5


def never_twice_at_once(found: Evidence) -> Iterator[Violation]:
    """Two runs of a job overlap only where the node of the one that held it first had been silent for `dead_after`.

    Silence counts from that attempt's fetch, or began before and lasted into it, and had lasted for as long by the
    moment at which both ran. A run ends when its code ends, or its process does. While a runner stops, code that can't
    be interrupted may go on until its process ends, and its job be given back before.
    """
    by_job: dict[int, list[Run]] = defaultdict(list)
    for run in found.runs:
        by_job[run.job].append(run)
    for job, runs in by_job.items():
        for first, second in _pairs(sorted(runs, key=lambda run: run.begin)):
            if first.end is not None and second.begin >= first.end - SLACK:
                continue
            loser, winner = sorted((first, second), key=_held_since)
            if found.silent(loser.holder, since=_held_since(loser), until=second.begin):
                continue
            if _stopping(found, loser.holder, second.begin):
                continue
            yield Violation("P5", "a job ran twice at once", job, second.begin, f"{loser} beside {winner}")


def alive(found: Evidence) -> Iterator[Violation]:
    """A node that works and that nothing hampers is never silent for as long as a dead one, whatever its jobs do."""
    silences: dict[str, tuple[float, float]] = {}
    for holder, beats in found.beats.items():
        life = found.lives.get(found.nodes[holder])
        if life is None:
            continue
        ends = [moment for moment in (life.stopping, life.ended) if moment is not None]
        for before, after in pairwise([*beats, *([min(ends)] if ends else [])]):
            if after - before >= DEAD_AFTER and found.free(life.node, before - DEAD_AFTER, after):
                silences.setdefault(life.node, (before, after))
    for node, (before, after) in silences.items():
        told = f"silent from {before:.3f} to {after:.3f}"
        yield Violation("P5", f"node {node} lived and gave no sign of life", at=before, details=told)


# P6


def shutdown(found: Evidence) -> Iterator[Violation]:
    """A runner that is told to stop does, and by itself none ends; attempts are spent that ended, and no others."""
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


# P7


def poison(found: Evidence) -> Iterator[Violation]:
    """A job that kills its runner on every attempt ends discarded, after as many attempts as it has and no more."""
    deaths = Counter(line["job"] for line in found.said("poison"))
    cancelled = {line["job"] for line in found.said("cancelling")}
    retried = Counter(job for line in found.said("retrying") for job in line["jobs"])
    for row in found.rows.values():
        if row["worker"].rpartition(".")[2] != "Poison" or row["state"] not in FINAL:
            continue
        job = row["id"]
        if deaths[job] > row["max_attempts"] + retried[job]:
            yield Violation(
                "P7", f"a job killed {deaths[job]} runners", job, details=f"of {row['max_attempts']} attempts"
            )
        if row["state"] == "cancelled" and job in cancelled:
            continue
        if row["state"] != "discarded":
            yield Violation("P7", f"a job that kills its runner ended {row['state']}", job)
        elif not any("AttemptOrphaned" in error["error"] for error in row["errors"]):
            yield Violation("P7", "a job that kills its runner ended without an error that says so", job)


# What whoever steers was told


def cancelled(found: Evidence) -> Iterator[Violation]:
    """A job whose cancel has returned is fetched no more, and does not begin where it had not been fetched."""
    retried = {job for line in found.said("retrying") for job in line["jobs"]}
    since = {line["job"]: line for line in reversed(found.said("cancelled")) if line["job"] not in retried}
    for execution in found.executions:
        line = since.get(execution.job)
        if line is not None and line["state"] in ("cancelled", "executing") and execution.fetched > line["at"]:
            told = f"its cancel returned {line['state']!r} at {line['at']:.3f}; {execution.run or 'never began'}"
            yield Violation("cancel", "a cancelled job was fetched", execution.job, execution.fetched, told)
    for job, line in since.items():
        if line["state"] == "cancelled" and (row := found.rows.get(job)) is not None and row["state"] != "cancelled":
            yield Violation("cancel", f"a cancelled job ended {row['state']}", job)


def paused(found: Evidence) -> Iterator[Violation]:
    """No job of a queue is fetched while it is paused, from a bounded while after the pause returned."""
    windows = _paused(found)
    for execution in found.executions:
        row = found.rows.get(execution.job)
        node = found.nodes.get(execution.holder)
        if row is None or node is None:
            continue
        for begin, end in windows[row["queue"]]:
            if not begin + OBEYS_WITHIN < execution.fetched < end:
                continue
            free = found.hampered(node, execution.fetched)
            if free is not None and max(free, begin) + OBEYS_WITHIN < execution.fetched:
                told = f"queue {row['queue']} was paused at {begin:.3f}; fetched by {node}"
                yield Violation("pause", "a job of a paused queue was fetched", execution.job, execution.fetched, told)


def _paused(found: Evidence) -> dict[str, list[tuple[float, float]]]:
    windows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    since: dict[str, float] = {}
    for line in found.said("paused", "resuming"):
        for queue in line["queues"]:
            if line["what"] == "paused":
                since.setdefault(queue, line["at"])
            elif queue in since:
                windows[queue].append((since.pop(queue), line["at"]))
    return windows


def limited(found: Evidence) -> Iterator[Violation]:
    """No node runs more jobs of a queue at once than its limit, of those that it holds."""
    steps: dict[tuple[str, str], list[tuple[float, int, Run]]] = defaultdict(list)
    for run in found.runs:
        ends = [each for each in (run.end, run.execution and run.execution.released) if each is not None]
        if ends and min(ends) > run.begin:
            steps[run.node, run.queue] += [(run.begin, 1, run), (min(ends), -1, run)]
    for (node, queue), each in steps.items():
        count = 0
        for moment, step, run in sorted(each, key=lambda step: (step[0], step[1])):
            count += step
            if step > 0 and count > QUEUES[queue]:
                told = f"{count} at once on {node}, whose limit is {QUEUES[queue]}"
                yield Violation("limit", f"too many jobs of queue {queue} ran at once", run.job, moment, told)


# Rows and logs


def sane(found: Evidence) -> Iterator[Violation]:
    """Rows agree with themselves, and nobody is left who is not there."""
    for row in found.rows.values():
        if row["state"] in FINAL and not row[f"{row['state']}_at"]:
            yield Violation("rows", f"a job is {row['state']} at no moment", row["id"])
        if row["state"] == "completed" and (row["cancelled_at"] or row["discarded_at"]):
            yield Violation("rows", "a completed job was cancelled or discarded too", row["id"])
        if row["worker"].endswith(".Recording") and row["state"] == "completed" and "return" not in row["meta"]:
            yield Violation("rows", "a completed job lost what it recorded", row["id"])
    for line in found.said("unburied"):
        yield Violation("rows", f"the row of dead node {line['node']} is left in queue {line['queue']}")
    for row in found.producers:
        if not any(line["holder"] == row["holder"] for line in found.said("unburied")):
            yield Violation("rows", f"node {row['node']} left its row in queue {row['queue']} when it stopped")


# Helpers


def _stopping(found: Evidence, holder: str, moment: float) -> bool:
    life = found.lives.get(found.nodes.get(holder, ""))
    return life is not None and life.stopping is not None and life.stopping <= moment


def _held_since(run: Run) -> float:
    return run.begin if run.execution is None else run.execution.fetched


def _pairs(runs: list[Run]) -> Iterable[tuple[Run, Run]]:
    return ((first, second) for index, first in enumerate(runs) for second in runs[index + 1 :])


def _moments(found: Evidence, what: str) -> dict[int, list[float]]:
    moments: dict[int, list[float]] = defaultdict(list)
    for line in found.said(what):
        moments[line["job"]].append(line["at"])
    return moments


def _described(execution: Execution) -> str:
    return f"attempt {execution.attempt} held by {execution.holder[:8]} since {execution.fetched:.3f}"


RULES: Final[tuple[Callable[[Evidence], Iterator[Violation]], ...]] = (
    atomic,
    nothing_lost,
    fenced,
    effects,
    never_twice_at_once,
    alive,
    shutdown,
    poison,
    cancelled,
    paused,
    limited,
    sane,
)

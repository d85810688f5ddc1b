"""Rules about who holds a job and who runs it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

from tests.acceptance.chaos.evidence import SLACK, Evidence, Execution, Run
from tests.acceptance.chaos.herd import DEAD_AFTER
from tests.acceptance.chaos.violation import Violation


def fenced(found: Evidence) -> Iterator[Violation]:
    """Only the attempt that holds a job says how it ended, and only what holds a job runs it."""
    for run in found.runs:
        if run.execution is None:
            yield Violation("P3", "an attempt ran that never held its job", run.job, run.begin, str(run))
        elif run.execution.run is not run:
            yield Violation("P3", "one fetch began an attempt twice", run.job, run.begin, str(run))
    cancelling = found.cancelling()
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
        case "completed" | "scheduled" | "suspended":
            # What a session commits, it commits when its code is over. That which waits ends by an exception.
            if (
                run is None
                or not over
                or (run.how != "done" and execution.became == "completed")
                or (run.how not in ("done", "Suspended"))
            ):
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
            # The first beat waits for a connection of its own, whose making is not shorter where `dead_after` is.
            most = 2 * DEAD_AFTER if before == beats[0] else DEAD_AFTER
            if after - before >= most and found.free(life.node, before - DEAD_AFTER, after):
                silences.setdefault(life.node, (before, after))
    every = sorted(chain.from_iterable(found.beats.values()))
    for node, (before, after) in silences.items():
        if _stood_still(found, every, before, after):
            continue
        told = f"silent from {before:.3f} to {after:.3f}"
        yield Violation("P5", f"node {node} lived and gave no sign of life", at=before, details=told)


def _stood_still(found: Evidence, every: list[float], before: float, after: float) -> bool:
    """Whether a server process that was stopped took all others with it, for it held what each of them needs.

    So it is where no node at all beat for as long as a silent one counts as dead, while such a process stood still.
    """
    around = [*every[bisect_right(every, before) : bisect_left(every, after)], after]
    longest = max(later - sooner for sooner, later in pairwise([before, *around]))
    stopped = any(
        line["what"] == "hampered" and line["by"] == "stopped backends" and line["at"] <= after for line in found.lines
    )
    return stopped and longest >= DEAD_AFTER


def _stopping(found: Evidence, holder: str, moment: float) -> bool:
    life = found.lives.get(found.nodes.get(holder, ""))
    return life is not None and life.stopping is not None and life.stopping <= moment


def _held_since(run: Run) -> float:
    return run.begin if run.execution is None else run.execution.fetched


def _pairs(runs: list[Run]) -> Iterable[tuple[Run, Run]]:
    return ((first, second) for index, first in enumerate(runs) for second in runs[index + 1 :])


def _described(execution: Execution) -> str:
    return f"attempt {execution.attempt} held by {execution.holder[:8]} since {execution.fetched:.3f}"

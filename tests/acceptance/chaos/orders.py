"""Rules about what runners were told: to cancel, to pause, and how much to do at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import inf
from typing import Final

from tests.acceptance.chaos import flow_jobs
from tests.acceptance.chaos.evidence import Evidence, Run
from tests.acceptance.chaos.plan import QUEUES
from tests.acceptance.chaos.violation import Violation

_LIMITS: Final = {**QUEUES, **flow_jobs.QUEUES}

OBEYS_WITHIN: Final = 5.0
"""Seconds in which a node that nothing hampers obeys a pause, its loop being blocked for a while included."""


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
    """When each queue is paused: from the return of a pause to the begin of the next resume.

    Not where a resume was under way beside the pause: then either may have been the last word.
    """
    orders = _orders(found)
    windows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for queue, each in orders.items():
        for asked, returned, verb in each:
            if verb == "pausing" and returned < inf:
                resumes = [(begin, end) for begin, end, other in each if other == "resuming" and end > asked]
                if not any(begin < returned for begin, _ in resumes):
                    windows[queue].append((returned, min((begin for begin, _ in resumes), default=inf)))
    return windows


def _orders(found: Evidence) -> dict[str, list[tuple[float, float, str]]]:
    """What was ordered of each queue: when it was asked for, when that returned, and what it was."""
    returned = {line["call"]: line["at"] for line in found.said("paused", "resumed")}
    orders: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for line in found.said("pausing", "resuming"):
        for queue in line["queues"]:
            orders[queue].append((line["at"], returned.get(line["call"], inf), line["what"]))
    return orders


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
            if step > 0 and count > _LIMITS[queue]:
                told = f"{count} at once on {node}, whose limit is {_LIMITS[queue]}"
                yield Violation("limit", f"too many jobs of queue {queue} ran at once", run.job, moment, told)

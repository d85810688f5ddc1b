"""Queues as JSON and in tables, for `queues list` and `status`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

import click

from oban_sa.cli._output import say, table
from oban_sa.cli._usage import Usage
from oban_sa.client import JobCount, Oban, QueueCheck
from oban_sa.client.queues import Elsewhere
from oban_sa.describe.spans import span
from oban_sa.jobs.limits import Limits
from oban_sa.jobs.states import JobState
from oban_sa.settings.settings import Settings
from oban_sa.wire.messages import EVERY


class QueueJSON(TypedDict):
    """A queue on a node; `silent_for` is seconds since its last heartbeat, `running` ids of jobs."""

    queue: str
    node: str
    limit: int | None
    paused: bool
    running: list[int]
    started_at: datetime
    silent_for: float
    alive: bool
    unknown: list[str]
    limits: dict[str, object] | None


class PauseJSON(TypedDict):
    """A pause of a queue, "*" for every one, on a node, None for all."""

    queue: str
    node: str | None


class ElsewhereJSON(TypedDict):
    """A queue on a node of another instance or program; `running` are ids of jobs."""

    queue: str
    node: str
    running: list[int]


@dataclass(frozen=True, slots=True)
class Served:
    """The queues at one moment: of this instance's nodes, of `others`, their `pauses`, and available jobs by queue."""

    queues: list[QueueJSON]
    others: list[Elsewhere]
    pauses: list[PauseJSON]
    waiting: dict[str, int]
    usage: Usage

    @classmethod
    async def read(cls, oban: Oban, settings: Settings, counts: Iterable[JobCount]) -> Served:
        """Read the tables; `counts` are those of `Oban.count_jobs`."""
        return cls(
            [queue_as_json(check, settings) for check in await oban.check_queues()],
            await oban.check_elsewhere(),
            [{"queue": pause.queue, "node": pause.node} for pause in await oban.check_pauses()],
            {each.queue: each.count for each in counts if each.state is JobState.AVAILABLE},
            await Usage.read(oban, dead_after=settings.dead_after),
        )

    def orphans(self) -> dict[str, int]:
        """Return how many jobs are available in each queue that no known node takes them from."""
        served = {queue["queue"] for queue in self.queues} | {each.queue for each in self.others}
        return {name: self.waiting[name] for name in sorted(self.waiting.keys() - served)}

    def show(self, *, none: str = "") -> None:
        """Print it; `none` is said where no node of this instance runs."""
        if self.queues:
            _print_queues(self.queues, self.waiting)
            _print_limits(self.queues)
            self.usage.show()
            _print_unknown(self.queues)
        elif none:
            click.echo(none)
        _say_elsewhere(self.others, self.waiting)
        for name, number in self.orphans().items():
            say(f"No node is known to work on the queue {name}, which has {number:,} available.")
        self.usage.show_halted()
        _print_pauses(self.pauses, self.queues)


def elsewhere_as_json(others: Sequence[Elsewhere]) -> list[ElsewhereJSON]:
    """Return the nodes of other instances and programs as JSON."""
    return [{"queue": each.queue, "node": each.node, "running": list(each.running)} for each in others]


def _say_elsewhere(others: Sequence[Elsewhere], waiting: Mapping[str, int]) -> None:
    """Print which nodes of other instances or programs may take jobs; `waiting` counts available jobs by queue."""
    for each in others:
        number, runs = waiting.get(each.queue, 0), len(each.running)
        if number or runs:
            running = f"runs {runs:,} of its jobs now" if runs else "runs none that is known"
            say(f"The queue {each.queue}, {number:,} available, has another node: {each.node}, which {running}.")


def queue_as_json(check: QueueCheck, settings: Settings) -> QueueJSON:
    """Return a queue on a node as JSON; `alive` is False after `dead_after` seconds without a heartbeat."""
    return {
        "queue": check.queue,
        "node": check.node,
        "limit": check.limit,
        "paused": check.paused,
        "running": list(check.running),
        "started_at": check.started_at,
        "silent_for": round(check.silent_for, 3),  # infinite where the row's last heartbeat is '-infinity'
        "alive": check.silent_for < settings.dead_after,
        "unknown": list(check.unknown),
        "limits": None if check.limits is None else check.limits.as_json(),
    }


def _print_queues(queues: Sequence[QueueJSON], waiting: Mapping[str, int]) -> None:
    """Print a table of what `queue_as_json` returns; `waiting` counts available jobs by queue."""
    rows = [
        (
            queue["queue"],
            queue["node"],
            queue["limit"],
            len(queue["running"]),
            waiting.get(queue["queue"], 0),
            "silent" if not queue["alive"] else "paused" if queue["paused"] else "running",
            "never" if math.isinf(queue["silent_for"]) else f"{span(queue['silent_for'])} ago",
            f"{queue['started_at']:%Y-%m-%d %H:%M:%S} UTC",
        )
        for queue in queues
    ]
    columns = ("queue", "node", "limit", "executing", "available", "state", "heartbeat", "started")
    table(columns, rows, right=("limit", "executing", "available"), wide="node")


def _print_limits(queues: Sequence[QueueJSON]) -> None:
    """Print the limits that hold for all nodes together; nodes may differ while their settings do."""
    found: dict[tuple[str, str], list[str]] = {}
    for queue in queues:
        if queue["alive"] and any(each["queue"] == queue["queue"] and each["limits"] for each in queues):
            found.setdefault((queue["queue"], _limits(queue)), []).append(queue["node"])
    names = [name for name, _ in found]
    differ = sorted({name for name in names if names.count(name) > 1})
    for (name, limits), nodes in sorted(found.items()):
        say(f"The queue {name} has {limits}" + (f", as {', '.join(nodes)} has it." if name in differ else "."))
    for name in differ:
        say(
            f"Each node observes the limits of {name} that it has itself; give all nodes the same, or decide for all "
            f"with `queues limit {name}`."
        )


def _limits(queue: QueueJSON) -> str:
    limits = Limits.from_json(queue["limits"]) if queue["limits"] else None
    return "no limits" if limits is None else f"limits: {limits}"


def _print_unknown(queues: Sequence[QueueJSON]) -> None:
    """Print the workers that some nodes don't know, so that their jobs wait for another program."""
    without: dict[tuple[str, str], list[str]] = {}
    for queue in queues:
        for worker in queue["unknown"]:
            without.setdefault((queue["queue"], worker), []).append(queue["node"])
    for (name, worker), nodes in sorted(without.items()):
        alive = [queue for queue in queues if queue["queue"] == name and queue["alive"]]
        others = len({queue["node"] for queue in alive} - set(nodes))
        else_ = f"{others} other nodes may know it" if others != 1 else "1 other node may know it"
        hope = else_ if others else "no other node works on the queue"
        say(f"Jobs of {worker} in {name} wait for a program that knows it; {', '.join(nodes)} does not, {hope}.")


def _print_pauses(pauses: Sequence[PauseJSON], queues: Sequence[QueueJSON]) -> None:
    """Print the pauses that the table of queues doesn't show, because no node works on the queue now."""
    for pause in pauses:
        name, node = pause["queue"], pause["node"]
        where = "on all nodes" if node is None else f"on the node {node}"
        again = "queues resume " + ("--all" if name == EVERY else name) + ("" if node is None else f" --node {node}")
        if name == EVERY:
            say(f"Every queue is paused {where}, those of nodes that start later too; `{again}` ends that.")
        elif not any(queue["queue"] == name and node in (None, queue["node"]) for queue in queues):
            say(f"The queue {name} is paused {where}, though no node works on it now; `{again}` ends that.")

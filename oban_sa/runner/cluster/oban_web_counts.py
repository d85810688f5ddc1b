"""How many jobs there are, as dashboards are told: by one node alone, since they add up what all nodes send."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from oban_sa import telemetry
from oban_sa.runner.database.database import Database
from oban_sa.schedule import clock
from oban_sa.sql.counts import count, estimates, explain
from oban_sa.sql.family import others_seen, our_nodes, peers_lead

logger = logging.getLogger("oban_sa.runner")

EXACT_UP_TO: Final = 10_000
"""Jobs of one state and queue that are counted; where there are more, the planner's estimate is sent."""

COUNTING_SHARE: Final = 0.02
"""The part of the time that may be spent counting: where one count takes long, the next comes later."""

SILENT_FOR: Final = 15.0
"""Seconds for which this node sends no counts after another member of the family has sent some."""

LOOK_EVERY: Final = 5.0
"""Seconds between looks for the lease of an Elixir node."""

_MOST_NODES: Final = 1000


class FullCounts:
    """Counts jobs while this node leads, unless the leader of another kind of node counts them.

    Each member of the family elects a leader of its own, and each leader counts. So this one sends nothing while it
    hears the counts of another, or while an Elixir node has the lease of this instance. When it stops it sends zeros
    once, or dashboards would add its last counts for a while.
    """

    def __init__(self, database: Database, *, source: telemetry.Source, leading: Callable[[], bool]) -> None:
        self._line = database.shared
        self._source = source
        self._leading = leading
        self._counting = database.prepare(count)
        self._estimating = database.prepare(explain, source.schema, 1)
        self._others = database.prepare(others_seen)
        self._peers = database.prepare(peers_lead)
        self._our_nodes = database.prepare(our_nodes)
        self._peers_table = database.named("oban_peers")
        self._heard: dict[str, float] = {}
        self._ours: dict[str, bool] = {source.node: True}
        self._looked_at = -LOOK_EVERY
        self._peer_leads = False
        self._told: set[tuple[str, str]] = set()
        self._counted: list[tuple[str, str, int]] = []
        self._count_at = 0.0

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take note of a message on `metrics`; raises for one of an unknown form."""
        if message["name"] != self._source.name:
            return
        node = message["node"]
        if not isinstance(node, str) or node == self._source.node:
            return
        if any(each["series"] == "full_count" for each in message["metrics"]):
            if node not in self._heard and len(self._heard) >= _MOST_NODES:
                self._heard.clear()
            self._heard[node] = clock.monotonic()

    async def series(self) -> list[dict[str, object]]:
        """Return the series to send; none where another node sends them."""
        # Also while this node doesn't lead: by the time it does, the node of ours that led before may have no row.
        await self._tell_apart()
        if not self._leading():
            self._told = set()
            return []
        if await self._others_count():
            last, self._told = self._told, set()
            if last:
                logger.info("another member of the family counts the jobs for dashboards; this node doesn't")
            return [_said(state, queue, 0) for state, queue in sorted(last)]
        counts = await self._counts()
        self._told = {(state, queue) for state, queue, _ in counts}
        return [_said(state, queue, count) for state, queue, count in counts]

    async def _others_count(self) -> bool:
        now = clock.monotonic()
        if any(now - at < SILENT_FOR for node, at in self._heard.items() if not self._ours.get(node, False)):
            return True
        if now - self._looked_at >= LOOK_EVERY:
            self._looked_at = now
            [seen] = await self._line.fetch(self._others, peers=self._peers_table)
            self._peer_leads = False
            if seen["peers"]:
                self._peer_leads = (await self._line.fetch(self._peers, name=self._source.name))[0]["leads"]
        return self._peer_leads

    async def _tell_apart(self) -> None:
        """Find out which of the nodes that count are ours: only one of them leads, so they never count at once."""
        if unknown := [node for node in self._heard if node not in self._ours]:
            ours = {row["node"] for row in await self._line.fetch(self._our_nodes, nodes=unknown)}
            if len(self._ours) >= _MOST_NODES:
                self._ours = {self._source.node: True}
            self._ours.update((node, node in ours) for node in unknown)

    async def _counts(self) -> list[tuple[str, str, int]]:
        """Count all jobs, or return the last counts once more, so that the line on a dashboard has no gaps."""
        began = clock.monotonic()
        if began >= self._count_at:
            self._counted = await self._count()
            ended = clock.monotonic()
            self._count_at = ended + (ended - began) / COUNTING_SHARE
        return self._counted

    async def _count(self) -> list[tuple[str, str, int]]:
        counted: list[tuple[str, str, int]] = []
        for row in await self._line.fetch(self._counting, limit=EXACT_UP_TO):
            count = row["count"]
            if count >= EXACT_UP_TO:
                plan = await self._line.fetch(self._estimating, state_0=row["state"], queue_0=row["queue"])
                count = max([count, *estimates(plan[0][0]).values()])
            counted.append((row["state"], row["queue"], count))
        return counted


def _said(state: str, queue: str, count: int) -> dict[str, object]:
    return {"series": "full_count", "state": state, "queue": queue, "value": {"data": [count]}}

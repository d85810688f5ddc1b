"""Nodes: which live, which leads, what they work on, and the jobs that each holds now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.responses import Response

from oban_sa.client import QueueCheck
from oban_sa.client.read import database_now, read_session
from oban_sa.models import Job
from oban_sa.sql import overview
from oban_sa.sql.browse import executing
from oban_sa.sql.lease import lease_name
from oban_sa.web.page import Page
from oban_sa.web.pages.queues import SILENT


@dataclass(frozen=True, slots=True)
class Node:
    """A node with its queues and the jobs that it holds."""

    name: str
    leads: bool
    queues: list[QueueCheck]
    jobs: list[Job]

    @property
    def silent_for(self) -> float:
        """Seconds since the last heartbeat of any of its queues."""
        return min(queue.silent_for for queue in self.queues)

    @property
    def state(self) -> str:
        """Whether it lives: "running", "slow" or "silent"."""
        return "silent" if self.silent_for >= SILENT else "slow" if self.silent_for >= SILENT / 3 else "running"

    @property
    def started_at(self) -> datetime:
        """When the first of its queues was started."""
        return min(queue.started_at for queue in self.queues)


async def nodes(page: Page) -> Response:
    """Show every node that the tables know, dead ones until their rows are removed."""
    reader = page.instance.reader
    checks = [each for each in await reader.check_queues() if page.access.sees(each.queue)]
    others = [each for each in await reader.check_elsewhere() if page.access.sees(each.queue)]
    async with read_session(reader) as session:
        now = await database_now(session)
        names = {"names": [lease_name(reader.name)]}
        leases = (await session.execute(overview.leases(), names)).mappings().all()
        running = [job for job in await session.scalars(executing(limit=200)) if page.access.sees(job.queue)]
    current = next((row for row in leases if row["expired_for"] < 0), None)
    found: dict[str, list[QueueCheck]] = {}
    for check in checks:
        found.setdefault(check.node, []).append(check)
    held: dict[str, list[Job]] = {}
    for job in running:
        held.setdefault((job.attempted_by or ["?"])[0], []).append(job)
    return page.render(
        "nodes.html",
        title="Nodes",
        now=now,
        nodes=[
            Node(name, current is not None and current["node"] == name, checks, held.get(name, []))
            for name, checks in sorted(found.items())
        ],
        elected_at=None if current is None else current["elected_at"].replace(tzinfo=UTC),
        leader=None if current is None else current["node"],
        others=others,
    )

"""`python -m oban_sa status`: the cluster at one glance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

import click

from oban_sa.cli._database import database_options, instance_option, json_option, run_with_client
from oban_sa.cli._output import document, say, table
from oban_sa.cli._queues import QueueJSON, Served, elsewhere_as_json
from oban_sa.client import JobCount, Oban
from oban_sa.client.read import database_now, read_session
from oban_sa.describe.redaction import safe
from oban_sa.describe.spans import span
from oban_sa.jobs.states import JobState
from oban_sa.settings.settings import Settings
from oban_sa.sql import overview
from oban_sa.sql.lease import lease_name

HELP = """Show the cluster: nodes and their queues, who leads, how many jobs are in each state, what waits longest.

\b
Examples:
  python -m oban_sa status
  watch -n 2 python -m oban_sa status
  python -m oban_sa status --json | jq .waiting_longest.waiting_for    # seconds, for an alarm

Counts above 10,000 are estimates, marked with ~, so the command costs the same however full the tables are.
"""


class LeaderJSON(TypedDict):
    """The node that leads, and since when."""

    node: str
    elected_at: datetime


class WaitingJSON(TypedDict):
    """The available job that has waited the longest, and for how many seconds."""

    id: int
    worker: str
    queue: str
    waiting_for: float


class NodeJSON(TypedDict):
    """A node with its queues; `silent_for` is seconds since the last heartbeat of any of them."""

    node: str
    alive: bool
    leader: bool
    silent_for: float
    queues: list[QueueJSON]


@dataclass(frozen=True, slots=True)
class _Cluster:
    """The cluster at one moment, as the tables have it."""

    now: datetime
    served: Served
    counts: list[JobCount]
    leader: LeaderJSON | None
    waiting_longest: WaitingJSON | None

    def backlog(self) -> dict[JobState, tuple[int, bool]]:
        """Return how many jobs are in each state, and whether that is exact."""
        found: dict[JobState, tuple[int, bool]] = dict.fromkeys(JobState, (0, True))
        for each in self.counts:
            number, exact = found[each.state]
            found[each.state] = number + each.count, exact and each.exact
        return found

    def nodes(self) -> list[NodeJSON]:
        """Return the nodes with their queues, by name."""
        found: dict[str, list[QueueJSON]] = {}
        for queue in self.served.queues:
            found.setdefault(queue["node"], []).append(queue)
        return [
            {
                "node": node,
                "alive": any(queue["alive"] for queue in queues),
                "leader": self.leader is not None and self.leader["node"] == node,
                "silent_for": min(queue["silent_for"] for queue in queues),
                "queues": queues,
            }
            for node, queues in found.items()
        ]


@click.command("status", help=HELP, short_help="The cluster at one glance.")
@json_option
@instance_option
@database_options
def command(settings: Settings, *, as_json: bool) -> None:
    """Print the state of the cluster."""
    cluster = run_with_client(settings, lambda oban: _read(oban, settings))
    backlog = cluster.backlog()
    if as_json:
        document(
            {
                "instance": settings.name,
                "schema": settings.schema,
                "now": cluster.now,
                "leader": cluster.leader,
                "nodes": cluster.nodes(),
                "elsewhere": elsewhere_as_json(cluster.served.others),
                "pauses": cluster.served.pauses,
                **cluster.served.usage.as_json(),
                "jobs": {state.value: {"count": n, "exact": exact} for state, (n, exact) in backlog.items()},
                "queues": _by_queue(cluster.counts),
                "waiting_longest": cluster.waiting_longest,
            }
        )
        return
    database = safe(settings.database_url) if settings.database_url else "a private database"
    say(f"{settings.name} in schema {settings.schema} of {database}")
    nodes = cluster.nodes()
    dead = sum(not node["alive"] for node in nodes)
    alive = f"{len(nodes) - dead} running" + (f", {dead} silent" if dead else "")
    click.echo(f"  nodes    {alive}")
    say(f"  leader   {'none' if cluster.leader is None else cluster.leader['node']}")
    if cluster.waiting_longest is not None:
        waits = cluster.waiting_longest
        say(f"  waiting  {span(waits['waiting_for'])}: job {waits['id']}, {waits['worker']} in {waits['queue']}")
    click.echo()
    served = cluster.served
    served.show()
    if served.queues or served.waiting or served.pauses:
        click.echo()
    rows = [(state.value, f"{'' if exact else '~'}{number:,}") for state, (number, exact) in backlog.items() if number]
    if rows:
        table(("jobs", "count"), rows, right=("count",))
    else:
        click.echo("There are no jobs.")


async def _read(oban: Oban, settings: Settings) -> _Cluster:
    counts = await oban.count_jobs()
    served = await Served.read(oban, settings, counts)
    async with read_session(oban) as session:
        now = await database_now(session)
        lease = lease_name(settings.name)
        leases = (await session.execute(overview.leases(), {"names": [lease]})).mappings().all()
        longest = (
            (await session.execute(overview.waiting_longest(), {"queues": list(served.waiting)})).mappings().first()
        )
    current = [row for row in leases if row["expired_for"] < 0]
    leader: LeaderJSON | None = None
    if current:
        leader = {"node": current[0]["node"], "elected_at": current[0]["elected_at"]}
    waits: WaitingJSON | None = None
    if longest is not None:
        waits = {
            "id": longest["id"],
            "worker": longest["worker"],
            "queue": longest["queue"],
            "waiting_for": round(longest["waiting_for"], 3),
        }
    return _Cluster(
        now=now,
        served=served,
        counts=counts,
        leader=leader,
        waiting_longest=waits,
    )


def _by_queue(counts: list[JobCount]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for each in counts:
        found.setdefault(each.queue, {})[each.state.value] = each.count
    return found

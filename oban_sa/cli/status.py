"""`python -m oban_sa status`: the cluster at one glance."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import click

from oban_sa.cli._connecting import asked, clock, database_options, instance_option, json_option, looking
from oban_sa.cli._printing import document, say, span, table
from oban_sa.cli.queues import (
    described,
    print_pauses,
    print_queues,
    print_unknown,
    say_orphans,
    say_others,
    told,
)
from oban_sa.client import JobCount, Oban
from oban_sa.client.queues import Elsewhere
from oban_sa.passwords import safe
from oban_sa.settings import Settings
from oban_sa.sql import overview
from oban_sa.sql.leading import lease_name
from oban_sa.states import JobState

HELP = """Show the cluster: nodes and their queues, who leads, how many jobs are in each state, what waits longest.

\b
Examples:
  python -m oban_sa status
  watch -n 2 python -m oban_sa status
  python -m oban_sa status --json | jq .waiting_longest.waiting_for    # seconds, for an alarm

Counts above 10,000 are estimates, marked with ~, so that looking costs little however full the tables are.
"""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the database says of the cluster at one moment."""

    now: datetime
    queues: list[dict[str, Any]]
    others: list[Elsewhere]
    pauses: list[dict[str, Any]]
    counts: list[JobCount]
    leader: dict[str, Any] | None
    waiting_longest: dict[str, Any] | None

    def backlog(self) -> dict[JobState, tuple[int, bool]]:
        """How many jobs are in each state, and whether that is exact."""
        found: dict[JobState, tuple[int, bool]] = dict.fromkeys(JobState, (0, True))
        for each in self.counts:
            number, exact = found[each.state]
            found[each.state] = number + each.count, exact and each.exact
        return found

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes, by name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for queue in self.queues:
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
    seen = asked(settings, lambda oban: _look(oban, settings))
    backlog = seen.backlog()
    if as_json:
        document(
            {
                "instance": settings.name,
                "schema": settings.schema,
                "now": seen.now,
                "leader": seen.leader,
                "nodes": seen.nodes(),
                "elsewhere": told(seen.others),
                "pauses": seen.pauses,
                "jobs": {state.value: {"count": n, "exact": exact} for state, (n, exact) in backlog.items()},
                "queues": _by_queue(seen.counts),
                "waiting_longest": seen.waiting_longest,
            }
        )
        return
    place = safe(settings.database_url) if settings.database_url else "a private database"
    say(f"{settings.name} in schema {settings.schema} of {place}")
    nodes = seen.nodes()
    dead = sum(not node["alive"] for node in nodes)
    alive = f"{len(nodes) - dead} running" + (f", {dead} silent" if dead else "")
    click.echo(f"  nodes    {alive}")
    say(f"  leader   {'nobody' if seen.leader is None else seen.leader['node']}")
    if seen.waiting_longest is not None:
        waits = seen.waiting_longest
        say(f"  waiting  {span(waits['waiting_for'])}: job {waits['id']}, {waits['worker']} in {waits['queue']}")
    click.echo()
    waiting = {each.queue: each.count for each in seen.counts if each.state is JobState.AVAILABLE}
    if seen.queues:
        print_queues(seen.queues, waiting)
        print_unknown(seen.queues)
    say_others(seen.others, waiting)
    served = {queue["queue"] for queue in seen.queues} | {each.queue for each in seen.others}
    say_orphans({name: waiting[name] for name in sorted(waiting.keys() - served)})
    print_pauses(seen.pauses, seen.queues)
    if seen.queues or waiting or seen.pauses:
        click.echo()
    rows = [(state.value, f"{'' if exact else '~'}{number:,}") for state, (number, exact) in backlog.items() if number]
    if rows:
        table(("jobs", "count"), rows, right=("count",))
    else:
        click.echo("There are no jobs.")


async def _look(oban: Oban, settings: Settings) -> _Seen:
    counts = await oban.count_jobs()
    queues = [described(check, settings) for check in await oban.check_queues()]
    waiting = [each.queue for each in counts if each.state is JobState.AVAILABLE]
    async with looking(oban) as session:
        now = await clock(session)
        lease = lease_name(settings.name)
        leases = (await session.execute(overview.leases(), {"names": [lease]})).mappings().all()
        longest = (await session.execute(overview.waiting_longest(), {"queues": waiting})).mappings().first()
    current = [row for row in leases if row["expired_for"] < 0]
    leader = None
    if current:
        leader = {"node": current[0]["node"], "elected_at": current[0]["elected_at"]}
    if longest is not None:
        waits = {str(name): value for name, value in longest.items()}
        waits["waiting_for"] = round(waits["waiting_for"], 3)
    else:
        waits = None
    return _Seen(
        now=now,
        queues=queues,
        others=await oban.check_elsewhere(),
        pauses=[asdict(pause) for pause in await oban.check_pauses()],
        counts=counts,
        leader=leader,
        waiting_longest=waits,
    )


def _by_queue(counts: list[JobCount]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for each in counts:
        found.setdefault(each.queue, {})[each.state.value] = each.count
    return found

"""How the limits of queues are shared out among runners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from oban_sa.errors import InvalidOption
from oban_sa.runner.processes import processors
from oban_sa.settings import Settings


def shared(settings: Settings) -> list[Settings]:
    """Return the settings of each of `processes` runners: limits are shared out, and no two have the same node.

    Together they run as many jobs of each queue at once as one runner would. A queue whose limit is smaller than the
    number of runners is served by some of them. Where no node is named each is `host.pid`, which only it can say: then
    its `node` is empty. Raises `InvalidOption` where some runners would have nothing to do.
    """
    count = settings.processes
    most = sum(settings.queues.values())
    if count > most:
        origin = settings.origins.get("processes", "processes")
        raise InvalidOption(
            f"{origin}: {count} processes can't share the limits of all queues, {most} in sum; "
            f"give at most {most} processes, or the queues higher limits"
        )
    pool = settings.process_pool if settings.process_pool is not None else processors()
    named = "node" in settings.origins
    return [
        replace(
            settings,
            queues=queues,
            node=f"{settings.node}.{number}" if named else "",
            processes=1,
            process_pool=max(pool // count, 1),
            # Each tells the supervisor, which answers for all of them.
            health_port=None if settings.health_port is None else 0,
            health_host="127.0.0.1",
        )
        for number, queues in enumerate(_queues(settings.queues, count), 1)
    ]


def _queues(queues: Mapping[str, int], count: int) -> list[dict[str, int]]:
    shares: list[dict[str, int]] = [{} for _ in range(count)]
    for queue, limit in queues.items():
        each, rest = divmod(limit, count)
        # What can't be divided goes to those who have the least so far: all get about the same, and none nothing.
        by_load = sorted(range(count), key=lambda number: sum(shares[number].values()))
        for number, share in enumerate(shares):
            mine = each + (number in by_load[:rest])
            if mine:
                share[queue] = mine
    return shares

"""Divide the limits of queues among several runners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from oban_sa.errors import InvalidOption
from oban_sa.runner.concurrency.processes.pool import processors
from oban_sa.settings.queues import Served, at_once, with_limit
from oban_sa.settings.settings import Settings


def shared(settings: Settings) -> list[Settings]:
    """Return the settings of each of `processes` runners: limits are divided, and each has another node.

    Together they run as many jobs of each queue at once as one runner would. What holds for the whole cluster is
    not divided, since all nodes share it anyway. A queue whose limit is smaller than the number of runners is
    served by some of them. Where no node is named each is `host.pid`, which only it can say: then its `node` is
    empty. Raises `InvalidOption` where some runners would have nothing to do.
    """
    count = settings.processes
    most = sum(at_once(settings.queues).values())
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
            # The supervisor asks each, and answers for all.
            health_port=None if settings.health_port is None else 0,
            health_host="127.0.0.1",
        )
        for number, queues in enumerate(_queues(settings.queues, count), 1)
    ]


def _queues(queues: Mapping[str, Served], count: int) -> list[dict[str, Served]]:
    shares: list[dict[str, Served]] = [{} for _ in range(count)]
    for queue, limit in at_once(queues).items():
        each, rest = divmod(limit, count)
        # A remainder goes to the runners with the least so far, so that all get about the same, and each something.
        by_load = sorted(range(count), key=lambda number: sum(at_once(shares[number]).values()))
        for number, share in enumerate(shares):
            mine = each + (number in by_load[:rest])
            if mine:
                share[queue] = with_limit(queues[queue], mine)
    return shares

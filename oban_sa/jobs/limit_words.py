"""Names that people may take for options of limits, from other queues or the wrong place, and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

RATE_WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("allowed", "limit", "max", "rate", "starts"), "n=60"),
    **dict.fromkeys(("every", "interval", "period", "seconds", "span", "time", "window"), 'per="1 minute"'),
    "by": 'by="partition" at the queue: Queue(20, by="partition", rate=Rate(...))',
}
"""What to write in place of names that people may take for options of a rate."""

QUEUE_WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("concurrency", "local_limit", "workers"), "limit=10, for each node"),
    **dict.fromkeys(("max", "max_concurrency"), "global_limit=50, or limit=10 for each node"),
    **dict.fromkeys(
        ("algorithm", "n", "per", "period", "shared"), 'it belongs to the rate: rate=Rate(60, per="1 minute")'
    ),
    **dict.fromkeys(("rate_limit", "throttle"), 'rate="60/minute"'),
    **dict.fromkeys(("partition", "key"), 'by="partition", and at the worker @worker(partition="args.tenant_id")'),
    **dict.fromkeys(("partition_limit", "per_key", "per_partition"), 'by="partition", each=5'),
    "weight": 'fair={"acme": 3} for partitions, or rate=Rate(60, per="1 minute", weight="args.points") for jobs',
    "weights": 'fair={"acme": 3}',
}
"""What to write in place of names that people may take for options of a queue."""

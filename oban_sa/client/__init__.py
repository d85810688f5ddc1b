"""Control and inspection of jobs and queues, through the tables and NOTIFY alone; no runner is needed."""

from __future__ import annotations

from oban_sa.catalog.verify import verify
from oban_sa.client.jobs import JobCount
from oban_sa.client.oban import Oban
from oban_sa.client.queues import QueueCheck, QueuePause
from oban_sa.client.retry import Retried
from oban_sa.client.selection import Which
from oban_sa.client.sequences import HaltedSequence
from oban_sa.client.usage import LimitUse, PartitionUse
from oban_sa.client.waits import Wait

__all__ = [
    "HaltedSequence",
    "JobCount",
    "LimitUse",
    "Oban",
    "PartitionUse",
    "QueueCheck",
    "QueuePause",
    "Retried",
    "Wait",
    "Which",
    "verify",
]

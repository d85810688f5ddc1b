"""The tables as declarative classes; every one can be selected, joined and pointed to by foreign keys."""

from oban_sa.models.base import Base, schema_map
from oban_sa.models.cron import Cron
from oban_sa.models.job import Job
from oban_sa.models.leader import Leader, Peer
from oban_sa.models.producer import Producer
from oban_sa.models.queue import Queue
from oban_sa.models.setting import listen as _look_at_what_is_assigned

metadata = Base.metadata

# Jobs are made from rows without a session's help, which would otherwise see to this at first use.
Base.registry.configure()
_look_at_what_is_assigned()

__all__ = ["Base", "Cron", "Job", "Leader", "Peer", "Producer", "Queue", "metadata", "schema_map"]

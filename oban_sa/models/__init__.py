"""The tables as declarative classes; every one can be selected, joined and pointed to by foreign keys."""

from oban_sa.models.base import Base, schema_map
from oban_sa.models.cron import Cron
from oban_sa.models.cron_pause import CronPause
from oban_sa.models.flow import Ending, Flow
from oban_sa.models.functions import listen as _listen_to_metadata
from oban_sa.models.job import Job
from oban_sa.models.job_events import listen as _listen_to_jobs
from oban_sa.models.journal import Entry
from oban_sa.models.leader import Leader, Peer
from oban_sa.models.limit import Lease, Rate
from oban_sa.models.member import Edge, Gate, Member
from oban_sa.models.metric import Metric
from oban_sa.models.producer import Producer
from oban_sa.models.queue import Queue
from oban_sa.models.signal import SentSignal
from oban_sa.models.unique import Unique

metadata = Base.metadata

# Jobs are made from rows without a session, whose first use would otherwise configure the mappers.
Base.registry.configure()
_listen_to_jobs()
_listen_to_metadata()

__all__ = [
    "Base",
    "Cron",
    "CronPause",
    "Edge",
    "Ending",
    "Entry",
    "Flow",
    "Gate",
    "Job",
    "Leader",
    "Lease",
    "Member",
    "Metric",
    "Peer",
    "Producer",
    "Queue",
    "Rate",
    "SentSignal",
    "Unique",
    "metadata",
    "schema_map",
]

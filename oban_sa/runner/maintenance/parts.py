"""Which parts of a runner tick beside its queues."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from oban_sa import telemetry
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.cluster.notifier import Listener
from oban_sa.runner.cluster.oban_web import Checked, Metrics
from oban_sa.runner.cluster.same_name import Namesakes
from oban_sa.runner.cluster.tally import Tally
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance.blocking_sessions import Blockers
from oban_sa.runner.maintenance.idle_transactions import IdleTransactions
from oban_sa.runner.maintenance.lacking_keys import LackingKeys, Partitioned
from oban_sa.runner.maintenance.leftovers import Leftovers
from oban_sa.runner.maintenance.lifeline import Lifeline
from oban_sa.runner.maintenance.metrics import Metrics as History
from oban_sa.runner.maintenance.pruner import Pruner
from oban_sa.runner.maintenance.scheduler import Scheduler
from oban_sa.runner.maintenance.sequences import Sequences
from oban_sa.runner.maintenance.settler import Settler
from oban_sa.runner.maintenance.stager import Stager
from oban_sa.runner.maintenance.ticker import Part, Ticker
from oban_sa.runner.maintenance.tree_pruner import TreePruner
from oban_sa.runner.sessions.connections import Connections
from oban_sa.settings.settings import Settings
from oban_sa.sql.flow import note
from oban_sa.sql.rescue import THEIRS_DEAD_AFTER
from oban_sa.workers.registry import Registry

if TYPE_CHECKING:
    from oban_sa.runner.maintenance.backlog import Backlog

LEASE: Final = 20.0
"""Seconds that leadership lasts unless renewed; shorter than it takes a dead node to count as dead, so that by then
another leads."""

BEATS_AGAIN: Final = 1.4
"""Intervals of the heartbeat within which every node that lives has beaten after the database came back."""

STAGE_WITHIN: Final = 0.02
"""Seconds in which the stager looks again after news of jobs, however much news there is."""

NEEDED: Final = ("stager", "leader", "lifeline", "scheduler", "decisions", "settler", "sequences")
"""Parts without which jobs don't start or get stuck."""


class Producing(Checked, Partitioned, Protocol):
    """One queue of the runner."""


class Queued(Protocol):
    """The queues of the runner."""

    @property
    def all(self) -> Sequence[Producing]:
        """The producers there are; another sequence after each change."""
        ...

    def nudge(self, queue: str) -> None:
        """Look for jobs of a queue as soon as possible."""
        ...


class Parts:
    """Builds the parts that the settings ask for, and ticks each in a task of its own."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        source: telemetry.Source,
        registry: Registry,
        crontab: Sequence[CronEntry],
        connections: Connections,
        queues: Queued,
        of_queues: Mapping[str, Part],
        tally: Tally | None,
    ) -> None:
        """`crontab` is that of the settings and of the registry's workers.

        `of_queues` are the parts that do something for all queues at once; `tally` has what attempts came to.
        """
        every, dead_after = settings.heartbeat_every, settings.dead_after
        leader = Leader(database, source=source, lasts=min(LEASE, dead_after * 2 / 3))
        scheduler = Scheduler(database, crontab, source=source, registry=registry, allow=settings.allow)
        self.namesakes = Namesakes(
            database, source=source, mine=lambda: [producer.uuid for producer in queues.all], every=2 * every
        )
        parts: dict[str, Part] = {
            "stager": Stager(database, source=source, every=settings.stage_every, staged=queues.nudge),
            "leader": leader,
            "settler": Settler(database, leader, source=source),
            "lifeline": Lifeline(
                database,
                leader,
                source=source,
                every=min(every, 2.0),
                dead_after=dead_after,
                patience=BEATS_AGAIN * every,
                abandoned_after=settings.abandoned_after,
                abandoned_patience=THEIRS_DEAD_AFTER,
                followers=(note,),
            ),
            "scheduler": scheduler,
            "blockers": Blockers(database, source=source),
            "keys": LackingKeys(
                database,
                registry=registry,
                allow=settings.allow,
                every=settings.stage_every,
                queues=lambda: queues.all,
                given=queues.nudge,
            ),
            "leftovers": Leftovers(database, leader),
            "sequences": Sequences(database, leader, source=source, released=queues.nudge),
            **of_queues,
            "namesakes": self.namesakes,
        }
        self.listeners: dict[str, Listener] = {}
        """What parts want to hear of, by the channel."""
        if settings.idle_in_transaction_after is not None:
            parts["idle"] = IdleTransactions(
                database, connections, after=settings.idle_in_transaction_after, source=source
            )
        if settings.metrics:
            parts["metrics"] = metrics = Metrics(
                database,
                source=source,
                queues=lambda: list(queues.all),
                leading=lambda: leader.leading,
                crontab=scheduler.told(),
            )
            self.listeners["metrics"] = metrics.hear
        self.leading: Callable[[], bool] = lambda: leader.leading
        """Whether this node believes that it leads."""
        self.backlog: Backlog | None = None
        """How many jobs there are, where that is wanted."""
        if settings.prometheus:
            from oban_sa.runner.maintenance.backlog import Backlog

            self.backlog = parts["backlog"] = Backlog(database, leader, lately=dead_after)
        if tally is not None and settings.metrics_every is not None:
            parts["history"] = History(
                database,
                leader,
                tally,
                source=source,
                every=settings.metrics_every,
                served=lambda: [each.queue for each in queues.all],
            )
        if settings.prune is not None:
            parts["pruner"] = Pruner(database, leader, settings.prune, engine=database.engine, source=source)
            parts["trees"] = TreePruner(database, leader, settings.prune, engine=database.engine, source=source)
        self._stage_every = settings.stage_every
        tickers = {name: Ticker(name, part, source=source) for name, part in parts.items()}
        self._stager, self._leader, self._decisions = tickers["stager"], tickers["leader"], tickers["decisions"]
        self._settler = tickers["settler"]
        self.needed = [tickers[name] for name in NEEDED]
        """The parts without which jobs don't start or get stuck."""
        self._all = list(tickers.values())
        # Not each when its own pause is over: what was decided meanwhile, such as a pause, is obeyed from now on.
        database.availability.heard_again = [ticker.nudge for ticker in self._all]

    async def start(self) -> None:
        """Begin to tick."""
        for ticker in self._all:
            await ticker.start()

    async def stop(self) -> None:
        """Tick no more; at the same time, since each waits for as long as it may where the database is silent."""
        await asyncio.gather(*(ticker.stop() for ticker in reversed(self._all)))

    def elect_soon(self) -> None:
        """Take the lease as soon as it is free; the leader has resigned."""
        self._leader.nudge()

    def settle_soon(self) -> None:
        """Book what has become of members of flows as soon as possible; this node has noted some."""
        self._settler.nudge()

    def hear(self, said: Mapping[str, object]) -> None:
        """Do what a message on `oban_sa.wire.messages.NODES` tells of: signals to jobs, or decisions about queues."""
        if "noted" in said:
            self.settle_soon()
        else:
            self.obey_soon()

    def stage_soon(self) -> None:
        """Look for due jobs soon; there are news of some."""
        self._stager.nudge_within(STAGE_WITHIN)

    def obey_soon(self) -> None:
        """Read what was decided about queues; there is something new."""
        self._decisions.nudge()

    def due_in(self, seconds: float) -> None:
        """Look for due jobs soon, where one is due before the stager would look for itself."""
        if seconds < self._stage_every:
            self.stage_soon()

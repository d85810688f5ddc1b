"""What ticks beside the queues of a runner, before and after it is made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from oban_sa import telemetry
from oban_sa.runner.cluster.notifier import Listener
from oban_sa.runner.cluster.tally import Tally
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance.archive import checked
from oban_sa.runner.maintenance.ticker import Part, Ticker
from oban_sa.runner.sessions.connections import Connections
from oban_sa.settings.settings import Settings
from oban_sa.workers.crontab import resolved
from oban_sa.workers.registry import Registry

if TYPE_CHECKING:
    from oban_sa.runner.maintenance.backlog import Backlog
    from oban_sa.runner.maintenance.parts import Parts, Queued

_MODULES: Final = (
    "cluster.leader",
    "cluster.oban_web",
    "cluster.same_name",
    "maintenance.blocking_sessions",
    "maintenance.idle_transactions",
    "maintenance.lacking_keys",
    "maintenance.leftovers",
    "maintenance.lifeline",
    "maintenance.metrics",
    "maintenance.pruner",
    "maintenance.scheduler",
    "maintenance.sequences",
    "maintenance.settler",
    "maintenance.stager",
    "maintenance.tree_pruner",
    "maintenance.parts",
)
"""What `Parts` imports, in steps that are short."""


class Beside:
    """The parts of a runner that do something beside its queues.

    They are imported and made as they begin to tick, which is after the first fetch: no job needs them to begin. Until
    then there is nothing that news could have them do sooner, since each looks at once when it begins.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        source: telemetry.Source,
        registry: Registry,
        connections: Connections,
        queues: Queued,
        of_queues: Mapping[str, Part],
        tally: Tally | None,
    ) -> None:
        """Take what `Parts` takes; raises `InvalidOption` and `WorkerNotFound` for settings that can't be used."""
        crontab = resolved(settings.crontab, registry, settings.allow)
        if settings.prune is not None:
            checked(settings.prune.archive)
        self.schedules = bool(crontab)
        """Whether there is a crontab."""
        self._settings = settings
        self._of_queues = of_queues
        self._parts: Parts | None = None
        self._make = partial(
            _parts,
            database,
            settings,
            source=source,
            registry=registry,
            crontab=crontab,
            connections=connections,
            queues=queues,
            of_queues=of_queues,
            tally=tally,
        )
        self.listeners: dict[str, Listener] = {"leader": lambda _resigned: self._elect_soon()}
        """What parts want to hear of, by the channel."""
        if settings.metrics or settings.prometheus:  # those count from the beginning
            self.listeners |= self._made().listeners

    def _made(self) -> Parts:
        if self._parts is None:
            self._parts = self._make()
        return self._parts

    async def start(self) -> None:
        """Begin to tick."""
        for module in _MODULES:
            await asyncio.sleep(0)  # for the first jobs
            import_module(f"oban_sa.runner.{module}")
        await self._made().start()

    async def stop(self) -> None:
        """Tick no more."""
        if self._parts is not None:
            await self._parts.stop()
        else:
            await asyncio.gather(*(part.close() for part in self._of_queues.values()))

    @property
    def needed(self) -> Sequence[Ticker]:
        """The parts without which jobs don't start or get stuck."""
        return () if self._parts is None else self._parts.needed

    @property
    def namesakes(self) -> Sequence[str]:
        """The queues that another living node of this node's name works on."""
        return () if self._parts is None else self._parts.namesakes.queues

    @property
    def backlog(self) -> Backlog | None:
        """How many jobs there are, where that is wanted."""
        return None if self._parts is None else self._parts.backlog

    def leading(self) -> bool:
        """Whether this node believes that it leads."""
        return self._parts is not None and self._parts.leading()

    def settle_soon(self) -> None:
        """Book what has become of members of flows as soon as possible; this node has noted some."""
        if self._parts is not None:
            self._parts.settle_soon()

    def hear(self, said: Mapping[str, object]) -> None:
        """Do what a message on `oban_sa.wire.messages.NODES` tells of: signals to jobs, or decisions about queues."""
        if self._parts is not None:
            self._parts.hear(said)

    def stage_soon(self) -> None:
        """Look for due jobs soon; there are news of some."""
        if self._parts is not None:
            self._parts.stage_soon()

    def due_in(self, seconds: float) -> None:
        """Look for due jobs soon, where one is due before the stager would look for itself."""
        if self._parts is not None:
            self._parts.due_in(seconds)

    def _elect_soon(self) -> None:
        if self._parts is not None:
            self._parts.elect_soon()


def _parts(*given: Any, **named: Any) -> Parts:
    from oban_sa.runner.maintenance.parts import Parts

    return Parts(*given, **named)

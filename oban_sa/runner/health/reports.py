"""What a runner reports of itself, and where: health, figures, and a loop that stands still."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from oban_sa import telemetry
from oban_sa.errors import InvalidOption
from oban_sa.runner.cluster.notifier import Notifier
from oban_sa.runner.database.database import Database
from oban_sa.runner.health.checks import Checks
from oban_sa.runner.health.loop_lag import Watch
from oban_sa.runner.maintenance.beside import Beside
from oban_sa.runner.queue.queues import Queues
from oban_sa.settings.settings import Settings
from oban_sa.sql.rights import needed, runner_needs

if TYPE_CHECKING:
    from oban_sa.prometheus.snapshot import Snapshot
    from oban_sa.runner.health.metrics import Metrics
    from oban_sa.runner.health.server import Health, Page


class Reports:
    """Watches the loop, checks what has to work, counts where that is wanted, and serves all of it on a port."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        source: telemetry.Source,
        notifier: Notifier,
        parts: Beside,
        queues: Queues,
        idle_because: Callable[[], str | None],
    ) -> None:
        """`idle_because` says why the runner does not work, or None."""
        self._watch: Watch | None = None
        if settings.blocked_after is not None:
            self._watch = Watch(after=settings.blocked_after, source=source, concerns=queues.hold)
        self.checks: Final = Checks(
            database,
            notifier=notifier,
            producers=lambda: queues.serving.values(),
            parts=lambda: parts.needed,
            needs=needed(source.schema, runner_needs(crontab=parts.schedules, prune=settings.prune is not None)),
            watch=self._watch,
            poll_every=settings.poll_every,
            idle_because=idle_because,
            namesake=lambda: parts.namesakes,
        )
        self._metrics: Metrics | None = None
        served: dict[str, Page] = {}
        if parts.backlog is not None:
            from oban_sa.runner.health.metrics import Metrics, pages

            self._metrics = Metrics(
                source,
                producers=lambda: queues.serving.values(),
                notifier=notifier,
                watch=self._watch,
                backlog=parts.backlog,
                leading=parts.leading,
            )
            if settings.health_port is not None:
                served = pages(self._metrics.snapshot)
        self._server: Health | None = None
        if settings.health_port is not None:
            from oban_sa.runner.health.server import Health

            self._server = Health(
                {"/live": self.checks.live, "/ready": self.checks.ready},
                host=settings.health_host,
                port=settings.health_port,
                pages=served,
            )

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port that reports are served at, where there are any."""
        return None if self._server is None else self._server.address

    def metrics(self) -> Snapshot:
        """Return the figures of now; raises `InvalidOption` where none are counted."""
        if self._metrics is None:
            raise InvalidOption("this runner counts nothing for Prometheus; write Runner(..., prometheus=True)")
        return self._metrics.snapshot()

    async def serve(self) -> None:
        """Serve on the port, where there is one; raises `RunnerError` where that can't be had."""
        if self._server is not None:
            await self._server.start()

    async def watch(self) -> None:
        """Look from now on whether the loop stands still."""
        if self._watch is not None:
            await self._watch.start()

    async def close(self) -> None:
        """Watch, serve and count no more."""
        if self._watch is not None:
            await self._watch.stop()
        if self._server is not None:
            await self._server.stop()
        if self._metrics is not None:
            self._metrics.close()
        await self.checks.close()

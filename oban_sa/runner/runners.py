"""`Runners`: several runners in one process, for several schemas or databases."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from oban_sa.errors import InvalidOption, RunnerError, articled
from oban_sa.runner.concurrency.wait import until
from oban_sa.runner.health.check import Check
from oban_sa.runner.health.checks import Checks
from oban_sa.runner.health.server import Health, Page
from oban_sa.runner.runner import DEFAULT, Runner
from oban_sa.settings.settings import keyword

if TYPE_CHECKING:
    from oban_sa.prometheus.snapshot import Snapshot


class Runners:
    """Starts several runners and stops them, all or none.

        acme, globex = (Runner(engine, schema=schema, queues={"default": 10}) for schema in ("acme", "globex"))
        async with Runners(acme, globex, health_port=8080):
            ...

    They share nothing but the process: each has connections, limits, a leader and a heartbeat of its own, in its own
    tables. With a `health_port` one address answers for all of them, and names the one that is not well by its schema,
    or by database and schema where they work in several databases. Raises `InvalidOption` for runners that would be
    in each other's way, and when it starts what the first of them raises that can't.
    """

    def __init__(
        self, *runners: Runner, health_port: int | None = DEFAULT.health_port, health_host: str = DEFAULT.health_host
    ) -> None:
        if not runners:
            raise InvalidOption('runners are missing; write for example Runners(Runner(engine, schema="acme"), ...)')
        for each in cast("tuple[object, ...]", runners):
            if not isinstance(each, Runner):
                hint = "; write Runners(*runners)" if hasattr(each, "__iter__") else ""
                raise InvalidOption(f"Runners takes runners, not {articled(type(each).__name__)}{hint}")
        self._runners = runners
        self.names = _names(runners)
        """What each runner is called in reports of health, in their order."""
        self._health: Health | None = None
        host: str = keyword("health_host", health_host)
        port: int | None = keyword("health_port", health_port)
        if port is not None:
            reports = {
                "/live": lambda: self._report(lambda checks: checks.live()),
                "/ready": lambda: self._report(lambda checks: checks.ready()),
            }
            pages: Mapping[str, Page] = {}
            if any(runner.counts for runner in runners):
                from oban_sa.runner.health import metrics

                pages = metrics.pages(self.metrics)
            self._health = Health(reports, host=host, port=port, pages=pages)
        self._stop_asked = asyncio.Event()
        self._started: list[Runner] = []

    @property
    def health_address(self) -> tuple[str, int] | None:
        """Host and port that `/live` and `/ready` are served at, where a `health_port` was given."""
        return None if self._health is None else self._health.address

    def metrics(self) -> Snapshot:
        """Return the figures of now of all runners that count, told apart by the label `runner`."""
        from oban_sa.prometheus.snapshot import told_apart

        each = zip(self.names, self._runners, strict=True)
        return told_apart({name: runner.metrics() for name, runner in each if runner.counts})

    async def start(self) -> None:
        """Start one after the other; where one can't, those that were started are stopped again."""
        if self._started:
            raise RunnerError("runners start once; make other ones")
        try:
            if self._health is not None:
                await self._health.start()
            for runner in self._runners:
                self._started.append(await runner.__aenter__())
        except BaseException:
            await self._close()
            raise

    def stop(self) -> None:
        """Ask all to stop; returns at once, and may be called from a signal handler, and more than once."""
        self._stop_asked.set()
        for runner in self._runners:
            runner.stop()

    async def wait_stopped(self) -> None:
        """Wait until each was asked to stop."""
        await asyncio.gather(*(runner.wait_stopped() for runner in self._runners))

    async def until_idle(self, also: Iterable[str] = ()) -> None:
        """Wait until no runner has anything left to do, as `Runner.until_idle` has it, or until asked to stop."""
        others = tuple(also)

        async def idle() -> bool:
            # Twice: a job that was running in one schema may have enqueued into another that was looked at before.
            return await self._idle(others) and await self._idle(others)

        await until(idle, stopped=self._stop_asked)

    async def run(self, *, until_idle: bool = False) -> None:
        """Start, work until asked to stop or, if so wished, until idle, and stop."""
        async with self:
            await (self.until_idle() if until_idle else self.wait_stopped())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        self.stop()
        # At the same time: their grace periods must not add up.
        ended = await asyncio.gather(
            *(runner.__aexit__(None, None, None) for runner in self._started), return_exceptions=True
        )
        if self._health is not None:
            await self._health.stop()
        for error in ended:
            if error is not None:
                raise error

    async def _idle(self, others: Iterable[str]) -> bool:
        for runner in self._runners:
            if not await runner.idle(others):
                return False
        return True

    async def _report(self, ask: Callable[[Checks], Awaitable[Mapping[str, Check]]]) -> Mapping[str, Check]:
        reports = await asyncio.gather(*(ask(runner.checks) for runner in self._runners))
        return {
            f"{name}: {what}": check
            for name, report in zip(self.names, reports, strict=True)
            for what, check in report.items()
        }


def _names(runners: Iterable[Runner]) -> list[str]:
    """Call each runner by its schema, or by its database too; raises InvalidOption where two are the same."""
    given = list(runners)
    if len({id(runner) for runner in given}) < len(given):
        raise InvalidOption("the same Runner stands twice among the runners; make another one")
    databases = {runner.engine.url for runner in given}
    names = [
        runner.schema if len(databases) == 1 else f"{runner.engine.url.database}.{runner.schema}" for runner in given
    ]
    nodes = Counter((id(runner.engine.pool), runner.schema, runner.name, runner.node) for runner in given)
    for (_, schema, _, node), count in nodes.items():
        if count > 1:
            raise InvalidOption(
                f"{count} runners work in the schema {schema!r} as the node {node!r}; give one of them all the "
                "queues, or each another node"
            )
    repeated = {name for name, count in Counter(names).items() if count > 1}
    return [f"{name} ({number})" if name in repeated else name for number, name in enumerate(names, 1)]

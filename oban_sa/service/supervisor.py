"""Run several runners as processes: a signal stops all, and one that dies is started again."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import orjson

from oban_sa.errors import InvalidOption
from oban_sa.runner.health.check import Check
from oban_sa.runner.health.server import Health, Page
from oban_sa.schedule import clock
from oban_sa.service import service
from oban_sa.service.member import Member, Unusable
from oban_sa.service.signals import came, hear, is_second
from oban_sa.service.split import shared
from oban_sa.settings.settings import Settings

if TYPE_CHECKING:
    from oban_sa.prometheus.snapshot import Snapshot

logger = logging.getLogger("oban_sa.runner")

ANSWER_WITHIN: Final = 4.0
"""Seconds that a runner has to report its health, so that the supervisor answers within five."""


def supervise(settings: Settings) -> int:
    """Run `processes` runners until a signal says to stop, or until nothing is left to do where the settings say so.

    Returns the exit code: 0 where all stopped cleanly. What keeps every runner from starting is found here once, and
    raised as an `ObanError`, as one runner would.
    """
    shares = shared(settings)
    if os.name != "posix":
        raise InvalidOption("--processes needs signals, which this system lacks; start several runners")
    with service.database(settings) as url:
        service.prepare(settings, url)
        service.tell_of_embedded(settings, url)
        shares = [replace(share, database_url=url, embedded=None) for share in shares]
        return asyncio.run(Supervisor(settings, shares).run())


class Supervisor:
    """Starts, stops and restarts members; it has no connection and runs no job, so no failure of a runner ends it."""

    def __init__(self, settings: Settings, shares: Sequence[Settings]) -> None:
        self._settings = settings
        self._stopping = asyncio.Event()
        self._stopped_at = 0.0
        self._at_once = asyncio.Event()
        self._members = [
            Member(share, queues=settings.queues, stopping=self._stopping, at_once=self._at_once) for share in shares
        ]

    async def run(self) -> int:
        """Run all until they have stopped; returns the exit code. Raises `RunnerError` where health can't be served."""
        for number in (signal.SIGTERM, signal.SIGINT):
            hear(number, self._received)
        if came():
            self._received(signal.SIGTERM)
        health: Health | None = None
        settings = self._settings
        if settings.health_port is not None:
            # A member that is being restarted is no reason to restart the whole service.
            reports = {
                "/live": partial(self._all, "/live", absent=True),
                "/ready": partial(self._all, "/ready", absent=False),
            }
            pages: Mapping[str, Page] = {}
            if settings.prometheus:
                from oban_sa.runner.health.metrics import merged_pages

                pages = merged_pages(self._metrics)
            health = Health(reports, host=settings.health_host, port=settings.health_port, pages=pages)
            await health.start()
        logger.info(
            "supervising %d runners: %s",
            len(self._members),
            "; ".join(f"{member.node} {_queues(member)}".strip() for member in self._members),
        )
        try:
            # Not a TaskGroup: when one fails, the others are asked to stop and do so gracefully.
            ended = await asyncio.gather(*(self._lived(member) for member in self._members), return_exceptions=True)
        finally:
            if health is not None:
                await health.stop()
        for each in ended:
            if isinstance(each, BaseException):
                raise each
        if not all(ended):
            return 2
        clean = all(member.clean for member in self._members)
        logger.info("all runners have stopped" if clean else "all runners have ended, not all of them cleanly")
        return 0 if clean else 1

    async def _lived(self, member: Member) -> bool:
        try:
            await member.live()
        except Unusable:
            self._stopping.set()  # it will never start, however often it is tried
            return False
        except BaseException:
            self._stopping.set()
            raise
        return True

    def _received(self, number: int) -> None:
        if self._stopping.is_set():
            if is_second(number, self._stopped_at) and not self._at_once.is_set():
                logger.warning("leaving at once; another node rescues the jobs that were running")
                self._at_once.set()
            return
        logger.info("%s received; stopping all runners", signal.Signals(number).name)
        self._stopped_at = clock.monotonic()
        self._stopping.set()

    async def _metrics(self) -> Snapshot:
        """Return the figures of all runners; of one that does not answer there are none this time."""
        from oban_sa.prometheus.snapshot import merged

        found = await asyncio.gather(*(_figures(member) for member in self._members))
        return merged(each for each in found if each is not None)

    async def _all(self, path: str, *, absent: bool) -> Mapping[str, Check]:
        checks = await asyncio.gather(*(_asked(member, path, absent=absent) for member in self._members))
        return {
            f"runner {number} {member.node}".strip(): check
            for number, (member, check) in enumerate(zip(self._members, checks, strict=True), 1)
        }


async def _asked(member: Member, path: str, *, absent: bool) -> Check:
    """Ask a runner for its report; `absent` is whether one that is not running counts as well."""
    if member.health is None:
        return Check(absent, "it is being started")
    try:
        head, body = await _got(member.health, path)
        report: dict[str, object] = orjson.loads(body)
        return Check(head.split(b" ")[1] == b"200", report["checks"])
    except _UNANSWERED as error:
        return Check(False, f"it doesn't answer: {type(error).__name__}")


async def _figures(member: Member) -> Snapshot | None:
    from oban_sa.prometheus.snapshot import loaded

    if member.health is None:
        return None
    try:
        _, body = await _got(member.health, "/metrics.json")
        return loaded(orjson.loads(body))
    except (*_UNANSWERED, ValueError, TypeError, AttributeError) as error:
        logger.debug("runner %s has not said what it counted: %s", member.node, type(error).__name__)
        return None


async def _got(address: tuple[str, int], path: str) -> tuple[bytes, bytes]:
    """Return the head and the body of a runner's answer."""
    async with asyncio.timeout(ANSWER_WITHIN):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = await reader.read()
        finally:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


_UNANSWERED: Final = (OSError, TimeoutError, IndexError, KeyError, orjson.JSONDecodeError)


def _queues(member: Member) -> str:
    return ",".join(f"{queue}:{limit}" for queue, limit in member.settings.queues.items())

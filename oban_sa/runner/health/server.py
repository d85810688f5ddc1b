"""Serve `/live` and `/ready` over plain HTTP, to probes that start and stop processes, and pages of figures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

from oban_sa.errors import RunnerError
from oban_sa.runner.concurrency.wait import cancelled
from oban_sa.runner.health.check import Check
from oban_sa.runner.health.http import Refused, answer, parse, respond

logger = logging.getLogger("oban_sa.runner")

WITHIN: Final = 5.0
"""Seconds that a client has for its request, and again for taking the answer."""

LONGEST: Final = 8192
"""Bytes that a request's head may have."""

MOST: Final = 64
"""Connections served at once, so that no client can use up the runner's file descriptors.

With one more, the one that has waited longest for its client is ended: probes ask at once and take their answer.
"""

Report: TypeAlias = Callable[[], Awaitable[Mapping[str, Check]]]
"""Makes a report: what was found of each thing that was looked at, by name."""

Page: TypeAlias = Callable[[], Awaitable[tuple[bytes, str]]]
"""Makes the body of an answer, and says of which type it is."""


class Health:
    """Serves reports of health: 200 where everything is well, else 503, with the same JSON object.

        GET /ready    {"status": "unavailable", "checks": {"database": {"ok": false, "detail": "..."}, ...}}

    `reports` are the reports behind each path, and `pages` what else is served. Each connection gets one answer. The
    address is private unless `host` says otherwise, since reports name queues.
    """

    def __init__(
        self, reports: Mapping[str, Report], *, host: str, port: int, pages: Mapping[str, Page] | None = None
    ) -> None:
        self._reports = dict(reports)
        self._pages = dict(pages or {})
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[object], bool] = {}
        """The tasks that serve a connection each, oldest first, and whether they wait for their client."""

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port, once it serves; with port 0 the system chose one."""
        sockets = () if self._server is None else self._server.sockets
        return (sockets[0].getsockname()[0], sockets[0].getsockname()[1]) if sockets else None

    async def start(self) -> None:
        """Begin to serve; raises RunnerError where the address is taken or not this machine's."""
        try:
            self._server = await asyncio.start_server(self._connected, self._host, self._port, limit=LONGEST)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RunnerError(
                f"health can't be served at {self._host}:{self._port}: {reason}; give another --health-port"
            ) from error

    async def stop(self) -> None:
        """Serve no more; answers that are under way are cut short."""
        if self._server is None:
            return
        self._server.close()
        await cancelled(*self._serving)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: Any = asyncio.current_task()
        if len(self._serving) >= MOST and not self._make_room():
            writer.transport.abort()
            return
        self._serving[task] = True
        try:
            writer.write(await self._answer(reader))
            self._serving[task] = True
            async with asyncio.timeout(WITHIN):
                await writer.drain()
                if writer.can_write_eof():
                    writer.write_eof()
                # Closing with input unread would reset the connection, and the answer might be lost with it.
                while await reader.read(LONGEST):
                    pass
        except (OSError, TimeoutError):
            pass  # the client has left, or does not go
        except asyncio.CancelledError:
            pass  # by `stop`; asyncio's streams would log a cancelled task as a failure
        finally:
            self._serving.pop(task, None)
            with contextlib.suppress(OSError):
                writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    def _make_room(self) -> bool:
        """End the oldest connection that waits for its client; False where all are being answered."""
        for task, waits in self._serving.items():
            if waits:
                del self._serving[task]
                task.cancel()
                return True
        return False

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(WITHIN):
                method, path = parse(await reader.readuntil(b"\r\n\r\n"))
        except TimeoutError:
            return answer(408, {"error": "the request was not complete in time"})
        except asyncio.LimitOverrunError:
            return answer(431, {"error": "the request's head is too long"})
        except asyncio.IncompleteReadError as error:
            return answer(400, {"error": "the request is not complete"}) if error.partial else b""
        except Refused as refused:
            return answer(refused.status, {"error": str(refused)})
        with_body = method != "HEAD"
        report, page = self._reports.get(path), self._pages.get(path)
        if report is None and page is None:
            paths = " and ".join([*self._reports, *self._pages])
            return answer(404, {"error": f"there is nothing here; ask for {paths}"}, with_body=with_body)
        if method not in ("GET", "HEAD"):
            return answer(405, {"error": "write GET or HEAD"}, allow="GET, HEAD")
        task: Any = asyncio.current_task()
        self._serving[task] = False
        try:
            if page is not None:
                body, content_type = await page()
                return respond(200, body, content_type, with_body=with_body)
            found: Mapping[str, Check] = {} if report is None else await report()
        except Exception:
            logger.exception("a report of health could not be made")
            return answer(503, {"error": "the report could not be made; the log says why"}, with_body=with_body)
        well = all(check.well for check in found.values())
        checks = {
            name: {"ok": check.well} | ({} if check.detail is None else {"detail": check.detail})
            for name, check in found.items()
        }
        content = {"status": "ok" if well else "unavailable", "checks": checks}
        return answer(200 if well else 503, content, with_body=with_body)

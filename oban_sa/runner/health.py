"""Answer `/live` and `/ready` over plain HTTP, for whoever starts and stops processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson

from oban_sa.errors import InvalidOption, RunnerError
from oban_sa.runner.waiting import cancelled

logger = logging.getLogger("oban_sa.runner")

WITHIN: Final = 5.0
"""Seconds that a client has for its request, and again for taking the answer."""

LONGEST: Final = 8192
"""Bytes that a request's head may have."""

MOST: Final = 64
"""Connections served at once, so that nobody can use up the runner's file descriptors.

With one more, the one that has waited longest for its client is ended: probes ask at once and take their answer.
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: whether it is well, and what to say of it."""

    well: bool
    detail: Any = None


Checks: TypeAlias = Callable[[], Awaitable[Mapping[str, Check]]]
"""Looks at things and answers what was found, by name."""


class Health:
    """Serves reports of health: 200 where everything is well, else 503, with the same JSON object.

        GET /ready    {"status": "unavailable", "checks": {"database": {"ok": false, "detail": "..."}, ...}}

    `reports` are the checks behind each path. Each connection gets one answer. The address is private unless `host`
    says otherwise, since reports name queues.
    """

    def __init__(self, reports: Mapping[str, Checks], *, host: str, port: int) -> None:
        self._reports = dict(reports)
        self._host = host
        self._port = checked_port(port)
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[Any], bool] = {}
        """Those who serve a connection, oldest first, and whether they wait for their client."""

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port, once it serves; with port 0 the system chose one."""
        sockets = () if self._server is None else self._server.sockets
        return (sockets[0].getsockname()[0], sockets[0].getsockname()[1]) if sockets else None

    async def start(self) -> None:
        """Begin to serve; raises `RunnerError` where the address can't be had."""
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
            pass  # whoever asked has left, or won't go
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
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            return _response(408, {"error": "the request was not complete in time"})
        except asyncio.LimitOverrunError:
            return _response(431, {"error": "the request's head is too long"})
        except asyncio.IncompleteReadError as error:
            return _response(400, {"error": "the request is not complete"}) if error.partial else b""
        request = _Request.read(head)
        if isinstance(request, bytes):
            return request
        checks = self._reports.get(request.path)
        if checks is None:
            paths = " and ".join(self._reports)
            return _response(404, {"error": f"there is nothing here; ask for {paths}"}, request)
        if request.method not in ("GET", "HEAD"):
            return _response(405, {"error": "write GET or HEAD"}, request, allow="GET, HEAD")
        task: Any = asyncio.current_task()
        self._serving[task] = False
        try:
            found = await checks()
        except Exception:
            logger.exception("a report of health could not be made")
            return _response(503, {"error": "the report could not be made; the log says why"}, request)
        well = all(check.well for check in found.values())
        report = {
            "status": "ok" if well else "unavailable",
            "checks": {
                name: {"ok": check.well} | ({} if check.detail is None else {"detail": check.detail})
                for name, check in found.items()
            },
        }
        return _response(200 if well else 503, report, request)


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str

    @staticmethod
    def read(head: bytes) -> _Request | bytes:
        """Return the request, or the answer to one that is none."""
        try:
            lines = head.decode("ascii", "strict").split("\r\n")
        except UnicodeDecodeError:
            return _response(400, {"error": "a request's head is ASCII"})
        words = lines[0].split(" ")
        if len(words) != 3 or not all(words) or not words[0].isupper() or not words[2].startswith("HTTP/"):
            return _response(400, {"error": "this is no HTTP request"})
        method, target, version = words
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            return _response(505, {"error": "write HTTP/1.1"})
        fields = [line.partition(":") for line in lines[1:] if line]
        if any(not colon or not name or name != name.strip() for name, colon, _ in fields):
            return _response(400, {"error": "a header field is malformed"})
        hosts = sum(name.lower() == "host" for name, _, _ in fields)
        if hosts > 1 or (version == "HTTP/1.1" and not hosts):
            return _response(400, {"error": "a request names its host, once"})
        if target.startswith(("http://", "https://")):
            target = "/" + target.partition("://")[2].partition("/")[2]
        return _Request(method, target.partition("?")[0])


def checked_port(port: object) -> int:
    """Accept the number of a port, 0 for one that the system chooses; raise `InvalidOption` for anything else."""
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise InvalidOption(f"health_port is the number of a port, such as 8080, not {port!r}")
    return port


def _response(status: int, report: Mapping[str, Any], request: _Request | None = None, *, allow: str = "") -> bytes:
    body = orjson.dumps(report, default=str) + b"\n"
    head = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *([f"Allow: {allow}"] if allow else []),
    ]
    shown = b"" if request is not None and request.method == "HEAD" else body
    return "\r\n".join([*head, "", ""]).encode() + shown


_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

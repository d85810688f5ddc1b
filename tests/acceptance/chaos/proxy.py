"""A way to PostgreSQL that can be cut and stalled, statement by statement."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from sqlalchemy.engine import make_url

COMMIT = b"COMMIT;\0"
"""How the runner's driver says it, in a message of its own."""

HANDSHAKE = 3
"""Messages with which a driver makes a connection."""

_TERMINATE = b"X\0\0\0\4"


@dataclass(frozen=True, slots=True)
class Cutting:
    """Which share of the statements ends its connection, and how.

    `before` it is delivered; `after` it was executed; `amid`, so that nobody knows; or `late`: it is delivered `delay`
    seconds after its sender was told that the connection broke. With `only` those that hold these bytes.
    """

    kinds: tuple[str, ...]
    share: float
    only: bytes = b""
    delay: float = 0.0


class Proxy:
    """Passes everything on, unless it is told otherwise."""

    def __init__(self, url: str, *, draw: random.Random | None = None) -> None:
        self._to = make_url(url)
        self._draw = draw or random.Random()
        self._ways = {"up": asyncio.Event(), "down": asyncio.Event()}
        for way in self._ways.values():
            way.set()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.cutting: Cutting | None = None
        self.cuts: Counter[str] = Counter()
        self.url = url
        """The address of the database through this proxy, once it is open."""

    async def serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Bring one connection to the server."""
        try:
            server, forth = await asyncio.open_connection(self._to.host, self._to.port)
        except OSError:
            back.transport.abort()
            return
        connection = _Connection(self, client, back, server, forth)
        self._connections.add(connection)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await connection.pass_on()
        except asyncio.CancelledError:
            pass  # by `close`; whoever made the task would tell of it as of an accident
        finally:
            self._tasks.discard(task)
            self._connections.discard(connection)

    def ports(self) -> list[int]:
        """The ports by which the server knows the connections that are open."""
        return [each.port for each in self._connections]

    def stall(self, way: str) -> None:
        """Let nothing through, `up` to the server, `down` from it, or `both`; nothing is lost."""
        for each in self._ways if way == "both" else (way,):
            self._ways[each].clear()

    def release(self, way: str = "both") -> None:
        """Let through what was held, and what comes."""
        for each in self._ways if way == "both" else (way,):
            self._ways[each].set()

    def drop_all(self) -> int:
        """Cut every connection at once; how many there were."""
        dropped = list(self._connections)
        for each in dropped:
            each.abort()
        self.cuts["dropped"] += len(dropped)
        return len(dropped)

    def cut(self, data: bytes, *, number: int) -> Cutting | None:
        """How a connection ends with its message of this number; None where it goes on."""
        cutting = self.cutting
        if cutting is None or cutting.only not in data:
            return None
        # While it is made it is spared for the most part: else no share would be left of those that get further.
        if self._draw.random() >= cutting.share / (5 if number <= HANDSHAKE else 1):
            return None
        kind = self._draw.choice(cutting.kinds)
        self.cuts[kind] += 1
        return Cutting((kind,), 1.0, delay=cutting.delay)

    async def passing(self, way: str) -> None:
        """Wait until this way is open."""
        await self._ways[way].wait()

    async def close(self) -> None:
        """Cut what there is and wait for the end of it."""
        self.release()
        self.drop_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Connection:
    """One connection, on both sides."""

    def __init__(
        self,
        proxy: Proxy,
        client: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        forth: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._client = client
        self._back = back
        self._server = server
        self._forth = forth
        self.port: int = forth.get_extra_info("sockname")[1]

    async def pass_on(self) -> None:
        answers = asyncio.create_task(self._answers())
        number = 0
        try:
            while data := await self._client.read(65536):
                await self._proxy.passing("up")
                number += 1
                if (cutting := self._proxy.cut(data, number=number)) is not None:
                    answers.cancel()
                    await asyncio.gather(answers, return_exceptions=True)
                    await self._end(data, cutting)
                    return
                self._forth.write(data)
                await self._forth.drain()
        except OSError:
            pass  # one of both has left
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            self.abort()

    async def _answers(self) -> None:
        with suppress(OSError):
            while data := await self._server.read(65536):
                await self._proxy.passing("down")
                self._back.write(data)
                await self._back.drain()
        self._back.close()

    async def _end(self, data: bytes, cutting: Cutting) -> None:
        kind = cutting.kinds[0]
        self._back.transport.abort()
        if kind == "before":
            return
        if kind == "late":
            await asyncio.sleep(cutting.delay)
        self._forth.write(data)
        await self._forth.drain()
        if kind != "amid":
            # The server ends the connection after it has done what it was told.
            self._forth.write(_TERMINATE)
            await self._forth.drain()
        self._forth.close()
        with suppress(OSError):
            await self._forth.wait_closed()

    def abort(self) -> None:
        for writer in (self._forth, self._back):
            writer.transport.abort()


@asynccontextmanager
async def proxied(url: str, *, draw: random.Random | None = None) -> AsyncGenerator[Proxy]:
    """A proxy whose `url` leads to the database of `url`."""
    proxy = Proxy(url, draw=draw)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()[:2]
    proxy.url = make_url(url).set(host=host, port=port).render_as_string(hide_password=False)
    try:
        yield proxy
    finally:
        listening.close()
        await proxy.close()


@asynccontextmanager
async def cutting(url: str, *, share: float) -> AsyncGenerator[Proxy]:
    """Cut this share of the commits on connections to `Proxy.url`: before, after or amid them."""
    async with proxied(url) as proxy:
        proxy.cutting = Cutting(("before", "amid", "after"), share, only=COMMIT)
        yield proxy

"""A way to PostgreSQL that a test may freeze or cut; `Proxy` is what such ways have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from sqlalchemy.engine import make_url


class Connection:
    """One connection: `client` and `back` lead from and to the client, `server` and `forth` from and to the server."""

    def __init__(
        self,
        proxy: Proxy,
        client: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        forth: asyncio.StreamWriter,
    ) -> None:
        self.proxy = proxy
        self.client = client
        self.back = back
        self.server = server
        self.forth = forth
        self.port: int = forth.get_extra_info("sockname")[1]
        """The port by which the server knows it."""
        self.messages = 0
        """Chunks that the client has sent: mostly one for each message that it waits for an answer to."""
        self._answers = asyncio.create_task(self._answer())

    async def run(self) -> None:
        """Pass everything on, as the proxy lets it, until one side has left."""
        try:
            while data := await self.client.read(65536):
                self.messages += 1
                if not await self.proxy.admit(self, data):
                    return
                self.forth.write(data)
                await self.forth.drain()
        except OSError:
            pass  # one of both has left
        finally:
            await self.stop_answers()
            self.abort()

    async def stop_answers(self) -> None:
        """Let nothing more through to the client."""
        self._answers.cancel()
        await asyncio.gather(self._answers, return_exceptions=True)

    def abort(self) -> None:
        """Cut it on both sides."""
        for writer in (self.forth, self.back):
            writer.transport.abort()

    async def _answer(self) -> None:
        with suppress(OSError):
            while data := await self.server.read(65536):
                await self.proxy.passing("down")
                self.back.write(data)
                await self.back.drain()
        self.back.close()


class Proxy:
    """Passes everything on, and can stall it in each direction."""

    def __init__(self, url: str) -> None:
        self.to = make_url(url)
        self.url = url
        """The address of the database through this proxy, once it is open."""
        self.connections: set[Connection] = set()
        self._ways = {"up": asyncio.Event(), "down": asyncio.Event()}
        for way in self._ways.values():
            way.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def accepts(self) -> bool:
        """Whether a new connection is brought to the server; else it ends at once."""
        return True

    async def admit(self, connection: Connection, data: bytes) -> bool:
        """Wait until a client's message may pass; False where the connection ends with it."""
        await self.passing("up")
        return True

    async def passing(self, way: str) -> None:
        """Wait until this way is open."""
        await self._ways[way].wait()

    def stall(self, way: str) -> None:
        """Let nothing through, `up` to the server, `down` from it, or `both`; nothing is lost."""
        for each in self._ways if way == "both" else (way,):
            self._ways[each].clear()

    def release(self, way: str = "both") -> None:
        """Let through what was stalled, and what comes."""
        for each in self._ways if way == "both" else (way,):
            self._ways[each].set()

    def drop_all(self) -> int:
        """Cut every connection at once; how many there were."""
        dropped = list(self.connections)
        for each in dropped:
            each.abort()
        return len(dropped)

    async def serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Bring one connection to the server."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if not self.accepts():
                return
            server, forth = await asyncio.open_connection(self.to.host, self.to.port)
            connection = Connection(self, client, back, server, forth)
            self.connections.add(connection)
            try:
                await connection.run()
            finally:
                self.connections.discard(connection)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, or the test is over; asyncio's streams would log a cancelled task
        finally:
            self._tasks.discard(task)
            back.transport.abort()

    async def close(self) -> None:
        """Cut what there is and wait for the end of it."""
        self.release()
        self.drop_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class CountingProxy(Proxy):
    """Cuts all connections, or freezes, with a message of a certain number.

    `cut_at` counts what clients send: all connections are cut with that message, and so are the next
    `refuse_after_cut` new ones. While it is frozen nothing passes, and every connection stays open, new ones too.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.sent = 0
        """Messages that clients have sent so far."""
        self.cut_at: int | None = None
        self.refusing = 0
        """How many of the next connections end at once."""
        self.refuse_after_cut = 0
        self.freeze_at: int | None = None
        self.frozen = asyncio.Event()

    def freeze(self) -> None:
        """Let nothing pass any more."""
        self.stall("both")
        self.frozen.set()

    def accepts(self) -> bool:
        if self.refusing:
            self.refusing -= 1
            return False
        return True

    async def admit(self, connection: Connection, data: bytes) -> bool:
        self.sent += 1
        if self.cut_at is not None and self.sent >= self.cut_at:
            self.cut_at = None
            self.refusing = self.refuse_after_cut
            self.drop_all()
            return False
        if self.sent == self.freeze_at:
            self.freeze()
        return await super().admit(connection, data)


P = TypeVar("P", bound=Proxy)


@asynccontextmanager
async def open_proxy(proxy: P) -> AsyncGenerator[P]:
    """Listen on a port of this machine, to which the proxy's `url` leads."""
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()[:2]
    proxy.url = proxy.to.set(host=host, port=port).render_as_string(hide_password=False)
    try:
        yield proxy
    finally:
        listening.close()
        await proxy.close()

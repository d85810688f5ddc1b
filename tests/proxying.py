"""A way to PostgreSQL that a test may freeze, or cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from sqlalchemy.engine import make_url


class Proxy:
    """Passes everything on. While it is frozen nothing passes, and every connection stays open, new ones too.

    `cut_at` counts what clients send: the connection that sends that many-th chunk is cut, with all others, and so is
    whoever connects until `refusing` is over.
    """

    def __init__(self, url: str) -> None:
        self._to = make_url(url)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._serving: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = url
        self.connections = 0
        """Connections made so far."""
        self.sent = 0
        """Chunks that clients have sent so far: mostly one for each message they wait for an answer to."""
        self.cut_at: int | None = None
        self.refusing = 0
        """How many of the next connections end at once."""
        self.refuse_after_cut = 0
        self.freeze_at: int | None = None
        """The chunk with which it freezes by itself."""
        self.frozen = asyncio.Event()

    def freeze(self) -> None:
        """Let nothing pass any more."""
        self._flowing.clear()
        self.frozen.set()

    def cut(self) -> None:
        """End all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Bring one connection to the server."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self._writers.add(back)
        self.connections += 1
        forth: asyncio.StreamWriter | None = None
        try:
            if self.refusing:
                self.refusing -= 1
                return
            await self._flowing.wait()
            server, forth = await asyncio.open_connection(self._to.host, self._to.port)
            self._writers.add(forth)
            answers = asyncio.ensure_future(self._pass(server, back))
            try:
                while data := await client.read(65536):
                    self.sent += 1
                    if self.cut_at is not None and self.sent >= self.cut_at:
                        self.cut_at = None
                        self.refusing = self.refuse_after_cut
                        self.cut()
                        return
                    if self.sent == self.freeze_at:
                        self.freeze()
                    await self._flowing.wait()
                    forth.write(data)
                    await forth.drain()
            finally:
                answers.cancel()
                await asyncio.gather(answers, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # one of both has left, or the test is over; asyncio's streams would log a cancelled task
        finally:
            self._serving.discard(task)
            for writer in (forth, back):
                if writer is not None:
                    self._writers.discard(writer)
                    writer.transport.abort()

    async def _pass(self, server: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await server.read(65536):
                await self._flowing.wait()
                back.write(data)
                await back.drain()
        back.close()

    async def close(self) -> None:
        """End all connections for good."""
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


@asynccontextmanager
async def proxied(url: str) -> AsyncGenerator[Proxy]:
    """Lead connections to `Proxy.url` to this server."""
    proxy = Proxy(url)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()[:2]
    proxy.url = make_url(url).set(host=host, port=port).render_as_string(hide_password=False)
    try:
        yield proxy
    finally:
        listening.close()
        await proxy.close()

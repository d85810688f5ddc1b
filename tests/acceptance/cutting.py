"""A way to PostgreSQL on which the answers to commits get lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from sqlalchemy.engine import make_url

COMMIT = b"COMMIT;\0"
"""How the runner's driver says it, in a message of its own."""


class Cutter:
    """Passes everything on, until it sees a commit: some of those connections end, before, after or amid it."""

    def __init__(self, url: str, *, share: float) -> None:
        self._to = make_url(url)
        self._share = share
        self._passing: set[asyncio.Task[None]] = set()
        self.cuts: Counter[str] = Counter()
        self.url = url

    async def serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Bring one connection to the server."""
        server, forth = await asyncio.open_connection(self._to.host, self._to.port)
        answers = asyncio.ensure_future(_pass(server, back))
        self._passing.add(answers)
        try:
            while data := await client.read(65536):
                if COMMIT in data and random.random() < self._share:
                    await self._cut(data, forth, answers, back)
                    return
                forth.write(data)
                await forth.drain()
        except OSError:
            pass  # one of both has left
        finally:
            answers.cancel()
            self._passing.discard(answers)
            for writer in (forth, back):
                writer.transport.abort()

    async def _cut(
        self, data: bytes, forth: asyncio.StreamWriter, answers: asyncio.Task[None], back: asyncio.StreamWriter
    ) -> None:
        kind = random.choice(["before", "amid", "after"])
        self.cuts[kind] += 1
        if kind == "before":
            return
        answers.cancel()
        await asyncio.gather(answers, return_exceptions=True)
        back.transport.abort()
        forth.write(data)
        await forth.drain()
        if kind == "after":
            # Terminate: the server ends the connection after it has committed.
            forth.write(b"X\0\0\0\4")
            await forth.drain()
        forth.close()
        with suppress(OSError):
            await forth.wait_closed()


async def _pass(server: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await server.read(65536):
            back.write(data)
            await back.drain()
    back.close()


@asynccontextmanager
async def cutting(url: str, *, share: float) -> AsyncGenerator[Cutter]:
    """Cut this share of the commits on connections to `Cutter.url`."""
    cutter = Cutter(url, share=share)
    listening = await asyncio.start_server(cutter.serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()[:2]
    cutter.url = make_url(url).set(host=host, port=port).render_as_string(hide_password=False)
    try:
        yield cutter
    finally:
        listening.close()

"""A way to PostgreSQL that can be cut and stalled, statement by statement."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from tests.proxy import Connection, Proxy, open_proxy

COMMIT = b"COMMIT;\0"
"""How the runner's driver says it, in a message of its own."""

PASSWORD = b"p"
"""With which the messages of a login begin, where the server asks for one; the first message has no letter."""

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


class CuttingProxy(Proxy):
    """Passes everything on, but for the statements that `cutting` draws."""

    def __init__(self, url: str, *, draw: random.Random | None = None) -> None:
        super().__init__(url)
        self._draw = draw or random.Random()
        self.cutting: Cutting | None = None
        self.cuts: Counter[str] = Counter()

    def ports(self) -> list[int]:
        """The ports by which the server knows the connections that are open."""
        return [each.port for each in self.connections]

    def drop_all(self) -> int:
        dropped = super().drop_all()
        self.cuts["dropped"] += dropped
        return dropped

    async def admit(self, connection: Connection, data: bytes) -> bool:
        await self.passing("up")
        cutting = self._drawn(data, number=connection.messages)
        if cutting is not None:
            await self._cut(connection, data, cutting)
        return cutting is None

    def _drawn(self, data: bytes, *, number: int) -> Cutting | None:
        """How a connection ends with its message of this number; None where it goes on."""
        cutting = self.cutting
        if cutting is None or cutting.only not in data:
            return None
        # While it is made it is spared for the most part: else no share would be left of those that get further.
        if self._draw.random() >= cutting.share / (5 if number == 1 or data.startswith(PASSWORD) else 1):
            return None
        kind = self._draw.choice(cutting.kinds)
        self.cuts[kind] += 1
        return Cutting((kind,), 1.0, delay=cutting.delay)

    async def _cut(self, connection: Connection, data: bytes, cutting: Cutting) -> None:
        kind = cutting.kinds[0]
        await connection.stop_answers()
        connection.back.transport.abort()
        if kind == "before":
            return
        if kind == "late":
            await asyncio.sleep(cutting.delay)
        connection.forth.write(data)
        await connection.forth.drain()
        if kind != "amid":
            # The server ends the connection after it has done what it was told.
            connection.forth.write(_TERMINATE)
            await connection.forth.drain()
        connection.forth.close()
        with suppress(OSError):
            await connection.forth.wait_closed()


@asynccontextmanager
async def proxied(url: str, *, draw: random.Random | None = None) -> AsyncGenerator[CuttingProxy]:
    """A proxy whose `url` leads to the database of `url`."""
    async with open_proxy(CuttingProxy(url, draw=draw)) as proxy:
        yield proxy


@asynccontextmanager
async def cutting(url: str, *, share: float) -> AsyncGenerator[CuttingProxy]:
    """Cut this share of the commits on connections to the proxy's `url`: before, after or amid them."""
    async with proxied(url) as proxy:
        proxy.cutting = Cutting(("before", "amid", "after"), share, only=COMMIT)
        yield proxy

"""Waiting for what nobody announces."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

REST: Final = 0.02
LONGEST_REST: Final = 0.25
"""Seconds between two looks: at first, and the most they grow to."""


async def until(is_so: Callable[[], Awaitable[bool]], *, stopped: asyncio.Event) -> None:
    """Look again and again, ever less often, until what is waited for is so or `stopped` is set."""
    rest = REST
    while not stopped.is_set():
        if await is_so():
            return
        try:
            async with asyncio.timeout(rest):
                await stopped.wait()
        except TimeoutError:
            rest = min(rest * 1.5, LONGEST_REST)

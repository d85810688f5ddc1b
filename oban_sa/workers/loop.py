"""Whether code that asks runs on an event loop or in a thread, and a coroutine of what is awaited there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


def has_loop() -> bool:
    """Whether this code runs on an event loop, which it must not hold up."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def awaited(awaitable: Awaitable[T]) -> T:
    """Await it: for what takes a coroutine, and no other awaitable."""
    return await awaitable

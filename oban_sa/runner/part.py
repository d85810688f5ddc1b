"""What the parts of a runner have in common."""

from __future__ import annotations

from typing import Protocol


class Part(Protocol):
    """A part that does one thing every now and then, until it is closed."""

    async def tick(self) -> float:
        """Do what is due and return the seconds until there may be more; may be repeated after any error."""
        ...

    async def close(self) -> None:
        """Let go of everything; never raises because the database is away."""
        ...

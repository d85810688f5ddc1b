"""The life cycle that all parts of a runner share."""

from __future__ import annotations

from typing import Protocol


class Component(Protocol):
    """A part of a runner: started once, stopped once, in the reverse order of starting."""

    async def start(self) -> None:
        """Begin to work; returns as soon as the part does."""
        ...

    async def stop(self) -> None:
        """Stop working and let go of everything; never raises because the database is away."""
        ...


class Ticking(Protocol):
    """A part that does one thing every now and then."""

    async def tick(self) -> float:
        """Do what is due and return the seconds until there may be more; repeatable after any error."""
        ...

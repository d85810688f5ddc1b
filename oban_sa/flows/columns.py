"""Where the parts of a drawn workflow stand: in columns, each to the right of all that it waits for."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from graphlib import TopologicalSorter
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def columns(waits: Mapping[K, Collection[K]]) -> list[list[K]]:
    """Return the columns from left to right, each in the order of `waits`, which has what each part waits for.

    Raises `CycleError` where parts wait for each other.
    """
    found: dict[K, int] = {}
    for key in TopologicalSorter(waits).static_order():
        found[key] = max((found[each] + 1 for each in waits[key]), default=0)
    ordered: list[list[K]] = [[] for _ in range(max(found.values(), default=-1) + 1)]
    for key in waits:
        ordered[found[key]].append(key)
    return ordered


def curve(x: float, y: float, to_x: float, to_y: float) -> str:
    """Return the path of SVG from the right of a box to the left of another one in a later column."""
    (x1, y1, middle, x2, y2) = (f"{each:.10g}" for each in (x, y, (x + to_x) / 2, to_x, to_y))
    return f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"

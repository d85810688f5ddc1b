"""A workflow drawn as SVG: each member in a column after all that it waits for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from graphlib import CycleError
from typing import Final

from oban_sa.flows.columns import columns, curve

WIDTH: Final = 190
HEIGHT: Final = 44
ACROSS: Final = 60
DOWN: Final = 16
EDGE: Final = 12


@dataclass(frozen=True, slots=True)
class Node:
    """What is drawn as a box: a member, or a whole flow inside; `state` is its colour."""

    key: Hashable
    title: str
    note: str
    state: str
    href: str
    is_flow: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """A node in its place; x and y are those of its upper left corner."""

    node: Node
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """Boxes, and paths between them, in units of SVG."""

    width: int
    height: int
    boxes: list[Box]
    paths: list[str]


def draw(nodes: Sequence[Node], edges: Sequence[tuple[Hashable, Hashable]]) -> Drawing:
    """Place nodes in columns, and lines from each to those that wait for it; `edges` are pairs, the earlier first."""
    known = {node.key: node for node in nodes}
    before: dict[Hashable, list[Hashable]] = {key: [] for key in known}
    for earlier, later in dict.fromkeys(edges):
        if earlier in known and later in known and earlier != later:
            before[later].append(earlier)
    try:
        placed = columns(before)
    except CycleError:  # which only rows that were written by hand can make
        before = {key: [] for key in known}
        placed = columns(before)
    row: dict[Hashable, float] = {}
    for keys in placed:
        # Near the middle of what they wait for, so that lines cross less.
        keys.sort(key=lambda key: sum(row[each] for each in before[key]) / len(before[key]) if before[key] else 0)
        row.update({key: float(at) for at, key in enumerate(keys)})
    boxes = {
        key: Box(known[key], EDGE + at * (WIDTH + ACROSS), EDGE + int(row[key]) * (HEIGHT + DOWN))
        for at, keys in enumerate(placed)
        for key in keys
    }
    tallest = max((len(keys) for keys in placed), default=0)
    return Drawing(
        2 * EDGE + max(0, len(placed) * (WIDTH + ACROSS) - ACROSS),
        2 * EDGE + max(0, tallest * (HEIGHT + DOWN) - DOWN),
        list(boxes.values()),
        [_path(boxes[earlier], boxes[key]) for key in known for earlier in before[key]],
    )


def _path(start: Box, end: Box) -> str:
    return curve(start.x + WIDTH, start.y + HEIGHT // 2, end.x, end.y + HEIGHT // 2)

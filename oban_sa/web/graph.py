"""A workflow drawn as SVG: each member in a column after all that it waits for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Final

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
        order = list(TopologicalSorter(before).static_order())
    except CycleError:  # which only rows that were written by hand can make
        before = {key: [] for key in known}
        order = list(known)
    column: dict[Hashable, int] = {}
    for key in order:
        column[key] = max((column[each] + 1 for each in before[key]), default=0)
    columns: list[list[Hashable]] = [[] for _ in range(max(column.values(), default=-1) + 1)]
    for key in known:
        columns[column[key]].append(key)
    row: dict[Hashable, float] = {}
    for keys in columns:
        # Near the middle of what they wait for, so that lines cross less.
        keys.sort(key=lambda key: sum(row[each] for each in before[key]) / len(before[key]) if before[key] else 0)
        row.update({key: float(at) for at, key in enumerate(keys)})
    boxes = {
        key: Box(known[key], EDGE + at * (WIDTH + ACROSS), EDGE + int(row[key]) * (HEIGHT + DOWN))
        for at, keys in enumerate(columns)
        for key in keys
    }
    tallest = max((len(keys) for keys in columns), default=0)
    return Drawing(
        2 * EDGE + max(0, len(columns) * (WIDTH + ACROSS) - ACROSS),
        2 * EDGE + max(0, tallest * (HEIGHT + DOWN) - DOWN),
        list(boxes.values()),
        [_path(boxes[earlier], boxes[key]) for key in known for earlier in before[key]],
    )


def _path(start: Box, end: Box) -> str:
    x1, y1 = start.x + WIDTH, start.y + HEIGHT // 2
    x2, y2 = end.x, end.y + HEIGHT // 2
    middle = max(ACROSS // 2, (x2 - x1) // 2)
    return f"M{x1} {y1}C{x1 + middle} {y1} {x2 - middle} {y2} {x2} {y2}"

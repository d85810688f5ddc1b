"""Draw a workflow as an SVG image: boxes in columns, each to the right of all that it waits for."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

from oban_sa.flows.columns import columns, curve
from oban_sa.flows.parts import GraftPlace, Group, Part, SubWorkflow

if TYPE_CHECKING:
    from oban_sa.flows.workflow import Workflow

LETTER: Final = 7.5
"""Units of the width of a letter; a little more than it needs in most fonts."""

HEIGHT: Final = 32
ACROSS: Final = 48
"""Units between two columns."""

DOWN: Final = 16
"""Units between two boxes of a column."""

LONGEST: Final = 40
"""Letters of a label that are shown."""


class Box(NamedTuple):
    """Where a part stands, and what is written in it."""

    x: float
    y: float
    width: float
    label: str


def draw(workflow: Workflow) -> str:
    """Return the image as text; what is forgiven is a dashed line, and a workflow inside is one box."""
    boxes = dict(_boxes(workflow))
    width = max(box.x + box.width for box in boxes.values()) + DOWN
    height = max(box.y for box in boxes.values()) + HEIGHT + DOWN
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" font-family="sans-serif" font-size="13">'
        ),
        (
            '<defs><marker id="to" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            '<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>'
        ),
    ]
    for name, part in workflow.parts.items():
        lines += [_line(boxes[parent], boxes[name], dashed=bits > 0) for parent, bits in part.waits.items()]
    lines += [_box(box) for box in boxes.values()]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _boxes(workflow: Workflow) -> Iterator[tuple[str, Box]]:
    x: float = DOWN
    for names in columns({name: part.waits.keys() for name, part in workflow.parts.items()}):
        labels = {name: _label(workflow.parts[name]) for name in names}
        width = max(len(label) for label in labels.values()) * LETTER + 2 * DOWN
        for row, name in enumerate(names):
            yield name, Box(x, DOWN + row * (HEIGHT + DOWN), width, labels[name])
        x += width + ACROSS


def _label(part: Part) -> str:
    name = part.name if len(part.name) <= LONGEST else part.name[: LONGEST - 1] + "\u2026"
    if isinstance(part, Group):
        return f"{name} ({len(part.jobs)})"
    if isinstance(part, SubWorkflow):
        return f"{name} (workflow of {len(part.inner.parts)})"
    return f"{name} (graft)" if isinstance(part, GraftPlace) else name


def _line(begin: Box, end: Box, *, dashed: bool) -> str:
    x, y, to_x, to_y = begin.x + begin.width, begin.y + HEIGHT / 2, end.x, end.y + HEIGHT / 2
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<path d="{curve(x, y, to_x, to_y)}" fill="none" stroke="#555" marker-end="url(#to)"{dash}/>'


def _box(box: Box) -> str:
    return (
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{HEIGHT}" rx="4" fill="#fff" stroke="#555"/>'
        f'<text x="{box.x + box.width / 2:g}" y="{box.y + HEIGHT / 2 + 4:g}" text-anchor="middle">'
        f"{escape(_printable(box.label))}</text>"
    )


def _printable(text: str) -> str:
    """Leave out what XML can't hold."""
    return "".join(each if each.isprintable() else " " for each in text)

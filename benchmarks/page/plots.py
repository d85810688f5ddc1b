"""Bar charts as small SVG files that read well on light and on dark pages."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, LEFT, RIGHT, TOP, BAR, GAP, APART = 760, 210, 160, 40, 18, 4, 16
COLOURS = {
    "floor": "#8c959f",
    "oban_sa": "#2da44e",
    "oban": "#d4a72c",
    "pgqueuer": "#4b8bf4",
    "procrastinate": "#bf6bd6",
    "chancy": "#e0703c",
    "dbos": "#1f9ea8",
}
STYLE = """
text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #424a53 }
.title { font-weight: 600; font-size: 15px }
.value { font-variant-numeric: tabular-nums; font-size: 12px }
.strong { font-weight: 600 }
@media (prefers-color-scheme: dark) { text { fill: #c9d1d9 } }
"""


@dataclass(frozen=True)
class Bar:
    """One bar: whose it is, its value, and what is written beside it."""

    contender: str
    value: float
    text: str
    called: str = ""


@dataclass(frozen=True)
class Group:
    """Bars that are compared with each other; each group has a scale of its own where `own_scale` holds."""

    title: str
    bars: Sequence[Bar]


def chart(title: str, groups: Sequence[Group], *, own_scale: bool = False) -> str:
    """Draw horizontal bars in groups."""
    parts: list[str] = []
    y = TOP + 8
    longest = max((bar.value for group in groups for bar in group.bars), default=0.0)
    for group in groups:
        if group.title:
            parts.append(_text(0, y + 12, group.title, "strong"))
            y += 22
        most = max((bar.value for bar in group.bars), default=0.0) if own_scale else longest
        for bar in group.bars:
            width = max(1.0, (WIDTH - LEFT - RIGHT) * bar.value / most) if most else 1.0
            strong = "strong" if bar.contender == "oban_sa" else ""
            parts.append(_text(LEFT - 8, y + 13, bar.called or bar.contender, strong, anchor="end"))
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" '
                f'fill="{COLOURS.get(bar.contender, "#8c959f")}"/>'
            )
            parts.append(_text(LEFT + width + 6, y + 13, bar.text, f"value {strong}".strip()))
            y += BAR + GAP
        y += APART
    height = y
    label = html.escape(title, quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{label}">\n<style>{STYLE}</style>\n{_text(0, 18, title, "title")}\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "start") -> str:
    shown = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{shown}>{html.escape(text)}</text>'

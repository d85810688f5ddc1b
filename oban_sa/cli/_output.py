"""What commands print: tables for people, one JSON document for machines."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import click

from oban_sa.describe import printable
from oban_sa.wire import json_text

Row = Sequence[object]

LEFT_OUT: Final = "…"

WIDEST: Final = 300
"""Characters of a cell at most: every row is as wide as the widest one, and names may be of any length."""


def document(value: Mapping[str, object]) -> None:
    """Print one JSON document; moments are ISO 8601 in UTC, and NaN and infinities are null."""
    click.echo(printable.in_json(json_text.write(value, indent=True)))


def say(text: str, *, err: bool = False) -> None:
    """Print a line that may contain foreign names and texts; control characters in it are written as escapes."""
    click.echo(printable.line(text), err=err)


def table(columns: Sequence[str], rows: Sequence[Row], *, right: Sequence[str] = (), wide: str | None = None) -> None:
    """Print rows below their columns' names; on a terminal with rich, where it is installed.

    Columns in `right` are aligned right. Where a row is too wide for the terminal its column `wide` is cut; a file or
    another program gets all of it.
    """
    cells = [
        ["-" if cell is None or cell == "" else _clipped(printable.line(str(cell))) for cell in row] for row in rows
    ]
    terminal = sys.stdout.isatty()
    if terminal and _rich(columns, cells, right, wide):
        return
    widths = [max(len(name), *(len(row[index]) for row in cells)) for index, name in enumerate(columns)]
    if terminal and wide is not None:
        at = columns.index(wide)
        spare = shutil.get_terminal_size().columns - sum(widths) - 2 * (len(widths) - 1)
        widths[at] = max(len(wide), 10, widths[at] + min(0, spare))
    for row in [[name.upper() for name in columns], *cells]:
        click.echo("  ".join(_fitted(cell, widths[at], columns[at] in right) for at, cell in enumerate(row)).rstrip())


def compact(value: object) -> str:
    """Return a JSON value on one line."""
    return json_text.write(value)


def pretty(value: object) -> str:
    """Return a JSON value, indented, on as many lines as it takes."""
    return json_text.write(value, indent=True)


def _clipped(cell: str) -> str:
    return cell if len(cell) <= WIDEST else cell[: WIDEST - 1] + LEFT_OUT


def _fitted(text: str, width: int, right: bool) -> str:
    if len(text) > width:
        text = text[: width - 1] + LEFT_OUT
    return text.rjust(width) if right else text.ljust(width)


def _rich(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str], wide: str | None) -> bool:
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in columns:
        drawn.add_column(
            name, justify="right" if name in right else "left", no_wrap=True, overflow="ellipsis",
            ratio=1 if name == wide else None,
        )  # fmt: skip
    for row in rows:
        # As Text: args and names of jobs may look like rich's markup.
        drawn.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console().print(drawn)
    return True


_STYLES: Final = {
    "executing": "cyan",
    "retryable": "yellow",
    "discarded": "red",
    "cancelled": "magenta",
    "completed": "green",
    "paused": "yellow",
    "silent": "red",
}

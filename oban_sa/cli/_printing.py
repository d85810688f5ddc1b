"""What commands print: tables and spans of time for people, one JSON document for machines."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from oban_sa import jsontext, printable

Row = Sequence[object]

LEFT_OUT: Final = "…"

WIDEST: Final = 300
"""Characters of a cell: every row of a table is as wide as its widest one, and names may be of any length."""

_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def document(value: Mapping[str, Any]) -> None:
    """Print one JSON document; moments are ISO 8601 in UTC, and numbers that are none null."""
    click.echo(printable.in_json(jsontext.write(value, indent=True)))


def say(text: str, *, err: bool = False) -> None:
    """Print a line that may hold names and texts of others, with what a terminal would obey written as escapes."""
    click.echo(printable.line(text), err=err)


def table(columns: Sequence[str], rows: Sequence[Row], *, right: Sequence[str] = (), wide: str | None = None) -> None:
    """Print rows below their columns' names; on a terminal with rich, where it is installed.

    Columns in `right` are numbers. What is too wide for the terminal is cut in the column `wide`; a file or another
    program gets all of it.
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


def span(seconds: float) -> str:
    """A span of time in its two largest units: "3 min 20 s"; "0.4 s" below a second."""
    if math.isinf(seconds):  # a moment that is none, which somebody wrote into a row
        return "for ever" if seconds > 0 else span(0)
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds:.1f} s"
    rest, parts = int(seconds), list[str]()
    for size, unit in _UNITS:
        if rest >= size:
            parts.append(f"{rest // size} {unit}")
            rest %= size
        elif parts:
            break
    return " ".join(parts[:2])


def ago(moment: datetime | None, now: datetime) -> str:
    """How long ago a moment was, or how far it is ahead."""
    if moment is None:
        return "-"
    seconds = (now - moment).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def moment(value: datetime | None, now: datetime) -> str:
    """A moment in UTC to the second, and how long ago it was."""
    if value is None:
        return "-"
    try:
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC  ({ago(value, now)})"
    except OverflowError:  # in a time zone in which it isn't the year 1 or 9999 yet, or any more
        return value.isoformat()


def count(number: int, noun: str) -> str:
    """`1 job`, `1,234 jobs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def compact(value: object) -> str:
    """A JSON value on one line."""
    return jsontext.write(value)


def pretty(value: object) -> str:
    """A JSON value on as many lines as it takes."""
    return jsontext.write(value, indent=True)


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
        # As Text, since what jobs hold may look like markup.
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

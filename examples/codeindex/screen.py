"""What the person who started it sees: a progress bar and a table, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
    from rich.text import Text

    RICH = sys.stdout.isatty()
except ImportError:  # an extra of oban_sa: pip install 'oban-sa[rich]'
    RICH = False


class Bar(Protocol):
    """Shows how far the work has come."""

    def show(self, done: int, total: int) -> None: ...


class _Lines:
    """A line now and then, for logs and pipes."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()
        self._tenths = 0

    def show(self, done: int, total: int) -> None:
        tenths = 10 * done // total if total else 0
        if tenths > self._tenths or time.monotonic() > self._said_at + 10:
            self._said_at, self._tenths = time.monotonic(), tenths
            say(f"  {done} of {total} files")


class _RichBar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("indexing", total=None)

    def show(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)


@contextmanager
def bar() -> Iterator[Bar]:
    """Show progress as long as the block runs; what is said meanwhile appears above it."""
    if not RICH:
        yield _Lines()
        return
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console()) as progress:
        yield _RichBar(progress)


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def table(title: str, rows: Iterable[tuple[str, object]]) -> None:
    """Print a table of two columns."""
    listed = [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in rows]
    if not listed:
        return
    if RICH:
        shown = Table(title=title, title_justify="left", title_style="bold", show_header=False)
        numbers = all(value.replace(",", "").isdigit() for _, value in listed)
        shown.add_column(overflow="fold")
        shown.add_column(justify="right" if numbers else "left", overflow="fold")
        for name, value in listed:
            shown.add_row(Text(name), Text(value))  # as text, so that [brackets] are not taken for markup
        Console().print(shown)
        return
    width = max(len(name) for name, _ in listed)
    say(title)
    for name, value in listed:
        say(f"  {name:<{width}}  {value}")

"""How values are written on pages: numbers, moments, JSON and the last lines of errors."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, cast

from jinja2.runtime import Context
from jinja2.utils import pass_context
from markupsafe import Markup, escape

from oban_sa.describe import printable, spans
from oban_sa.models import Job
from oban_sa.wire import json_text

_MOST_LINE: Final = 300
_MOST_BLOCK: Final = 100_000
_LIBRARY: Final = re.compile(r'^  File "[^"]*(site-packages|dist-packages|/lib/python3|/asyncio/|oban_sa/runner/)')
_FRAME: Final = re.compile(r'^  File "')


def number(value: int) -> str:
    """Return a number with commas; from a million on with one digit: "4.9 M"."""
    if value >= 1_000_000_000:
        return f"{value / 1_000_000_000:.1f} G"
    return f"{value / 1_000_000:.1f} M" if value >= 1_000_000 else f"{value:,}"


def line(value: object) -> str:
    """Return a JSON value on one line, cut where it is long; control characters are escapes."""
    text = printable.line(json_text.write(value))
    return text if len(text) <= _MOST_LINE else text[: _MOST_LINE - 1] + "…"


def block(value: object) -> str:
    """Return a JSON value on several lines."""
    return clipped(printable.block(json_text.write(value, indent=True)))


def plain(value: object) -> str:
    """Return a foreign text on one line, with control characters as escapes."""
    return printable.line(value if isinstance(value, str) else json_text.write(value))


def commands(text: str) -> Markup:
    """Return a sentence with what stands in backticks as code."""
    parts = [escape(plain(part)) for part in text.split("`")]
    marked = [part if at % 2 == 0 else Markup("<code>{}</code>").format(part) for at, part in enumerate(parts)]
    return Markup("").join(marked)


def clipped(text: str) -> str:
    """Return a text, cut where it is very long."""
    return text if len(text) <= _MOST_BLOCK else text[:_MOST_BLOCK] + f"\n… {len(text) - _MOST_BLOCK:,} characters more"


@pass_context
def when(context: Context, value: datetime | None) -> Markup:
    """Return a moment as how long ago it was, with the exact one as its title."""
    if value is None:
        return Markup("–")
    now = cast("datetime", context["now"])
    if value.tzinfo is None:  # as statements return it that know no models
        value = value.replace(tzinfo=UTC)
    words = "just now" if abs((now - value).total_seconds()) < 1 else spans.ago(value, now)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(value.isoformat(), spans.exact(value), words)


def since(began: datetime | None, ended: datetime | None) -> str:
    """Return how long something lasted, in milliseconds where that is short."""
    if began is None or ended is None:
        return ""
    return duration((ended - began).total_seconds())


def duration(seconds: float | None) -> str:
    """Return a span: "12 ms", "3 min 20 s"."""
    return "–" if seconds is None else spans.duration(seconds)


def moment_of(job: Job) -> datetime | None:
    """Return the moment that matters most in a job's state: when it ended, began or is due."""
    match job.state.value:
        case "completed":
            return job.completed_at
        case "cancelled":
            return job.cancelled_at
        case "discarded":
            return job.discarded_at
        case "executing":
            return job.attempted_at
        case _:
            return job.scheduled_at


def short(worker: str) -> str:
    """Return the last part of a worker's name."""
    return worker.rpartition(".")[2]


def summary(error: object) -> str:
    """Return the last line of an error that says something: the exception and its message."""
    text = _text_of(error)
    lines = [each.strip() for each in text.strip().splitlines() if each.strip()]
    if not lines:
        return ""
    # A traceback ends with the exception; what Elixir writes begins with it.
    found = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    return plain(found)[:_MOST_LINE]


def frames(error: object) -> Markup:
    """Return an error's text with runs of frames of libraries folded."""
    found: list[str] = []
    folded: list[str] = []
    inside = False

    def flush() -> None:
        if not folded:
            return
        count = sum(1 for each in folded if _FRAME.match(each))
        body = escape("\n".join(folded))
        found.append(
            f'<details class="frames"><summary>{count} frame{"" if count == 1 else "s"} of libraries</summary>'
            f"<pre>{body}</pre></details>"
        )
        folded.clear()

    ours: list[str] = []

    def write() -> None:
        if ours:
            found.append(f"<pre>{escape(chr(10).join(ours))}</pre>")
            ours.clear()

    for each in clipped(printable.block(_text_of(error).rstrip())).split("\n"):
        if _FRAME.match(each):
            inside = bool(_LIBRARY.match(each))
        elif not each.startswith("    "):
            inside = False
        if inside:
            write()
            folded.append(each)
        else:
            flush()
            ours.append(each)
    flush()
    write()
    return Markup("".join(found))  # noqa: S704 - every part was escaped


def _text_of(error: object) -> str:
    if isinstance(error, dict):
        known = cast("dict[str, object]", error)
        said = known.get("error", known)
        return said if isinstance(said, str) else json_text.write(said)
    return error if isinstance(error, str) else json_text.write(error)

"""A record of a log as text for people or as JSON for machines.

What a row, an exception or a worker's own code says starts no line of its own and drives no terminal: a record
begins at the left edge, and what belongs to it is indented. Nothing that is logged keeps its line from being written.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import orjson

from oban_sa import telemetry
from oban_sa.describe import exceptions, printable
from oban_sa.describe.redaction import redacted

INDENT: Final = "    "
"""Stands before each line of a record but its first."""

_MAX_TRACEBACK: Final = 64_000


def in_line(record: logging.LogRecord) -> bool:
    """Keep what rows, signals and settings say on the line of a message of ours, also in the log of a program.

    A filter of the runner's logger. Exceptions among the arguments stay, and the lines of their messages.
    """
    if isinstance(record.args, tuple):
        record.args = tuple(printable.line(each) if isinstance(each, str) else each for each in record.args)
    return True


class TextLines(logging.Formatter):
    """A line for people: time, level, what happened, and for jobs the queue and the attempt."""

    def __init__(self, *, colors: bool = False) -> None:
        super().__init__()
        self._colors = colors

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text, with a traceback below it where there is one, and without passwords."""
        second, millisecond = _moment(record)
        moment = f"{_local(second)}.{millisecond:03}"
        facts = _about_job(record)
        name = "" if record.name.startswith("oban_sa") else f"{printable.line(record.name)}: "
        level = f"{printable.line(record.levelname):<7}"
        if self._colors:
            moment, facts = f"\x1b[2m{moment}\x1b[0m", f"\x1b[2m{facts}\x1b[0m" if facts else ""
            level = f"\x1b[{_COLORS.get(record.levelno, 0)}m{level}\x1b[0m"
        first, end, rest = printable.block(message(record).strip("\r\n")).partition("\n")
        text = f"{moment} {level} {name}{first}{'  ' if facts else ''}{facts}"
        for below in (rest, *_trace(record)) if end else _trace(record):
            text += "\n" + printable.block(below, indent=INDENT)
        return redacted(text)


class JSONLines(logging.Formatter):
    """One JSON object per line; what a program adds with `extra` becomes further keys."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON, without passwords."""
        second, millisecond = _moment(record)
        line: dict[str, object] = {
            "time": f"{_utc(second)}.{millisecond:03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(message(record)),
        }
        for key, value in record.__dict__.items():
            if key not in _STANDARD and key not in line:
                line |= _facts(value) if isinstance(value, telemetry.Event) else {key: _safe(value)}
        if trace := "\n".join(_trace(record)):
            line["traceback"] = redacted(trace)
        try:
            text = _dumped(line)
        except (Exception, SystemExit):  # an odd value in a program's `extra` must not cost the line
            text = _dumped({_encodable(str(key)): _told(value) for key, value in line.items()})
        return printable.in_json(text.decode())


_COLORS: Final = {logging.DEBUG: 2, logging.INFO: 32, logging.WARNING: 33, logging.ERROR: 31, logging.CRITICAL: 31}
_STANDARD: Final = logging.LogRecord("", 0, "", 0, "", (), None).__dict__.keys() | {"message", "asctime", "taskName"}


def message(record: logging.LogRecord) -> str:
    """Return what is said; where its parts don't fit together, what they are."""
    try:
        return str.__str__(record.getMessage())
    except (Exception, SystemExit) as error:  # what str() of an argument raised
        arguments = record.args if isinstance(record.args, tuple) else (record.args,)
        parts = ", ".join(exceptions.shown(each) for each in (record.msg, *arguments))
        return f"{parts} (this could not be put together: {exceptions.describe(error)})"


def _moment(record: logging.LogRecord) -> tuple[int, int]:
    """Return the second in which it was made, and the millisecond of that, as datetime reads them."""
    fraction, whole = math.modf(record.created)
    seconds, microsecond = divmod(round(fraction * 1_000_000), 1_000_000)
    return int(whole) + seconds, microsecond // 1000


# Records of one second share its text, which takes longer to make than the rest of most lines.


@lru_cache(maxsize=8)
def _local(second: int) -> str:
    return datetime.fromtimestamp(second).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@lru_cache(maxsize=8)
def _utc(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


def _about_job(record: logging.LogRecord) -> str:
    """Return what a line of text says about the job besides its message."""
    event = getattr(record, "event", None)
    if isinstance(event, telemetry.JobEvent):
        facts = f"queue={_shown(event.queue)} attempt={event.attempt}/{event.max_attempts}"
        for key in ("schema", "node"):
            if value := vars(record).get(key):
                facts += f" {key}={_shown(value)}"
        return facts
    keys = ("job_id", "worker", "queue", "attempt", "schema", "node")
    return " ".join([f"{key}={_shown(getattr(record, key))}" for key in keys if hasattr(record, key)])


def _shown(value: object) -> str:
    return printable.line(exceptions.message(value))


def _trace(record: logging.LogRecord) -> list[str]:
    found: list[str] = []
    if record.exc_info and record.exc_info[1] is not None:
        trace = exceptions.traceback_from(record.exc_info[1], record.exc_info[2])
        found.append(exceptions.bounded(trace.rstrip("\n"), _MAX_TRACEBACK))
    elif record.exc_text:  # it comes from another process
        found.append(exceptions.bounded(record.exc_text, _MAX_TRACEBACK))
    if record.stack_info:
        found.append(record.stack_info)
    return found


def _facts(event: telemetry.Event) -> dict[str, object]:
    """Return the fields of an event under the names they have in the documentation."""
    facts: dict[str, object] = {"event": event.name}
    for name in _TOLD[type(event)]:
        value = getattr(event, name)
        if isinstance(value, float):
            facts[name] = round(value, 6)
        elif name == "runner" and isinstance(value, telemetry.Source):
            facts |= {"node": value.node, "name": value.name, "schema": value.schema}
        elif name == "error" and isinstance(value, BaseException):
            facts["error"] = redacted(exceptions.named(value))
        else:
            facts[name] = value
    return facts


class _Told(dict[type[telemetry.Event], tuple[str, ...]]):
    def __missing__(self, event: type[telemetry.Event]) -> tuple[str, ...]:
        found = self[event] = tuple(each.name for each in dataclasses.fields(event) if each.name != "job")
        return found


_TOLD: Final = _Told()
"""The names of what is told of events of each class: all fields but the job itself."""


def _safe(value: object) -> object:
    return redacted(value) if isinstance(value, str) else value


def _dumped(value: object) -> bytes:
    return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return _encodable(redacted(exceptions.message(value)))


def _told(value: object) -> object:
    """Return a value as JSON where it can be, else as a text."""
    try:
        return orjson.Fragment(_dumped(value))
    except (Exception, SystemExit):
        if type(value) is int and value.bit_length() <= _MAX_BITS:
            return orjson.Fragment(str(value))
        return _encodable(redacted(exceptions.message(value)))


_MAX_BITS: Final = 4_000
"""Bits of an integer that is still written as one: Python refuses to write out more than 4,300 digits."""


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()

"""What the runner command writes to its log: a line for people or a JSON object for machines, built on telemetry.

Only the command configures logging. The library itself writes to loggers below `oban_sa` and leaves the rest to the
program that uses it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TextIO

import orjson

from oban_sa import telemetry
from oban_sa.errors import JobNotFound, ObanError
from oban_sa.passwords import redacted
from oban_sa.runner.command.sentences import named, sentence
from oban_sa.runner.disconnects import is_away
from oban_sa.states import JobState
from oban_sa.workers.current import current_job

_LEVELS: Final[dict[type[telemetry.Event], int]] = {
    telemetry.JobStart: logging.DEBUG,
    telemetry.JobStop: logging.INFO,
    telemetry.JobException: logging.ERROR,  # a warning while attempts are left
    telemetry.JobStale: logging.WARNING,
    telemetry.JobIdle: logging.DEBUG,  # the runner's own logger says what to do
    telemetry.ProducerFetch: logging.DEBUG,
    telemetry.ProducerAck: logging.DEBUG,
    telemetry.ProducerLost: logging.DEBUG,  # the producer's own logger tells more
    telemetry.StagerStage: logging.DEBUG,
    telemetry.LeaderElection: logging.INFO,
    telemetry.LifelineRescue: logging.WARNING,
    telemetry.PrunerPrune: logging.INFO,
    telemetry.SchedulerTick: logging.DEBUG,
    telemetry.NotifierConnected: logging.INFO,
    telemetry.NotifierDisconnected: logging.WARNING,
    telemetry.NotifierDeaf: logging.DEBUG,  # the notifier's own logger says what to do
    telemetry.RunnerStart: logging.INFO,
    telemetry.RunnerStopping: logging.INFO,
    telemetry.RunnerStop: logging.INFO,
    telemetry.RunnerRetry: logging.WARNING,
    telemetry.RunnerRecover: logging.INFO,
    telemetry.RunnerLag: logging.DEBUG,  # the watch's own logger said so while it lasted
}


def configure(
    level: str = "info",
    log_format: str = "text",
    stream: TextIO | None = None,
    verbose: Iterable[str] = (),
    node: str | None = None,
    schemas: bool = False,
) -> None:
    """Send everything that is logged to `stream` (stderr) as text or JSON, at `level` and above.

    `node` is named in each line, for where several write to one place, and with `schemas` the schema an event is about.

    Below `info` only this library and the modules in `verbose` speak: a driver's debug output helps nobody.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(_with_current_job)
    if node is not None:
        handler.addFilter(partial(_with_node, node))
    if schemas:
        handler.addFilter(_with_schema)
    handler.setFormatter(JSONLines() if log_format == "json" else TextLines(colors=_colors(handler.stream)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.INFO))
    for name in {"oban_sa", *(module.partition(".")[0] for module in verbose)}:
        logging.getLogger(name).setLevel(number)
    # Its words on every migration, "Context impl PostgresqlImpl.", are for those who write migrations.
    logging.getLogger("alembic").setLevel(max(number, logging.WARNING))
    logging.captureWarnings(True)


def follow_events() -> Callable[[], None]:
    """Write the runner's events to the loggers `oban_sa.job`, `oban_sa.producer` and so on; returns the way to stop it.

    Events below the level of their logger are not listened to, so that they cost nothing.
    """
    return _followers.join(asked=True)


def follow_events_of_runners() -> Callable[[], None]:
    """Do the same for a runner inside of a program: one writes for all, and none where the program asked for it."""
    return _followers.join(asked=False)


class _Followers:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0
        self._runners = 0
        self._detach: Callable[[], None] | None = None

    def join(self, *, asked: bool) -> Callable[[], None]:
        with self._lock:
            if asked:
                self._asked += 1
                detach = _attach()
            else:
                self._runners += 1
                if self._detach is None and not self._asked:
                    self._detach = _attach()
                detach = None
        left = False

        def leave() -> None:
            nonlocal left
            with self._lock:
                if left:
                    return
                left = True
                if detach is not None:
                    self._asked -= 1
                    detach()
                    return
                self._runners -= 1
                if self._runners == 0 and self._detach is not None:
                    self._detach()
                    self._detach = None

        return leave


_followers: Final = _Followers()


def _attach() -> Callable[[], None]:
    heard = [event for event, level in _LEVELS.items() if _logger(event).isEnabledFor(level)]
    return telemetry.attach(_Story().write, *heard) if heard else lambda: None


def _with_current_job(record: logging.LogRecord) -> bool:
    """Let what a worker's own code logs say which job it was."""
    if not hasattr(record, "event"):
        try:
            job = current_job()
        except JobNotFound:
            return True
        for key, value in {"job_id": job.id, "worker": job.worker, "queue": job.queue, "attempt": job.attempt}.items():
            record.__dict__.setdefault(key, value)
    return True


def _with_node(node: str, record: logging.LogRecord) -> bool:
    record.__dict__.setdefault("node", node)
    return True


def _with_schema(record: logging.LogRecord) -> bool:
    event = getattr(record, "event", None)
    if isinstance(event, telemetry.Event):
        record.__dict__.setdefault("schema", event.runner.schema)
    return True


class _Story:
    """Writes events, telling of each trouble when it begins and when it ends and not all the time between."""

    def __init__(self) -> None:
        self._told: set[tuple[telemetry.Source, str]] = set()

    def write(self, event: telemetry.Event) -> None:
        level = self._level(event)
        logger = _logger(type(event))
        if level and logger.isEnabledFor(level):
            trace = event.error if isinstance(event, telemetry.JobException) and _is_traced(event.error) else None
            logger.log(level, "%s", sentence(event), exc_info=trace, extra={"event": event})

    def _level(self, event: telemetry.Event) -> int:
        """Return the level for this very event; 0 is for what is not worth a line at any."""
        match event:
            case telemetry.JobException(state=state) if state is not JobState.DISCARDED:
                return logging.WARNING
            case telemetry.ProducerFetch(count=0) | telemetry.ProducerAck(count=0) | telemetry.StagerStage(count=0):
                return 0
            case telemetry.LifelineRescue(count=0):
                return 0
            case telemetry.RunnerRetry():
                # When the database is away every part fails, and `oban_sa.runner` says once that it is, and is back.
                if is_away(event.error) or not self._begins(event, event.part, again=_is_milestone(event.attempt)):
                    return logging.DEBUG
            case telemetry.RunnerRecover():
                return logging.INFO if self._ends(event, event.part) else logging.DEBUG
            case telemetry.NotifierDisconnected():
                if not self._begins(event, "notifier"):
                    return logging.DEBUG
            case telemetry.NotifierConnected():
                self._ends(event, "notifier")
            case _:
                pass
        return _LEVELS[type(event)]

    def _begins(self, event: telemetry.Event, part: str, *, again: bool = False) -> bool:
        known = (event.runner, part) in self._told
        self._told.add((event.runner, part))
        return again or not known

    def _ends(self, event: telemetry.Event, part: str) -> bool:
        known = (event.runner, part) in self._told
        self._told.discard((event.runner, part))
        return known


def _is_traced(error: BaseException | None) -> bool:
    return not isinstance(error, ObanError) or error.traced


def _is_milestone(attempt: int) -> bool:
    return attempt >= 8 and not attempt & (attempt - 1)


def _logger(event: type[telemetry.Event]) -> logging.Logger:
    return logging.getLogger("oban_sa." + event.name.split(".")[1])


class TextLines(logging.Formatter):
    """A line for people: time, level, what happened, and for jobs the queue and the attempt."""

    def __init__(self, *, colors: bool = False) -> None:
        super().__init__()
        self._colors = colors

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text, with a traceback below it where there is one, and without passwords."""
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        facts = "".join(f"{key}={value} " for key, value in _about_job(record).items()).strip()
        name = "" if record.name.startswith("oban_sa") else f"{record.name}: "
        level = f"{record.levelname:<7}"
        if self._colors:
            moment, facts = f"\x1b[2m{moment}\x1b[0m", f"\x1b[2m{facts}\x1b[0m" if facts else ""
            level = f"\x1b[{_COLORS.get(record.levelno, 0)}m{level}\x1b[0m"
        lines = [f"{moment} {level} {name}{record.getMessage()}{'  ' if facts else ''}{facts}"]
        lines += [*_trace(self, record)]
        return redacted("\n".join(lines))


class JSONLines(logging.Formatter):
    """One JSON object per line; what a program adds with `extra` becomes further keys."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON, without passwords."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        for key, value in record.__dict__.items():
            if key not in _STANDARD and key not in line:
                line |= _facts(value) if isinstance(value, telemetry.Event) else {key: _safe(value)}
        if trace := "\n".join(_trace(self, record)):
            line["traceback"] = redacted(trace)
        try:
            return orjson.dumps(line, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a huge integer or a lone surrogate in somebody's `extra` must not cost the line
            return json.dumps({str(key): value for key, value in line.items()}, default=str, skipkeys=True)


_COLORS: Final = {logging.DEBUG: 2, logging.INFO: 32, logging.WARNING: 33, logging.ERROR: 31, logging.CRITICAL: 31}
_STANDARD: Final = logging.LogRecord("", 0, "", 0, "", (), None).__dict__.keys() | {"message", "asctime", "taskName"}


def _colors(stream: TextIO) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _about_job(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a line of text says about the job besides its message."""
    event = getattr(record, "event", None)
    if isinstance(event, telemetry.JobEvent):
        facts = {"queue": event.queue, "attempt": f"{event.attempt}/{event.max_attempts}"}
        return facts | {key: getattr(record, key) for key in ("schema", "node") if getattr(record, key, None)}
    keys = ("job_id", "worker", "queue", "attempt", "schema", "node")
    return {key: getattr(record, key) for key in keys if hasattr(record, key)}


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> Iterator[str]:
    if record.exc_info and record.exc_info[1] is not None:
        yield formatter.formatException(record.exc_info)
    elif record.exc_text:  # it comes from another process
        yield record.exc_text
    if record.stack_info:
        yield formatter.formatStack(record.stack_info)


def _facts(event: telemetry.Event) -> dict[str, Any]:
    """Return the fields of an event under the names they have in the documentation."""
    facts: dict[str, Any] = {"event": event.name}
    for each in dataclasses.fields(event):
        value = getattr(event, each.name)
        match each.name, value:
            case "job", _:
                pass
            case "runner", telemetry.Source():
                facts |= {"node": value.node, "name": value.name, "schema": value.schema}
            case "error", BaseException():
                facts["error"] = redacted(named(value))
            case _, float():
                facts[each.name] = round(value, 6)
            case _:
                facts[each.name] = value
    return facts


def _safe(value: object) -> object:
    return redacted(value) if isinstance(value, str) else value


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return redacted(str(value))

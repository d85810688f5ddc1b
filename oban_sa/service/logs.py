"""The log of the command: a line for people or a JSON object for machines.

Only the command configures logging. The library itself writes to loggers below `oban_sa` and leaves the rest to the
program that uses it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from functools import partial
from typing import TextIO

from oban_sa import telemetry
from oban_sa.describe.job_facts import job_facts
from oban_sa.errors import JobNotFound
from oban_sa.telemetry import log_guard
from oban_sa.telemetry.lines import JSONLines, TextLines
from oban_sa.workers.current import current_job


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

    Below `info` only this library and the modules in `verbose` speak: a driver's debug output is left out.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    handler = _Lines(stream or sys.stderr)
    handler.addFilter(_with_current_job)
    if node is not None:
        handler.addFilter(partial(_with_node, node))
    if schemas:
        handler.addFilter(_with_schema)
    handler.setFormatter(JSONLines() if log_format == "json" else TextLines(colors=_colors(handler.stream)))
    log_guard.install(handler)
    logging.getLogger().setLevel(max(number, logging.INFO))
    for name in {"oban_sa", *(module.partition(".")[0] for module in verbose)}:
        logging.getLogger(name).setLevel(number)
    # Its words on every migration, "Context impl PostgresqlImpl.", are for those who write migrations.
    logging.getLogger("alembic").setLevel(max(number, logging.WARNING))
    logging.captureWarnings(True)


class _Lines(logging.StreamHandler[TextIO]):
    """Writes each record at once: a process may end in any way after it."""

    def flush(self) -> None:
        """Flush the stream, unless it does so by itself with each line, as stderr does."""
        if not getattr(self.stream, "line_buffering", False):
            super().flush()


def _with_current_job(record: logging.LogRecord) -> bool:
    """Add the current job to what a worker's own code logs."""
    if not hasattr(record, "event"):
        try:
            job = current_job()
        except JobNotFound:
            return True
        for key, value in job_facts(job).items():
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


def _colors(stream: TextIO) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

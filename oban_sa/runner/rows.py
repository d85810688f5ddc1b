"""Fetched rows, as jobs."""

from __future__ import annotations

from datetime import UTC
from operator import itemgetter
from typing import Any, Final

import asyncpg

from oban_sa import jsontext
from oban_sa.errors import InvalidArguments
from oban_sa.models import Job
from oban_sa.models.types import errors_from_database, labels_from_database
from oban_sa.sql.fetching import FETCHED, MOMENTS
from oban_sa.states import JobState

_URGENCY: Final = itemgetter("priority", "scheduled_at", "id")


def in_order(rows: list[asyncpg.Record]) -> list[asyncpg.Record]:
    """Put fetched rows in the order in which their jobs are begun: RETURNING keeps none."""
    if len(rows) < 2:
        return rows
    rows.sort(key=_URGENCY)
    return rows


def job_of(row: asyncpg.Record, queue: str, attempted_by: list[str]) -> Job:
    """Make the job of a fetched row; raises what keeps it from being read, such as args that are no object."""
    columns: dict[str, Any] = dict(zip(FETCHED, row, strict=False))
    args, meta, errors = columns["args"], columns["meta"], columns["errors"]
    columns["args"] = jsontext.read(args)
    columns["meta"] = {} if meta == "{}" or meta is None else jsontext.read(meta)
    columns["errors"] = [] if errors == "[]" or errors is None else errors_from_database(errors)
    if not isinstance(columns["args"], dict):
        raise InvalidArguments(f"args of a job are a JSON object; this one's are {args:.100}")
    if not isinstance(columns["meta"], dict):
        columns["meta"] = {}
    columns["state"] = JobState.EXECUTING
    columns["queue"] = queue
    columns["attempted_by"] = attempted_by.copy()
    columns["tags"] = labels_from_database(tags) if (tags := columns["tags"]) else []
    if columns["inserted_at"].tzinfo is not UTC:  # the engine has a codec of its own
        for name in MOMENTS:
            if (moment := columns[name]) is not None:
                columns[name] = moment.replace(tzinfo=UTC)
    return Job.from_columns(columns)


def unread(row: asyncpg.Record, queue: str, attempted_by: list[str]) -> Job:
    """What can be said of a job whose args, meta or errors can't be read."""
    known = {**dict(row), "state": "executing", "queue": queue, "attempted_by": list(attempted_by)}
    return Job.from_row({**known, "args": {}, "meta": {}, "errors": []})

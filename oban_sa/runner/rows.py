"""Fetched rows, as jobs."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import orjson

from oban_sa.errors import InvalidArguments
from oban_sa.models import Job
from oban_sa.sql.fetching import JSON_TEXT


def job_of(row: asyncpg.Record, queue: str, attempted_by: list[str]) -> Job:
    """Make the job of a fetched row; raises what keeps it from being read, such as args that are no object."""
    values: dict[str, Any] = dict(row)
    values["state"] = "executing"
    values["queue"] = queue
    values["attempted_by"] = list(attempted_by)
    try:
        job = Job.from_row(values)
    except orjson.JSONDecodeError:
        # jsonb holds numbers of any size, for which Python's own reader has more room.
        for name in JSON_TEXT:
            values[name] = json.loads(values[name] or "null")
        job = Job.from_row(values)
    loaded: dict[str, Any] = job.__dict__  # pyright: ignore[reportAssignmentType]
    if not isinstance(loaded["args"], dict):
        raise InvalidArguments(f"args of a job are a JSON object; this one's are {row['args']:.100}")
    if not isinstance(loaded["meta"], dict):
        loaded["meta"] = {}
    return job


def unread(row: asyncpg.Record, queue: str, attempted_by: list[str]) -> Job:
    """What can be said of a job whose args, meta or errors can't be read."""
    known = {**dict(row), "state": "executing", "queue": queue, "attempted_by": list(attempted_by)}
    return Job.from_row({**known, "args": {}, "meta": {}, "errors": []})

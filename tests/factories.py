"""Rows as nodes leave them, and jobs, for tests that have no node which runs.

What makes a row returns a statement and its values; `add` of the fixtures runs it: `harness.add(producer("dead.1"))`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from oban_sa.models import Job

PRODUCER = """
INSERT INTO oban_producers (uuid, name, node, queue, meta, started_at, updated_at)
VALUES (CAST(:uuid AS uuid), :name, :node, :queue, CAST(:meta AS jsonb), timezone('UTC', now()),
        timezone('UTC', clock_timestamp()) - make_interval(secs => :silent_for))
"""
EXECUTING = """
UPDATE oban_jobs SET state = 'executing', attempt = attempt + 1, attempted_by = CAST(:by AS text[]),
    attempted_at = timezone('UTC', now()) - make_interval(secs => :since)
WHERE id = ANY(CAST(:ids AS bigint[]))
"""


class Row(NamedTuple):
    """A statement that writes rows, and its values."""

    statement: str
    values: dict[str, Any]


def producer(
    node: str = "web.1",
    *,
    queue: str = "default",
    name: str = "Oban",
    silent_for: float = 0.0,
    uuid: UUID | str | None = None,
    **meta: Any,
) -> Row:
    """A queue on a node whose last heartbeat was `silent_for` seconds ago; `meta` is what it says of itself."""
    values = {
        "uuid": str(uuid or uuid4()),
        "name": name,
        "node": node,
        "queue": queue,
        "silent_for": silent_for,
        "meta": json.dumps(meta),
    }
    return Row(PRODUCER, values)


def executing(ids: Iterable[int], *, by: UUID | str, node: str = "web.1", since: float = 0.0) -> Row:
    """Jobs whose attempts began `since` seconds ago at a producer, which need not have a row."""
    return Row(EXECUTING, {"ids": list(ids), "by": [node, str(by)], "since": since})


def a_job(queue: str = "default", **options: Any) -> Job:
    """A job of a worker that no code is registered for."""
    return Job("app.Work", queue=queue, **options)


def announced(*queues: str, schema: str = "public") -> list[tuple[str, str]]:
    """The notifications that announce jobs in these queues, as `AppDatabase.heard` returns them."""
    return [(f"{schema}.oban_insert", f'{{"queue":"{queue}"}}') for queue in queues]

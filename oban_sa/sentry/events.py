"""What Sentry is told of a job with each event of its attempt, and what it is never told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, cast

import sentry_sdk

from oban_sa.jobs import redaction
from oban_sa.jobs.hidden import ENCRYPTED, REDACTED
from oban_sa.models import Job
from oban_sa.sentry import names

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

_TEXTS: Final = ("message", "logentry", "exception", "threads", "breadcrumbs", "extra")
"""Parts of an event that may have what code of the job said."""


def about(job: Job) -> Callable[[Event, Hint], Event]:
    """Return what adds the job to each event, and takes out of it what is not to be shown.

    What it raises lets Sentry's SDK drop the event, so that nothing is sent that should not be.
    """

    def process(event: Event, _: Hint) -> Event:
        told = cast("dict[str, object]", event)
        sends = _sends_args()
        _part(told, "tags").update({"oban.worker": job.worker, "oban.queue": job.queue})
        _part(told, "contexts")[names.OBAN] = _facts(job, with_args=sends)
        meta: Mapping[str, object] = job.meta or {}
        hides = REDACTED in meta or meta.get(ENCRYPTED) is True
        for frame in _frames(told):
            # Variables of code of jobs are Sentry's option `include_local_variables`; in ours are the args.
            if hides or (not sends and str(frame.get("module")).startswith("oban_sa.")):
                frame.pop("vars", None)
        if hides:
            _hide(told, job)
        return event

    return process


def _sends_args() -> bool:
    """Whether the program lets Sentry have the args of jobs: `data_collection`, or `send_default_pii` before that."""
    client = sentry_sdk.get_client()
    collected = client.options.get("data_collection")
    if isinstance(collected, dict) and "queues" in collected:
        return bool(cast("dict[str, object]", collected)["queues"])
    return client.should_send_default_pii()


def _facts(job: Job, *, with_args: bool) -> dict[str, object]:
    facts: dict[str, object] = {
        "job_id": job.id,
        "worker": job.worker,
        "queue": job.queue,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "tags": list(job.tags or ()),
    }
    if with_args:
        facts["args"] = redaction.args(job.args, job.meta)
    return facts


def _hide(told: dict[str, object], job: Job) -> None:
    for name in _TEXTS:
        if name in told:
            told[name] = _hidden(told[name], job)
    spans = told.get("spans")
    if isinstance(spans, list):
        for span in cast("list[dict[str, object]]", spans):
            for name in ("description", "data"):
                if name in span:
                    span[name] = _hidden(span[name], job)


def _hidden(value: object, job: Job) -> object:
    if isinstance(value, str):
        return redaction.text(value, job.args, job.meta)
    if isinstance(value, Mapping):
        return {name: _hidden(each, job) for name, each in cast("Mapping[str, object]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_hidden(each, job) for each in cast("list[object]", value)]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return value if str(value) not in set(redaction.secrets(job.args, job.meta)) else redaction.HIDDEN
    return redaction.HIDDEN  # what it would be written as is not known


def _frames(told: Mapping[str, object]) -> Iterator[dict[str, object]]:
    for part in ("exception", "threads"):
        for value in _list(told.get(part), "values"):
            yield from _list(value.get("stacktrace"), "frames")


def _list(holder: object, name: str) -> list[dict[str, object]]:
    found = cast("Mapping[str, object]", holder).get(name) if isinstance(holder, Mapping) else None
    return cast("list[dict[str, object]]", found) if isinstance(found, list) else []


def _part(told: dict[str, object], name: str) -> dict[str, object]:
    found = told.get(name)
    if not isinstance(found, dict):
        told[name] = found = {}
    return cast("dict[str, object]", found)

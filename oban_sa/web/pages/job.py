"""One job: its moments as a line, args and meta, what it recorded, its errors, and what stands around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias, cast
from uuid import UUID

from sqlalchemy import TextClause
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.exceptions import HTTPException
from starlette.responses import Response

from oban_sa.client.description import MOMENTS, began_at
from oban_sa.client.read import database_now, read_session
from oban_sa.errors import InvalidJob
from oban_sa.jobs.durable import WAITS_FOR
from oban_sa.jobs.states import FINAL, JobState
from oban_sa.models import Job
from oban_sa.sql import neighbours
from oban_sa.web.act import ACTS, read_id
from oban_sa.web.audit import require, tell
from oban_sa.web.form import Form, read_form
from oban_sa.web.journal import Journal, journal_of
from oban_sa.web.page import Page
from oban_sa.web.pages.jobs import flash, is_whole, what_is_shown
from oban_sa.wire import json_text

EDITABLE: Final = ("queue", "priority", "max_attempts", "tags", "scheduled_at", "args", "meta")
"""What may be changed. Never the worker: that would run other code."""

Row: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True)
class Step:
    """A moment in a job's life, and how long it took from the step before."""

    name: str
    at: datetime
    after: float | None
    state: str


@dataclass(frozen=True, slots=True)
class Around:
    """What stands around a job."""

    flows: list[Row]
    waits_for: list[Row]
    holder: int | None
    before: list[Row]


async def job(page: Page) -> Response:
    """Show one job."""
    found, now, around, journal = await _read(page)
    shown = what_is_shown(page, found)
    params = page.request.query_params
    return page.render(
        "job.html",
        title=f"Job {found.id}",
        now=now,
        job=found,
        shown=shown,
        errors=list(reversed(shown.errors)),
        steps=steps(found),
        around=around,
        journal=_seen(journal, shown.meta),
        signal=_signal(found, shown.meta),
        acts=[act for act in ACTS.values() if act.applies(found) and page.access.may(act.name, found.queue)],
        editable=page.access.may("update", found.queue),
        flash=flash(params.get("done", ""), params.get("n", "")),
        ended=found.state in FINAL,
        began=began_at(found) or found.attempted_at,
    )


async def raw(page: Page) -> Response:
    """Return the job as JSON, with no more than the page shows."""
    found, _, _, journal = await _read(page)
    shown = what_is_shown(page, found)
    progress = _seen(journal, shown.meta).progress
    columns: dict[str, object] = {
        "id": found.id,
        "state": found.state.value,
        "queue": found.queue,
        "worker": found.worker,
        "args": shown.args,
        "meta": shown.meta,
        "tags": found.tags,
        "errors": list(shown.errors),
        "attempt": found.attempt,
        "max_attempts": found.max_attempts,
        "priority": found.priority,
        "attempted_by": found.attempted_by,
        **({} if progress is None else {"progress": asdict(progress)}),
        **{name: getattr(found, name) for name in MOMENTS},
    }
    return Response(json_text.write(columns, indent=True), media_type="application/json")


async def edit(page: Page) -> Response:
    """Show a job's columns in a form, or change those that differ."""
    found, now, _, _ = await _read(page)
    require(page, "update", found.queue, target=f"job {found.id}")
    whole = is_whole(page, found)
    if page.request.method != "POST":
        return _form(page, found, now, whole=whole, given={}, refusal="")
    form = await read_form(page.request)
    refused = sorted(form.names - {*EDITABLE, "verb"})
    if refused or (not whole and form.names & {"args", "meta"}):
        tell(page, "update", allowed=False, job_ids=(found.id,))
        raise HTTPException(403, "This can't be changed here. Nothing was changed.")
    try:
        changes = _changes(found, form)
        if "queue" in changes:
            require(page, "update", str(changes["queue"]), target=f"job {found.id}")
        if changes:
            await page.instance.oban.update_job(found.id, changes)
            tell(page, "update", job_ids=(found.id,), count=1)
    except InvalidJob as error:
        return _form(page, found, now, whole=whole, given=dict(form.fields), refusal=str(error))
    return page.redirect(f"jobs/{found.id}", done="update" if changes else "same")


def steps(job: Job) -> list[Step]:
    """Return the moments of a job in their order."""
    began = began_at(job) or job.attempted_at
    moments: list[tuple[str, datetime | None, str]] = [
        ("inserted", job.inserted_at, "suspended"),
        ("due", job.scheduled_at, "scheduled"),
        ("attempt began", began, "executing"),
        ("completed", job.completed_at, "completed"),
        ("cancelled", job.cancelled_at, "cancelled"),
        ("discarded", job.discarded_at, "discarded"),
    ]
    found = sorted(((name, at, state) for name, at, state in moments if at is not None), key=lambda each: each[1])
    made: list[Step] = []
    for name, at, state in found:
        made.append(Step(name, at, (at - made[-1].at).total_seconds() if made else None, state))
    return made


def _seen(journal: Journal, meta: object) -> Journal:
    """Return what is shown of a journal, where this is shown of the job's meta."""
    return journal if isinstance(meta, Mapping) else journal.hidden()


def _signal(job: Job, meta: object) -> str | None:
    """Return the name of the signal that a job waits for, where its meta is shown."""
    name = cast("Mapping[str, object]", meta).get(WAITS_FOR) if isinstance(meta, Mapping) else None
    return name if isinstance(name, str) and job.state in (JobState.SUSPENDED, JobState.SCHEDULED) else None


async def _read(page: Page) -> tuple[Job, datetime, Around, Journal]:
    identity = read_id(cast("str", page.request.path_params["id"]))
    async with read_session(page.instance.reader) as session:
        now = await database_now(session)
        found = await session.get(Job, identity)
        if found is None or not page.access.sees(found.queue):
            raise HTTPException(404, f"There is no job {identity}: it was deleted or pruned, or never was.")
        around = Around([], [], None, [])
        if page.access.queues is None:  # what stands around it may be in any queue
            around = await _around(session, page.instance.oban.schema, found)
        journal = await journal_of(session, found)
    return found, now, around, journal


async def _around(session: AsyncSession, schema: str, job: Job) -> Around:
    async def rows(statement: TextClause, **values: object) -> list[Row]:
        found = await session.execute(statement, values)
        return [dict(row) for row in found.mappings()]

    flows, waits, before = list[Row](), list[Row](), list[Row]()
    holder: int | None = None
    meta = job.meta or {}
    if "lane" in meta:
        flows = await rows(neighbours.membership(schema), id=job.id)
        if job.state not in FINAL:
            waits = await rows(neighbours.waits_for(schema), id=job.id)
    if isinstance(key := meta.get("unique"), str):
        try:
            found = await rows(neighbours.holder(schema), key=UUID(key))
        except ValueError:
            found = []
        holder = cast("int", found[0]["job_id"]) if found else None
    if isinstance(sequence := meta.get("sequence"), str) and job.state not in FINAL:
        before = await rows(neighbours.first_of_sequence(schema), queue=job.queue, key=sequence, id=job.id)
    return Around(flows, waits, holder, before)


def _form(page: Page, job: Job, now: datetime, *, whole: bool, given: dict[str, str], refusal: str) -> Response:
    values = {
        "queue": job.queue,
        "priority": str(job.priority),
        "max_attempts": str(job.max_attempts),
        "tags": ", ".join(job.tags),
        "scheduled_at": f"{job.scheduled_at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}",
    }
    if whole:
        values |= {"args": json_text.write(job.args, indent=True), "meta": json_text.write(job.meta, indent=True)}
    return page.render(
        "edit.html",
        title=f"Change job {job.id}",
        status=400 if refusal else 200,
        now=now,
        job=job,
        values={**values, **given},
        whole=whole,
        refusal=refusal,
        executing=job.state is JobState.EXECUTING,
    )


def _changes(job: Job, form: Form) -> dict[str, object]:
    """Return what differs in a form; raises `InvalidJob` for what can't be read."""
    found: dict[str, object] = {}
    for name, word in form.fields:
        if name in ("priority", "max_attempts"):
            found[name] = _whole_number(name, word)
        elif name == "tags":
            found[name] = [tag.strip().lower() for tag in word.split(",") if tag.strip()]
        elif name == "scheduled_at":
            before = job.scheduled_at.astimezone(UTC).replace(microsecond=0)
            if (at := _moment(word)) != before:
                found[name] = at
        elif name in ("args", "meta"):
            found[name] = _object(name, word)
        elif name == "queue":
            found[name] = word.strip()
    return {name: value for name, value in found.items() if value != getattr(job, name)}


def _whole_number(name: str, word: str) -> int:
    word = word.strip()
    if not word.isascii() or not word.isdigit() or len(word) > 10:
        raise InvalidJob(f"{name} is a whole number, not {word[:40]!r}")
    return int(word)


def _moment(word: str) -> datetime:
    try:
        at = datetime.fromisoformat(word.strip())
        return (at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)).replace(microsecond=0)
    except (ValueError, OverflowError):
        raise InvalidJob(f"scheduled_at is a moment such as 2026-11-01T09:30, not {word[:40]!r}") from None


def _object(name: str, word: str) -> dict[str, object]:
    try:
        value: object = json_text.read(word)
    except (ValueError, RecursionError) as error:
        raise InvalidJob(f"{name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidJob(f"{name} is a JSON object, such as {{}}")
    return cast("dict[str, object]", value)

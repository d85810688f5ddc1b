"""The crontab: when each entry was due last and will be next; its jobs run now, or not until it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

from starlette.exceptions import HTTPException
from starlette.responses import Response

from oban_sa.client.read import database_now, read_session
from oban_sa.errors import InvalidCron
from oban_sa.models import Job
from oban_sa.schedule.cron import Schedule, parse
from oban_sa.sql import overview
from oban_sa.sql.browse import last_of_cron
from oban_sa.web.access import Verb
from oban_sa.web.audit import refuse, require, tell
from oban_sa.web.form import read_form
from oban_sa.web.page import Page
from oban_sa.web.pages.jobs import flash

WINDOW: Final = 10_000
"""Newest jobs among which the last of an entry is looked for."""
_AHEAD: Final = 3
_VERBS: Final[dict[str, Verb]] = {"run": "run_cron", "pause": "pause_cron", "resume": "pause_cron"}


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry; `schedule` is None where its expression can't be read."""

    name: str
    expression: str
    timezone: str
    worker: str
    options: Mapping[str, object]
    last_at: datetime | None
    schedule: Schedule | None
    last_job: Job | None = None
    paused_at: datetime | None = None

    @property
    def queue(self) -> str:
        """The queue of its jobs, as far as it is known: that of the last one, or of its own options."""
        if self.last_job is not None:
            return self.last_job.queue
        named = self.options.get("queue")
        return named if isinstance(named, str) else "default"

    def next(self, now: datetime) -> list[datetime]:
        """Return its next moments."""
        found: list[datetime] = []
        at: datetime | None = now
        while self.schedule is not None and at is not None and len(found) < _AHEAD:
            at = self.schedule.next_after(at)
            if at is not None:
                found.append(at)
        return found

    def job(self) -> Job:
        """Return a job as the entry makes it: like its last one, or of its own options where that is gone."""
        if (last := self.last_job) is not None:
            meta = {key: value for key, value in last.meta.items() if key in _COPIED or not _is_ours(key)}
            return Job(
                last.worker,
                queue=last.queue,
                args=last.args,
                meta=meta,
                tags=last.tags,
                priority=last.priority,
                max_attempts=last.max_attempts,
            )
        options = cast("dict[str, Any]", self.options)
        named = {key: options[key] for key in ("queue", "priority", "max_attempts", "tags", "args") if key in options}
        own = cast("dict[str, object]", options.get("meta") or {})
        meta = {**own, "cron": True, "cron_expr": self.expression, "cron_name": self.name}
        return Job(self.worker, meta=meta, **named)


_COPIED: Final = frozenset({"cron", "cron_expr", "cron_name", "cron_tz", "partition", "sequence"})
_OURS: Final = frozenset({"cron_at", "recorded", "return", "unique", "halts", "began", "cancel_attempted_at"})


def _is_ours(key: str) -> bool:
    return key in _OURS or key.startswith("cron_")


async def crons(page: Page) -> Response:
    """Show the entries that the tables hold."""
    now, entries = await _entries(page)
    params = page.request.query_params
    return page.render(
        "crons.html",
        title="Crons",
        now=now,
        entries=entries,
        flash=flash(params.get("done", ""), params.get("n", "")),
    )


async def act(page: Page) -> Response:
    """Enqueue a job of an entry now, besides those of its ticks; or pause or resume the entry."""
    form = await read_form(page.request)
    verb, name = form.one("verb"), form.one("name")
    if verb not in _VERBS:
        raise HTTPException(400, "An entry can be run, paused and resumed.")
    right = _VERBS[verb]
    require(page, right, target=f"cron {name}")
    _, entries = await _entries(page)
    entry = next((each for each in entries if each.name == name), None)
    if entry is None:
        raise HTTPException(404, "There is no such entry.")
    made = entry.job()
    if not page.access.may(right, made.queue):
        raise refuse(page, right, target=f"cron {name}")
    if verb == "run":
        job = await page.instance.oban.enqueue(made)
        tell(page, "run_cron", target=f"cron {name}", job_ids=(job.id,), count=1)
        return page.redirect("crons", done="cron")
    oban = page.instance.oban
    await (oban.pause_cron(name) if verb == "pause" else oban.resume_cron(name))
    tell(page, f"{verb}_cron", target=f"cron {name}")
    return page.redirect("crons", done=f"cron_{verb}")


async def _entries(page: Page) -> tuple[datetime, list[Entry]]:
    reader = page.instance.reader
    prefix = "" if reader.name == "Oban" else f"{reader.name}: "
    found: list[Entry] = []
    async with read_session(reader) as session:
        now = await database_now(session)
        rows = (await session.execute(overview.schedules())).mappings().all()
        newest = (await session.scalars(last_of_cron(window=WINDOW))).all()
        lasts = {str(job.meta.get("cron_name")): job for job in reversed(newest)}
    for row in rows:
        name: str = row["name"]
        if not name.startswith(prefix):
            continue
        options = cast("dict[str, object]", row["opts"] if isinstance(row["opts"], dict) else {})
        name = name.removeprefix(prefix)
        days = options.get("days")
        try:
            schedule = parse(row["expression"], timezone=row["timezone"], days="both" if days == "both" else "either")
        except InvalidCron:
            schedule = None
        moments: tuple[datetime | None, datetime | None] = (row["last_at"], row["paused_at"])
        last_at, paused_at = (None if at is None else at.replace(tzinfo=at.tzinfo or UTC) for at in moments)
        entry = Entry(
            name=name,
            expression=row["expression"],
            timezone=row["timezone"],
            worker=row["worker"],
            options=options,
            last_at=last_at,
            schedule=schedule,
            last_job=lasts.get(name),
            paused_at=paused_at,
        )
        if page.access.sees(entry.queue):
            found.append(entry)
    return now, found

"""Jobs: a list by a query, and what is done to those that were chosen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from starlette.responses import Response

from oban_sa.client import JobCount
from oban_sa.client.query import FIELDS, read_query, replaced
from oban_sa.client.search import Found, find
from oban_sa.errors import InvalidOption
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.sql.wanted import Cursor
from oban_sa.web.act import Act, change_jobs, read_ids
from oban_sa.web.form import read_form
from oban_sa.web.limits import allowed
from oban_sa.web.page import Page
from oban_sa.web.redact import Shown, raw, shown

PAGE: Final = 30
"""Jobs on a page."""
COUNTED: Final = 1_000
"""Jobs of a state and queue that are counted; where there are more, their number is estimated."""
MOST_QUEUES: Final = 40


@dataclass(frozen=True, slots=True)
class Tally:
    """How many jobs there are of something; an estimate where not `exact`."""

    name: str
    count: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Line:
    """A job in the list, with what is shown of it."""

    job: Job
    shown: Shown


async def jobs(page: Page) -> Response:
    """Show the jobs of a query, or why it can't be read."""
    params = page.request.query_params
    text = " ".join(params.get("q", "").split())
    before = read_cursor(params.get("before", ""))
    refusal, found = "", None
    try:
        filters = allowed(page, read_query(text))
        found = await find(page.instance.reader, filters, limit=PAGE, before=before)
    except InvalidOption as error:
        refusal = str(error)
    counts = [
        each for each in await page.instance.reader.count_jobs(exactly_to=COUNTED) if page.access.sees(each.queue)
    ]
    states, queues = tallies(counts)
    return page.render(
        "jobs.html",
        title="Jobs",
        status=200 if found else 400,
        now=found.now if found else None,
        q=text,
        refusal=refusal,
        # They name queues and workers, of which a visitor may not see all.
        hints=found.hints if found and page.access.queues is None else [],
        found=found,
        lines=[Line(job, what_is_shown(page, job)) for job in found.jobs] if found else [],
        tallies=states,
        queues=queues[:MOST_QUEUES],
        more_queues=max(0, len(queues) - MOST_QUEUES),
        older=write_cursor(found.following) if found and found.following else "",
        first=before is None,
        suggested=await page.instance.suggestions.words(page.access, (each.name for each in queues)),
        replaced=replaced,
        said=_said(text),
        window=_window(found),
        flash=flash(params.get("done", ""), params.get("n", "")),
        fields=FIELDS,
    )


async def act(page: Page) -> Response:
    """Do something to the jobs that were chosen on a page; deleting asks first."""
    form = await read_form(page.request)
    verb = Act.read(form.one("verb"))
    ids = read_ids(form.several("id"))
    q, before = form.one("q"), form.one("before")
    if not ids:
        return page.redirect("", q=q, before=before, done="none")
    if verb.asks and form.one("sure") != "1":
        verb.require(page, job_ids=ids)
        return page.render(
            "confirm.html", title=verb.title, verb=verb, ids=ids, q=q, before=before, single=form.one("single")
        )
    changed = await change_jobs(page, verb, ids)
    if form.one("single") and verb.name != "delete":
        return page.redirect(f"jobs/{ids[0]}", done=verb.name, n=changed)
    return page.redirect("", q=q, before=before, done=verb.name, n=changed)


def what_is_shown(page: Page, job: Job) -> Shown:
    """Return what a visitor may see of a job."""
    found = shown(page.instance.redact, job)
    if not page.access.see_args:
        found = Shown(None, None, found.errors, None)
    return found if page.access.see_errors else Shown(found.args, found.meta, (), found.recorded)


def is_whole(page: Page, job: Job) -> bool:
    """Return whether a visitor sees all of a job's args and meta, so that they may be edited."""
    whole, seen = raw(job), what_is_shown(page, job)
    return page.access.see_args and (seen.args, seen.meta) == (whole.args, whole.meta)


def tallies(counts: list[JobCount]) -> tuple[list[Tally], list[Tally]]:
    """Return how many jobs are in each state, and how many are unfinished in each queue."""
    states: dict[str, Tally] = {state.value: Tally(state.value, 0, exact=True) for state in JobState}
    queues: dict[str, Tally] = {}
    for each in counts:
        _add(states, each.state.value, each)
        if each.state not in (JobState.COMPLETED, JobState.CANCELLED, JobState.DISCARDED):
            _add(queues, each.queue, each)
        else:
            queues.setdefault(each.queue, Tally(each.queue, 0, exact=True))
    return list(states.values()), sorted(queues.values(), key=lambda tally: tally.name)


def flash(done: str, number: str) -> str:
    """Return a sentence about what was just done, of words of our own alone."""
    n = int(number) if number.isascii() and number.isdigit() and len(number) < 10 else 0
    jobs = f"{n:,} job" if n == 1 else f"{n:,} jobs"
    sentences = {
        "retry": f"{jobs} made available."
        if n
        else "No job was changed: those available or executing stay as they are.",
        "cancel": f"{jobs} cancelled; those executing are asked to stop."
        if n
        else "No job was changed: all had ended.",
        "delete": f"{jobs} deleted." if n else "No job was deleted: one that is executing has to be cancelled first.",
        "update": "The job was changed.",
        "same": "Nothing was different, so nothing was changed.",
        "none": "No job was chosen.",
        "cron": "A job of the entry was enqueued.",
        "cron_pause": "The entry is paused, and makes no jobs until it is resumed.",
        "cron_resume": "The entry is resumed, and makes jobs from its next tick on.",
        "pause": "The queue is paused; nodes obey at once, or with their next heartbeat.",
        "resume": "The queue is resumed.",
        "scale": "The queue has its new limit.",
        "stop": "The queue stops once its running jobs have ended.",
        "sequence": "The sequence goes on.",
        "workflow_retry": f"{n:,} members of the workflow run again.",
        "workflow_cancel": f"{n:,} members of the workflow are cancelled.",
    }
    return sentences.get(done, "")


def write_cursor(cursor: Cursor) -> str:
    """Return a cursor as a parameter of a link."""
    return str(cursor.id) if cursor.scheduled_at is None else f"{cursor.id},{cursor.scheduled_at.isoformat()}"


def read_cursor(text: str) -> Cursor | None:
    """Read a cursor; None for what is none."""
    number, comma, moment = text.partition(",")
    if not number.isascii() or not number.isdigit() or len(number) > 19 or int(number) >= 2**63:
        return None
    try:
        at = datetime.fromisoformat(moment.replace(" ", "+")) if comma else None
        return Cursor(int(number), None if at is None else at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC))
    except (ValueError, OverflowError):
        return None


def _add(found: dict[str, Tally], name: str, count: JobCount) -> None:
    have = found.get(name, Tally(name, 0, exact=True))
    found[name] = Tally(name, have.count + count.count, have.exact and count.exact)


def _said(text: str) -> dict[str, str]:
    """Return which state and which queue a query asks for, so that the lists beside it can show that."""
    found = {"state": "", "queue": ""}
    for word in text.split():
        name, colon, value = word.partition(":")
        if colon and name in found:
            found[name] = value.strip('"')
    return found


def _window(found: Found | None) -> str:
    if found is None or found.looked_at is None:
        return ""
    which = "newest" if found.by_id else "last due of these"
    return f"The {found.looked_at:,} {which} were searched."

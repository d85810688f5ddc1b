"""All jobs that a query finds, changed a slice at a time: each request does one, and the page asks for the next.

So nothing runs in the background: any process can serve any slice, leaving the page stops it, and rights are asked for
each. A slice goes on where the one before ended, in the order of the list, so that no job is changed twice, even where
a retried one has failed again meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from oban_sa.client.filters import Filters
from oban_sa.client.query import read_query
from oban_sa.client.search import Counted, count_wanted, find
from oban_sa.web.act import Act, change_jobs
from oban_sa.web.form import Form, read_form
from oban_sa.web.limits import allowed, within
from oban_sa.web.page import Page
from oban_sa.web.pages.jobs import read_cursor, write_cursor

SLICE: Final = 500
"""Jobs that one request changes."""
TYPED: Final = 100
"""Where more jobs are meant, their number has to be typed."""


@dataclass(frozen=True, slots=True)
class _Meant:
    """What is to be done to which jobs."""

    verb: Act
    q: str
    filters: Filters

    @classmethod
    def read(cls, page: Page, verb: str, q: str) -> _Meant:
        act = Act.read(verb)
        act.require(page, query=q)
        filters = within(allowed(page, read_query(q)), page.access.within(act.name))
        states = set(filters.wanted.states or act.states) & act.states
        if not states:
            raise HTTPException(400, f"No job of this search can be changed: {act.name} leaves these states alone.")
        return cls(act, q, replace(filters, wanted=replace(filters.wanted, states=tuple(sorted(states)))))


async def ask(page: Page) -> Response:
    """Say how many jobs are meant, and ask whether to go on."""
    params = page.request.query_params
    return await _question(page, _Meant.read(page, params.get("verb", ""), params.get("q", "")), refusal="")


async def go_on(page: Page) -> Response:
    """Change the next slice, and say how far it is."""
    form = await read_form(page.request)
    meant = _Meant.read(page, form.one("verb"), form.one("q"))
    total, done = _number(form, "total"), _number(form, "done")
    before = read_cursor(form.one("before"))
    if before is None and (form.one("more") == "1" or total > TYPED) and _typed(form) != total:
        return await _question(page, meant, refusal="The number that you typed is another one, so nothing was changed.")
    found = await find(page.instance.reader, meant.filters, limit=SLICE, before=before)
    if found.jobs:
        done += await change_jobs(page, meant.verb, [job.id for job in found.jobs], query=meant.q)
    if found.following is None:
        return page.redirect("", q=meant.q, done=meant.verb.name, n=done)
    return page.render(
        "bulk.html",
        title=meant.verb.title,
        verb=meant.verb,
        q=meant.q,
        total=max(total, done),
        more=form.one("more"),
        done=done,
        before=write_cursor(found.following),
    )


async def _question(page: Page, meant: _Meant, *, refusal: str) -> Response:
    counted: Counted = await count_wanted(page.instance.reader, meant.filters)
    total = sum(counted.states.values())
    return page.render(
        "bulk_question.html",
        title=meant.verb.title,
        status=400 if refusal else 200,
        refusal=refusal,
        verb=meant.verb,
        q=meant.q,
        total=total,
        states_found=sorted(counted.states.items()),
        all_of_them=counted.all_of_them,
        typed=not counted.all_of_them or total > TYPED,
    )


def _number(form: Form, name: str) -> int:
    word = form.one(name)
    return int(word) if word.isascii() and word.isdigit() and len(word) < 12 else 0


def _typed(form: Form) -> int | None:
    word = form.one("typed").replace(",", "").replace(" ", "")
    return int(word) if word.isascii() and word.isdigit() and len(word) < 12 else None

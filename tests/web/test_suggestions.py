"""What the search box suggests, of what a visitor may see, without a look at the tables for each page."""

from __future__ import annotations

import html
import json
import re

import pytest
from sqlalchemy import event

from oban_sa import Job
from oban_sa.client.query import read_query
from oban_sa.web import Access, suggestions
from tests.web.conftest import Web


def suggested(page: str) -> list[str]:
    [found] = re.findall(r'data-words="([^"]*)"', page)
    words: list[str] = json.loads(html.unescape(found))
    return words


async def test_the_words_of_the_language_and_what_there_is_are_suggested(web: Web) -> None:
    await web.add(Job("shop.Mail", queue="mailers"), Job("shop.Report", queue='two "words"'), Job("evil\x1bname"))
    words = suggested(await web.get("/"))
    for word in ("state:", "args.", "state:discarded", "queue:mailers", "worker:Mail", "worker:Report", "error:"):
        assert word in words
    assert r'queue:"two \"words\""' in words
    assert not any("evil" in word for word in words)
    for word in words:
        if not word.endswith((":", ".")):
            read_query(word)


async def test_without_scripts_the_options_go_on_with_the_query(web: Web) -> None:
    page = await web.get("/", q="queue:mailers")
    assert '<option value="queue:mailers state:">' in page
    assert '<option value="state:">' in await web.get("/")
    assert 'list="q-words"' in page


async def test_nothing_is_suggested_that_a_visitor_may_not_see(web: Web) -> None:
    await web.add(Job("shop.Mail", queue="mailers"), Job("shop.Secret", queue="hidden"))
    assert "worker:Secret" in suggested(await web.get("/"))  # and from now on it is known
    web.access = Access.read_only(queues={"mailers"}, see_args=False, see_errors=False)
    page = await web.get("/")
    words = suggested(page)
    assert "worker:Mail" in words
    assert "ecret" not in page
    assert "hidden" not in words
    assert not {"args.", "meta.", "error:"} & set(words)


async def test_workers_are_looked_for_once_in_five_minutes(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    event.listen(web.engine.sync_engine, "before_cursor_execute", lambda *given: sent.append(given[2]))
    await web.add(Job("shop.Mail"))
    for _ in range(3):
        await web.get("/")
    assert sum("AS newest" in statement for statement in sent) == 1
    await web.add(Job("shop.Later"))
    assert "worker:Later" not in suggested(await web.get("/"))
    monkeypatch.setattr(suggestions, "KEPT_FOR", -1.0)
    assert "worker:Later" in suggested(await web.get("/"))

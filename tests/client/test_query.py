"""The query language: what each term means, which of several are refused, and what a refusal says."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import Job, JobState, Oban
from oban_sa.client.query import read_query
from oban_sa.client.search import count_wanted, find
from oban_sa.errors import InvalidOption
from oban_sa.sql.wanted import Term


def test_terms_are_read() -> None:
    wanted = read_query("state:discarded,retryable queue:mailers priority:0,12 id:12,13 -queue:slow").wanted
    assert wanted.states == (JobState.RETRYABLE, JobState.DISCARDED)
    assert (wanted.queues, wanted.priorities, wanted.ids) == (("mailers",), (0, 12), (12, 13))
    assert wanted.terms == (Term("queue", ("slow",), negated=True),)


def test_moments_and_spans_are_read() -> None:
    filters = read_query("since:2h until:2026-11-01")
    assert (filters.since, filters.until) == (timedelta(hours=2), datetime(2026, 11, 1, tzinfo=UTC))


def test_a_number_alone_is_an_id_and_a_word_alone_a_worker() -> None:
    wanted = read_query("4711 Charge").wanted
    assert wanted.ids == (4711,)
    assert wanted.terms == (Term("worker", ("Charge",)),)


def test_values_of_args_are_tried_as_numbers_and_as_texts() -> None:
    assert read_query("args.order.id:17").wanted.terms == (
        Term("args", ('{"order":{"id":"17"}}', '{"order":{"id":17}}')),
    )


def test_quotes_keep_blanks_commas_and_colons() -> None:
    wanted = read_query(r'args.name:"Ada, \"Countess\" of: L" tag:"a b",c').wanted
    assert wanted.terms[0].values == ('{"name":"Ada, \\"Countess\\" of: L"}',)
    assert wanted.terms[1].values == ("a b", "c")


def test_negated_states_are_all_others() -> None:
    assert set(read_query("-state:completed").wanted.states) == set(JobState) - {JobState.COMPLETED}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("state=discarded", "'state=discarded' would be the name of a worker; write state:discarded"),
        ("-args.id=7", "'-args.id=7' would be the name of a worker; write args.id:7"),
        ("sate:discarded", "'sate' is no field of a job; did you mean 'state'?"),
        ("state:discardet", "'discardet' is no state; did you mean 'discarded'?"),
        ("state:available state:executing", "write state:available,executing for either"),
        ("queue:a queue:b", "queue: stands twice"),
        ("id:x", "'x' is no id, which is a number such as id:123"),
        ("id:99999999999999999999", "is no id"),
        ("priority:-1", "is no priority"),
        ("args:17", "says no key; write for example args.order.id:17"),
        ("args..a:1", "says no key"),
        ("queue.a:1", "has no keys inside"),
        ("queue:", "says no value; write for example queue:mailers"),
        ('queue:""', "says no value"),
        ("since:yesterday", "A moment is written as"),
        ("since:1h since:2h", "since: stands twice"),
        ("-since:1h", "takes one moment or span"),
        ('args.a:"b', "a quote is never closed"),
        ("args.a:\0", "no text in PostgreSQL can hold"),
        (r'args.a:"\"\\u0000\""', "no text in PostgreSQL can hold"),
        ("a" * 3000, "at most 2,000 are read"),
        ("id:" + ",".join(map(str, range(1001))), "2,000 are read"),
    ],
)
def test_a_refusal_names_the_word_and_what_to_write(text: str, said: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        read_query(text)
    assert said in str(refused.value)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    with suppress(InvalidOption):
        assert read_query(text).anything == bool(text.strip())


QUERIES = {
    "state:available": "abcd",
    "queue:mailers": "ab",
    "-queue:mailers": "cd",
    "queue:mailers -priority:3": "a",
    "priority:3": "b",
    "worker:Charge": "ad",
    "worker:shop.Charge -tag:urgent": "d",
    "tag:urgent,import": "ab",
    "tag:urgent tag:import": "b",
    "-tag:urgent": "cd",
    "args.order.id:17": "ac",
    'args.order.by:"Ada L"': "c",
    "-args.order.id:17": "bd",
    "meta.batch:5": "d",
    "node:web.1": "b",
    "-node:web.1": "acd",
    "error:timeouterror": "c",
    "-error:TimeoutError queue:mailers": "ab",
    "since:1h": "abcd",
    "until:1h": "",
    "Charge queue:mailers": "a",
    "nosuch": "",
}


async def test_each_term_finds_its_jobs_and_counts_them(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    made = await oban.enqueue_many(
        [
            Job("shop.Charge", queue="mailers", tags=["urgent"], args={"order": {"id": 17}}),
            Job("shop.Mail", queue="mailers", priority=3, tags=["urgent", "import"], attempted_by=["web.1", "u"]),
            Job("Mail", args={"order": {"id": "17", "by": "Ada L"}}, errors=[{"error": "TimeoutError: no"}]),
            Job("shop.Charge", meta={"batch": 5}),
        ],
        ids=True,
    )
    names = {job.id: name for job, name in zip(made, "abcd", strict=True)}
    for text, expected in QUERIES.items():
        found = await find(oban, read_query(text), limit=10)
        assert "".join(sorted(names[job.id] for job in found.jobs)) == expected, text
        counted = await count_wanted(oban, read_query(text))
        assert sum(counted.states.values()) == len(expected), text
    by_id = read_query(f"id:{made[0].id},{made[3].id} -tag:urgent")
    assert [names[job.id] for job in (await find(oban, by_id, limit=10)).jobs] == ["d"]
    assert (await count_wanted(oban, by_id)).states == {JobState.AVAILABLE: 1}


@pytest.mark.parametrize("few", [0, 1_000], ids=["merged", "looked up"])
@pytest.mark.parametrize("oldest", [False, True], ids=["newest", "oldest"])
@pytest.mark.parametrize("text", ["", "state:available", "worker:W", "state:available worker:W", "tag:odd"])
async def test_pages_follow_each_other_without_a_gap(
    engine: AsyncEngine, text: str, *, oldest: bool, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oban_sa.sql.places._FEW", few)
    oban = Oban(engine)
    await oban.enqueue_many([Job("W", queue=f"q{n % 3}", tags=["odd"] if n % 2 else []) for n in range(50)])
    seen: list[int] = []
    before = None
    while True:
        page = await find(oban, read_query(text), limit=7, before=before, window=10, oldest=oldest)
        seen += [job.id for job in page.jobs]
        if page.following is None:
            break
        before = page.following
    assert len(seen) == len(set(seen)) == (25 if text == "tag:odd" else 50)
    assert seen == sorted(seen, reverse=not oldest)

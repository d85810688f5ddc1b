"""What a message of new jobs says beside its queue, and what is made of what others say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oban_sa.sql import notify
from oban_sa.wire import messages
from oban_sa.wire.messages import News, decode, news_of


@pytest.mark.parametrize(
    ("news", "expected"),
    [
        (News(3, turn=7), {"queue": "a", "jobs": 3, "turn": 7}),
        (News(0, due=True, turn=7), {"queue": "a", "jobs": 0, "due": 1, "turn": 7}),
        (News(None), {"queue": "a"}),
        (News(None, due=True), {"queue": "a", "due": 1}),
    ],
)
def test_what_is_said_is_what_is_heard(news: News, expected: dict[str, Any]) -> None:
    said = messages.insert("a", news)
    assert said == expected
    assert news_of(said) == news


@pytest.mark.parametrize(
    "beside",
    [{}, {"jobs": 3}, {"turn": 3}, *({"jobs": odd, "turn": 1} for odd in (-1, 1.5, "1", True, None, [1]))]
    + [{"jobs": 1, "turn": odd} for odd in (-1, 1.5, "1", True, None)],
)
def test_a_number_that_makes_no_sense_counts_as_none(beside: dict[str, Any]) -> None:
    assert news_of({"queue": "a", **beside}) == News(None)


def test_each_message_gets_the_next_turn() -> None:
    found: list[News] = []
    for _ in range(3):
        given = notify.counted({"b": News(2), "ü\"'": News(1, due=True), "c": News(None)}, "jobs")
        assert given.channel == "jobs.oban_insert"
        told = [decode(text) or {} for text in json.loads(given.parameters()["payloads"])]
        assert [each["queue"] for each in told] == ["b", "ü\"'", "c"]
        found += map(news_of, told)
    assert [(each.jobs, each.due) for each in found] == [(2, False), (1, True), (None, False)] * 3
    turns = [each.turn for each in found if each.jobs is not None]
    assert turns == [(turns[0] + number) % notify.TURNS for number in range(6)]

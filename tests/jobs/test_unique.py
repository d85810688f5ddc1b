"""What makes jobs unique: what is understood, what is refused and in which words."""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta
from typing import Any

import pytest

from oban_sa.errors import InvalidOption, InvalidPeriod
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import GROUPS, WAITING, Conflict, Unique


def test_true_is_the_usual_one_and_nothing_is_none() -> None:
    assert Unique.of(True) == Unique()
    assert Unique.of(False) is Unique.of(None) is None
    given = Unique(period=60)
    assert Unique.of(given) is given
    assert (Unique().fields, Unique().seconds) == (("worker", "queue", "args"), None)
    assert set(Unique().blocking) == set(JobState) - {JobState.CANCELLED, JobState.DISCARDED}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"period": 60}, r"write unique=Unique\(\*\*that\)"),
        (Unique, "got the class; write unique=True"),
        ("args", "unique is True or Unique"),
        (1, "unique is True or Unique"),
    ],
)
def test_what_is_neither_is_refused(value: Any, words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        Unique.of(value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fields": "worker"}, r"write fields=\['worker'\]"),
        ({"fields": ["wroker"]}, "did you mean 'worker'"),
        ({"fields": ["state"]}, "'state' is unknown"),
        ({"fields": []}, "all jobs would be the same"),
        ({"fields": 7}, "fields is a list of texts, got 7"),
        ({"keys": "doc_id"}, r"write keys=\['doc_id'\]"),
        ({"keys": [1]}, "1 in it is none"),
        ({"fields": ["worker"], "keys": ["doc_id"]}, 'leaves args out; add "args"'),
        ({"group": "waitng"}, "did you mean 'waiting'"),
        ({"group": "executing"}, r"is a state; write states=\['executing'\]"),
        ({"group": None}, "group None is unknown"),
        ({"states": ["successful"]}, "is a group; write group='successful'"),
        ({"states": ["scheduld"]}, "did you mean 'scheduled'"),
        ({"states": []}, "states is empty"),
        ({"states": "available"}, r"write states=\['available'\]"),
        ({"states": ["available"], "group": "all"}, "give it or states, not both"),
        ({"replace": "args"}, r'write replace=\["args"\]'),
        ({"replace": "latest"}, '"newest"'),
        ({"replace": ["state"]}, "replace: 'state' is unknown"),
        ({"replace": []}, "names no field"),
        ({"replace": {}}, "replace is empty"),
        ({"replace": {"executing": ["args"]}}, "a job that is executing keeps its values"),
        ({"replace": {"schedule": ["args"]}}, "did you mean 'scheduled'"),
        ({"replace": {"scheduled": "args"}}, r"write replace=\['args'\]"),
    ],
)
def test_a_mistake_is_refused_in_words_that_help(given: Any, words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        Unique(**given)


@pytest.mark.parametrize(
    ("period", "words"),
    [
        (0, "no job unique"),
        ("soon", "period: 'soon' is not a span of time"),
        (-1, "can't be negative"),
        ("infinity", "leave it out"),
    ],
)
def test_a_period_is_a_span_of_time(period: Any, words: str) -> None:
    with pytest.raises(InvalidPeriod, match=words):
        Unique(period=period)


def test_a_period_becomes_seconds() -> None:
    assert Unique(period="1 hour").seconds == Unique(period=timedelta(hours=1)).seconds == 3600
    assert Unique(period="1 hour") == Unique(period=3600)


def test_groups_and_states() -> None:
    assert set(Unique(group="incomplete").blocking) == {*WAITING, JobState.EXECUTING}
    assert Unique(group="all").blocking == tuple(JobState)
    assert set(Unique(states=["executing", "scheduled"]).blocking) == {JobState.EXECUTING, JobState.SCHEDULED}
    assert all(set(states) <= set(JobState) for states in GROUPS.values())


@pytest.mark.parametrize(
    ("given", "joins"),
    [
        ({"group": "waiting"}, True),
        ({"group": "scheduled"}, True),
        ({"states": ["available", "retryable"]}, True),
        ({"group": "incomplete"}, False),
        ({"group": "successful"}, False),
        ({"states": ["available", "executing"]}, False),
    ],
)
def test_only_what_has_yet_to_start_is_joined(given: Any, joins: bool) -> None:
    assert Unique(**given).joins is joins
    assert Unique(**given).locks == (("share",) if joins else ())


def test_what_is_replaced() -> None:
    newest = ("args", "meta", "scheduled_at")
    assert Unique(replace="newest").replaced == dict.fromkeys(map(str, WAITING), newest)
    assert Unique(replace=["scheduled_at", "args"]).replaced["retryable"] == ("args", "scheduled_at")
    assert Unique(replace={"scheduled": ["args"]}).replaced == {"scheduled": ("args",)}
    assert Unique().replaced == {}
    assert Unique(group="waiting", replace="newest").locks == ("share", "update")


def test_keys_of_meta_are_compared_beside_the_fields() -> None:
    unique = Unique(fields=["worker"], meta_keys=["tenant"])
    assert unique.fields == ("worker", "meta")
    assert unique.subject("w", "q", {"a": 1}, {"tenant": 7, "x": 1})[1:] == ["w", None, None, {"tenant": 7}]
    assert unique.subject("w", "q", {}, {})[-1] == {"tenant": None}


def test_the_mark_of_a_key_is_no_part_of_it() -> None:
    unique = Unique(fields=["meta"])
    assert unique.subject("w", "q", {}, {"unique": "x", "a": 1}) == unique.subject("v", "p", {}, {"a": 1})


def test_the_order_of_keys_does_not_matter_but_which_they_are_does() -> None:
    assert Unique(keys=["a", "b"]).scope == Unique(keys=["b", "a"]).scope
    assert Unique(keys=["a"]).scope != Unique().scope
    assert Unique(group="all", period=5).scope == Unique().scope


def test_it_can_be_copied_compared_and_used_as_a_key() -> None:
    unique = Unique(keys=["a"], replace="newest", period=5)
    assert copy.deepcopy(unique) == pickle.loads(pickle.dumps(unique)) == unique
    assert len({unique, Unique(keys=["a"], replace="newest", period=5), Unique()}) == 2
    assert Conflict(1, JobState.AVAILABLE) == Conflict(1, JobState.AVAILABLE, ())

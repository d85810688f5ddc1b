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
        ("args", r"unique is True or Unique.*write for example unique=Unique\(fields=\['args'\]\)"),
        (["doc_id"], r"write for example unique=Unique\(keys=\['doc_id'\]\)"),
        ("1 hour", r"write for example unique=Unique\(period='1 hour'\)"),
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
        ({"replace": {"scheduled": "args"}}, r'write {"scheduled": \["args"\]}'),
        ({"replace": {"args": ["scheduled"]}}, "'args' is a field, and states come first"),
        ({"replace": {"waiting": ["args"]}}, "'waiting' is a group; give a list of fields"),
        ({"replace": {"running": ["args"]}}, "write one of available, scheduled, retryable, suspended$"),
        (
            {"replace": {"available": ["args"]}, "group": "scheduled"},
            "a job that is available does not stand in the way",
        ),
        ({"replace": ["args"], "states": ["completed"]}, "does not stand in the way, so nothing of it is replaced"),
        ({"fields": {"args": ["a"]}}, "fields is a list of texts, got {'args'"),
        ({"keys": {"a": 1}}, "keys is a list of texts, got {'a'"),
        ({"keys": ["args.a"]}, "keys are keys of args, and 'args.a' is none; write 'a'"),
        ({"meta_keys": ["meta.a"]}, "meta_keys are keys of meta, and 'meta.a' is none; write 'a'"),
        ({"period": "waiting"}, r"write Unique\(group='waiting'\)"),
        ({"period": ["doc_id"]}, r"write Unique\(keys=\['doc_id'\]\)"),
        ({"keyz": ["a"]}, "Unique has no option 'keyz'; did you mean 'keys'"),
        ({"ttl": 60}, "Unique has no option 'ttl'; write period="),
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


def test_fields_of_a_list_are_replaced_as_far_as_a_state_stands_in_the_way() -> None:
    assert Unique(group="scheduled", replace=["args"]).replaced["scheduled"] == ("args",)


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

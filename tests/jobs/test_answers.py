from __future__ import annotations

import contextlib
import dataclasses
import pickle
from datetime import timedelta

import pytest
from hypothesis import given

from oban_sa.errors import InvalidArguments, InvalidPeriod
from oban_sa.jobs.answers import RECORDED_LIMIT, Cancel, Record, Result, Snooze
from oban_sa.jobs.references import ref
from oban_sa.wire import erlang
from tests.strategies import json_values


@pytest.mark.parametrize(
    ("period", "expected"),
    [(60, 60), (60.0, 60), (0, 0), (1.5, 1.5), ("1 minute", 60), ("250ms", 0.25), (timedelta(hours=1), 3600)],
)
def test_a_snooze_takes_any_span_and_holds_seconds(period, expected):
    snooze = Snooze(period)
    assert snooze.seconds == expected
    assert type(snooze.seconds) is type(expected)


def test_snoozes_of_the_same_length_are_equal_however_they_were_written():
    assert Snooze("1 minute") == Snooze(60) != Snooze(61)
    assert hash(Snooze("1 minute")) == hash(Snooze(60))
    assert repr(Snooze("1 minute")) == "Snooze(seconds=60, meta=None)"


@pytest.mark.parametrize("period", [-1, "soon", True, float("nan"), None])
def test_a_snooze_of_no_span_is_refused(period):
    with pytest.raises(InvalidPeriod):
        Snooze(period)


def test_the_meta_of_a_snooze_is_a_copy_in_json():
    meta = {"at": timedelta(seconds=1).total_seconds(), "pair": (1, 2)}
    snooze = Snooze(1, meta)
    meta["more"] = 1
    assert snooze.meta == {"at": 1.0, "pair": [1, 2]}
    assert Snooze(1).meta is None


@pytest.mark.parametrize(
    ("meta", "words"),
    [({"a": {1}}, r"^meta\.a is a set"), ([1], "meta is a dict, not list"), ({"a": ref(1)}, "can't hold ref")],
)
def test_a_meta_that_is_no_json_object_is_refused_where_it_is_written(meta, words):
    with pytest.raises(InvalidArguments, match=words):
        Snooze(1, meta)


@given(json_values)
def test_a_record_holds_its_value_encoded(value):
    record = Record(value)
    assert record.encoded == erlang.encode(value)
    assert record.value == value


def test_a_record_over_its_limit_names_both_sizes():
    size = len(Record("x" * 100).encoded)
    assert Record("x" * 100, limit=size).limit == size
    with pytest.raises(ValueError, match=f"recorded value is {size} bytes, exceeds limit of {size - 1}; "):
        Record("x" * 100, limit=size - 1)


def test_a_record_is_limited_to_64_megabytes_unless_told_otherwise():
    assert Record(None).limit == 64_000_000


def test_a_record_of_what_has_no_erlang_form_is_refused_where_it_is_made():
    with pytest.raises(TypeError, match=r"value\['at'\] is a timedelta"):
        Record({"at": timedelta(1)})


@pytest.mark.parametrize("outcome", [Snooze(60, {"a": 1}), Cancel("why"), Record({"a": [1]})])
def test_outcomes_are_frozen_and_travel_between_processes(outcome):
    assert pickle.loads(pickle.dumps(outcome)) == outcome
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(outcome, dataclasses.fields(outcome)[0].name, 1)


def test_the_encoded_text_of_a_record_travels_too():
    assert pickle.loads(pickle.dumps(Record(1))).encoded == Record(1).encoded


def test_a_cancel_needs_a_reason():
    assert Cancel("asked to stop").reason == "asked to stop"
    with pytest.raises(TypeError):
        Cancel()  # type: ignore[call-arg]


@pytest.mark.parametrize("outcome", [Snooze(60, {"a": 1}), Cancel("why"), Record({"a": [1]}, limit=100)])
def test_outcomes_are_copied_with_changes(outcome):
    first = dataclasses.fields(outcome)[0].name
    changed = dataclasses.replace(outcome, **{first: 7})
    assert getattr(changed, first) == 7
    assert dataclasses.replace(changed, **{first: getattr(outcome, first)}) == outcome
    if isinstance(changed, Record):
        assert (changed.encoded, changed.limit) == (erlang.encode(7), 100)


def test_an_outcome_can_be_raised_and_noted_on_and_is_still_frozen():
    outcome = Cancel("why")
    with pytest.raises(Cancel) as raised, contextlib.ExitStack() as stack:
        stack.callback(len, "")
        outcome.add_note("by the way")
        raise outcome
    assert raised.value == Cancel("why")
    assert repr(outcome) == "Cancel(reason='why')"
    for change in (lambda: setattr(outcome, "reason", 1), lambda: delattr(outcome, "reason")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()


def test_a_result_says_what_else_there_may_be():
    assert Result[dict] == Cancel | Snooze | Record[dict] | dict | None
    assert RECORDED_LIMIT == 64_000_000

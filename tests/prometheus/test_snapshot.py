"""Figures of several processes become one."""

from __future__ import annotations

import json

import pytest

from oban_sa.prometheus.snapshot import Snapshot, distribution, dumped, loaded, merged, told_apart


def of_one(*, up: float, oldest: float) -> Snapshot:
    seconds = distribution()
    seconds[0], seconds[-1] = 2.0, 0.5
    return {
        "oban_job_runs_total": {("mailers", "shop.Mail", "completed"): 3.0},
        "oban_fetch_seconds": {("mailers",): seconds},
        "oban_notifier_up": {(): up},
        "oban_queue_oldest_seconds": {("mailers",): oldest},
    }


def test_counters_and_histograms_are_added_up_and_gauges_as_their_family_says() -> None:
    found = merged([of_one(up=1.0, oldest=4.0), of_one(up=0.0, oldest=9.0)])
    assert found["oban_job_runs_total"] == {("mailers", "shop.Mail", "completed"): 6.0}
    seconds = found["oban_fetch_seconds"]["mailers",]
    assert isinstance(seconds, list)
    assert (seconds[0], seconds[1], seconds[-1]) == (4.0, 0.0, 1.0)
    assert found["oban_notifier_up"] == {(): 0.0}
    assert found["oban_queue_oldest_seconds"] == {("mailers",): 9.0}


def test_what_only_one_process_has_stays() -> None:
    other: Snapshot = {"oban_rescued_total": {(): 2.0}}
    assert merged([of_one(up=1.0, oldest=4.0), other]) == of_one(up=1.0, oldest=4.0) | other
    assert merged([]) == {}


def test_merging_changes_none_of_the_snapshots() -> None:
    one = of_one(up=1.0, oldest=4.0)
    merged([one, of_one(up=1.0, oldest=4.0)])
    assert one == of_one(up=1.0, oldest=4.0)


def test_a_snapshot_travels_as_json() -> None:
    snapshot = of_one(up=1.0, oldest=4.0)
    assert loaded(json.loads(json.dumps(dumped(snapshot)))) == snapshot


def test_families_of_another_version_are_left_out() -> None:
    assert loaded({"oban_of_tomorrow": [[[], 1.0]], "oban_rescued_total": [[[], 1.0]]}) == {
        "oban_rescued_total": {(): 1.0}
    }


def test_a_dump_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="unpack"):
        loaded({"oban_rescued_total": [[1, 2, 3]]})


def test_runners_of_one_process_are_told_apart() -> None:
    one: Snapshot = {"oban_rescued_total": {(): 2.0}}
    assert told_apart({"acme": one, "globex": one}) == {
        "oban_rescued_total": {("acme",): 2.0, ("globex",): 2.0},
    }

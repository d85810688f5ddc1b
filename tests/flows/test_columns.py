"""What waits stands to the right of all that it waits for, however the drawing is made."""

from __future__ import annotations

from graphlib import CycleError

import pytest

from oban_sa.flows.columns import columns, curve


def test_each_stands_right_of_all_that_it_waits_for_and_no_further() -> None:
    waits: dict[str, list[str]] = {"d": ["b", "c"], "b": ["a"], "c": [], "a": [], "e": ["c"]}
    assert columns(waits) == [["c", "a"], ["b", "e"], ["d"]]


def test_nothing_has_no_columns() -> None:
    assert columns({}) == []


def test_what_waits_for_itself_is_refused() -> None:
    with pytest.raises(CycleError):
        columns({"a": ["b"], "b": ["a"]})


def test_a_curve_is_exact_in_a_large_drawing_too() -> None:
    assert curve(1234567.5, 10, 1234667.5, 2000001) == (
        "M1234567.5 10C1234617.5 10 1234617.5 2000001 1234667.5 2000001"
    )

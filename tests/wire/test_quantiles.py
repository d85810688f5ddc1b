"""Percentiles of what was counted in bins: each is the bin of the value at its rank, however they are asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oban_sa.wire.sketches import quantiles, seconds_of

bins = st.dictionaries(st.integers(0, 1_400), st.integers(0, 30), max_size=12)
shares = st.lists(st.floats(0, 1), max_size=5).map(sorted)


@given(counted=bins, asked=shares)
def test_each_is_the_value_at_its_rank(counted: dict[int, int], asked: list[float]) -> None:
    values = [number for number, count in sorted(counted.items()) for _ in range(count)]
    expected = [seconds_of(values[int(share * (len(values) - 1))]) if values else None for share in asked]
    assert quantiles(counted, asked) == expected


def test_of_nothing_there_is_none() -> None:
    assert quantiles({}, (0.5, 0.99)) == quantiles({7: 0}, (0.5, 0.99)) == [None, None]

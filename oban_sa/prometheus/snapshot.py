"""The figures of one moment, as they travel between processes, and how those of several become one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias, cast

from oban_sa.prometheus.families import FAMILIES, SECONDS, Merge

Distribution: TypeAlias = list[float]
"""A histogram: how many values are in each bucket of `SECONDS`, how many lie above all, and the sum of all values."""

Value: TypeAlias = float | Distribution
Labels: TypeAlias = tuple[str, ...]
"""The values of a family's labels, in its order."""

Snapshot: TypeAlias = dict[str, dict[Labels, Value]]
"""Metrics by family and labels."""

RUNNER: Final = "runner"
"""The label that tells runners of one process apart, behind those of the family."""

_MERGES: Final[Mapping[Merge, Callable[[float, float], float]]] = {
    "sum": lambda one, other: one + other,
    "max": max,
    "min": min,
}


def distribution() -> Distribution:
    """Return a histogram of no values."""
    return [0.0] * (len(SECONDS) + 2)


def merged(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return one snapshot for several processes: counters and histograms are added up, gauges as their family says."""
    found: Snapshot = {}
    for snapshot in snapshots:
        for name, metrics in snapshot.items():
            merge = _MERGES[FAMILIES[name].merge]
            into = found.setdefault(name, {})
            for labels, value in metrics.items():
                if (before := into.get(labels)) is None:
                    into[labels] = value
                elif isinstance(value, list) and isinstance(before, list):
                    into[labels] = [one + other for one, other in zip(before, value, strict=True)]
                elif not isinstance(value, list) and not isinstance(before, list):
                    into[labels] = merge(before, value)
    return found


def told_apart(snapshots: Mapping[str, Snapshot]) -> Snapshot:
    """Return one snapshot for several runners of a process; a last label, `RUNNER`, has the name of each."""
    return merged(
        {name: {(*labels, runner): value for labels, value in metrics.items()} for name, metrics in snapshot.items()}
        for runner, snapshot in snapshots.items()
    )


def dumped(snapshot: Snapshot) -> dict[str, list[list[object]]]:
    """Return a snapshot as JSON can hold it."""
    return {name: [[list(labels), value] for labels, value in metrics.items()] for name, metrics in snapshot.items()}


def loaded(dump: Mapping[str, object]) -> Snapshot:
    """Return the snapshot that `dumped` made this of; raises `ValueError` for what it never makes."""
    found: Snapshot = {}
    for name, metrics in dump.items():
        if name not in FAMILIES:  # of a process that runs another version
            continue
        into = found[name] = {}
        for each in cast("Sequence[Sequence[object]]", metrics):
            labels, value = each
            into[tuple(cast("list[str]", labels))] = cast("Value", value)
    return found

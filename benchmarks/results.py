"""Figures as they are kept, and what is made of them: medians, and ratios to the floor and to the best peer."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.scenario import Scenario
from benchmarks.scenarios import BY_NAME

LATEST = Path("benchmarks") / "results" / "latest.json"
OWN = ("floor", "oban_sa")


def load(path: Path) -> dict[str, Any]:
    """The results of a run, or of one that was stopped."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def save(path: Path, document: dict[str, Any]) -> None:
    """Write them so that a program that is stopped meanwhile leaves the last complete ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(_rounded(document), indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def main_figure(scenario: Scenario, found: dict[str, Any]) -> float | None:
    """What a scenario is about: jobs a second, the median latency in milliseconds, or statements a second."""
    if scenario.measures in ("latency", "crowd"):
        value = found.get("latency", {}).get("p50")
        return None if value is None else float(value)
    return median(found, "rate" if scenario.measures == "rate" else "statements_per_s")


def median(found: dict[str, Any], name: str) -> float | None:
    """The median over the rounds."""
    values = found.get("values", {}).get(name)
    return statistics.median(values) if values else None


def spread(found: dict[str, Any], name: str) -> float | None:
    """By how much of the median the rounds differ."""
    values = found.get("values", {}).get(name)
    return (max(values) - min(values)) / statistics.median(values) if values and len(values) > 1 else None


def to_floor(scenario: Scenario, figures: Mapping[str, Any], contender: str) -> float | None:
    """A contender's figure divided by the floor's."""
    return _ratio(scenario, figures, contender, "floor")


def to_best_peer(scenario: Scenario, figures: Mapping[str, Any], contender: str) -> tuple[str, float] | None:
    """The best of the others, and a contender's figure divided by theirs."""
    best = best_peer(scenario, figures)
    if best is None or (ratio := _ratio(scenario, figures, contender, best)) is None:
        return None
    return best, ratio


def best_peer(scenario: Scenario, figures: Mapping[str, Any]) -> str | None:
    """Which of the others has the highest rate, or the lowest latency or fewest statements."""
    found = {
        name: value
        for name, figure in figures.items()
        if name not in OWN and (value := main_figure(scenario, figure)) is not None
    }
    if not found:
        return None
    return (max if scenario.measures == "rate" else min)(found, key=lambda name: found[name])


def _ratio(scenario: Scenario, figures: Mapping[str, Any], one: str, other: str) -> float | None:
    mine, theirs = main_figure(scenario, figures.get(one, {})), main_figure(scenario, figures.get(other, {}))
    return mine / theirs if mine is not None and theirs else None


def known(document: dict[str, Any]) -> list[tuple[Scenario, dict[str, Any]]]:
    """The scenarios that were measured, in their order, with the figures of each contender."""
    measured = document["scenarios"]
    return [(scenario, measured[name]["figures"]) for name, scenario in BY_NAME.items() if name in measured]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value

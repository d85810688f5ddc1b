"""Make docs/reliability.md of what was kept: which promise which experiment shows, and what shows the experiment."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.acceptance.chaos import checker, results
from tests.acceptance.chaos.mutants import Mutant, mutants
from tests.acceptance.chaos.results import Caught, Result
from tests.support import ROOT

PAGE: Final = ROOT / "docs" / "reliability.md"
WRITTEN: Final = ROOT / "docs" / "reliability"
MADE: Final = (
    "<!-- Made by `python -m tests.acceptance.chaos --page`; what people wrote comes from docs/reliability/. -->"
)

_Rules = tuple[Callable[..., Any], ...]

_PROMISES: Final[tuple[tuple[str, str, _Rules], ...]] = (
    ("P1", "A job exists if and only if the transaction that enqueued it committed", (checker.atomic, checker.whole)),
    ("P2", "A committed job ends, whatever crashes", (checker.nothing_lost, checker.over)),
    ("P3", "Only the attempt that holds a job says how it ended", (checker.fenced,)),
    ("P4", "What a worker writes in its session happens exactly once", (checker.effects, checker.in_sessions)),
    ("P5", "A job whose runner lives is never started by another", (checker.never_twice_at_once, checker.alive)),
    ("P6", "A shutdown gives back, and spends no attempt", (checker.stopped, checker.spent)),
    ("P7", "A job that kills its runner ends, after its attempts and no more", (checker.poison,)),
    ("order", "A member of a workflow begins after what it waits for", (checker.in_order,)),
    ("booked", "What a workflow counts is so", (checker.booked,)),
    ("callbacks", "A batch makes one job for each event", (checker.callbacks,)),
    ("steps", "A durable step is taken once", (checker.steps,)),
    ("cancel", "A cancelled job is not run", (checker.cancelled, checker.cut_short)),
    ("pause", "A paused queue rests", (checker.paused,)),
    ("limit", "No node runs more jobs of a queue at once than its limit", (checker.limited,)),
    ("rows", "Rows agree with themselves, and the dead leave none", (checker.sane,)),
    ("logs", "Whatever happens, a runner has no error of its own", (checker.logs, checker.deadlocks)),
)


def write() -> None:
    """Write the page of what was kept."""
    PAGE.write_text(make(results.read()))


def make(kept: dict[str, Any]) -> str:
    """Return the page."""
    runs = [Result(**run) for run in kept["runs"]]
    caught = [Caught(**each) for each in kept["mutants"]]
    sections = (
        MADE,
        _written("introduction.md"),
        "## What is promised, and what shows it",
        promise_table(caught),
        "## Protections taken out",
        _written("mutants.md"),
        mutant_table(caught) if caught else "",
        "## Runs",
        _written("runs.md"),
        *_runs([run for run in runs if run.kind != "flows"]),
        "### Workflows and batches",
        _written("flows.md"),
        *_runs([run for run in runs if run.kind == "flows"]),
        _written("again.md"),
    )
    return "\n\n".join(section.strip() for section in sections if section.strip()) + "\n"


def promise_table(caught: Iterable[Caught]) -> str:
    """A row for each promise: the experiment, and the mutants by which it was seen to fail."""
    known = {each.name: each for each in caught}
    rows = []
    for name, promise, rules in _PROMISES:
        shown = " ".join(" ".join((inspect.getdoc(rule) or "").split("\n\n")[0].split()) for rule in rules)
        by = [_named(mutant, known) for mutant in mutants() if name in mutant.promises]
        rows.append([f"**{name}** {promise}", shown, ", ".join(by)])
    return _table(["promise", "what is looked at after each run", "mutants that break it"], rows)


def mutant_table(caught: Iterable[Caught]) -> str:
    """A row for each mutant."""
    missing = {mutant.name: mutant.missing for mutant in mutants()}
    rows = [
        [
            f"`{each.name}`",
            missing.get(each.name, ""),
            each.kind,
            f"**not in {each.seeds} seeds**" if each.seed is None else str(each.seed),
            each.promise or "",
        ]
        for each in caught
    ]
    return _table(["mutant", "what is taken out", "kind", "caught by seed", "broken promise"], rows)


def run_table(runs: Sequence[Result]) -> str:
    """A row for each run."""
    names = ["seed", "kind", "runners", "processes", "faults", "cuts", "jobs", "attempts", "rescues", "unknown"]
    if any(run.trees for run in runs):
        names[1], names[5:6] = "outages", ["cuts", "trees"]
    rows = [[*(str(getattr(run, name)) for name in names), _broken(run)] for run in runs]
    return _table([*names[:-1], "unknown commits", "violations"], rows)


def _runs(runs: Sequence[Result]) -> Iterator[str]:
    if runs:
        yield _totals(runs)
        yield run_table(runs)


def _totals(runs: Sequence[Result]) -> str:
    total: Callable[[str], int] = lambda name: sum(getattr(run, name) for run in runs)  # noqa: E731
    broken = sum(len(run.violations) for run in runs)
    are_flows = any(run.trees for run in runs)
    outages = f", {total('outages')} of them outages of PostgreSQL" if are_flows else ""
    flows = f"{total('trees')} workflows and batches with " if are_flows else ""
    return (
        f"{len(runs)} runs: {total('faults')} faults{outages}, {total('cuts')} connections cut, {total('processes')} "
        f"runner processes, {flows}{total('jobs')} jobs, {total('attempts')} attempts, {total('rescues')} rescues, "
        f"{total('unknown')} commits that were never answered, {broken or 'no'} violations."
    )


def _broken(run: Result) -> str:
    return ", ".join(sorted(set(run.violations))) or "none"


def _named(mutant: Mutant, caught: dict[str, Caught]) -> str:
    each = caught.get(mutant.name)
    return f"`{mutant.name}`" + ("" if each is None or each.seed is not None else " (not caught)")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def lines() -> Iterator[str]:
        yield "| " + " | ".join(head) + " |"
        yield "|" + "---|" * len(head)
        for row in rows:
            yield "| " + " | ".join(row) + " |"

    return "\n".join(lines())


def _written(name: str) -> str:
    path: Path = WRITTEN / name
    return path.read_text(encoding="utf-8") if path.exists() else ""

"""What is kept of each run, and of each mutant, and how a line says it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.acceptance.chaos.evidence import Evidence
from tests.acceptance.chaos.violation import Violation

KEPT: Final = Path(__file__).parent / "results.json"
"""The results that the page is made of."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run in figures; `violations` are the promises that it broke, each as often as it did."""

    seed: int
    kind: str
    seconds: float
    runners: int
    faults: int
    cuts: int
    processes: int
    """Runners that were started, those that replaced others included."""
    jobs: int
    attempts: int
    rescues: int
    unknown: int
    """Transactions whose commit was never answered."""
    violations: tuple[str, ...] = ()
    mutants: tuple[str, ...] = ()
    outages: int = 0
    """How often PostgreSQL was restarted or killed, or a process of it."""
    trees: int = 0
    """Workflows and batches, without those inside of others."""

    @classmethod
    def of(cls, plan: dict[str, Any], counts: dict[str, Any], found: Evidence, broken: Sequence[Violation]) -> Result:
        """Count what the evidence of a run holds."""
        return cls(
            seed=plan["seed"],
            kind=plan["kind"],
            seconds=plan["seconds"],
            runners=plan["runners"],
            faults=sum(counts["faults"].values()),
            cuts=sum(counts["cuts"].values()),
            processes=len(found.lives),
            jobs=len(found.rows),
            attempts=len(found.runs),
            rescues=sum("stopped beating" in error["error"] for row in found.rows.values() for error in row["errors"]),
            unknown=len(found.said("unknown")),
            outages=len(found.said("server ends")),
            trees=sum(row["id"] == row["root_id"] for row in found.tables.get("flows", ())),
            violations=tuple(violation.promise for violation in broken),
            mutants=tuple(plan["mutants"]),
        )

    @property
    def name(self) -> str:
        """What to call this run."""
        return "-".join([self.kind, str(self.seed), *self.mutants])

    def __str__(self) -> str:
        broken = ", ".join(f"{count} x {promise}" for promise, count in sorted(Counter(self.violations).items()))
        return (
            f"seed {self.seed:3} {self.kind:11} {self.runners} runners, {self.processes:3} processes, "
            f"{self.faults:3} faults, {self.cuts:4} cuts, {self.jobs:5} jobs, {self.attempts:5} attempts, "
            f"{self.rescues:4} rescues, {self.unknown:3} unknown commits"
            f"{f', {self.outages} outages, {self.trees} trees' if self.trees else ''}: {broken or 'no violation'}"
        )


@dataclass(frozen=True, slots=True)
class Caught:
    """A mutant, and the seed whose run first broke one of the promises it is to break; None where none did."""

    name: str
    kind: str
    seeds: int
    seed: int | None
    promise: str | None = None


def write(runs: Sequence[Result] | None, caught: Sequence[Caught] | None, path: Path = KEPT) -> None:
    """Keep results; what they say nothing of stays as it was.

    Runs replace those of the same sort: about workflows, or about jobs alone.
    """
    kept = read(path)
    if runs:
        of_flows = runs[0].kind == "flows"
        others = [run for run in kept["runs"] if (run["kind"] == "flows") != of_flows]
        kept["runs"] = sorted([*others, *map(asdict, runs)], key=lambda run: run["kind"] == "flows")
    if caught is not None:
        known = {each["name"]: each for each in kept["mutants"]} | {each.name: asdict(each) for each in caught}
        kept["mutants"] = sorted(known.values(), key=lambda each: each["name"])
    path.write_text(json.dumps(kept, indent=1) + "\n")


def read(path: Path = KEPT) -> dict[str, Any]:
    """What is kept."""
    return json.loads(path.read_text()) if path.exists() else {"runs": [], "mutants": []}

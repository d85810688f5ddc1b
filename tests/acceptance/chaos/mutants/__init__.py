"""Protections taken out, one in each module: a harness that finds nothing proves something only if it finds these.

A runner imports one with `--import tests.acceptance.chaos.mutants.<name>`; importing it changes `oban_sa` in that
process alone. Each says in `PROMISES` which promises its violations break, and in `KIND` under which faults.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Mutant:
    """A protection taken out: what is missing, which promises break, and under which kind of run."""

    name: str
    missing: str
    promises: tuple[str, ...]
    kind: str


def mutants() -> list[Mutant]:
    """Every mutant there is, read without being imported: that alone would take the protection out here too."""
    return [_read(path) for path in sorted(HERE.glob("*.py")) if path.stem != "__init__"]


def _read(path: Path) -> Mutant:
    module = ast.parse(path.read_text())
    said = {
        target.id: ast.literal_eval(statement.value)
        for statement in module.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name) and target.id in ("PROMISES", "KIND")
    }
    missing = (ast.get_docstring(module) or "").splitlines()[0].rstrip(".")
    return Mutant(path.stem, missing, tuple(said["PROMISES"]), said["KIND"])

"""One run from beginning to end: made, checked, and put away; its folder stays where something was broken."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.acceptance.chaos import checker, evidence, plan, run
from tests.acceptance.chaos.results import Result
from tests.acceptance.chaos.story import story
from tests.acceptance.chaos.violation import Violation


def make(
    seed: int, folder: Path, *, kind: str, seconds: float, mutants: Sequence[str] = (), quiet: float = run.QUIET
) -> tuple[Result, list[Violation]]:
    """Make the run of a seed in an empty `folder` and check it."""
    made = plan.make(seed, kind=kind, seconds=seconds)
    asyncio.run(run.run(made, folder, mutants=mutants, quiet=quiet))
    return check(folder)


def check(folder: Path) -> tuple[Result, list[Violation]]:
    """Check a run that was made, and write down in its folder what was found: `violations.txt`, with the story."""
    found = evidence.load(folder)
    broken = checker.check(found)
    said, counts = (json.loads((folder / name).read_text()) for name in ("plan.json", "counts.json"))
    result = Result.of(said, counts, found, broken)
    jobs = [violation.job for violation in broken if violation.job is not None][:10]
    lines = [str(result), *map(str, broken), "", *(story(found, jobs) if broken else ())]
    (folder / "violations.txt").write_text("\n".join(lines) + "\n")
    (folder / "result.json").write_text(json.dumps({"result": result_as_json(result)}))
    return result, broken


def result_as_json(result: Result) -> dict[str, object]:
    """A result as it crosses to another process."""
    return {name: getattr(result, name) for name in Result.__dataclass_fields__}


def put_away(folder: Path, *, keep: bool) -> None:
    """Remove a run's folder, or only the server's data from it, which takes the most room and tells the least."""
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in run.logs_of_server(folder):
        shutil.copy(path, folder / "postgresql.log")
    shutil.rmtree(folder / "server", ignore_errors=True)

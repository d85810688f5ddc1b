"""`python -m tests.acceptance.chaos`: random faults from seeds, and what they broke."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.acceptance.chaos import checker, evidence, plan, run
from tests.acceptance.chaos.story import story


def main() -> None:
    if sys.argv[1] in ("story", "check"):
        found = evidence.load(Path(sys.argv[2]))
        print(
            "\n".join(
                map(str, checker.check(found))
                if sys.argv[1] == "check"
                else story(found, [int(each) for each in sys.argv[3:]])
            )
        )
        return
    seed, kind, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{kind}-{seed}-"))
    asyncio.run(run.run(plan.make(seed, kind=kind, seconds=seconds), folder, mutants=sys.argv[4:]))
    found = evidence.load(folder)
    violations = checker.check(found)
    for each in violations:
        print(each)
    print(folder, len(found.rows), "jobs", len(found.runs), "runs", len(violations), "violations")


main()

"""Random faults from seeds against real runners, and a check of every promise after.

    python -m tests.acceptance.chaos --seeds 20          # the seeds from 1 on, two at a time, a minute each
    python -m tests.acceptance.chaos --seed 7 --kind stalls
    python -m tests.acceptance.chaos --seeds 20 --kind flows  # workflows and batches
    python -m tests.acceptance.chaos --mutants           # runs that have to break something
    python -m tests.acceptance.chaos --page              # docs/reliability.md of what was kept
    python -m tests.acceptance.chaos --check FOLDER      # check a run again that was kept
    python -m tests.acceptance.chaos --story FOLDER 197  # what happened to a job, and around it

A run that broke something leaves its folder: the plan, the ledger, the tables, the logs, and the story of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.acceptance.chaos import evidence, many, one, page, results
from tests.acceptance.chaos.mutants import mutants
from tests.acceptance.chaos.plan import KINDS
from tests.acceptance.chaos.story import story

FULL = 20
"""Seeds of a run whose results are kept for the page, where they take a minute each."""


def main() -> int:
    """Do what the arguments say; 1 where a promise was broken, or a mutant was not caught."""
    given = _arguments()
    if given.page:
        page.write()
        return 0
    if given.check:
        result, broken = one.check(given.check)
        print(result, *broken, sep="\n")
        return bool(broken)
    if given.story:
        folder, *jobs = given.story
        print(*story(evidence.load(Path(folder)), [int(job) for job in jobs]), sep="\n")
        return 0
    if given.seed is not None:
        return _one(given)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.chmod(0o755)
    wanted = many.Wanted(given.seconds, given.side_by_side, folder)
    seeds = range(given.first, given.first + given.seeds)
    if given.mutants:
        chosen = [mutant for mutant in mutants() if given.only is None or mutant.name in given.only]
        caught = asyncio.run(many.hunt(chosen, seeds, wanted))
        print(page.mutant_table(caught))
        results.write(None, caught)
        page.write()
        return any(each.seed is None for each in caught)
    runs = asyncio.run(many.runs(seeds, given.kind, wanted))
    print(page.run_table(runs))
    if len(runs) >= FULL and given.seconds >= 60:
        results.write(runs, None)
        page.write()
    return any(run.violations for run in runs)


def _one(given: argparse.Namespace) -> int:
    folder: Path = given.into or Path(tempfile.mkdtemp(prefix=f"chaos-{given.seed}-"))
    names = [given.mutant] if given.mutant else []
    kind = many.kind_of(given.seed, given.kind)
    result, broken = one.make(given.seed, folder, kind=kind, seconds=given.seconds, mutants=names)
    one.put_away(folder, keep=bool(broken) or given.keep)
    print(result, *broken, *([f"see {folder}"] if broken or given.keep else []), sep="\n")
    # The last line is for whoever started this one among many.
    print(json.dumps(one.result_as_json(result)))
    return bool(broken)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.acceptance.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=4, help="how many seeds to run; 4")
    parser.add_argument("--first", type=int, default=1, help="the first of them; 1")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults go on in each run; 60")
    parser.add_argument(
        "--kind",
        choices=(*KINDS, "all"),
        default="all",
        help="which faults; all but flows in turn",
    )
    parser.add_argument("--side-by-side", type=int, default=2, help="runs at a time; 2")
    parser.add_argument("--mutants", action="store_true", help="run each mutant until it is caught")
    parser.add_argument("--only", nargs="+", metavar="MUTANT", help="these mutants alone")
    parser.add_argument("--page", action="store_true", help="make docs/reliability.md of what was kept")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="check a run again")
    parser.add_argument("--story", nargs="+", metavar=("FOLDER", "JOB"), help="tell what happened to jobs of a run")
    parser.add_argument("--seed", type=int, help="run this one seed, here")
    parser.add_argument("--mutant", help="with this mutant")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="keep everything in this folder")
    parser.add_argument("--keep", action="store_true", help="keep the folder even where nothing was broken")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

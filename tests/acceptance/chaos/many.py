"""Many runs, some side by side, each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.chaos.mutants import Mutant
from tests.acceptance.chaos.plan import IN_TURN
from tests.acceptance.chaos.results import Caught, Result
from tests.support import ROOT, environment


@dataclass(frozen=True, slots=True)
class Wanted:
    """How runs are to be made."""

    seconds: float
    side_by_side: int
    folder: Path


def kind_of(seed: int, kind: str) -> str:
    """The kind of a seed's run; with "all" they take turns."""
    return IN_TURN[seed % len(IN_TURN)] if kind == "all" else kind


async def runs(seeds: Iterable[int], kind: str, wanted: Wanted) -> list[Result]:
    """Make the runs of these seeds, say a line for each as it ends, and return them in order."""
    room = asyncio.Semaphore(wanted.side_by_side)

    async def one(seed: int) -> Result | None:
        async with room:
            result, folder = await _run(seed, kind_of(seed, kind), wanted)
            if result is None:
                print(f"seed {seed:3} {kind_of(seed, kind):11} could not be run; see {folder}", flush=True)
            else:
                print(result, *([f"\n    see {folder}"] if result.violations else []), flush=True)
            return result

    found = await asyncio.gather(*(one(seed) for seed in seeds))
    if None in found:
        raise SystemExit(2)
    return [result for result in found if result is not None]


async def hunt(mutants: Sequence[Mutant], seeds: Sequence[int], wanted: Wanted) -> list[Caught]:
    """Run each mutant with one seed after another until a run breaks a promise that it is to break."""
    room = asyncio.Semaphore(wanted.side_by_side)

    async def one(mutant: Mutant) -> Caught:
        async with room:
            for seed in seeds:
                result, _ = await _run(seed, mutant.kind, wanted, mutant.name)
                broken = [each for each in mutant.promises if result is not None and each in result.violations]
                said = "could not be run" if result is None else str(result).rpartition(": ")[2]
                print(f"{mutant.name:20} seed {seed} {mutant.kind}: {said}", flush=True)
                if broken:
                    return Caught(mutant.name, mutant.kind, len(seeds), seed, broken[0])
            return Caught(mutant.name, mutant.kind, len(seeds), None)

    return list(await asyncio.gather(*(one(mutant) for mutant in mutants)))


async def _run(seed: int, kind: str, wanted: Wanted, mutant: str | None = None) -> tuple[Result | None, Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-{seed}-", dir=wanted.folder))
    words = ["--seed", str(seed), "--kind", kind, "--seconds", str(wanted.seconds), "--into", str(folder)]
    if mutant is not None:
        words += ["--mutant", mutant]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.acceptance.chaos", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(),
        cwd=ROOT,
    )
    output, _ = await process.communicate()
    # One that fails itself ends with 1, too.
    if process.returncode not in (0, 1) or not output.rpartition(b"\n{")[2].strip().endswith(b"}"):
        said_by = wanted.folder / f"{folder.name}.txt"
        said_by.write_bytes(output)
        return None, said_by
    said: dict[str, Any] = json.loads(output.splitlines()[-1])
    said["violations"], said["mutants"] = tuple(said["violations"]), tuple(said["mutants"])
    return Result(**said), folder

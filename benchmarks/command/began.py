"""The one job that a runner that was just started begins, for `benchmarks.command.startup`."""

from __future__ import annotations

import time

from benchmarks.command.startup import SAYS
from oban_sa import job


@job(queue="bench", name="benchmarks.began")
async def began() -> None:
    """Say when it began."""
    print(f"{SAYS}{time.perf_counter()!r}", flush=True)

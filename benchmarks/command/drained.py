"""The jobs that `python -m oban_sa.runner` drains, and what it says of them at its end: for `command.drain`."""

from __future__ import annotations

import atexit
import json
import time

from benchmarks import filling
from benchmarks.command.drain import SAYS
from benchmarks.shares import Share
from benchmarks.turn import peak
from oban_sa import Job, job, telemetry

share = Share()


@job(queue="bench", name=filling.WORKER)
async def nothing(job: Job, text: str = "") -> None:
    share.executed.append(job.id)


def fetched(event: telemetry.ProducerFetch) -> None:
    share.began(time.perf_counter() - event.duration)


def written(event: telemetry.ProducerAck) -> None:
    share.ended()


def say() -> None:
    """Say what this process did."""
    share.over()
    told = {"seconds": share.last - share.first, "cpu": share.cpu, "memory_mb": peak(), "executed": share.executed}
    print(f"{SAYS}{json.dumps(told)}", flush=True)


telemetry.attach(fetched, telemetry.ProducerFetch)
telemetry.attach(written, telemetry.ProducerAck)
atexit.register(say)

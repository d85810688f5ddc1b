"""How the jobs of a run write down their attempts, and what they do in them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from oban_sa import Job
from tests.acceptance.chaos import ledger

FOREVER = 1000
"""Attempts of jobs that are to be completed whatever happens: each kill spends one."""


class Planned(RuntimeError):
    """An attempt that fails on purpose."""


@contextmanager
def recorded(job: Job, key: str) -> Iterator[None]:
    """Write down when an attempt begins and when it ends, and how."""
    node, holder = (job.attempted_by or ["", ""])[:2]
    about: dict[str, Any] = {"job": job.id, "attempt": job.attempt, "node": node, "holder": holder, "queue": job.queue}
    ledger.write("begin", key=key, worker=job.worker.rpartition(".")[2], **about)
    how = "done"
    try:
        yield
    except Planned:
        how = "failed"
        raise
    except BaseException as error:
        how = type(error).__name__
        raise
    finally:
        ledger.write("end", how=how, **about)


def busy(seconds: float) -> None:
    """Rest in a thread, in steps between which an interruption is noticed."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.02))

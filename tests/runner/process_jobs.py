"""Workers that run in processes of their own, which import this module."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from oban_sa import Job, current_job, job


@job(executor="process")
def crash() -> None:
    os._exit(1)


@job(executor="process")
def pid_of_child(path: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")


@job(executor="process")
def linger(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


@job(executor="process", timeout=3)
def dawdle(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


@job(executor="process")
def raises(kind: str) -> None:
    raise {
        "StopIteration": StopIteration,
        "SystemExit": SystemExit,
        "KeyboardInterrupt": KeyboardInterrupt,
        "CancelledError": asyncio.CancelledError,
        "GeneratorExit": GeneratorExit,
    }[kind]("out")


@job(executor="process")
def unpicklable() -> object:
    return lambda: None


@job(executor="process")
def asks_who_it_is(job: Job, path: str) -> None:
    Path(path).write_text(f"{current_job().id} {job.attempt} {job.attempted_by[0]}")

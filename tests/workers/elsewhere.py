"""Workers that run in processes of their own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from oban_sa.models import Job
from oban_sa.outcomes import Record, Snooze
from oban_sa.workers import Registry, Worker, current_job, job, worker

PRIVATE = Registry()


@dataclass
class Numbers:
    numbers: list[int]


class StubbornError(Exception):
    """An error that can be pickled, but not be made again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("stubborn")


@worker(executor="process")
class Add(Worker[Numbers]):
    def process(self, args: Numbers, job: Job) -> Any:
        return sum(args.numbers), os.getpid(), job.id, current_job().id, job.attempt, job.meta


@job(executor="process", name="elsewhere.fail", registry=PRIVATE)
def fail(how: str) -> Any:
    if how == "key":
        raise KeyError("missing")
    if how == "stubborn":
        raise StubbornError(1, 2)
    if how == "exit":
        raise SystemExit(3)
    return {"snooze": Snooze(60), "record": Record({"a": 1})}[how]

"""A module that makes a worker of what stands elsewhere, in a registry of its own."""

from __future__ import annotations

from oban_sa import job
from oban_sa.workers import Registry
from tests.runner.concurrency.undecorated import undecorated

ELSEWHERE = Registry()
registered = job(executor="process", registry=ELSEWHERE, name="registered elsewhere")(undecorated)

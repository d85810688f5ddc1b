"""Defining work: `@worker` on classes, `@job` on functions, and the registry that knows them by name."""

from oban_sa.arguments.locks import ForUpdate
from oban_sa.workers.current import current_job, running
from oban_sa.workers.definition import Definition, definition_of
from oban_sa.workers.function import job
from oban_sa.workers.registry import Registry, registry
from oban_sa.workers.worker import Worker, worker

__all__ = [
    "Definition",
    "ForUpdate",
    "Registry",
    "Worker",
    "current_job",
    "definition_of",
    "job",
    "registry",
    "running",
    "worker",
]

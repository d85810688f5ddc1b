"""The crontab of a program: the entries of its workers and those that a runner was given, checked together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from oban_sa.errors import InvalidJob, InvalidOption, WorkerNotFound
from oban_sa.jobs import cron_entry
from oban_sa.jobs.cron_entry import CronEntry, Written
from oban_sa.models import Job, validation
from oban_sa.workers.definition import Definition, definition_of
from oban_sa.workers.registry import Registry


def resolved(entries: Iterable[Written], registry: Registry, allow: Sequence[str] = ()) -> tuple[CronEntry, ...]:
    """Return the entries with the names of their workers, those of the registry's own workers first.

    Raises WorkerNotFound for a worker that isn't registered, InvalidOption where two entries have one name or an option
    no job can have.
    """
    given = [entry.of(definition.name) for definition in registry for entry in definition.options.cron]
    given += [entry.of(_worker(entry, registry, allow)) for entry in cron_entry.entries(list(entries))]
    found: dict[str, CronEntry] = {}
    for entry in given:
        try:
            validation.changes(entry.options())
            _check_keys(entry, registry.find(entry.worker, allow))
        except InvalidJob as error:
            raise InvalidOption(f"cron {entry.expression!r} for {entry.worker}: {error}") from None
        other = found.setdefault(entry.name, entry)
        if other is not entry:
            raise InvalidOption(
                f"two entries of the crontab are named {entry.name!r}: {other.expression!r} for {other.worker} and "
                f'{entry.expression!r} for {entry.worker}; give one of them another: name="..."'
            )
    return tuple(found.values())


def _check_keys(entry: CronEntry, definition: Definition) -> None:
    """Raise `InvalidJob` where the entry's jobs lack what their keys are read from."""
    if definition.keys is not None:
        meta = entry.meta_at(datetime.now(UTC), definition.options.meta)
        definition.keys.read.write(Job(definition.name, args=dict(entry.args), meta=meta))


def _worker(entry: CronEntry, registry: Registry, allow: Sequence[str]) -> str:
    worker = entry.worker if isinstance(entry.worker, str) else definition_of(entry.worker).name
    try:
        return registry.find(worker, allow).name
    except WorkerNotFound as error:
        raise WorkerNotFound(f"cron {entry.expression!r}: {error}") from None

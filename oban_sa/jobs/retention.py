"""How long jobs that are over are kept: by age and by count, for each state, queue and worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias, cast

from oban_sa.describe.choices import is_whole
from oban_sa.errors import InvalidOption, nearest
from oban_sa.jobs.states import JobState
from oban_sa.schedule.periods import Period, describe, seconds

Archive: TypeAlias = Callable[[Any, list[Any]], Awaitable[object]]
"""`async def archive(session, jobs)`: keeps jobs elsewhere, in the transaction that deletes them."""

STATES: Final = (JobState.COMPLETED, JobState.CANCELLED, JobState.DISCARDED)
_NEVER: Final = frozenset({"never", "off", "no", "false", "none"})


@dataclass(frozen=True, slots=True)
class Retention:
    """Keeps a job for `max_age`, and while there are no more than `max_count` newer ones of its kind.

    Whichever ends first ends it; `Retention()` keeps jobs for ever. The age is counted from the moment the job was
    completed, cancelled or discarded; it becomes seconds. Raises `InvalidOption` for what can't be meant.
    """

    max_age: Period | None = None
    max_count: int | None = None

    def __post_init__(self) -> None:
        if self.max_age is not None:
            object.__setattr__(self, "max_age", seconds(self.max_age))
        count = cast("object", self.max_count)
        if count is not None and not is_whole(count, 0):
            raise InvalidOption(f"max_count is a whole number of jobs to keep, not {count!r}")

    @property
    def forever(self) -> bool:
        """Whether nothing is ever deleted."""
        return self.max_age is None and self.max_count is None

    @property
    def age(self) -> float | None:
        """The greatest age in seconds, or None."""
        return cast("float | None", self.max_age)

    def __str__(self) -> str:
        parts = [] if self.age is None else [describe(self.age)]
        parts += [] if self.max_count is None else [f"at most {self.max_count} jobs"]
        return ", ".join(parts) or "never"


class Rule(NamedTuple):
    """Which jobs of a state a retention is about: those of one worker, of one queue, or those of no other rule.

    `but_queues` and `but_workers` have rules of their own.
    """

    state: JobState
    retention: Retention
    queue: str | None = None
    worker: str | None = None
    but_queues: tuple[str, ...] = ()
    but_workers: tuple[str, ...] = ()


Kept: TypeAlias = Retention | Period | Mapping[str, object] | None
"""A retention as it may be written: `Retention(...)`, an age, a table of `max_age` and `max_count`, None for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """Which jobs that are over the runner that leads deletes, and how it goes about it.

        Prune(completed="1 hour", discarded=Retention("30 days", max_count=10_000), queues={"audit": None})

    `completed`, `cancelled` and `discarded` are each a `Retention`, an age such as "1 day", or None to keep for ever.
    `queues` and `workers` replace them for the jobs of a queue, or of a worker by its registered name; there each is
    a retention for all three states, or a table of states. A worker's rule goes before its queue's.

    It looks `every` so often and deletes `batch` jobs in one transaction. `archive`, an `async def archive(session,
    jobs)`, gets each batch first, in the same transaction: when it raises, nothing of the batch is deleted.
    """

    completed: Kept = "1 day"
    cancelled: Kept = "1 day"
    discarded: Kept = "7 days"
    queues: Mapping[str, Any] = field(default_factory=dict[str, Any])
    workers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    every: Period = 60
    batch: int = 1000
    archive: Archive | str | None = None

    def __post_init__(self) -> None:
        for state in STATES:
            object.__setattr__(self, state.value, _retention(getattr(self, state.value), state.value))
        object.__setattr__(self, "queues", _overrides(self.queues, "queues"))
        object.__setattr__(self, "workers", _overrides(self.workers, "workers"))
        every = seconds(self.every)
        if every <= 0:
            raise InvalidOption("every: 0 seconds is no interval; write for example 60")
        object.__setattr__(self, "every", every)
        batch = cast("object", self.batch)
        if not is_whole(batch, 1, 100_000):
            raise InvalidOption(f"batch is the number of jobs deleted at once, 1 to 100000, not {batch!r}")

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What is to be deleted: rules that never claim one job twice, without those that keep for ever."""
        return tuple(rule for rule in self.all_rules if not rule.retention.forever)

    @property
    def all_rules(self) -> tuple[Rule, ...]:
        """Also those that keep for ever; there is one rule for each job."""
        rules: list[Rule] = []
        for state in STATES:
            workers = tuple(name for name, kept in self.workers.items() if state in kept)
            queues = tuple(name for name, kept in self.queues.items() if state in kept)
            rules += [Rule(state, self.workers[name][state], worker=name) for name in workers]
            rules += [Rule(state, self.queues[name][state], queue=name, but_workers=workers) for name in queues]
            rules.append(Rule(state, getattr(self, state.value), but_queues=queues, but_workers=workers))
        return tuple(rules)

    def __str__(self) -> str:
        parts = [f"{state.value}: {getattr(self, state.value)}" for state in STATES]
        parts += [f"queue {name}: {_stated(kept)}" for name, kept in self.queues.items()]
        parts += [f"worker {name}: {_stated(kept)}" for name, kept in self.workers.items()]
        return "; ".join(parts)


def read_prune(given: object) -> Prune | None:
    """Return what a setting says: "7 days", "completed:1 day,discarded:never", "never", or a table; None is no pruning.

    An age alone is for all three states, and a state that is not named keeps its default. Raises `InvalidOption`.
    """
    if isinstance(given, Prune):
        return given
    if given is False:
        return None
    if isinstance(given, Mapping):
        return _prune_from_table(cast("Mapping[str, Any]", given))
    if isinstance(given, str) and given.strip().lower() in _NEVER:
        return None
    if isinstance(given, str) and ":" in given:
        table: dict[str, object] = {}
        for part in given.split(","):
            state, colon, age = part.partition(":")
            if not colon:
                raise InvalidOption(f"{part.strip()!r} is not a state and an age; {_EXAMPLE}")
            table[state.strip()] = age.strip()
        return _prune_from_table(table)
    if given is None or given is True or (isinstance(given, str) and not given.strip()):
        raise InvalidOption(f"{given!r} says nothing about how long to keep jobs; {_EXAMPLE}")
    kept = _retention(given, "prune")
    return Prune(completed=kept, cancelled=kept, discarded=kept)


_EXAMPLE: Final = 'write for example "1 day", or completed:1 day,discarded:30 days, or never'
_OPTIONS: Final = tuple(each.name for each in fields(Prune))


def _prune_from_table(table: Mapping[str, Any]) -> Prune:
    for name in table:
        if name not in _OPTIONS:
            raise InvalidOption(f"prune has no option {name!r}{nearest(str(name), _OPTIONS)}")
    return Prune(**table)


def _retention(given: object, where: str) -> Retention:
    if isinstance(given, Retention):
        return given
    if given is None or given is False or (isinstance(given, str) and given.strip().lower() in _NEVER):
        return Retention()
    if isinstance(given, Mapping):
        table = cast("Mapping[str, Any]", given)
        for name in table:
            if name not in ("max_age", "max_count"):
                raise InvalidOption(f"{where} has no option {name!r}{nearest(str(name), ['max_age', 'max_count'])}")
        return Retention(**table)
    try:
        return Retention(cast("Period", given))
    except InvalidOption as error:
        raise InvalidOption(f"{where}: {error}") from None


def _overrides(given: object, where: str) -> Mapping[str, Mapping[JobState, Retention]]:
    if not isinstance(given, Mapping):
        hint = '{"mailers": "1 hour"}' if where == "queues" else '{"myapp.jobs.SendWelcome": "1 hour"}'
        raise InvalidOption(f"{where} is a table of names and how long their jobs are kept, such as {hint}")
    table = cast("Mapping[str, object]", given)
    found = {_name(name, where): _by_state(kept, f"{where} {name!r}") for name, kept in table.items()}
    return MappingProxyType(found)


def _name(given: object, where: str) -> str:
    # A decorated class or function is meant by the name it is registered under.
    name = getattr(getattr(given, "__oban_definition__", None), "name", given)
    if not isinstance(name, str) or not name.strip():
        raise InvalidOption(f"{where} is a table of names, and {given!r} is none")
    return name


def _by_state(given: object, where: str) -> Mapping[JobState, Retention]:
    whole: object = given
    table: Mapping[str, object] = cast("Mapping[str, object]", given) if isinstance(given, Mapping) else {}
    if not table.keys() & {state.value for state in STATES}:
        if table and not table.keys() & {"max_age", "max_count"}:
            unknown = next(iter(table))
            raise InvalidOption(f"{where}: {unknown!r} is no state that jobs end in{nearest(str(unknown), _STATES)}")
        return MappingProxyType(dict.fromkeys(STATES, _retention(whole, where)))
    for state in table:
        if state not in _STATES:
            raise InvalidOption(f"{where}: {state!r} is no state that jobs end in{nearest(str(state), _STATES)}")
    return MappingProxyType({JobState(state): _retention(kept, f"{where} {state}") for state, kept in table.items()})


def _stated(kept: Mapping[JobState, Retention]) -> str:
    if len(set(kept.values())) == 1 and len(kept) == len(STATES):
        return str(next(iter(kept.values())))
    return ", ".join(f"{state.value} {retention}" for state, retention in kept.items())


_STATES: Final = tuple(state.value for state in STATES)

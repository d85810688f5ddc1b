"""Unique jobs: what makes two jobs the same, for how long, and which states of the older one stand in the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from oban_sa.describe.choices import choice
from oban_sa.describe.keywords import by_keywords
from oban_sa.errors import InvalidOption, InvalidPeriod, nearest, shown
from oban_sa.jobs.states import JobState
from oban_sa.jobs.values import TRACE_KEYS
from oban_sa.schedule.periods import Period, span

Group: TypeAlias = Literal["waiting", "incomplete", "scheduled", "successful", "all"]
"""A name for several states."""

WAITING: Final = (JobState.AVAILABLE, JobState.SCHEDULED, JobState.RETRYABLE, JobState.SUSPENDED)
"""The states of a job that has yet to be started."""

GROUPS: Final[Mapping[str, tuple[JobState, ...]]] = {
    "waiting": WAITING,
    "incomplete": (*WAITING, JobState.EXECUTING),
    "scheduled": (JobState.SCHEDULED,),
    "successful": (*WAITING, JobState.EXECUTING, JobState.COMPLETED),
    "all": tuple(JobState),
}
"""The states that each group means."""

FIELDS: Final = ("worker", "queue", "args", "meta")
"""What a key can be made of, in the order in which it is."""

REPLACEABLE: Final = ("args", "max_attempts", "meta", "priority", "queue", "scheduled_at", "tags", "worker")
"""What of a job that waits can be replaced by that of a newer one."""

NEWEST: Final = ("args", "meta", "scheduled_at")
"""What `replace="newest"` replaces."""

JOINED_FOR: Final = 1
"""Seconds for which a job may have been due and is still joined: each lock hides it from fetches, so that one that is
locked again and again would never start. Later another job succeeds it."""

MARK: Final = "unique"
"""The key of a job's meta that holds its unique key, a UUID as text."""

WHILE: Final = "unique_while"
"""The key of a job's meta that holds in which states, and how long, another stands in its way: `Unique.text`. A retry
asks by it. Where it is missing, that is as `Unique()` says."""

MARKS: Final = (MARK, WHILE)
"""What of a job's meta is written here."""

NO_SUBJECT: Final = (*MARKS, *TRACE_KEYS)
"""What of a job's meta is not what the job is about, and so no part of a key."""

Replace: TypeAlias = Mapping[str, Iterable[str]] | Iterable[str] | Literal["newest"]
"""Which fields are replaced: for each state, or a list for all waiting ones."""

_GROUPS: Final[tuple[Group, ...]] = get_args(Group)
_NEVER: Final = "never, forever, infinity"


_WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("expires", "seconds", "time", "ttl", "within", "window"), 'period="1 hour"'),
    **dict.fromkeys(("args", "by", "key"), 'keys=["account_id"], or fields=["worker", "args"]'),
    **dict.fromkeys(("timestamp", "on_conflict"), 'replace=["scheduled_at"]'),
}
"""What to write in place of names that people may take for options."""


@by_keywords('write Unique(period="1 hour", keys=["account_id"])', _WORDS)
@dataclass(frozen=True)
class Unique:
    """Jobs of which a second one is not inserted while a first one stands in its way.

        @worker(unique=Unique(keys=["doc_id"], group="waiting"))

    Two jobs are the same where their `fields` are equal: any of "worker", "queue", "args" and "meta". `keys` are those
    of args that are compared, `meta_keys` those of meta; without them all are. The older job stands in the way while
    its state is one of `group`, or of `states`, which takes the place of a group. With a `period`, such as "1 hour", it
    does so only where it is scheduled later than that long before the newer one.

    `replace` says which fields of the older job, if it still waits, get the values of the newer one: a list for all
    waiting states, a list for each state, or "newest" for args, meta and scheduled_at. Raises `InvalidOption` for what
    can't be meant.
    """

    period: Period | None = None
    fields: Iterable[str] = ("worker", "queue", "args")
    keys: Iterable[str] = ()
    meta_keys: Iterable[str] = ()
    group: Group = "successful"
    states: Iterable[str] | None = None
    replace: Replace | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        checked: dict[str, object] = {
            "period": None if self.period is None else _period(self.period),
            "keys": _keys(self.keys, "keys", "args"),
            "meta_keys": _keys(self.meta_keys, "meta_keys", "meta"),
        }
        checked["fields"] = fields = _fields(self.fields, with_meta=bool(checked["meta_keys"]))
        if checked["keys"] and "args" not in fields:
            raise InvalidOption(
                f'keys={list(self.keys)} are keys of args, and fields={list(self.fields)} leaves args out; add "args"'
            )
        checked["group"] = _group(self.group)
        if self.states is not None:
            if self.group != "successful":
                raise InvalidOption(f"group={self.group!r} is a name for several states; give it or states, not both")
            checked["states"] = _states(self.states)
        if self.replace is not None:
            checked["replace"] = replaced = _replace(self.replace)
            blocking = GROUPS[self.group] if self.states is None else cast("tuple[JobState, ...]", checked["states"])
            idle = [state for state in replaced if state not in blocking]
            # A list is for all states in which a job waits, as far as it then stands in the way.
            if idle and (isinstance(self.replace, Mapping) or len(idle) == len(replaced)):
                raise InvalidOption(
                    f"replace: a job that is {' or '.join(idle)} does not stand in the way, so nothing of it is "
                    f"replaced; leave that out, or add it to states, which are {', '.join(blocking)}"
                )
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, value: object) -> Unique | None:
        """Return what `unique=` means: True is `Unique()`, False and None are none; raises `InvalidOption`."""
        if value is None or value is False:
            return None
        if value is True:
            return _DEFAULT
        if isinstance(value, cls):
            return value
        if isinstance(value, dict):
            raise InvalidOption("unique is True or Unique(...), got a dict; write unique=Unique(**that)")
        if value is cls:
            raise InvalidOption("unique is True or Unique(...), got the class; write unique=True or unique=Unique()")
        example = _meant(value) or "period='1 hour'"
        raise InvalidOption(
            f"unique is True or Unique(...), got {shown(value, 60)}; write for example unique=Unique({example})"
        )

    @cached_property
    def blocking(self) -> tuple[JobState, ...]:
        """The states in which an older job stands in the way."""
        return GROUPS[self.group] if self.states is None else cast("tuple[JobState, ...]", self.states)

    @property
    def seconds(self) -> float | None:
        """The period in seconds, or None where an older job stands in the way however old it is."""
        return cast("float | None", self.period)

    @cached_property
    def joins(self) -> bool:
        """Whether an older job stands in the way only before it starts, so that it has yet to see the caller's data.

        Then it is locked until the caller commits, and starts after that.
        """
        return set(self.blocking) <= set(WAITING)

    @property
    def replaced(self) -> Mapping[str, tuple[str, ...]]:
        """Which fields are replaced in which state; empty where none are."""
        return cast("Mapping[str, tuple[str, ...]]", self.replace or {})

    @cached_property
    def scope(self) -> Mapping[str, list[str]]:
        """What a key is made of: the first part of what is hashed, so that different scopes never meet.

        It has `fields`, `keys` and `meta_keys`, each sorted.
        """
        return {name: sorted(getattr(self, name)) for name in ("fields", "keys", "meta_keys")}

    @cached_property
    def text(self) -> str | None:
        """In which states, and how long, an older job stands in the way, as a job's meta keeps it.

        "waiting", "successful 3600s", "available,executing"; None as `Unique()` says.
        """
        states = self.group if self.states is None else ",".join(self.blocking)
        span = "" if self.seconds is None else f" {self.seconds:.15g}s"
        return None if (states, span) == ("successful", "") else states + span

    @classmethod
    def of_text(cls, text: object) -> Unique:
        """Return a rule with the states and the period of a `text`; of what is none, `Unique()`."""
        if not isinstance(text, str):
            return _DEFAULT
        states, _, span = text.partition(" ")
        try:
            period = float(span.removesuffix("s")) if span else None
            if states in GROUPS:
                return cls(period=period, group=cast("Group", states))
            return cls(period=period, states=states.split(","))
        except (InvalidOption, ValueError, OverflowError):
            return _DEFAULT

    def marked(self, meta: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
        """Return the meta of a job with what a retry has to know; what it had of another job is left out.

        Without a `key` a statement is to add it.
        """
        made = {name: value for name, value in meta.items() if name not in MARKS}
        if key is not None:
            made[MARK] = key
        if self.text is not None:
            made[WHILE] = self.text
        return made

    def subject(self, worker: str, queue: str, args: Mapping[str, Any], meta: Mapping[str, Any]) -> list[object]:
        """Return what is hashed for the key of a job, as JSON: the scope, and then each field, or null for others.

        `sql.unique.key` says the same in SQL. What `keys` name and a job lacks counts as null.
        """
        fields = self.fields
        return [
            self.scope,
            worker if "worker" in fields else None,
            queue if "queue" in fields else None,
            _part(args, self.keys) if "args" in fields else None,
            # The mark of a key is no part of it: a job that is copied has that of the other.
            _part({name: value for name, value in meta.items() if name not in NO_SUBJECT}, self.meta_keys)
            if "meta" in fields
            else None,
        ]

    @cached_property
    def terms(self) -> Mapping[str, object]:
        """What a claim has to know of it beside the job, as JSON values: see `sql.unique.WANTED`."""
        terms: dict[str, object] = {
            "states": [state.value for state in self.blocking],
            "period": self.seconds,
            "joins": self.joins,
        }
        if self.replaced:
            terms["replace"] = {state: list(fields) for state, fields in self.replaced.items()}
        return terms

    @property
    def locks(self) -> tuple[str, ...]:
        """Which locks on older jobs a claim may need: those of `sql.unique.LOCKS`."""
        return (*(("share",) if self.joins else ()), *(("update",) if self.replaced else ()))


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why a job was not inserted: the job `id` stood in the way, in `state`; `replaced` are the fields it got."""

    id: int
    state: JobState
    replaced: tuple[str, ...] = ()


def _part(values: Mapping[str, Any], keys: Iterable[str]) -> Mapping[str, Any]:
    return {key: values.get(key) for key in keys} or values


def _period(period: Any) -> float:
    if isinstance(period, str) and period.strip().lower() in _NEVER.split(", "):
        raise InvalidPeriod(f"period {period!r}: leave it out, and an older job stands in the way however old it is")
    if not isinstance(period, float | int | timedelta) and (meant := _meant(period)):
        raise InvalidPeriod(f"period: {shown(period, 60)} is not a span of time; write Unique({meant})")
    found = span(period, "period")
    if found == 0:
        raise InvalidPeriod("a period of 0 would make no job unique; leave it out for no limit")
    return found


def _meant(value: object) -> str:
    """Return the option that a value is meant for, as it is written; "" where that can't be told."""
    if isinstance(value, (list, tuple, set)):
        values = list(cast("Iterable[object]", value))
        if values and all(isinstance(each, str) for each in values):
            return f"{'fields' if set(values) <= set(FIELDS) else 'keys'}={values}"
    elif isinstance(value, timedelta):
        return f"period={value!r}"
    elif isinstance(value, str) and value in GROUPS:
        return f"group={value!r}"
    elif isinstance(value, str) and value in FIELDS:
        return f"fields=[{value!r}]"
    return ""


def _fields(given: Any, *, with_meta: bool) -> tuple[str, ...]:
    found = _texts(given, "fields")
    for each in found:
        choice(each, FIELDS, what="fields:")
    if with_meta:
        found = (*found, "meta")
    if not found:
        raise InvalidOption('fields is empty, so that all jobs would be the same; write for example fields=["worker"]')
    return tuple(each for each in FIELDS if each in found)


def _keys(given: Any, what: str, of: str) -> tuple[str, ...]:
    found = _texts(given, what)
    for each in found:
        if each.startswith(f"{of}."):
            raise InvalidOption(f"{what} are keys of {of}, and {each!r} is none; write {each.removeprefix(of)[1:]!r}")
    return found


def _group(given: Any) -> Group:
    if isinstance(given, str) and given in tuple(JobState) and given not in _GROUPS:
        raise InvalidOption(f"group {given!r} is a state; write states=[{given!r}]")
    return choice(given, _GROUPS, what="group")


def _states(given: Any) -> tuple[JobState, ...]:
    named = _texts(given, "states")
    for each in named:
        if each in GROUPS and each not in tuple(JobState):
            raise InvalidOption(f"states: {each!r} is a group; write group={each!r}")
    found = {_state(each, "states:") for each in named}
    if not found:
        raise InvalidOption("states is empty, so that no job would stand in the way; leave unique out")
    return tuple(state for state in JobState if state in found)


def _replace(given: Any) -> Mapping[str, tuple[str, ...]]:
    if given == "newest":
        given = NEWEST
    elif isinstance(given, str):
        hint = f'write replace=["{given}"]' if given in REPLACEABLE else 'write a list of fields, or "newest"'
        raise InvalidOption(f"replace {given!r} is no list; {hint}")
    if not isinstance(given, Mapping):
        return dict.fromkeys((state.value for state in WAITING), _replaceable(given))
    found: dict[str, tuple[str, ...]] = {}
    for name, fields in cast("Mapping[str, object]", given).items():
        if name in REPLACEABLE:
            raise InvalidOption(
                f'replace: {name!r} is a field, and states come first: write {{"scheduled": ["{name}"]}}, or '
                f'["{name}"] for all states in which a job waits'
            )
        if name == "waiting":
            raise InvalidOption(
                "replace: 'waiting' is a group; give a list of fields for all states in which a job waits"
            )
        if name in tuple(JobState) and name not in WAITING:
            raise InvalidOption(f"replace: a job that is {name} keeps its values; give fields for {', '.join(WAITING)}")
        state = JobState(choice(name, tuple(each.value for each in WAITING), what="replace:"))
        if isinstance(fields, str):
            raise InvalidOption(f'replace: fields are a list; write {{"{state}": ["{fields}"]}}')
        found[state.value] = _replaceable(fields)
    if not found:
        raise InvalidOption("replace is empty; leave it out")
    return found


def _replaceable(given: Any) -> tuple[str, ...]:
    found = _texts(given, "replace")
    for each in found:
        choice(each, REPLACEABLE, what="replace:")
    if not found:
        raise InvalidOption('replace names no field; write for example ["args"]')
    return tuple(each for each in REPLACEABLE if each in found)


def _state(given: str, what: str) -> JobState:
    return JobState(choice(given, tuple(state.value for state in JobState), what=what))


def _texts(given: Any, what: str) -> tuple[str, ...]:
    if isinstance(given, str):
        raise InvalidOption(f"{what} is a list of texts; write {what}=[{given!r}]")
    whole: object = given
    if isinstance(given, Mapping):
        raise InvalidOption(f"{what} is a list of texts, got {shown(whole, 60)}")
    try:
        found = tuple(given)
    except TypeError:
        raise InvalidOption(f"{what} is a list of texts, got {shown(given, 60)}") from None
    for each in found:
        if not isinstance(each, str):
            hint = nearest(str(each), FIELDS)
            raise InvalidOption(f"{what} is a list of texts, and {shown(each, 60)} in it is none{hint}")
    return tuple(dict.fromkeys(str(each) for each in found))


_DEFAULT: Final = Unique()

"""Limits of a queue: how many of its jobs run in the cluster, how many of one partition, how many start in a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Final, Literal, NotRequired, TypeAlias, TypedDict, cast, get_args

from oban_sa.describe.choices import choice, is_whole
from oban_sa.describe.keywords import by_keywords, instead
from oban_sa.errors import InvalidOption, nearest, shown
from oban_sa.jobs.limit_words import QUEUE_WORDS, RATE_WORDS
from oban_sa.schedule.periods import Period, describe, span

Algorithm: TypeAlias = Literal["sliding", "fixed", "bucket"]
"""How starts are counted: in any span of time, in spans that begin at full ones, or by a bucket that fills steadily."""

ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)

MOST_AT_ONCE: Final = 100_000
"""Jobs of a queue at once on a node, and of a partition or a queue in the cluster."""

MOST_STARTS: Final = 1_000_000_000
"""Starts in one span of a rate: what is counted is an integer of PostgreSQL."""

MOST_WEIGHT: Final = 1_000

_RATE: Final = re.compile(r"\s*([0-9][0-9_,]*)\s*(?:/|per\s)\s*(.*\S)\s*", re.IGNORECASE)
_RATE_EXAMPLE: Final = 'write for example 60/minute or 10 per 5 minutes, or Rate(60, per="1 minute") in Python'
_PATH: Final = re.compile(r"(?:args|meta)(?:\.[^.\s]+)+")


@by_keywords('write Rate(60, per="1 minute"), or the text "60/minute" where a rate is wanted', RATE_WORDS)
@dataclass(frozen=True, slots=True)
class Rate:
    """At most `n` starts of jobs in each span of `per`, which becomes seconds; every start counts, also of a retry.

    `algorithm` "sliding" holds for any span that long, "fixed" for spans that follow each other, so that twice `n` may
    start around the end of one; "bucket" lets one start every `per / n`, and up to `burst` at once after a pause, which
    is `n` unless it is said. `weight` is where a job says how many starts it counts for: "args.points", or "meta.cost";
    a job that says none, or no whole number above 0, counts for one. Where the queue is `by` partition the rate is that
    of each partition, or with `shared` of the queue. Raises `InvalidOption` for what can't be meant.
    """

    n: int
    _: KW_ONLY
    per: Period
    algorithm: Algorithm = "sliding"
    burst: int | None = None
    weight: str | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        whole(self.n, "a rate", MOST_STARTS, "Rate(60, per=60)")
        per = span(self.per, "per")
        if per < 0.001:
            raise InvalidOption(f"per is {shown(self.per, 60)}, and the shortest span of a rate is a millisecond")
        object.__setattr__(self, "per", per)
        choice(self.algorithm, ALGORITHMS, what="algorithm")
        if self.burst is not None:
            if self.algorithm != "bucket":
                raise InvalidOption(
                    f'burst is the size of a bucket, and the algorithm is {self.algorithm!r}; write algorithm="bucket" '
                    "or leave burst out"
                )
            whole(self.burst, "burst", MOST_STARTS, "burst=10")
        _check_weight(self.weight)
        _switch(self.shared, "shared")

    @property
    def span(self) -> float:
        """The span in seconds."""
        return cast("float", self.per)

    def as_json(self) -> dict[str, object]:
        """Return it as JSON, without what is the default."""
        return {
            each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default
        }

    def __str__(self) -> str:
        said = [f"{self.n} in {describe(self.span)}"]
        said += [] if self.algorithm == "sliding" else [self.algorithm]
        said += [] if self.burst is None else [f"burst {self.burst}"]
        said += [] if self.weight is None else [f"weight {self.weight}"]
        said += ["shared"] if self.shared else []
        return ", ".join(said)


class _RateOptions(TypedDict):
    n: int
    per: Period
    algorithm: NotRequired[Algorithm]
    burst: NotRequired[int | None]
    weight: NotRequired[str | None]
    shared: NotRequired[bool]


class QueueLimits(TypedDict, total=False):
    """The settings of a queue that hold for all nodes together."""

    global_limit: int | None
    by: Literal["partition"] | None
    each: int | None
    rate: Rate | str | None
    burst: bool
    fair: bool | Mapping[str, int]


class _QueueOptions(QueueLimits):
    limit: int


@by_keywords('write queues={"calls": Queue(20, global_limit=50)}', QUEUE_WORDS)
@dataclass(frozen=True, slots=True)
class Queue:
    """How many jobs of a queue run at once on a node (`limit`), and what holds for all nodes together.

    `global_limit` is how many run at once in the cluster. `by="partition"` makes a partition of the jobs that have the
    same key, which their worker says (`@worker(partition="args.tenant_id")`); `each` is how many of one partition run
    at once in the cluster, and with `burst` more of it may run while no other partition has jobs that wait. `rate` is
    how many start in a time, of each partition where there are some. Partitions take turns; with `fair={"acme": 3}` the
    partition acme has three jobs in each turn, with `fair=False` jobs start in the order of the queue.

    `rate` may be a text, "60/minute", and becomes a `Rate`. Raises `InvalidOption` for what can't be meant.
    """

    limit: int
    _: KW_ONLY
    global_limit: int | None = None
    by: Literal["partition"] | None = None
    each: int | None = None
    rate: Rate | str | None = None
    burst: bool = False
    fair: bool | Mapping[str, int] = True

    def __post_init__(self) -> None:
        whole(self.limit, "the limit of a queue", MOST_AT_ONCE, "Queue(10)")
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(getattr(self, name)))
        if self.by is None:
            if self.each is not None:
                raise InvalidOption(
                    f'each={self.each} is a limit of partitions, and the queue has none; write by="partition", '
                    f"each={self.each}, or global_limit={self.each} for all jobs of the queue"
                )
            if isinstance(self.fair, Mapping):
                raise InvalidOption('fair gives weights to partitions, and the queue has none; write by="partition"')
        if self.burst and self.each is None:
            raise InvalidOption("burst lets a partition exceed `each`, and no `each` is given; leave burst out")

    @property
    def limits(self) -> Limits | None:
        """What holds for all nodes together; None where nothing does."""
        return Limits.of(self)

    def decided(self, decisions: Mapping[str, object]) -> Queue:
        """Return the queue with values as `setting_from_json` returns them in place of its own, by setting.

        `each` implies `by`, since it was not known where it was decided whether the queue has partitions; where `by` is
        taken away, what needs it goes too.
        """
        new = {name: decisions[name] for name in SETTINGS if name in decisions}
        if new.get("each") is not None and "by" not in new:
            new["by"] = "partition"
        if new.get("by", self.by) is None:
            new |= {"each": None}
            new |= {"fair": True} if isinstance(new.get("fair", self.fair), Mapping) else {}
        if new.get("each", self.each) is None:
            new["burst"] = False
        return replace(self, **cast("QueueLimits", new)) if new else self

    def __str__(self) -> str:
        return f"{self.limit}" if self.limits is None else f"{self.limit} ({self.limits})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What holds for a queue on all nodes together, as a producer needs it; one without any has no `Limits`.

    `fair` says whether partitions take turns, and `weights` how many jobs one takes in a turn, where that is not one.
    """

    global_limit: int | None = None
    by: Literal["partition"] | None = None
    each: int | None = None
    rate: Rate | None = None
    burst: bool = False
    fair: bool = True
    weights: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, queue: Queue) -> Limits | None:
        """Return the limits of a queue, or None where it has none."""
        limits = cls(
            global_limit=queue.global_limit,
            by=queue.by,
            each=queue.each,
            rate=cast("Rate | None", queue.rate),
            burst=queue.burst,
            fair=bool(queue.fair) or isinstance(queue.fair, Mapping),
            weights=MappingProxyType(dict(queue.fair) if isinstance(queue.fair, Mapping) else {}),
        )
        return None if (limits.global_limit, limits.by, limits.rate) == (None, None, None) else limits

    def as_json(self) -> dict[str, object]:
        """Return it as JSON by settings of a queue, without what is the default."""
        fair: object = dict(self.weights) or self.fair
        values = {name: fair if name == "fair" else getattr(self, name) for name in SETTINGS}
        return {name: setting_as_json(name, value) for name, value in values.items() if value != _QUEUE_DEFAULTS[name]}

    @classmethod
    def from_json(cls, given: Mapping[str, object]) -> Limits | None:
        """Return what `as_json` wrote; raises `InvalidOption` for what it can't have written."""
        read = {name: setting_from_json(name, given[name]) for name in SETTINGS if name in given}
        return Queue(1, **cast("QueueLimits", read)).limits

    def queue(self) -> Queue:
        """Return a queue that has them."""
        read = {name: setting_from_json(name, value) for name, value in self.as_json().items()}
        return Queue(1, **cast("QueueLimits", read))

    def __str__(self) -> str:
        said = [] if self.global_limit is None else [f"{self.global_limit} in the cluster"]
        if self.each is not None:
            said.append(f"{self.each} of a partition" + (" and more while others are idle" if self.burst else ""))
        elif self.by is not None:
            said.append("by partition")
        if self.rate is not None:
            said.append(f"{self.rate}" + (" of a partition" if self.by and not self.rate.shared else ""))
        said += [] if self.fair else ["in order"]
        said += [f"{key} {weight} in a turn" for key, weight in self.weights.items()]
        return "; ".join(said)


def queue_from_table(table: Mapping[str, object]) -> Queue:
    """Return the queue of a table whose keys are the options of `Queue`; raises `InvalidOption`."""
    return Queue(**cast("_QueueOptions", table))


def read_rate(given: object) -> Rate | None:
    """Return a rate from "60/minute", "100/s", "10 per 5 minutes", a table of the options of `Rate`, or a `Rate`.

    None is none. Raises `InvalidOption`.
    """
    if given is None or isinstance(given, Rate):
        return given
    if isinstance(given, Mapping):
        table = cast("Mapping[str, object]", given)
        for name in table:
            if name not in _RATE_OPTIONS:
                raise InvalidOption(f"a rate has no option {name!r}{instead(name, _RATE_OPTIONS, RATE_WORDS)}")
        if not {"n", "per"} <= table.keys():
            raise InvalidOption('a rate is a table of at least n and per: write { n = 60, per = "1 minute" }')
        return Rate(**cast("_RateOptions", table))
    if not isinstance(given, str):
        raise InvalidOption(f"{shown(given, 60)} is no rate; {_RATE_EXAMPLE}")
    found = _RATE.fullmatch(given)
    if found is None:
        raise InvalidOption(f"{shown(given, 60)} is no rate, which is a whole number and a time; {_RATE_EXAMPLE}")
    number, per = found.groups()
    try:
        return Rate(int(re.sub("[_,]", "", number)), per=per if per[0] in "0123456789." else f"1 {per}")
    except InvalidOption as error:
        raise InvalidOption(f"rate {shown(given, 60)}: {str(error).removeprefix('per: ')}") from None


def queue_option_instead(name: object, choices: tuple[str, ...]) -> str:
    """Return what to write in place of an unknown option of a queue; `choices` are those that there are."""
    return instead(name, choices, QUEUE_WORDS)


def setting_as_json(name: str, value: object) -> object:
    """Return a setting of a queue, checked, as `oban_sa_queues` keeps it; raises `InvalidOption`."""
    checked = _CHECKS[name](value)
    if isinstance(checked, Rate):
        return checked.as_json()
    return dict(cast("Mapping[str, int]", checked)) if isinstance(checked, Mapping) else checked


def decisions_as_json(given: Mapping[str, object]) -> dict[str, object]:
    """Return settings of a queue that are decided at run time, as `oban_sa_queues` keeps them.

    Raises `InvalidOption` for what is unknown, wrong or contradicts itself; what the nodes declare is not known here.
    """
    if "limit" in given:
        raise InvalidOption("limit is how many jobs each node runs at once; write scale_queue(queue, limit=...)")
    for name in given:
        if name not in SETTINGS:
            raise InvalidOption(f"a queue has no limit {name!r}{queue_option_instead(name, SETTINGS)}")
    if not given:
        raise InvalidOption("no limit is named; write for example global_limit=30, or each=None for none")
    checked = {name: setting_as_json(name, value) for name, value in given.items()}
    whole: dict[str, object] = {"limit": 1, "by": "partition", **given}
    if given.get("burst") and "each" not in given and whole["by"] is not None:
        whole["each"] = 1
    queue_from_table(whole)
    return checked


def idle(queue: Queue, decided: Mapping[str, object]) -> dict[str, str]:
    """Return which of the settings that are decided for a queue have no effect on it, and why, by setting.

    `decided` are values as `setting_from_json` returns them.
    """
    then = queue.decided(decided)
    fair = decided.get("fair")
    found: dict[str, str] = {}
    if decided.get("burst") and not then.burst:
        found["burst"] = "burst lets a partition exceed `each`, and the queue has none; give both: each=5, or --each 5"
    if fair and then.by is None:
        does = "gives weights to partitions" if isinstance(fair, Mapping) else "lets partitions take turns"
        found["fair"] = f'fair {does}, and the queue has none; give both: by="partition", or --by partition'
    return found


def setting_from_json(name: str, value: object) -> object:
    """Return a setting of a queue from what `setting_as_json` wrote; raises `InvalidOption` for anything else."""
    return _CHECKS[name](value)


def whole(value: object, what: str, most: int, example: str) -> int:
    """Return a whole number from 1 to `most`; raises `InvalidOption`, whose message begins with `what`."""
    if not is_whole(value):
        raise InvalidOption(f"{what} is a whole number, not {shown(value, 60)}; write for example {example}")
    if not 1 <= value <= most:
        raise InvalidOption(f"{what} is a number from 1 to {most}, not {shown(value, 60)}; write for example {example}")
    return value


def _switch(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidOption(f"{what} is True or False, not {shown(value, 60)}")
    return value


def _limit_or_none(name: str) -> Callable[[object], int | None]:
    return lambda value: None if value is None else whole(value, name, MOST_AT_ONCE, f"{name}=5")


def _by(value: object) -> Literal["partition"] | None:
    if value is None:
        return None
    if value == "partition":
        return "partition"
    worker = value if isinstance(value, str) and (value == "worker" or _PATH.fullmatch(value)) else "args.tenant_id"
    instead = f'write by="partition", and let the worker say what its partitions are: @worker(partition="{worker}")'
    said = nearest(value, ["partition"], instead) if isinstance(value, str) else f"; {instead}"
    raise InvalidOption(f"by={shown(value, 60)} is unknown{said}")


def _fair(value: object) -> bool | Mapping[str, int]:
    if isinstance(value, bool):
        return value
    example = 'write for example fair={"acme": 3}'
    if not isinstance(value, Mapping):
        raise InvalidOption(f"fair is True, False or a table of weights, not {shown(value, 60)}; {example}")
    weights = cast("Mapping[object, object]", value)
    for key, weight in weights.items():
        if not isinstance(key, str):
            raise InvalidOption(f"fair: the key of a partition is a text, not {shown(key, 60)}; {example}")
        whole(weight, f"fair: the weight of {key!r}", MOST_WEIGHT, f'fair={{"{key}": 3}}')
    return MappingProxyType(dict(cast("Mapping[str, int]", weights))) if weights else True


def _check_weight(value: object) -> None:
    if value is None:
        return
    if callable(value):
        raise InvalidOption(
            "weight can't be a function, because the database counts, which runs no Python; write where the job says "
            'it: weight="args.points"'
        )
    if not isinstance(value, str) or not _PATH.fullmatch(value):
        raise InvalidOption(
            f"weight {shown(value, 60)} is not where a job says how much it counts; write for example "
            'weight="args.points" or weight="meta.cost"'
        )


_CHECKS: Final[dict[str, Callable[[object], object]]] = {
    "global_limit": _limit_or_none("global_limit"),
    "by": _by,
    "each": _limit_or_none("each"),
    "rate": read_rate,
    "burst": lambda value: _switch(value, "burst"),
    "fair": _fair,
}

SETTINGS: Final = tuple(_CHECKS)
"""The settings of a queue that hold for all nodes together."""

AS_DECLARED: Final = "declared"
"""The JSON of a setting that is again what the nodes' own settings say."""

_QUEUE_DEFAULTS: Final = {each.name: each.default for each in fields(Queue)}
QUEUE_OPTIONS: Final = ("limit", *SETTINGS)
_RATE_OPTIONS: Final = tuple(each.name for each in fields(Rate) if each.init)

"""What is done to a run and when: a pure function of the seed, so that a run can be had again."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from typing import Any, Final

KINDS: Final = ("mixed", "connections", "stalls", "flows")

IN_TURN: Final = KINDS[:3]
"""Those that runs of all kinds take in turn: with jobs that know nothing of each other."""

QUEUES: Final = {"quick": 6, "slow": 4, "sessions": 5, "single": 1, "odd": 3}
"""Queues of every runner and their limits."""

_WEIGHTS: Final[dict[str, dict[str, int]]] = {
    "mixed": {
        "kill": 4, "term": 4, "freeze": 3, "stall": 3, "cuts": 3, "late": 3, "storm": 1, "stop_backends": 3,
        "terminate": 2, "restart": 1, "crash": 1, "pause": 5, "cancel": 6, "retry": 3, "lost_fetch": 2,
    },
    "connections": {
        "storm": 2, "cuts": 5, "late": 9, "terminate": 2, "term": 2, "kill": 1, "pause": 1, "cancel": 4,
        "lost_fetch": 5,
    },
    "stalls": {"stop_backends": 8, "stall": 5, "late": 3, "freeze": 3, "term": 2, "pause": 1, "cancel": 4},
    "flows": {
        "kill": 5, "term": 4, "freeze": 4, "stall": 2, "cuts": 3, "late": 2, "storm": 1, "stop_backends": 2,
        "terminate": 2, "restart": 1, "kill_server": 3, "kill_backend": 3, "cut_flow": 4, "retry_flow": 9, "append": 4,
        "lock_rows": 5,
    },
}  # fmt: skip

_ONCE: Final = ("restart", "crash")
"""Faults of which a run has few: each takes the whole server away."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is done `at` so many seconds after the beginning."""

    at: float
    what: str
    how: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        details = " ".join(f"{name}={value}" for name, value in self.how.items())
        return f"{self.at:6.2f} {self.what} {details}".rstrip()


@dataclass(frozen=True, slots=True)
class Plan:
    """A run: how long faults go on, how many runners there are, and the faults in the order of their moments."""

    seed: int
    kind: str
    seconds: float
    runners: int
    faults: tuple[Fault, ...]

    @property
    def beside(self) -> bool:
        """Whether another member of the family is seen in the tables, so that long attempts are kept young."""
        return self.seed % 2 == 0

    def as_json(self) -> dict[str, Any]:
        """What is kept of it."""
        return asdict(self)


def make(seed: int, *, kind: str = "mixed", seconds: float = 60.0) -> Plan:
    """Return the plan of a seed."""
    draw = random.Random(f"plan {seed} {kind}")
    runners = draw.choice((2, 3, 3, 4))
    weights = dict(_WEIGHTS[kind])
    faults: list[Fault] = []
    # Runners take a moment to start; what is done to them before teaches nothing.
    at = 2.5 + draw.random()
    # A short run has a share of the server's outages, of which a minute has one of each kind.
    for once in _ONCE:
        if once in weights and draw.random() > seconds / 60:
            del weights[once]
    while at < seconds:
        what = draw.choices(list(weights), list(weights.values()))[0]
        if what in _ONCE:
            del weights[what]
        faults.append(Fault(round(at, 2), what, _how(what, draw, runners)))
        at += draw.uniform(0.3, 2.4)
    return Plan(seed, kind, seconds, runners, tuple(faults))


def _how(what: str, draw: random.Random, runners: int) -> dict[str, Any]:
    slot = draw.randrange(runners)
    match what:
        case "kill":
            return {"slot": slot, "rest": _some(draw, 0, 1)}
        case "term":
            return {"slot": slot}
        case "freeze":
            # For the most part longer than a silent node lives.
            return {"slot": slot, "seconds": _some(draw, 1, 7)}
        case "stall":
            whom = draw.choice((slot, slot, "all"))
            return {"slot": whom, "way": draw.choice(("up", "down", "both")), "seconds": _some(draw, 0.5, 7)}
        case "cuts":
            kinds = draw.choice((["before", "amid", "after"], ["amid"], ["after"]))
            only = draw.choice(("commits", "all", "all"))
            share = _some(draw, 0.2, 0.6) if only == "commits" else _some(draw, 0.02, 0.25)
            return {"slot": slot, "kinds": kinds, "only": only, "share": share, "seconds": _some(draw, 1, 6)}
        case "late":
            # What is cut off arrives after its sender has tried again, or has been given up.
            only = draw.choice(("all", "snoozes"))
            share, delay = _some(draw, 0.05, 0.4) if only == "all" else _some(draw, 0.3, 0.8), _some(draw, 0.4, 3)
            return {"slot": slot, "only": only, "share": share, "delay": delay, "seconds": _some(draw, 1, 5)}
        case "storm":
            return {"every": _some(draw, 0.1, 0.6), "seconds": _some(draw, 2, 6)}
        case "stop_backends":
            then = draw.choice(("nothing", "kill", "kill", "term", "cut"))
            # Long enough that whoever waits for it is buried, or has left for good.
            seconds = (
                _some(draw, 9, 14) if then == "term" else _some(draw, 4, 8) if then == "kill" else _some(draw, 1, 8)
            )
            which = draw.choice(("producers", "producers", "any"))
            return {"slot": slot, "count": draw.randint(1, 3), "which": which, "then": then, "seconds": seconds}
        case "terminate":
            return {"share": _some(draw, 0.1, 1)}
        case "kill_server":
            return {"seconds": draw.choice((0, 0, 0.5, 2.5))}
        case "kill_backend":
            # Then the server ends all other sessions too, and recovers.
            return {"slot": slot}
        case "cut_flow":
            return {"newest": 8}
        case "retry_flow":
            return {
                "newest": draw.choice((8, 40)),
                "cut": draw.random() < 0.4,
                "from_": draw.choice((None, None, None, "m0", "m1")),
            }
        case "append":
            hold = draw.choice((0, 0.1, 0.4, 1.5))
            return {"newest": 4, "deps": draw.choice(("", "", "m0")), "seconds": hold}
        case "lock_rows":
            return {"count": 30, "times": draw.randint(5, 20), "seconds": _some(draw, 0.05, 0.4)}
        case "restart" | "crash":
            return {"seconds": _some(draw, 0.2, 3)}
        case "pause":
            return {"queue": draw.choice((*QUEUES, "*")), "seconds": _some(draw, 6, 12)}
        case "lost_fetch":
            # What is fetched while no answer comes back is held by a node that does not know of it.
            return {"slot": slot, "seconds": _some(draw, 1, 3), "every": _some(draw, 0.03, 0.2)}
        case "cancel" | "retry":
            return {"count": draw.randint(1, 6)}
    raise AssertionError(what)


def _some(draw: random.Random, least: float, most: float) -> float:
    return round(draw.uniform(least, most), 2)

"""One thing that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Scenario:
    """One thing that is measured.

    `rate` is jobs per second, `latency` percentiles of milliseconds, `rest` what nodes with nothing to do cost in a
    second, and `crowd` both the latency and what a job costs all nodes. A `rate` may have samples too: milliseconds of
    cycles, which are statements that write outcomes and fetch jobs. `kinds` names the kind of turn for those whose
    kind is another than `kind`. `finished` rows of jobs that are over are in the table before. With `counted` the
    server counts statements. `shares` are parts of the work that slow contenders get, so that a run ends. `about` is
    how many seconds a turn takes, roughly; progress goes by it.
    """

    name: str
    title: str
    kind: str
    measures: Literal["rate", "latency", "rest", "crowd"] = "rate"
    contenders: tuple[str, ...] = ("floor", "oban_sa")
    kinds: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    called: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    finished: int = 0
    large: bool = False
    held: bool = False
    counted: bool = False
    unit: str = "jobs/s"
    about: float = 3.0

    def asked(self, contender: str, *, quick: bool) -> dict[str, Any]:
        """The options of one turn."""
        options = dict(self.options)
        options["jobs"] = max(1, int(options["jobs"] * self.shares.get(contender, 1.0) / (20 if quick else 1)))
        if quick and "over" in options:
            options["over"] = min(options["over"], 1.0)
        if quick and "nodes" in options:
            options["nodes"] = min(options["nodes"], 3)
        return {"kind": self.kinds.get(contender, self.kind), **options}

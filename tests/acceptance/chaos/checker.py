"""Which promises a run has broken, each named, with what shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from tests.acceptance.chaos.evidence import Evidence
from tests.acceptance.chaos.flow_rules import (
    booked,
    callbacks,
    cut_short,
    deadlocks,
    in_order,
    in_sessions,
    over,
    steps,
    whole,
)
from tests.acceptance.chaos.holding import alive, fenced, never_twice_at_once
from tests.acceptance.chaos.orders import cancelled, limited, paused
from tests.acceptance.chaos.outcomes import atomic, effects, nothing_lost, poison, spent, stopped
from tests.acceptance.chaos.remains import logs, sane
from tests.acceptance.chaos.violation import Violation


def check(found: Evidence) -> list[Violation]:
    """Return every violation that the evidence shows."""
    rules = RULES_OF_FLOWS if found.tables else RULES
    return [violation for rule in rules for violation in rule(found)]


Rules: TypeAlias = tuple[Callable[[Evidence], Iterator[Violation]], ...]

RULES: Final[Rules] = (
    atomic,
    nothing_lost,
    fenced,
    effects,
    never_twice_at_once,
    alive,
    stopped,
    spent,
    poison,
    cancelled,
    paused,
    limited,
    sane,
    logs,
)

RULES_OF_FLOWS: Final[Rules] = (
    whole,
    nothing_lost,
    over,
    fenced,
    in_sessions,
    never_twice_at_once,
    alive,
    stopped,
    in_order,
    booked,
    callbacks,
    steps,
    cut_short,
    limited,
    sane,
    deadlocks,
    logs,
)
"""Of runs about workflows and batches."""

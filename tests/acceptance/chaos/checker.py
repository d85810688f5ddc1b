"""Which promises a run has broken, each named, with what shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tests.acceptance.chaos.evidence import Evidence
from tests.acceptance.chaos.holding import alive, fenced, never_twice_at_once
from tests.acceptance.chaos.orders import cancelled, limited, paused
from tests.acceptance.chaos.outcomes import atomic, effects, nothing_lost, poison, shutdown
from tests.acceptance.chaos.remains import logs, sane
from tests.acceptance.chaos.violation import Violation


def check(found: Evidence) -> list[Violation]:
    """Return every violation that the evidence shows."""
    return [violation for rule in RULES for violation in rule(found)]


RULES: Final[tuple[Callable[[Evidence], Iterator[Violation]], ...]] = (
    atomic,
    nothing_lost,
    fenced,
    effects,
    never_twice_at_once,
    alive,
    shutdown,
    poison,
    cancelled,
    paused,
    limited,
    sane,
    logs,
)

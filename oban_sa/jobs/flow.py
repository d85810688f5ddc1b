"""Words and numbers of flows: which lane a tree is in, and which ways for a dependency to end are forgiven."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias, cast
from uuid import UUID

from oban_sa.errors import InvalidJob, InvalidOption, nearest, shown
from oban_sa.schedule import clock

Forgivable: TypeAlias = Literal["cancelled", "discarded", "deleted", "all"]
"""How a dependency may end without harm to what waits for it."""

Forgiven: TypeAlias = Forgivable | Iterable[Forgivable]
"""What is forgiven one dependency."""

FORGIVES: Final = {"cancelled": 1, "discarded": 2, "deleted": 4, "all": 7}
"""The bits of `oban_sa_edges.forgives`."""

LANE: Final = "lane"
"""The key in a job's meta that says that it is a member of a flow, and which lane its end is noted in."""

RETRIED: Final = "workflow_retried"
"""The key in a member's meta that says how often it was retried together with other members."""

READS: Final = "workflow_reads"
"""The key in a member's meta that says that `deps()` has something to tell: what it waited for, or a context."""

ATTEMPT: Final = "batch_attempt"
"""The key in a member's meta that says that also an attempt is noted after which it will run again."""

RESULTS: Final = "workflow_results"
"""The key in a member's meta that says which of its arguments are what other members recorded: their names, by those
of the parameters."""

LANES: Final = 8
"""Endings of a tree are all in one lane, and one settler at a time books a lane. Their number is part of the data: to
change it the table of endings has to be empty."""

EVENTS: Final = ("on_success", "on_discard", "on_complete", "on_attempt", "on_cancel", "on_exhausted")
"""What may happen to a batch, of which each makes a job once."""

ENDED: Final = ("completed", "cancelled", "discarded", "deleted")
"""What has become of a member that will not run any more."""


def lane_of(root: UUID) -> int:
    """Return the lane of a tree of flows."""
    return root.int % LANES


def forgives(given: Forgiven) -> int:
    """Return the bits of what is forgiven; raises `InvalidOption` for other words."""
    bits = 0
    for word in listed_or_one(given):
        if not isinstance(word, str) or word not in FORGIVES:
            those = f"write one of {', '.join(FORGIVES)}, or a list of them"
            raise InvalidOption(f"forgive={shown(word)} is unknown{nearest(str(word), FORGIVES, those)}")
        bits |= FORGIVES[word]
    return bits


def forgives_before(whole: int, bits: int) -> int:
    """Return what is forgiven of that which stands before a whole part, where the part may have no members.

    `whole` is what is forgiven the part, and `bits` what it forgives itself. Had it members, then these would be
    cancelled where that fails.
    """
    return bits | (FORGIVES["all"] if whole & FORGIVES["cancelled"] else 0)


def listed_or_one(given: object) -> list[object]:
    """Return what an iterable gives, and of anything else, texts and dictionaries too, a list of it alone."""
    is_many = isinstance(given, Iterable) and not isinstance(given, (str, bytes, Mapping))
    return list(cast("Iterable[object]", given)) if is_many else [given]


def forgives_each(of: str, names: Iterable[str], given: Forgiven | Mapping[str, Forgiven]) -> dict[str, int]:
    """Return by the names of its dependencies the bits of what the member `of` forgives each.

    `given` is for all of them, or says it by name. Raises `InvalidOption` for what can't be forgiven, and `InvalidJob`
    for a name that the member does not wait for.
    """
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, forgives(given))
    each = dict.fromkeys(names, 0)
    for name, words in cast("Mapping[str, Forgiven]", given).items():
        if name not in each:
            raise InvalidJob(
                f"forgive= of {of!r} names {shown(name)}, which it does not wait for{nearest(str(name), each)}"
            )
        each[name] = forgives(words)
    return each


def new_id() -> UUID:
    """Return a UUID of version 7, which begins with the time, so that new rows stand together in an index."""
    moment = int(clock.now().timestamp() * 1000)
    value = (moment & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10))
    return UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)

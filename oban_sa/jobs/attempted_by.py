"""Who holds an executing job: its `attempted_by` is `[node, uuid of the producer]`, as everywhere in the family.

Two elements and no third, because Oban Pro matches a list of exactly two when it cancels a job. So
what says that a producer is one of ours is in its uuid: version 8, which RFC 9562 leaves to applications, and a fixed
beginning. The other members draw theirs at random, as version 4 or 7.
"""

from __future__ import annotations

import secrets
from typing import Final
from uuid import UUID

_BEGINNING: Final = 0x0BA5

OURS: Final = f"^{_BEGINNING:04x}[0-9a-f]{{4}}-[0-9a-f]{{4}}-8[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}$"
"""A regular expression, of Python and PostgreSQL, for the text of our producers' uuids."""


def new_producer() -> UUID:
    """Return a uuid that no other producer has, and that says that it is one of ours."""
    drawn = secrets.randbits(128)
    return UUID(
        int=(_BEGINNING << 112) | (drawn & ((1 << 112) - 1) & ~(0xF << 76) & ~(0x3 << 62)) | (0x8 << 76) | (0x2 << 62)
    )

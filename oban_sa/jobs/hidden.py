"""Which jobs have args that not everybody may see, by their meta; what hides them is loaded only for these."""

from __future__ import annotations

from typing import Final

ENCRYPTED: Final = "encrypted"
"""The key of a job's meta that is true where its args are encrypted."""

REDACTED: Final = "redacted"
"""The key of a job's meta that lists what is hidden: `["card", "customer.phone"]`."""


def hides(meta: object) -> bool:
    """Whether something of a job's args is not to be seen; of a row, meta may be anything."""
    return isinstance(meta, dict) and (REDACTED in meta or ENCRYPTED in meta)

"""`ref(user)`: a value that does not exist before the flush that writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A promise of an attribute of `target`, or of its primary key where `attribute` is None."""

    target: object
    attribute: str | None = None

    def __repr__(self) -> str:
        suffix = "" if self.attribute is None else f", {self.attribute!r}"
        return f"ref(<{type(self.target).__name__}>{suffix})"


def ref(target: object, attribute: str | None = None) -> Any:
    """Stand for the primary key of `target`, or for its `attribute`, anywhere inside a job's args or meta.

    The value is read when the session flushes, after the row of `target` was written. It is typed `Any` so that
    it may stand where typed arguments expect an `int` or a `str`.
    """
    return Reference(target, attribute)

"""`ref(user)`: a value that does not exist before the flush that writes it."""

from __future__ import annotations

from typing import Any


class Reference:
    """A promise of an attribute of `target`, or of its primary key where `attribute` is None.

    With `entity`, the name of a mapped class, it stands for the object itself: `{"entity": "User", "id": 7}`.

    It can't be changed, is equal to itself alone, and a copy of it, deep or not, is itself: its target belongs to a
    session and must not be copied. It is no dataclass, for libraries would take one inside a model apart.
    """

    __slots__ = ("attribute", "entity", "target")

    target: object
    attribute: str | None
    entity: str | None

    def __init__(self, target: object, attribute: str | None = None, *, entity: str | None = None) -> None:
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "attribute", attribute)
        object.__setattr__(self, "entity", entity)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a reference can't be changed; make another: ref(obj, {self.attribute!r})")

    def __copy__(self) -> Reference:
        return self

    def __deepcopy__(self, memo: object) -> Reference:
        return self

    def __repr__(self) -> str:
        if self.entity is not None:
            return f"<{type(self.target).__name__}>"
        suffix = "" if self.attribute is None else f", {self.attribute!r}"
        return f"ref(<{type(self.target).__name__}>{suffix})"


def ref(target: object, attribute: str | None = None) -> Any:
    """Stand for the primary key of `target`, or for its `attribute`, anywhere inside a job's args or meta.

    The value is read when the session flushes, after the row of `target` was written. It is typed `Any` so that
    it may stand where typed arguments expect an `int` or a `str`.
    """
    return Reference(target, attribute)

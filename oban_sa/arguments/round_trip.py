"""Whether what was given to `new` comes back as it was, once it has been written as JSON and read again.

A worker that gets something else than what it was given does its work on the wrong thing, and no error says so. So
`new` reads what it has written and compares. `==` decides where it can; it can't where an annotation leaves a choice,
for `1 == True` and a `StrEnum` is equal to its text.
"""

# Values of any type are what this file is about; strict pyright would have each of them cast.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Final, TypeAlias
from uuid import UUID

from oban_sa.arguments.mismatch import HIDDEN, Decode, Misfit, shown
from oban_sa.errors import articled
from oban_sa.jobs import values
from oban_sa.jobs.unwritable import SECRET
from oban_sa.outbox import references

Same: TypeAlias = Callable[[object, object, bool], None]
"""Accepts what was given and what came back; raises `Changed`. With True their types have to be alike as well."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What an annotation asks for: `read` makes it of JSON, `same` compares it with what was given.

    It is `choosy` where an annotation inside has several members, so that equality proves nothing.
    """

    read: Decode
    same: Same
    choosy: bool = False


class Changed(Misfit):
    """What was given would come back as something else."""

    def __init__(self, given: object, came: object, instead: str = "") -> None:
        super().__init__("would come back as something else")
        self._given = given
        self._came = came
        self._instead = instead

    @property
    def reason(self) -> str:
        """What was given, and what would come back."""
        given, came = self._given, self._came
        if hasattr(type(given), "get_secret_value"):
            return f"is {articled(type(given).__name__)}, which is masked when it is written; {SECRET}"
        if self.secret or _is_mask(came):
            by_mask = "; a serializer masks it" if _is_mask(came) else ""
            return f"is {HIDDEN}, and would come back as something else{by_mask}{self._instead}"
        told, back = shown(given), shown(came)
        if told == back:
            told, back = (f"{text} of the type {type(it).__qualname__}" for it, text in ((given, told), (came, back)))
        return f"is {told}, and would come back as {back}{self._instead}"


APART: Final = "tell the classes apart by a field such as kind: Literal[...]"


def of_class(given: object) -> str:
    """Say what to write for a value of a class that is not the annotation's."""
    return f"; the annotation decides what is read: write {_name(given)} there, or {APART}"


def _is_mask(came: object) -> bool:
    return isinstance(came, str) and "**" in came


def check(kind: Kind, given: object, came: object) -> None:
    """Raise `Changed` where what was given differs from what came back."""
    if not kind.choosy or (type(given) is type(came) and type(came) in _LEAVES):
        try:
            if given == came:
                return
        except Exception:  # noqa: S110 - a class of the user's that can't tell; its parts may
            pass
    kind.same(given, came, False)


def told(misfit: Misfit, given: object) -> Misfit:
    """Return what is wrong with a value: that it can't be JSON at all, rather than what became of it."""
    refused = None if isinstance(misfit, Changed) else values.refusal(given, mapped=references.entity)
    if refused is None or refused.steps != misfit.steps:
        return misfit
    return Misfit(refused.reason).within(misfit.steps)


def leaf(given: object, came: object, strict: bool) -> None:
    """Compare what has no parts."""
    if given is came:
        return
    if type(given) is type(came):
        if not _equal(given, came):
            raise Changed(given, came)
    elif type(given) in _JSON:
        return  # it was JSON already, so nothing can have been lost when it was written
    elif not _equal(given, came) or (strict and (isinstance(given, Enum) or not isinstance(given, type(came)))):
        raise Changed(given, came, _of_union(came) if strict else "")


def _of_union(came: object) -> str:
    return "" if came is None else f"; the first member of the union that fits is taken: write {_name(came)} last"


def _name(value: object) -> str:
    return type(value).__name__


def _equal(given: object, came: object) -> bool:
    try:
        if given == came:
            return True
    except Exception:
        return True  # it can't tell, and neither can we
    if isinstance(given, datetime) and isinstance(came, datetime) and given.tzinfo and came.tzinfo:
        # An hour that happens twice is never equal to one of another zone; the moment may be the same all the same.
        return given.astimezone(UTC) == came.astimezone(UTC)
    return False


def anything(given: object, came: object, strict: bool) -> None:
    """Compare nothing: the annotation asks for JSON as it is. What untyped JSON can't hold is refused."""
    refused = values.refusal(given, mapped=references.entity)
    if refused is not None:
        raise Misfit(refused.reason).within([each if isinstance(each, int) else str(each) for each in refused.steps])


def parts(pairs: Iterable[tuple[str | int, Same, object, object]], strict: bool) -> None:
    """Compare the parts of two values, each with the step that leads to it."""
    for step, same, given, came in pairs:
        try:
            same(given, came, strict)
        except Misfit as misfit:
            misfit.steps.append(step)
            raise


def veiled(same: Same) -> Same:
    """Return a comparison that shows no value."""

    def compare(given: object, came: object, strict: bool) -> None:
        try:
            same(given, came, strict)
        except Misfit as misfit:
            misfit.secret = True
            raise

    return compare


_JSON: Final = frozenset({str, int, float, bool, type(None), list, dict})
_LEAVES: Final = frozenset({str, int, float, bool, type(None), datetime, date, time, UUID, Decimal})

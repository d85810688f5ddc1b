"""What becomes of a JSON value that an annotation describes: a typed value, or a misfit that says where it stands."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from oban_sa import errors
from oban_sa.errors import EntityLocked, EntityNotFound, InvalidArguments, ObanError
from oban_sa.jobs.references import Reference

Decode: TypeAlias = Callable[[object], Any]
"""Makes the typed value of a JSON one; raises `Misfit`."""

HIDDEN: Final = "a value that is not shown"
"""What messages say instead of a secret."""


class _Nothing:
    """What was found where nothing is to be shown."""


_NOTHING: Final = _Nothing()


class Misfit(Exception):
    """A JSON value is not what an annotation asks for; `steps` lead to it.

    `found` is shown with the reason, after `joined`, unless the place turns out to be `secret`.
    """

    def __init__(self, reason: str, *, found: object = _NOTHING, joined: str = ", not ") -> None:
        super().__init__(reason)
        self._reason = reason
        self._found = found
        self._joined = joined
        self.secret = False
        self.steps: list[str | int] = []

    @property
    def reason(self) -> str:
        """What is wrong, and what was found."""
        if self._found is _NOTHING:
            return self._reason
        return f"{self._reason}{self._joined}{HIDDEN if self.secret else shown(self._found)}"

    def within(self, steps: list[str | int]) -> Misfit:
        """Return this misfit, with the steps that lead to it, the last one first."""
        self.steps = steps
        return self

    def at(self, start: str) -> ObanError:
        """Return the error that users see, with the path from `start`."""
        path = self._path(start)
        return InvalidArguments(f"{path} {self.reason}", path=path)

    def _path(self, start: str) -> str:
        return start + "".join(map(step, reversed(self.steps)))


class Gone(Misfit):
    """The row that a JSON value names doesn't exist any more."""

    def at(self, start: str) -> ObanError:
        """Return the error that users see."""
        return EntityNotFound(f"{self._path(start)} {self.reason}")


class Locked(Misfit):
    """The row that a JSON value names is locked by another transaction."""

    def __init__(self, reason: str, *, skipped: bool) -> None:
        super().__init__(reason)
        self._skipped = skipped

    def at(self, start: str) -> ObanError:
        """Return the error that users see."""
        return EntityLocked(f"{self._path(start)} {self.reason}", skipped=self._skipped)


def at(key: str | int, decode: Decode, value: object) -> Any:
    """Decode what stands at `key`, which becomes a step of the path to what doesn't fit."""
    try:
        return decode(value)
    except Misfit as misfit:
        misfit.steps.append(key)
        raise


def hidden(decode: Decode) -> Decode:
    """Return a decoder whose misfits show no value: what stands there is a secret."""

    def read(value: object) -> object:
        try:
            return decode(value)
        except Misfit as misfit:
            misfit.secret = True
            # What caused it is an error of another library, whose message shows the value.
            raise misfit from None

    return read


def step(key: str | int) -> str:
    """Return how a path goes on into an object or a list: `.price`, `["a b"]` or `[3]`."""
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if key.isidentifier() else f"[{json.dumps(key)}]"


def is_typed_dict(cls: object) -> bool:
    """Whether a class is a TypedDict, be it of `typing` or of `typing_extensions`, which pydantic asks for."""
    return typing.is_typeddict(cls) or (hasattr(cls, "__total__") and hasattr(cls, "__required_keys__"))


def shown(value: object) -> str:
    """Return a value as an error message shows it, shortened."""
    if isinstance(value, Reference) and value.entity is not None:
        return f"a {type(value.target).__name__}"
    return errors.shown(value, 60)


def untraced(error: InvalidArguments | EntityNotFound | EntityLocked, *, what: str) -> ObanError:
    """Return the error that an attempt ends with because of what its row says: one message, and no traceback."""
    told: ObanError
    if isinstance(error, InvalidArguments):
        told = InvalidArguments(f"{what}: {error}", path=error.path)
    elif isinstance(error, EntityLocked):
        told = EntityLocked(f"{what}: {error}", skipped=error.skipped)
    else:
        told = EntityNotFound(f"{what}: {error}")
    told.traced = False
    return told

"""Kinds of argument that have no parts: numbers, texts, moments, members of an Enum."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Final
from uuid import UUID

from oban_sa.arguments.mismatch import Decode, Misfit
from oban_sa.arguments.round_trip import Kind, anything, leaf
from oban_sa.errors import InvalidArguments
from oban_sa.jobs import values


def as_is(value: object) -> object:
    """Return the JSON value itself, where the annotation asks for any value, or for one that isn't known here."""
    return value


def null(value: object) -> None:
    """Return None, and refuse all else."""
    if value is not None:
        raise Misfit("must be null", found=value)


def literal(choices: tuple[object, ...]) -> Kind:
    """Return the kind of a `Literal`, whose members may be those of an Enum."""
    return Kind(_one_of([(each.value if isinstance(each, Enum) else each, each) for each in choices]), leaf)


def enum(cls: type[Enum]) -> Kind:
    """Return the kind of an Enum, whose values may be anything that JSON can hold."""
    find = _one_of([(member.value, member) for member in cls.__members__.values()])

    def decode(value: object) -> object:
        try:
            return cls(value)  # which knows combined flags, and what `_missing_` makes
        except (ValueError, TypeError):
            return find(value)

    return Kind(decode, leaf)


def _one_of(choices: list[tuple[object, object]]) -> Decode:
    # By what is written of them, because 1 and True are the same key.
    found = {text: member for value, member in choices if (text := _written(value)) is not None}
    shown = ", ".join(dict.fromkeys(repr(value) for value, _ in choices))

    def decode(value: object) -> object:
        if type(value) is float and value.is_integer():  # as other languages write a whole number
            value = int(value)
        try:
            return found[values.dumps(value)]
        except (KeyError, TypeError):
            raise Misfit(f"must be one of {shown}", found=value) from None

    return decode


def _written(value: object) -> str | None:
    try:
        return values.dumps(values.to_json(value))
    except InvalidArguments:  # no row holds this member
        return None


def from_key(decode: Decode) -> Callable[[str], object]:
    """Return a decoder of the keys of an object; they are always text, from which a number is read."""

    def read(key: str) -> object:
        try:
            return decode(key)
        except Misfit:
            try:
                value = json.loads(key)
            except ValueError:
                value = None
            if isinstance(value, (int, float)) and values.key_text(value) == key:
                return decode(value)
            raise

    return read


def _scalar(kinds: type | tuple[type, ...], called: str) -> Decode:
    wanted = f"must be {called}"

    def decode(value: object) -> object:
        if isinstance(value, kinds):
            return value
        raise Misfit(wanted, found=value)

    return decode


def _parsed(parse: Callable[[str], object], called: str) -> Decode:
    def decode(value: object) -> object:
        if isinstance(value, str):
            try:
                return parse(value)
            except ValueError:
                pass
        raise Misfit(f"must be {called}", found=value)

    return decode


def _decimal(value: object) -> Decimal:
    if isinstance(value, (str, int, float, Decimal)) and not isinstance(value, bool):
        try:
            return Decimal(str(value))  # the text, because Decimal(0.1) isn't 0.1
        except InvalidOperation:
            pass
    raise Misfit("must be a decimal number", found=value)


def _kinds(decoders: Iterable[tuple[type, Decode]]) -> dict[type, Kind]:
    return {kind: Kind(decode, leaf) for kind, decode in decoders}


ANYTHING: Final = Kind(as_is, anything)
NULL: Final = Kind(null, leaf)

SCALARS: Final[dict[type, Kind]] = {
    **_kinds(
        [
            (int, _scalar(int, "a whole number")),
            (float, _scalar((int, float), "a number")),
            (str, _scalar(str, "a text")),
            (bool, _scalar(bool, "true or false")),
            (datetime, _parsed(datetime.fromisoformat, "an ISO 8601 date and time")),
            (date, _parsed(date.fromisoformat, "an ISO 8601 date")),
            (time, _parsed(time.fromisoformat, "an ISO 8601 time")),
            (UUID, _parsed(UUID, "a UUID")),
            (Decimal, _decimal),
        ]
    ),
    type(None): NULL,
    object: ANYTHING,
}

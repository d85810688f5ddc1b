"""Recorded results: Erlang's external term format in base64, as all members of the Oban family store them.

The format is described in Erlang's documentation (ERTS, "External Term Format"). Terms are encoded by erlpack where it
is installed and by our own encoder elsewhere, byte for byte the same. They are decoded by our own decoder alone, which
bounds depth and size and returns plain values only.
"""

# This file writes values of any type; strict pyright wants a cast for each of them.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import base64
import importlib
import math
import re
import struct
from functools import cache
from typing import Any, Final

from oban_sa.errors import articled
from oban_sa.wire import erlang_tags as tags
from oban_sa.wire.erlang_reader import Reader

_STEPS_SHOWN: Final = 12
_NOT_FINITE: Final = re.compile(rb"F[\x7f\xff][\xf0-\xff]")


def encode(value: object) -> str:
    """Return a value as an Erlang term in base64 without padding.

    Takes None, bools, integers of 64 bits, finite floats, str, bytes, lists, tuples and dicts. Raises `TypeError` for
    any other type and `ValueError` for a value of these that can't be encoded; both name the path to the value.
    """
    return base64.b64encode(_pack(value)).rstrip(b"=").decode()


def decode(text: str) -> object:
    """Return the value of a recorded text; raises `ValueError` where it is not well formed.

    Binaries become str, or bytes where they are not UTF-8; the atoms nil, true and false become None, True and False,
    others str; a list of small integers is a list of integers, even where Erlang would show it as text.

    Time and memory are linear in the text's length. Refused too are large terms that were compressed more than about
    thirtyfold, and maps with keys that are equal in Python (1 and 1.0, an atom and a binary) or have equal hashes.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - a row may hold anything
        raise ValueError(f"a recorded value is text, not {type(text).__name__}")
    try:
        binary = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise ValueError(f"the recorded value is not base64: {error}") from None
    return Reader(binary).read()


@cache
def _erlpack() -> Any:
    """Import erlpack when the first result is recorded; None where it is not installed."""
    try:
        return importlib.import_module("erlpack")
    except ImportError:  # it has no wheel, and needs a compiler to install
        return None


def _pack(value: object) -> bytes:
    if (erlpack := _erlpack()) is not None:
        try:
            packed: bytes = erlpack.pack(value)
        except Exception:
            return _own_pack(value)  # refuses the same values, with the path and the reason
        # Erlang has no NaN and no infinities, and can't decode a term that contains one.
        return packed if _NOT_FINITE.search(packed) is None else _own_pack(value)
    return _own_pack(value)


def _own_pack(value: object) -> bytes:
    into = bytearray((tags.VERSION,))
    try:
        _write(value, into, 0)
    except _NoTermError as refused:
        raise refused.kind(f"{refused.path()} {refused.reason}") from None
    return bytes(into)


class _NoTermError(Exception):
    """A value that can't be encoded; each container that it is in adds its key or index to `steps`."""

    def __init__(self, kind: type[TypeError | ValueError], reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.steps: list[object] = []

    def path(self) -> str:
        steps = [f"[{step!r}]" for step in reversed(self.steps[-_STEPS_SHOWN:])]
        return "value" + "".join(steps) + ("..." if len(self.steps) > _STEPS_SHOWN else "")


def _write(value: object, into: bytearray, depth: int) -> None:
    # One stack frame for each level, so that a value of tags.MAX_DEPTH fits on Python's stack.
    if depth > tags.MAX_DEPTH:
        raise _NoTermError(ValueError, f"is nested more than {tags.MAX_DEPTH} levels deep, or contains itself")
    if not isinstance(value, (dict, list, tuple)):
        into += _scalar(value)
        return
    step: object = None
    try:
        if isinstance(value, dict):
            into += struct.pack(">BI", tags.MAP, len(value))
            for step, item in value.items():
                _write(step, into, depth + 1)
                _write(item, into, depth + 1)
            return
        into += _head(value)
        for step, item in enumerate(value):  # noqa: B007 - read where an item is refused
            _write(item, into, depth + 1)
    except _NoTermError as refused:
        refused.steps.append(step)
        raise
    if isinstance(value, list):
        into.append(tags.NIL)


def _head(value: list[object] | tuple[object, ...]) -> bytes:
    size = len(value)
    if isinstance(value, list):
        return struct.pack(">BI", tags.LIST, size) if size else b""
    return struct.pack(">BB", tags.SMALL_TUPLE, size) if size < 256 else struct.pack(">BI", tags.LARGE_TUPLE, size)


def _scalar(value: object) -> bytes:
    if value is None:
        return _small_atom(b"nil")
    if value is True:
        return _small_atom(b"true")
    if value is False:
        return _small_atom(b"false")
    if isinstance(value, str):
        return _binary(_encoded(value))
    if isinstance(value, bytes):
        return _binary(value)
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return struct.pack(">Bd", tags.NEW_FLOAT, value)
        raise _NoTermError(ValueError, f"is {value}, which Erlang doesn't have; record None or a text")
    name = type(value).__name__
    raise _NoTermError(
        TypeError, f"is {articled(name)}, which can't be recorded; record numbers, text, lists and dicts"
    )


def _encoded(text: str) -> bytes:
    try:
        return str.encode(text)
    except UnicodeEncodeError:
        raise _NoTermError(ValueError, "contains a lone surrogate, which is no character") from None


def _small_atom(name: bytes) -> bytes:
    return bytes((tags.SMALL_ATOM, len(name))) + name


def _binary(content: bytes) -> bytes:
    return struct.pack(">BI", tags.BINARY, len(content)) + content


def _integer(number: int) -> bytes:
    if 0 <= number <= 255:
        return bytes((tags.SMALL_INTEGER, number))
    if -(2**31) <= number < 2**31:
        return struct.pack(">Bi", tags.INTEGER, number)
    if not -(2**63) <= number < 2**64:
        raise _NoTermError(ValueError, "is an integer outside 64 bits; record it as text")
    digits = abs(number).to_bytes(8, "little").rstrip(b"\0")
    return bytes((tags.SMALL_BIG, len(digits), number < 0)) + digits

"""Recorded results: Erlang's external term format in base64, as the whole Oban family keeps them.

Terms are written by erlpack where it is installed and by our own encoder elsewhere, byte for byte the same. Reading is
always our own: bounded in depth and size, and it makes nothing but plain values.
"""

from __future__ import annotations

import base64
import math
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

_erlpack_pack: Callable[[Any], bytes] | None
try:
    from erlpack import pack as _erlpack_pack
except ImportError:  # it needs a compiler to install
    _erlpack_pack = None

MAX_DEPTH: Final = 256
MAX_SIZE: Final = 256_000_000
"""Bytes that a compressed term may unfold to; more than PostgreSQL's jsonb holds."""

_VERSION: Final = 131
_ATOM, _SMALL_ATOM, _ATOM_UTF8, _SMALL_ATOM_UTF8 = 100, 115, 118, 119
_SMALL_INTEGER, _INTEGER, _SMALL_BIG, _LARGE_BIG = 97, 98, 110, 111
_FLOAT, _NEW_FLOAT = 99, 70
_NIL, _STRING, _LIST, _BINARY = 106, 107, 108, 109
_SMALL_TUPLE, _LARGE_TUPLE, _MAP = 104, 105, 116
_COMPRESSED = 80
_NONE_ATOMS: Final = frozenset({"nil", "null", "undefined"})
_NOT_FINITE: Final = re.compile(rb"F[\x7f\xff][\xf0-\xff]")


def encode(value: Any) -> str:
    """Return a value as an Erlang term in base64 without padding.

    Takes None, bools, integers of 64 bits, finite floats, str, bytes, lists, tuples and dicts. Raises `TypeError` for
    any other type and `ValueError` for a value of these that has no such form; both name the place.
    """
    return base64.b64encode(_pack(value)).rstrip(b"=").decode()


def decode(text: str) -> Any:
    """Return the value that a recorded text holds; raises `ValueError` where it is not well formed.

    Binaries become str, or bytes where they are not UTF-8; atoms become None, True, False or str; maps and property
    lists become dicts and lists of tuples. Numbers are bounded only by the text's own length.
    """
    if not isinstance(text, str):
        raise ValueError(f"a recorded value is text, not {type(text).__name__}")
    try:
        binary = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise ValueError(f"the recorded value is not base64: {error}") from None
    return _Reader(_unfolded(binary)).read()


def _pack(value: Any) -> bytes:
    if _erlpack_pack is not None:
        try:
            packed = _erlpack_pack(value)
        except Exception:
            return _own_pack(value)  # refuses the same values and says which and why
        # Erlang has no NaN and no infinities: a term that holds them can't be read there at all.
        return packed if _NOT_FINITE.search(packed) is None else _own_pack(value)
    return _own_pack(value)


def _own_pack(value: Any) -> bytes:
    into = bytearray((_VERSION,))
    try:
        _write(value, into, 0)
    except _Unwritable as refused:
        path = "value" + "".join(f"[{step!r}]" for step in reversed(refused.steps))
        raise refused.kind(f"{path} {refused.reason}") from None
    return bytes(into)


class _Unwritable(Exception):
    """A value without an Erlang form, on its way up through the containers that it stands in."""

    def __init__(self, kind: type[TypeError | ValueError], reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.steps: list[object] = []


def _write(value: Any, into: bytearray, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _Unwritable(ValueError, f"is nested more than {MAX_DEPTH} levels deep, or contains itself")
    if value is None:
        into += _small_atom(b"nil")
    elif value is True:
        into += _small_atom(b"true")
    elif value is False:
        into += _small_atom(b"false")
    elif isinstance(value, str):
        into += _binary(_encoded(value))
    elif isinstance(value, bytes):
        into += _binary(value)
    elif isinstance(value, int):
        into += _integer(value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _Unwritable(ValueError, f"is {value}, which Erlang has not; record None or a text")
        into += struct.pack(">Bd", _NEW_FLOAT, value)
    elif isinstance(value, dict):
        into += struct.pack(">BI", _MAP, len(value))
        for key, item in value.items():
            _write_step(key, into, depth + 1, key)
            _write_step(item, into, depth + 1, key)
    elif isinstance(value, tuple):
        short = len(value) < 256
        into += struct.pack(">BB", _SMALL_TUPLE, len(value)) if short else struct.pack(">BI", _LARGE_TUPLE, len(value))
        for position, item in enumerate(value):
            _write_step(item, into, depth + 1, position)
    elif isinstance(value, list):
        if value:
            into += struct.pack(">BI", _LIST, len(value))
            for position, item in enumerate(value):
                _write_step(item, into, depth + 1, position)
        into.append(_NIL)
    else:
        name = type(value).__name__
        raise _Unwritable(TypeError, f"is a {name}, which can't be recorded; record numbers, text, lists and dicts")


def _write_step(value: Any, into: bytearray, depth: int, step: object) -> None:
    try:
        _write(value, into, depth)
    except _Unwritable as refused:
        refused.steps.append(step)
        raise


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _Unwritable(ValueError, "contains a lone surrogate, which is no character") from None


def _small_atom(name: bytes) -> bytes:
    return bytes((_SMALL_ATOM, len(name))) + name


def _binary(content: bytes) -> bytes:
    return struct.pack(">BI", _BINARY, len(content)) + content


def _integer(number: int) -> bytes:
    if 0 <= number <= 255:
        return bytes((_SMALL_INTEGER, number))
    if -(2**31) <= number < 2**31:
        return struct.pack(">Bi", _INTEGER, number)
    if not -(2**63) <= number < 2**64:
        raise _Unwritable(ValueError, "is an integer outside 64 bits; record it as text")
    digits = abs(number).to_bytes(8, "little").rstrip(b"\0")
    return bytes((_SMALL_BIG, len(digits), number < 0)) + digits


def _unfolded(binary: bytes) -> bytes:
    """Return the term without its version byte, unfolded where it is compressed."""
    if binary[:1] != bytes((_VERSION,)):
        raise ValueError("the recorded value is not an Erlang term: it doesn't begin with 131")
    if binary[1:2] != bytes((_COMPRESSED,)):
        return binary[1:]
    claimed = int.from_bytes(binary[2:6], "big")
    if len(binary) < 6 or claimed > MAX_SIZE:
        raise ValueError(f"the recorded value claims to unfold to {claimed} bytes; at most {MAX_SIZE} are read")
    unpacker = zlib.decompressobj()
    try:
        term = unpacker.decompress(binary[6:], claimed + 1)
    except zlib.error as error:
        raise ValueError(f"the recorded value is compressed and damaged: {error}") from None
    if len(term) != claimed or not unpacker.eof or unpacker.unused_data:
        raise ValueError("the recorded value is compressed and not of the size it claims")
    return term


class _Reader:
    """Reads one term from bytes; every size is checked against what is left before anything is made of it."""

    def __init__(self, term: bytes) -> None:
        self._term = term
        self._at = 0

    def read(self) -> Any:
        value = self._value(0)
        if self._at != len(self._term):
            raise ValueError(f"{len(self._term) - self._at} bytes follow the recorded value")
        return value

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._term):
            raise ValueError(
                f"the recorded value is cut short: {size} bytes expected, {len(self._term) - self._at} left"
            )
        taken = self._term[self._at : end]
        self._at = end
        return taken

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _count(self, size: int, *, each: int = 1) -> int:
        """Read how many terms follow; each takes at least one byte, so a count can't exceed what is left."""
        count = self._number(size)
        if count * each > len(self._term) - self._at:
            raise ValueError(f"the recorded value is cut short: {count} elements claimed")
        return count

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError(f"the recorded value is nested more than {MAX_DEPTH} levels deep")
        tag = self._number(1)
        read = _READERS.get(tag)
        if read is None:
            raise ValueError(f"the recorded value holds a term of kind {tag}, which is no plain value")
        return read(self, depth + 1)

    def _atom(self, size: int, encoding: str) -> str | bool | None:
        try:
            name = self._take(self._number(size)).decode(encoding)
        except UnicodeDecodeError:
            raise ValueError("the recorded value holds an atom that is not UTF-8") from None
        return None if name in _NONE_ATOMS else _BOOLEANS.get(name, name)

    def _integer(self) -> int:
        return int.from_bytes(self._take(4), "big", signed=True)

    def _big(self, size: int) -> int:
        length = self._number(size)
        negative = self._number(1)
        if negative > 1:
            raise ValueError("the recorded value holds an integer of unknown sign")
        number = int.from_bytes(self._take(length), "little")
        return -number if negative else number

    def _new_float(self) -> float:
        return self._finite(struct.unpack(">d", self._take(8))[0])

    def _old_float(self) -> float:
        text = self._take(31).rstrip(b"\0").decode("latin-1")
        if _OLD_FLOAT.fullmatch(text) is None:
            raise ValueError("the recorded value holds a damaged float")
        return self._finite(float(text))

    def _finite(self, number: float) -> float:
        if not math.isfinite(number):
            raise ValueError(f"the recorded value holds {number}, which is no Erlang float")
        return number

    def _text(self) -> str | bytes:
        content = self._take(self._number(4))
        try:
            return content.decode()
        except UnicodeDecodeError:
            return content

    def _tuple(self, size: int, depth: int) -> tuple[Any, ...]:
        return tuple([self._value(depth) for _ in range(self._count(size))])

    def _list(self, depth: int) -> list[Any]:
        items = [self._value(depth) for _ in range(self._count(4))]
        if self._number(1) != _NIL:
            raise ValueError("the recorded value holds an improper list")
        return items

    def _map(self, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for _ in range(self._count(4, each=2)):
            key = self._value(depth)
            try:
                hash(key)
            except TypeError:
                raise ValueError(f"the recorded value holds a map with a {type(key).__name__} as a key") from None
            found[key] = self._value(depth)
        return found


_BOOLEANS: Final[dict[str, bool]] = {"true": True, "false": False}
_OLD_FLOAT: Final = re.compile(r"\s*[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_READERS: Final[dict[int, Callable[[_Reader, int], Any]]] = {
    _SMALL_INTEGER: lambda reader, _: reader._number(1),
    _INTEGER: lambda reader, _: reader._integer(),
    _SMALL_BIG: lambda reader, _: reader._big(1),
    _LARGE_BIG: lambda reader, _: reader._big(4),
    _NEW_FLOAT: lambda reader, _: reader._new_float(),
    _FLOAT: lambda reader, _: reader._old_float(),
    _ATOM: lambda reader, _: reader._atom(2, "latin-1"),
    _SMALL_ATOM: lambda reader, _: reader._atom(1, "latin-1"),
    _ATOM_UTF8: lambda reader, _: reader._atom(2, "utf-8"),
    _SMALL_ATOM_UTF8: lambda reader, _: reader._atom(1, "utf-8"),
    _BINARY: lambda reader, _: reader._text(),
    _STRING: lambda reader, _: list(reader._take(reader._number(2))),
    _NIL: lambda reader, _: [],
    _LIST: lambda reader, depth: reader._list(depth),
    _SMALL_TUPLE: lambda reader, depth: reader._tuple(1, depth),
    _LARGE_TUPLE: lambda reader, depth: reader._tuple(4, depth),
    _MAP: lambda reader, depth: reader._map(depth),
}

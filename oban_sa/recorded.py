"""Recorded results: Erlang's external term format in base64, as the whole Oban family keeps them.

Terms are written by erlpack where it is installed and by our own encoder elsewhere, byte for byte the same. Reading is
always our own: bounded in depth and size, and it makes nothing but plain values.
"""

# Values of any type are what this file is about; strict pyright would have each of them cast.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import base64
import importlib
import math
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

from oban_sa.errors import articled

try:
    _erlpack: Any = importlib.import_module("erlpack")
except ImportError:  # it has no wheel, and needs a compiler to install
    _erlpack = None

MAX_DEPTH: Final = 256
"""Containers inside each other; erlpack writes no more."""

MAX_UNFOLDED_SIZE: Final = 16_000_000
MAX_UNFOLDED_TERMS: Final = 2_000_000
"""Bytes and terms that a compressed term may unfold to, at most. Our own are never compressed."""

UNFOLDED_SIZE: Final = (500_000, 50)
UNFOLDED_TERMS: Final = (100_000, 20)
"""The same for a small one: so many, and so many more for each byte it was compressed to; a few bytes could claim
millions, each of which takes as long to read as one that was written out."""

MAX_ALIKE: Final = 64
"""Keys of one map whose hashes are equal, as a stranger can choose them: finding each takes a look at all the others.
Of integers of 64 bits no more than eight have one hash, of floats a few dozen."""

_VERSION: Final = 131
_ATOM, _SMALL_ATOM, _ATOM_UTF8, _SMALL_ATOM_UTF8 = 100, 115, 118, 119
_SMALL_INTEGER, _INTEGER, _SMALL_BIG, _LARGE_BIG = 97, 98, 110, 111
_FLOAT, _NEW_FLOAT = 99, 70
_NIL, _STRING, _LIST, _BINARY = 106, 107, 108, 109
_SMALL_TUPLE, _LARGE_TUPLE, _MAP = 104, 105, 116
_COMPRESSED = 80
_STEPS_SHOWN: Final = 12
_NOT_FINITE: Final = re.compile(rb"F[\x7f\xff][\xf0-\xff]")


def encode(value: Any) -> str:
    """Return a value as an Erlang term in base64 without padding.

    Takes None, bools, integers of 64 bits, finite floats, str, bytes, lists, tuples and dicts. Raises `TypeError` for
    any other type and `ValueError` for a value of these that has no such form; both name the place.
    """
    return base64.b64encode(_pack(value)).rstrip(b"=").decode()


def decode(text: str) -> Any:
    """Return the value that a recorded text holds; raises `ValueError` where it is not well formed.

    Binaries become str, or bytes where they are not UTF-8; the atoms nil, true and false become None, True and False,
    others str; a list of small integers is a list of integers, even where Erlang would show it as text.

    What it takes grows with the text's length. Refused too are terms that were compressed more than thirtyfold or so,
    once they are large, and maps with keys that are one key in Python (1 and 1.0, an atom and a binary), or whose
    hashes are alike.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - a row may hold anything
        raise ValueError(f"a recorded value is text, not {type(text).__name__}")
    try:
        binary = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise ValueError(f"the recorded value is not base64: {error}") from None
    return _Reader(binary).read()


def _pack(value: Any) -> bytes:
    if _erlpack is not None:
        try:
            packed: bytes = _erlpack.pack(value)
        except Exception:
            return _own_pack(value)  # refuses the same values and says which and why
        # Erlang has no NaN and no infinities: a term that holds them can't be read there at all.
        return packed if _NOT_FINITE.search(packed) is None else _own_pack(value)
    return _own_pack(value)


def _own_pack(value: Any) -> bytes:
    into = bytearray((_VERSION,))
    try:
        _write(value, into, 0)
    except _NoTermError as refused:
        raise refused.kind(f"{refused.path()} {refused.reason}") from None
    return bytes(into)


class _NoTermError(Exception):
    """A value without an Erlang form, on its way up through the containers that it stands in."""

    def __init__(self, kind: type[TypeError | ValueError], reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.steps: list[object] = []

    def path(self) -> str:
        steps = [f"[{step!r}]" for step in reversed(self.steps[-_STEPS_SHOWN:])]
        return "value" + "".join(steps) + ("..." if len(self.steps) > _STEPS_SHOWN else "")


def _write(value: Any, into: bytearray, depth: int) -> None:
    # One frame for each level, so that the deepest value still fits on Python's stack.
    if depth > MAX_DEPTH:
        raise _NoTermError(ValueError, f"is nested more than {MAX_DEPTH} levels deep, or contains itself")
    if not isinstance(value, (dict, list, tuple)):
        into += _scalar(value)
        return
    step: Any = None
    try:
        if isinstance(value, dict):
            into += struct.pack(">BI", _MAP, len(value))
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
        into.append(_NIL)


def _head(value: list[Any] | tuple[Any, ...]) -> bytes:
    size = len(value)
    if isinstance(value, list):
        return struct.pack(">BI", _LIST, size) if size else b""
    return struct.pack(">BB", _SMALL_TUPLE, size) if size < 256 else struct.pack(">BI", _LARGE_TUPLE, size)


def _scalar(value: Any) -> bytes:
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
            return struct.pack(">Bd", _NEW_FLOAT, value)
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
    return bytes((_SMALL_ATOM, len(name))) + name


def _binary(content: bytes) -> bytes:
    return struct.pack(">BI", _BINARY, len(content)) + content


def _integer(number: int) -> bytes:
    if 0 <= number <= 255:
        return bytes((_SMALL_INTEGER, number))
    if -(2**31) <= number < 2**31:
        return struct.pack(">Bi", _INTEGER, number)
    if not -(2**63) <= number < 2**64:
        raise _NoTermError(ValueError, "is an integer outside 64 bits; record it as text")
    digits = abs(number).to_bytes(8, "little").rstrip(b"\0")
    return bytes((_SMALL_BIG, len(digits), number < 0)) + digits


class _Reader:
    """Reads one term from bytes; every size is checked against what is left before anything is made of it."""

    def __init__(self, binary: bytes) -> None:
        if binary[:1] != bytes((_VERSION,)):
            raise ValueError("the recorded value is not an Erlang term: it doesn't begin with 131")
        folded = binary[1:2] == bytes((_COMPRESSED,))
        self._term = _unfolded(binary) if folded else binary[1:]
        self._at = 0
        # A few kilobytes may unfold to millions of empty lists; what stands there in full was paid for by its writer.
        self._most = _bound(binary, UNFOLDED_TERMS, MAX_UNFOLDED_TERMS) if folded else len(self._term)
        self._left = self._most

    def read(self) -> Any:
        value = self._value(0)
        if self._at != len(self._term):
            raise ValueError(f"{len(self._term) - self._at} bytes follow the recorded value")
        return value

    def _value(self, depth: int) -> Any:
        # Containers are read here and not in methods of their own: one frame for each level (see `_write`).
        if depth > MAX_DEPTH:
            raise ValueError(f"the recorded value is nested more than {MAX_DEPTH} levels deep")
        tag = self._number(1)
        read = _SCALARS.get(tag)
        if read is not None:
            return read(self)
        if tag not in (_LIST, _SMALL_TUPLE, _LARGE_TUPLE, _MAP):
            raise ValueError(f"the recorded value holds a term of kind {tag}, which is no plain value")
        if tag == _MAP:
            found: dict[Any, Any] = {}
            alike: dict[int, int] = {}
            spelled: dict[Any, bytes] = {}
            for _ in range(self._count(4, each=2)):
                began = self._at
                key = self._value(depth + 1)
                _check_key(key, alike)
                spelling = self._term[began : self._at]
                if (
                    spelled.setdefault(key, spelling) != spelling
                ):  # an atom and a binary, 1 and 1.0: one of them is lost
                    raise ValueError(f"the recorded value holds a map with two keys that are {_shown(key)} in Python")
                found[key] = self._value(depth + 1)
            return found
        items: list[Any] = []
        for _ in range(self._count(1 if tag == _SMALL_TUPLE else 4)):
            items.append(self._value(depth + 1))  # noqa: PERF401 - a comprehension is a frame more before Python 3.12
        if tag != _LIST:
            return tuple(items)
        if self._number(1) != _NIL:
            raise ValueError("the recorded value holds an improper list")
        return items

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
        """Read how many elements follow; each takes at least one byte, so a count can't exceed what is left."""
        count = self._number(size)
        if count * each > len(self._term) - self._at:
            raise ValueError(f"the recorded value is cut short: {count} elements claimed")
        self._spend(count * each)
        return count

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise ValueError(
                f"the recorded value unfolds to more than {self._most} terms, which is too many for its size"
            )

    def _string(self) -> list[int]:
        """Bytes, each of which becomes an element of a list."""
        content = self._take(self._number(2))
        self._spend(len(content))
        return list(content)

    def _atom(self, size: int, encoding: str) -> str | bool | None:
        try:
            name = self._take(self._number(size)).decode(encoding)
        except UnicodeDecodeError:
            raise ValueError("the recorded value holds an atom that is not UTF-8") from None
        return _ATOMS.get(name, name)

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


def _unfolded(binary: bytes) -> bytes:
    claimed = int.from_bytes(binary[2:6], "big")
    most = _bound(binary, UNFOLDED_SIZE, MAX_UNFOLDED_SIZE)
    if len(binary) < 6 or claimed > most:
        raise ValueError(
            f"the recorded value claims to unfold to {claimed} bytes; at most {most} are read of one of {len(binary)}"
        )
    unpacker = zlib.decompressobj()
    try:
        term = unpacker.decompress(binary[6:], claimed + 1)
    except zlib.error as error:
        raise ValueError(f"the recorded value is compressed and damaged: {error}") from None
    if len(term) != claimed or not unpacker.eof or unpacker.unused_data:
        raise ValueError("the recorded value is compressed and not of the size it claims")
    return term


def _bound(binary: bytes, bound: tuple[int, int], most: int) -> int:
    """What a term of this size may unfold to: so much, and so much more for each byte, but no more than `most`."""
    some, for_each = bound
    return min(some + for_each * len(binary), most)


def _check_key(key: Any, alike: dict[int, int]) -> None:
    """Refuse a key that no dict can have, or the hash of too many others; `alike` counts the hashes of one map."""
    try:
        known = hash(key)
    except TypeError:
        raise ValueError(f"the recorded value holds a map with a {type(key).__name__} in a key") from None
    if not isinstance(key, (str, bytes)):  # whose hashes nobody can foresee
        alike[known] = count = alike.get(known, 0) + 1
        if count > MAX_ALIKE:
            raise ValueError(f"the recorded value holds a map with more than {MAX_ALIKE} keys that have one hash")


def _shown(key: Any) -> str:
    try:
        return f"{key!r:.60}"
    except Exception:  # an integer of more digits than Python writes
        return f"one {type(key).__name__}"


_ATOMS: Final[dict[str, bool | None]] = {"nil": None, "true": True, "false": False}
_OLD_FLOAT: Final = re.compile(r"\s*[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_SCALARS: Final[dict[int, Callable[[_Reader], Any]]] = {
    _SMALL_INTEGER: lambda reader: reader._number(1),
    _INTEGER: lambda reader: reader._integer(),
    _SMALL_BIG: lambda reader: reader._big(1),
    _LARGE_BIG: lambda reader: reader._big(4),
    _NEW_FLOAT: lambda reader: reader._new_float(),
    _FLOAT: lambda reader: reader._old_float(),
    _ATOM: lambda reader: reader._atom(2, "latin-1"),
    _SMALL_ATOM: lambda reader: reader._atom(1, "latin-1"),
    _ATOM_UTF8: lambda reader: reader._atom(2, "utf-8"),
    _SMALL_ATOM_UTF8: lambda reader: reader._atom(1, "utf-8"),
    _BINARY: lambda reader: reader._text(),
    _STRING: lambda reader: reader._string(),
    _NIL: lambda _: [],
}

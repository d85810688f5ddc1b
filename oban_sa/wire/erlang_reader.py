"""The decoder of Erlang terms: bounded in depth, size and time, and returning plain values only."""

# This file reads values of any type; strict pyright wants a cast for each of them.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

from oban_sa.wire import erlang_tags as tags

MAX_UNFOLDED_SIZE: Final = 16_000_000
MAX_UNFOLDED_TERMS: Final = 2_000_000
"""Bytes and terms at most in a compressed term once it is decompressed. Our own terms are never compressed."""

UNFOLDED_SIZE: Final = (500_000, 50)
UNFOLDED_TERMS: Final = (100_000, 20)
"""The same bounds for a small one: the first number, and the second for each compressed byte. A few bytes could unfold
to millions of terms, each of which takes as long to decode as an uncompressed one."""

MAX_ALIKE: Final = 64
"""Keys of one map with equal hashes at most. An attacker can choose keys so, and then each insertion into a dict
compares it with all others. At most eight integers of 64 bits have the same hash, and a few dozen floats."""


class Reader:
    """Decodes one term; every size is checked against the bytes left before anything is allocated."""

    def __init__(self, binary: bytes) -> None:
        if binary[:1] != bytes((tags.VERSION,)):
            raise ValueError("the recorded value is not an Erlang term: it doesn't begin with 131")
        folded = binary[1:2] == bytes((tags.COMPRESSED,))
        self._term = _unfolded(binary) if folded else binary[1:]
        self._at = 0
        # A few compressed kilobytes may unfold to millions of empty lists; an uncompressed term is as large as it is.
        self._most = _bound(binary, UNFOLDED_TERMS, MAX_UNFOLDED_TERMS) if folded else len(self._term)
        self._left = self._most

    def read(self) -> Any:
        value = self._value(0)
        if self._at != len(self._term):
            raise ValueError(f"{len(self._term) - self._at} bytes follow the recorded value")
        return value

    def _value(self, depth: int) -> object:
        # Containers are decoded here and not in methods of their own: one frame for each level (see `_write`).
        if depth > tags.MAX_DEPTH:
            raise ValueError(f"the recorded value is nested more than {tags.MAX_DEPTH} levels deep")
        tag = self.number(1)
        read = _SCALARS.get(tag)
        if read is not None:
            return read(self)
        if tag not in (tags.LIST, tags.SMALL_TUPLE, tags.LARGE_TUPLE, tags.MAP):
            raise ValueError(f"the recorded value holds a term of kind {tag}, which is no plain value")
        if tag == tags.MAP:
            found: dict[Any, object] = {}
            alike: dict[int, int] = {}
            spelled: dict[Any, bytes] = {}
            for _ in range(self._count(4, each=2)):
                began = self._at
                key = self._value(depth + 1)
                _check_key(key, alike)
                spelling = self._term[began : self._at]
                # An atom and a binary, or 1 and 1.0, are one key in a dict: the value of one would be lost.
                if spelled.setdefault(key, spelling) != spelling:
                    raise ValueError(f"the recorded value holds a map with two keys that are {_shown(key)} in Python")
                found[key] = self._value(depth + 1)
            return found
        items: list[object] = []
        for _ in range(self._count(1 if tag == tags.SMALL_TUPLE else 4)):
            items.append(self._value(depth + 1))  # noqa: PERF401 - a comprehension is a frame more before Python 3.12
        if tag != tags.LIST:
            return tuple(items)
        if self.number(1) != tags.NIL:
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

    def number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _count(self, size: int, *, each: int = 1) -> int:
        """Read how many elements follow; each takes at least one byte, so a count can't exceed the bytes left."""
        count = self.number(size)
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

    def string(self) -> list[int]:
        """Read a string of bytes as a list of integers."""
        content = self._take(self.number(2))
        self._spend(len(content))
        return list(content)

    def atom(self, size: int, encoding: str) -> str | bool | None:
        try:
            name = self._take(self.number(size)).decode(encoding)
        except UnicodeDecodeError:
            raise ValueError("the recorded value holds an atom that is not UTF-8") from None
        return _ATOMS.get(name, name)

    def integer(self) -> int:
        return int.from_bytes(self._take(4), "big", signed=True)

    def big(self, size: int) -> int:
        length = self.number(size)
        negative = self.number(1)
        if negative > 1:
            raise ValueError("the recorded value holds an integer of unknown sign")
        number = int.from_bytes(self._take(length), "little")
        return -number if negative else number

    def new_float(self) -> float:
        return self._finite(struct.unpack(">d", self._take(8))[0])

    def old_float(self) -> float:
        text = self._take(31).rstrip(b"\0").decode("latin-1")
        if _OLD_FLOAT.fullmatch(text) is None:
            raise ValueError("the recorded value holds a damaged float")
        return self._finite(float(text))

    def _finite(self, number: float) -> float:
        if not math.isfinite(number):
            raise ValueError(f"the recorded value holds {number}, which is no Erlang float")
        return number

    def text(self) -> str | bytes:
        content = self._take(self.number(4))
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
    """Return the bound for a compressed term: `bound` is a number, and more for each byte; `most` is the maximum."""
    some, for_each = bound
    return min(some + for_each * len(binary), most)


def _check_key(key: object, alike: dict[int, int]) -> None:
    """Refuse a key that is not hashable, or whose hash too many others have; `alike` counts the hashes of one map."""
    try:
        known = hash(key)
    except TypeError:
        raise ValueError(f"the recorded value holds a map with a {type(key).__name__} in a key") from None
    if not isinstance(key, (str, bytes)):  # their hashes are randomized by Python in each process
        alike[known] = count = alike.get(known, 0) + 1
        if count > MAX_ALIKE:
            raise ValueError(f"the recorded value holds a map with more than {MAX_ALIKE} keys that have one hash")


def _shown(key: object) -> str:
    try:
        return f"{key!r:.60}"
    except Exception:  # an integer of more digits than Python writes
        return f"one {type(key).__name__}"


_ATOMS: Final[dict[str, bool | None]] = {"nil": None, "true": True, "false": False}
_OLD_FLOAT: Final = re.compile(r"\s*[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_SCALARS: Final[dict[int, Callable[[Reader], Any]]] = {
    tags.SMALL_INTEGER: lambda reader: reader.number(1),
    tags.INTEGER: lambda reader: reader.integer(),
    tags.SMALL_BIG: lambda reader: reader.big(1),
    tags.LARGE_BIG: lambda reader: reader.big(4),
    tags.NEW_FLOAT: lambda reader: reader.new_float(),
    tags.FLOAT: lambda reader: reader.old_float(),
    tags.ATOM: lambda reader: reader.atom(2, "latin-1"),
    tags.SMALL_ATOM: lambda reader: reader.atom(1, "latin-1"),
    tags.ATOM_UTF8: lambda reader: reader.atom(2, "utf-8"),
    tags.SMALL_ATOM_UTF8: lambda reader: reader.atom(1, "utf-8"),
    tags.BINARY: lambda reader: reader.text(),
    tags.STRING: lambda reader: reader.string(),
    tags.NIL: lambda _: [],
}
